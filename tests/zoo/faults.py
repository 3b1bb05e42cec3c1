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
    seeds: int


FAULTS: tuple[Planted, ...] = (
    # ── the log, and cursors on it ──
    Planted(
        "a replay that begins one event too late",
        "conversation/log.py",
        "max(0, len(self._payloads) - (self.head - seq))",
        "max(0, len(self._payloads) - (self.head - seq) + 1)",
        10,
    ),
    Planted(
        "a replay that begins one event too early",
        "conversation/log.py",
        "max(0, len(self._payloads) - (self.head - seq))",
        "max(0, len(self._payloads) - (self.head - seq) - 1)",
        10,
    ),
    Planted(
        "an event that is gone counts as held",
        "conversation/log.py",
        "return self.floor <= seq <= self.head",
        "return self.floor - 1 <= seq <= self.head",
        120,
    ),
    Planted(
        "a resume under another epoch is answered as if it were this one",
        "conversation/session.py",
        "if epoch != log.epoch or not log.holds_after(seq):",
        "if not log.holds_after(seq):",
        10,
    ),
    Planted(
        "a reader that has caught up is not known to have",
        "conversation/session.py",
        "reader.say(Encoded(payload))\n        cursor.seq, cursor.total = self.log.head, self.log.total",
        "reader.say(Encoded(payload))",
        10,
    ),
    Planted(
        "a snapshot shows what is told once more as a chunk",
        "conversation/session.py",
        "content=run.heard, offset=0,",
        "content=run.answer, offset=0,",
        12,
    ),
    Planted(
        "joined chunks have the offset of the last one",
        "conversation/log.py",
        '"offset": first.offset',
        '"offset": last.offset',
        30,
    ),
    # ── sessions ──
    Planted(
        "a session ends although it is read again",
        "conversation/session.py",
        "is not None:\n            self._timers.clear(Reason.SESSION, session.number)",
        "is not None:\n            pass",
        63,
    ),
    Planted(
        "a session that is read makes room for others",
        "conversation/session.py",
        "if self._detached.pop(session.number, None) is not None:",
        "if self._detached.get(session.number) is not None:",
        24,
    ),
    Planted(
        "a session that nobody reads never ends",
        "conversation/session.py",
        "self._timers.set(Reason.SESSION, session.number, now.mono + self.config.ttl)",
        "pass",
        10,
    ),
    # ── runs ──
    Planted(
        "the next message of a session is never begun",
        "conversation/runs.py",
        "if session.running.pop(run.id, None) is not None and session.waiting:",
        "if session.running.pop(run.id, None) is None:",
        10,
    ),
    Planted(
        "an agent that was held back is not pulled again",
        "conversation/runs.py",
        "                self._outbox.add(ResumeRun(run.id))",
        "                pass",
        10,
    ),
    Planted(
        "an agent that ignores its end keeps the session",
        "conversation/runs.py",
        "self._timers.set(Reason.GIVE_UP, run.id, now.mono + self._config.cancel_grace)",
        "pass",
        10,
    ),
    Planted(
        "a run that was cancelled times out as well",
        "conversation/runs.py",
        "        run.paused = False\n        self._timers.clear(Reason.RUN, run.id)",
        "        run.paused = False",
        51,
    ),
    Planted(
        "an agent that hangs is never cancelled",
        "conversation/runs.py",
        "self._fail(run, Fault.AGENT_TIMEOUT, now, stop=True)",
        "self._timers.set(Reason.RUN, run.id, now.mono + self._config.timeout)",
        10,
    ),
    Planted(
        "a message that comes again runs again",
        "conversation/runs.py",
        "            session.remember(message.id, run.id)",
        "            pass",
        30,
    ),
    Planted(
        "the last chunk is left out",
        "conversation/runs.py",
        "        if run.pending:\n            self._flush(run, now)\n        seconds = 0.0",
        "        seconds = 0.0",
        10,
    ),
    Planted(
        "offsets count bytes",
        "conversation/voice.py",
        "run.sent += len(content)",
        "run.sent += len(content.encode())",
        10,
    ),
    Planted(
        "a waiting message that is cancelled is run all the same",
        "conversation/runs.py",
        "            run.session.waiting.remove(run)\n            self._forget(run)\n        else:",
        "            self._forget(run)\n        else:",
        12,
    ),
    Planted(
        "one message too many waits",
        "conversation/runs.py",
        "self._most = self._queue + 1 if",
        "self._most = self._queue + 2 if",
        10,
    ),
    Planted(
        "what an agent says after its end is heard",
        "conversation/runs.py",
        "return run if run is not None and run.state is State.RUNNING else None",
        "return run",
        12,
    ),
    Planted(
        "the text of an agent's exception reaches the client",
        "conversation/runs.py",
        '{"error_id": self._ids()}',
        '{"error_id": self._ids() + str(cause)}',
        10,
    ),
    Planted(
        "half a character goes out",
        "conversation/run.py",
        'replaced = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        "replaced = text",
        10,
    ),
    # ── the store ──
    Planted(
        "an end is heard before it is kept",
        "conversation/voice.py",
        "        if self._journal is not None:\n            self._journal.add(Entry(session, run",
        "        if self._journal is not None and ends is None:\n            self._journal.add(Entry(session, run",
        10,
    ),
    Planted(
        "a message is accepted before it is kept",
        "conversation/voice.py",
        "            run.session.accepting[run.id] = run\n",
        "            run.session.accepting[run.id] = run\n            payload and run.session.hear(payload, now)\n",
        10,
    ),
    Planted(
        "who repeats a message is told before it is kept",
        "chats.py",
        "run = session.accepting.get(run_id)",
        "run = None",
        30,
    ),
    Planted(
        "a run begins before its message is kept",
        "conversation/runs.py",
        "while waiting and waiting[0].accepted and",
        "while waiting and",
        18,
    ),
    Planted(
        "a message that could not be kept is taken for known",
        "conversation/runs.py",
        "            del run.session.known[run.correlation_id]",
        "            pass",
        30,
    ),
    Planted(
        "one failure of the store, and nothing is kept any more",
        "conversation/journal.py",
        '        """Try again what could not be saved; the next `flush` does."""\n        self.failing = False',
        '        """Try again what could not be saved; the next `flush` does."""',
        21,
    ),
    Planted(
        "the end of a run is not kept",
        "conversation/journal.py",
        "        if ends is not None:\n            yield RunEnded(ends)",
        "        if ends is not None and payload is None:\n            yield RunEnded(ends)",
        10,
    ),
    # ── connections ──
    Planted(
        "a pong for a ping, and one more",
        "connection.py",
        "            self._out.pong(pong)",
        "            self._out.pong(pong + pong)",
        12,
    ),
    Planted(
        "bytes for a peer that does not read",
        "connection.py",
        "return self.phase is Phase.OPEN and not self._out.blocked and not self._link.over",
        "return self.phase is Phase.OPEN and not self._link.over",
        12,
    ),
    Planted(
        "frames beyond those of a turn are never looked at",
        "connection.py",
        "            timers.set(Reason.BACKLOG, self.number, nextafter(now.mono, inf))",
        "            pass",
        81,
    ),
    Planted(
        "reading is stopped for good",
        "connection.py",
        "        if full is not self._paused:",
        "        if full and not self._paused:",
        63,
    ),
    Planted(
        "a peer that is silent is never given up",
        "connection.py",
        "            self.drop(now, Fault.HEARTBEAT_LOST.value.word)",
        "            timers.set(Reason.HEARTBEAT, self.number, now.mono + server.timeout)",
        12,
    ),
    Planted(
        "a place is not given back",
        "connection.py",
        "DropConnection(self.number))\n        self._tally.leave(self.address_key)",
        "DropConnection(self.number))",
        10,
    ),
    Planted(
        "a peer that never answers our Close keeps its socket",
        "connection.py",
        "            node.timers.set(Reason.CLOSE, self.number, now.mono + node.config.limits.close_timeout)",
        "            pass",
        10,
    ),
    Planted(
        "a closed connection stays with its sessions",
        "gateway.py",
        "                self._sessions.detach(session, connection.number, now)",
        "                pass",
        10,
    ),
    # ── frames ──
    Planted(
        "a header that comes in two reads loses its first part",
        "wire/frames.py",
        "            self._at, self._header = len(inbox), head",
        "            self._at, self._header = len(inbox), inbox[start:]",
        10,
    ),
    Planted(
        "the fragments of earlier messages count",
        "wire/frames.py",
        "        self._fragments = self._size = 0\n        if self._inflate",
        "        self._size = 0\n        if self._inflate",
        10,
    ),
    Planted(
        "a message may be one byte too long",
        "wire/frames.py",
        "        if self._size > self._top:",
        "        if self._size > self._top + 1:",
        12,
    ),
    # ── who may ──
    Planted(
        "a token that was good once is good for ever",
        "admission/verified.py",
        "if unix >= span.until + self._leeway or",
        "if",
        15,
    ),
    Planted(
        "a token that has run out is not noticed",
        "connection.py",
        "        if credential.expired(now):\n            self.refuse(Refusal(Fault.TOKEN_EXPIRED), now)\n",
        "        if False:\n            self.refuse(Refusal(Fault.TOKEN_EXPIRED), now)\n",
        15,
    ),
    Planted(
        "whoever is revoked stays",
        "control.py",
        'Outcome(self._close_revoked(now), 0, {name: before}, {name: "revoked"})\n        self._done("token',
        'Outcome(0, 0, {name: before}, {name: "revoked"})\n        self._done("token',
        171,
    ),
    # ── the end of a node ──
    Planted(
        "a node that drains takes messages",
        "chats.py",
        "        if self.draining and type(event) is ChatMessage:",
        "        if False:",
        36,
    ),
    # ── the client ──
    Planted(
        "a client forgets what it could not send",
        "client/session.py",
        "            if message.refused:\n                self.post(message)",
        "            if False:\n                self.post(message)",
        10,
    ),
)
