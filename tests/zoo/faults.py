"""Faults of one line each, to be planted in a copy of the core: if the simulator does not find them, it is blind.

Each names the line that it changes, which has to stand in the file exactly once: a change of the core that moves it
makes the table fail, and not the fault disappear. `seeds` is how many worlds it takes at most to find it, from the
first one that `qaws simulate` runs.
"""

from __future__ import annotations

from typing import NamedTuple


class Planted(NamedTuple):
    """A fault: in this file of `qaws_proto`, this text is another one."""

    name: str
    file: str
    right: str
    wrong: str
    seeds: int = 60


FAULTS: tuple[Planted, ...] = (
    # ── the log, and cursors on it ──
    Planted(
        "a replay that begins one event too late",
        "conversation/log.py",
        "max(0, len(self._payloads) - (self.head - seq))",
        "max(0, len(self._payloads) - (self.head - seq) + 1)",
    ),
    Planted(
        "a replay that begins one event too early",
        "conversation/log.py",
        "max(0, len(self._payloads) - (self.head - seq))",
        "max(0, len(self._payloads) - (self.head - seq) - 1)",
    ),
    Planted(
        "an event that is gone counts as held",
        "conversation/log.py",
        "return self.floor <= seq <= self.head",
        "return self.floor - 1 <= seq <= self.head",
    ),
    Planted(
        "a resume under another epoch is answered as if it were this one",
        "conversation/session.py",
        "if epoch != log.epoch or not log.holds_after(seq):",
        "if not log.holds_after(seq):",
    ),
    Planted(
        "a reader that is behind hears the newest event first",
        "conversation/session.py",
        "if cursor.seq == log.head - 1 and cursor.reader.ready:",
        "if cursor.reader.ready:",
    ),
    Planted(
        "a reader that has caught up is not known to have",
        "conversation/session.py",
        "reader.say(Encoded(payload))\n        cursor.seq, cursor.total = self.log.head, self.log.total",
        "reader.say(Encoded(payload))",
    ),
    Planted(
        "a snapshot shows what is told once more as a chunk",
        "conversation/session.py",
        "content=run.heard, offset=0,",
        "content=run.answer, offset=0,",
    ),
    Planted(
        "joined chunks have the offset of the last one",
        "conversation/log.py",
        '"offset": first.offset',
        '"offset": last.offset',
    ),
    Planted(
        "an ack of what comes next is believed",
        "conversation/session.py",
        "if seq > cursor.seq:",
        "if seq > cursor.seq + 1:",
    ),
    # ── sessions ──
    Planted(
        "a session ends although it is read again",
        "conversation/session.py",
        "is not None:\n            self._timers.clear(Reason.SESSION, session.number)",
        "is not None:\n            pass",
    ),
    Planted(
        "a session that is read makes room for others",
        "conversation/session.py",
        "if self._detached.pop(session.number, None) is not None:",
        "if self._detached.get(session.number) is not None:",
    ),
    Planted(
        "a session that nobody reads never ends",
        "conversation/session.py",
        "self._timers.set(Reason.SESSION, session.number, now.mono + self.config.ttl)",
        "pass",
    ),
    Planted(
        "whoever waited for a session is not told of it",
        "chats.py",
        "            if not self._attends_enough(waiting):\n                self._read(waiting, session, now)",
        "",
    ),
    # ── runs ──
    Planted(
        "the next message of a session is never begun",
        "conversation/runs.py",
        "if run.session.running.pop(run.id, None) is not None:\n            self._start_next(run.session, now)",
        "run.session.running.pop(run.id, None)",
    ),
    Planted(
        "an agent that was held back is not pulled again",
        "conversation/runs.py",
        "                self._outbox.add(ResumeRun(run.id))",
        "                pass",
    ),
    Planted(
        "an agent that ignores its end keeps the session",
        "conversation/runs.py",
        "self._timers.set(Reason.GIVE_UP, run.id, now.mono + self._config.cancel_grace)",
        "pass",
    ),
    Planted(
        "a run that was cancelled times out as well",
        "conversation/runs.py",
        "        run.paused = False\n        self._timers.clear(Reason.RUN, run.id)",
        "        run.paused = False",
    ),
    Planted(
        "an agent that hangs is never cancelled",
        "conversation/runs.py",
        "self._fail(run, Fault.AGENT_TIMEOUT, now, stop=True)",
        "self._timers.set(Reason.RUN, run.id, now.mono + self._config.timeout)",
    ),
    Planted(
        "a message that comes again runs again",
        "conversation/runs.py",
        "            session.remember(message.id, run.id)",
        "            pass",
    ),
    Planted(
        "the last chunk is left out",
        "conversation/runs.py",
        "        self._flush(run, now)\n        seconds = 0.0",
        "        seconds = 0.0",
    ),
    Planted(
        "offsets count bytes",
        "conversation/voice.py",
        "run.sent += len(content)",
        "run.sent += len(content.encode())",
    ),
    Planted(
        "a waiting message that is cancelled is run all the same",
        "conversation/runs.py",
        "            run.session.waiting.remove(run)\n            self._forget(run)\n        else:",
        "            self._forget(run)\n        else:",
    ),
    Planted(
        "one message too many waits",
        "conversation/runs.py",
        "else self._queue + 1):",
        "else self._queue + 2):",
    ),
    Planted(
        "what an agent says after its end is heard",
        "conversation/runs.py",
        "return run if run is not None and run.state is State.RUNNING else None",
        "return run",
    ),
    Planted(
        "the text of an agent's exception reaches the client",
        "conversation/runs.py",
        '{"error_id": self._ids()}',
        '{"error_id": self._ids() + str(cause)}',
    ),
    Planted(
        "half a character goes out",
        "conversation/run.py",
        'replaced = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        "replaced = text",
    ),
    # ── the store ──
    Planted(
        "an end is heard before it is kept",
        "conversation/voice.py",
        "        if self._journal is not None:\n            self._journal.add(Entry(session, run",
        "        if self._journal is not None and ends is None:\n            self._journal.add(Entry(session, run",
    ),
    Planted(
        "a message is accepted before it is kept",
        "conversation/voice.py",
        "            run.session.accepting[run.id] = run\n",
        "            run.session.accepting[run.id] = run\n            payload and run.session.hear(payload, now)\n",
    ),
    Planted(
        "who repeats a message is told before it is kept",
        "chats.py",
        "run = session.accepting.get(run_id)",
        "run = None",
    ),
    Planted(
        "a run begins before its message is kept",
        "conversation/runs.py",
        "while waiting and waiting[0].accepted and",
        "while waiting and",
    ),
    Planted(
        "a message that could not be kept is taken for known",
        "conversation/runs.py",
        "            del run.session.known[run.correlation_id]",
        "            pass",
    ),
    Planted(
        "one failure of the store, and nothing is kept any more",
        "conversation/journal.py",
        '        """Try again what could not be saved; the next `flush` does."""\n        self.failing = False',
        '        """Try again what could not be saved; the next `flush` does."""',
    ),
    Planted(
        "what is tried again keeps the number that it had",
        "conversation/journal.py",
        "            self._waiting.append(_moved(entry, seqs))",
        "            self._waiting.append(entry)",
    ),
    Planted(
        "the end of a run is not kept",
        "conversation/journal.py",
        "        if ends is not None:\n            yield RunEnded(ends)",
        "        if ends is not None and payload is None:\n            yield RunEnded(ends)",
    ),
    Planted(
        "an answer of the store is taken for that of the next batch",
        "conversation/journal.py",
        "self._batch += 1\n",
        "self._batch += 0\n",
    ),
    # ── connections ──
    Planted(
        "a pong for a ping, and one more",
        "connection.py",
        "            self._out.pong(pong)",
        "            self._out.pong(pong + pong)",
    ),
    Planted(
        "bytes for a peer that does not read",
        "connection.py",
        "return self.phase is Phase.OPEN and not self._out.blocked and not self._link.over",
        "return self.phase is Phase.OPEN and not self._link.over",
    ),
    Planted(
        "frames beyond those of a turn are never looked at",
        "connection.py",
        "            timers.set(Reason.BACKLOG, self.number, nextafter(now.mono, inf))",
        "            pass",
    ),
    Planted(
        "reading is stopped for good",
        "connection.py",
        "        if full is not self._paused:",
        "        if full and not self._paused:",
    ),
    Planted(
        "a peer that does not read holds its place for ever",
        "connection.py",
        "self._node.timers.set(Reason.SLOW, self.number, now.mono + self._node.config.limits.write_timeout)",
        "pass",
    ),
    Planted(
        "a peer that is silent is never given up",
        "connection.py",
        "            self.drop(now, Fault.HEARTBEAT_LOST.value.word)",
        "            timers.set(Reason.HEARTBEAT, self.number, now.mono + server.timeout)",
    ),
    Planted(
        "a place is not given back",
        "connection.py",
        "DropConnection(self.number))\n        self._tally.leave(self.address_key)",
        "DropConnection(self.number))",
    ),
    Planted(
        "a peer that never answers our Close keeps its socket",
        "connection.py",
        "            node.timers.set(Reason.CLOSE, self.number, now.mono + node.config.limits.close_timeout)",
        "            pass",
    ),
    Planted(
        "a closed connection stays with its sessions",
        "gateway.py",
        "                self._sessions.detach(session, connection.number, now)",
        "                pass",
    ),
    # ── frames ──
    Planted(
        "a header that comes in two reads loses its first part",
        "wire/frames.py",
        "            self._at, self._header = len(inbox), head",
        "            self._at, self._header = len(inbox), inbox[start:]",
    ),
    Planted(
        "the fragments of earlier messages count",
        "wire/frames.py",
        "        self._fragments = self._size = 0\n        if self._inflate",
        "        self._size = 0\n        if self._inflate",
    ),
    Planted(
        "a message may be one byte too long",
        "wire/frames.py",
        "        if self._size > self._top:",
        "        if self._size > self._top + 1:",
    ),
    # ── who may ──
    Planted(
        "a token that was good once is good for ever",
        "admission/verified.py",
        "if unix >= span.until + self._leeway or",
        "if",
    ),
    Planted(
        "a token that has run out is not noticed",
        "connection.py",
        "        if credential.expired(now):\n            self.refuse(Refusal(Fault.TOKEN_EXPIRED), now)\n",
        "        if False:\n            self.refuse(Refusal(Fault.TOKEN_EXPIRED), now)\n",
    ),
    Planted(
        "rates are counted by the wall clock",
        "admission/gate.py",
        "account, mono = self.account(passage.principal, passage.address_key), passage.now.mono",
        "account, mono = self.account(passage.principal, passage.address_key), passage.now.unix",
    ),
    Planted(
        "one message too many in a minute",
        "admission/ratelimit.py",
        "if per_minute is not None and size >= per_minute:",
        "if per_minute is not None and size > per_minute:",
    ),
    Planted(
        "whoever is revoked stays",
        "control.py",
        'Outcome(self._close_revoked(now), 0, {name: before}, {name: "revoked"})\n        self._done("token',
        'Outcome(0, 0, {name: before}, {name: "revoked"})\n        self._done("token',
    ),
    Planted(
        "anybody may cancel",
        "chats.py",
        "        return own or run.session.number in connection.sessions",
        "        return True",
    ),
    Planted(
        "another user's token refreshes mine",
        "connection.py",
        "elif self.principal is not None and principal.user_id != self.principal.user_id:",
        "elif False:",
    ),
    # ── the end of a node ──
    Planted(
        "a node that drains takes messages",
        "chats.py",
        "        if self.draining and type(event) is ChatMessage:",
        "        if False:",
    ),
    Planted(
        "a drain waits for agents without end",
        "gateway.py",
        "        if over:\n            self._cancel_runs(now)",
        "        if False:\n            self._cancel_runs(now)",
    ),
    # ── the client ──
    Planted(
        "a client tells what it has told",
        "client/session.py",
        "        elif seq <= self.seq:",
        "        elif seq < self.seq:",
    ),
    Planted(
        "a client asks for less than it has missed",
        "client/session.py",
        "            self._ask(self._epoch, self.seq)",
        "            self._ask(self._epoch, self.seq + 1)",
    ),
    Planted(
        "a client forgets what it could not send",
        "client/session.py",
        "            if message.refused:\n                self.post(message)",
        "            if False:\n                self.post(message)",
    ),
)
