"""When two machines are in the same state: a key of all that decides what they will do next.

`LOOKED_AT` names every attribute that goes into the key, and `LEFT_OUT` every other one with the reason why it makes no
difference within a walk; a test keeps the two complete, so that nobody adds a field to the gateway without deciding.
What is left out is proved harmless, too: wherever two histories meet in one key, all that can be done next is done in
both, and has to be answered with the same bytes (`test_what_is_one_state_answers_alike`).

Ids are told apart, not looked at: they are renamed in the order in which the key comes upon them. Times are distances
from now.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b

from qaws_proto.chats import Chats
from qaws_proto.clock import Reason, Timers
from qaws_proto.connection import Connection
from qaws_proto.conversation.journal import Entry, Journal
from qaws_proto.conversation.log import Log
from qaws_proto.conversation.run import Run
from qaws_proto.conversation.runs import Runs
from qaws_proto.conversation.session import Cursor, Session, Sessions
from qaws_proto.effects import ConnectionEffect, SaveRecords, StartRun, StoreEffect
from tests.model.machine import Machine, Seat

SETTINGS = "the settings are those of the part"
DERIVED = "follows from what is looked at"
SHARED = "a part of the node, which is looked at by itself"
PRINTED = "goes into notes and gauges alone"
FAR = "bounds what no walk of this length reaches"
FIXED = "the same in every state of a part"

LOOKED_AT: dict[type, frozenset[str]] = {
    Sessions: frozenset({"_by_owner", "_detached", "_past", "_promised"}),
    Session: frozenset({
        "owner", "id", "log", "cursors", "running", "waiting", "accepting", "open", "known", "ended", "arrivals",
        "unsaved",
    }),
    Log: frozenset({"epoch", "head", "_payloads"}),
    Cursor: frozenset({"reader", "seq", "acked"}),
    Runs: frozenset({"_runs"}),
    Run: frozenset({
        "id", "session", "user_id", "message", "state", "accepted", "askers", "position", "rerun", "paused", "pending",
        "_pieces", "sent", "shown",
    }),
    Connection: frozenset({
        "number", "phase", "sessions", "awaits", "_held", "_asked", "_paused", "_end", "_link",
    }),
    Journal: frozenset({"_waiting", "_saving", "_asked", "failing"}),
    Timers: frozenset({"_due"}),
    Chats: frozenset({"_awaited", "draining"}),
    Seat: frozenset({"name", "client", "epoch", "base", "seq", "snapshot", "attached", "asked"}),
}  # fmt: skip

LEFT_OUT: dict[type, dict[str, str]] = {
    Sessions: {
        "config": SETTINGS, "limits": SETTINGS, "_bounded": SETTINGS, "_durable": SETTINGS, "_timers": SHARED,
        "_user_bytes": SETTINGS, "_node_bytes": SETTINGS,
        "_by_number": DERIVED, "_owned": DERIVED, "held": DERIVED, "_opened": "names sessions apart, and no more",
    },
    Session: {
        "number": "names sessions apart, and no more", "unsaved_bytes": FAR, "_table": SHARED, "_known_ids": SETTINGS,
        "_high": SETTINGS, "_top": SETTINGS,
    },
    Log: {"total": FAR, "_held": DERIVED, "_max_events": SETTINGS, "_max_bytes": SETTINGS},
    Cursor: {"total": FAR},
    Runs: {
        "_double_text": SETTINGS, "_voice": SHARED, "_counts": PRINTED, "_timers": SHARED, "_outbox": SHARED,
        "_ids": SHARED, "_accounts": FAR, "_config": SETTINGS, "_queue": SETTINGS, "_width": SETTINGS,
        "_most": SETTINGS, "_max_runs": SETTINGS, "_max_response_size": SETTINGS, "_timeout": SETTINGS,
        "_max_duration": SETTINGS, "_roll_up": SETTINGS, "_chunk_size": SETTINGS,
    },
    Run: {
        "account": DERIVED, "reservation": FAR, "stream": DERIVED, "connection": PRINTED, "trace": FIXED,
        "correlation_id": DERIVED, "submitted_at": PRINTED,
        "started_at": PRINTED, "moved_at": FAR, "first_chunk_at": PRINTED, "_blocks": FAR, "chars": DERIVED,
        "size": FAR, "chunks": PRINTED, "last_sent": "pieces are not rolled up", "reasoning": FIXED, "tools": FIXED,
        "input_tokens": PRINTED, "output_tokens": PRINTED,
    },
    Connection: {
        "account": FIXED, "address": FIXED, "address_key": FIXED, "epoch": "as `session_id`",
        "session_id": "no act names it, but for the first", "trace": FIXED, "traffic": PRINTED,
        "_assembling": FIXED, "_bad": FIXED, "_budget": FAR, "_charged": FAR,
        "_credential": FIXED, "_discarded": FAR, "_heard_at": FAR, "_node": SHARED, "_out": FIXED, "_pinged_at": FAR,
        "_scrape": FIXED, "_strikes": FIXED, "_tally": DERIVED,
    },
    Journal: {
        "_config": SETTINGS, "_timers": SHARED, "_outbox": SHARED, "changes": FIXED, "_batch": "a number, and no more",
        "_size": FAR, "_noted_at": PRINTED,
    },
    Timers: {
        "_heap": DERIVED, "_stale": DERIVED, "_count": "orders timers of one time: `_due` is looked at in that order",
    },
    Chats: {
        "_node": SHARED, "_connections": SHARED, "_sessions": SHARED, "_runs": SHARED, "_journal": SHARED,
        "_voice": SHARED, "handlers": FIXED,
    },
    Seat: {
        "user": FIXED, "held": "what the log says from `base` to `seq`, or the walk has failed",
    },
}  # fmt: skip

NEVER = (Reason.HEARTBEAT, Reason.TOKEN, Reason.RUN)  # are not due within a walk
TABS = {"ana-1": "ana-2", "ana-2": "ana-1"}
_ID = re.compile(r"id-\d+")
_CLOCKED = re.compile(r'"(processing_time|token_expires_in)":[0-9.e-]+')  # says what time it is, and no more
_TAB = re.compile(r"ana-[12]")


def key(machine: Machine) -> bytes:
    """What the state of a machine is known by; where ana's tabs can do the same, it does not matter which is which."""
    text = described(machine)
    if machine.part.symmetric:
        text = min(text, described(machine, swapped=True))
    return blake2b(text.encode(), digest_size=16).digest()


def described(machine: Machine, *, swapped: bool = False) -> str:
    """All that the state of a machine is, as a text; with ana's tabs `swapped`."""
    seats = {TABS.get(name, name) if swapped else name: seat for name, seat in machine.seats.items()}
    seat_of = {seat.client.number: name for name, seat in seats.items()}
    parts = [_of_seats(machine, seats), *_of_node(machine, seat_of), _of_world(machine)]
    return renamed(_CLOCKED.sub("", repr(parts)))


def answered(machine: Machine) -> str:
    """What the newest act was answered with, behind the state that it has led to, which gives the ids their names."""
    seat_of = {seat.client.number: name for name, seat in machine.seats.items()}
    told: dict[str, list[object]] = {}  # to whom; what is said to two peers at once has no order
    for one in machine.answers:
        if isinstance(one, ConnectionEffect):
            told.setdefault(seat_of.get(one.connection, "one before"), []).append((type(one).__name__, *one[1:]))
        elif isinstance(one, StartRun):
            told.setdefault("agent", []).append(one._replace(asker=None))  # for traces
        else:
            told.setdefault("node", []).append(_of_asked(one) if isinstance(one, StoreEffect) else one)
    answers = sorted(told.items())
    return renamed(_CLOCKED.sub("", f"{described(machine)} {answers!r}"))


def swap(act: str) -> str:
    """The same act of ana's other tab."""
    return _TAB.sub(lambda found: TABS[found[0]], act)


def renamed(text: str) -> str:
    """The same text with its ids named in the order in which they come."""
    names: dict[str, str] = {}
    return _ID.sub(lambda found: names.setdefault(found[0], f"<{len(names)}>"), text)


def _of_seats(machine: Machine, seats: dict[str, Seat]) -> object:
    return machine.session_id, [
        (
            name, seat.open, seat.epoch, seat.base, seat.seq, list(seat.snapshot.items()), seat.attached, seat.asked,
        )
        for name, seat in sorted(seats.items())
    ]  # fmt: skip


def _of_node(machine: Machine, seat_of: dict[int, str]) -> Iterable[object]:
    gateway, now = machine.node.gateway, machine.node.now.mono
    sessions, chats, journal = gateway._sessions, gateway._chats, gateway._journal
    names = {session.number: (session.owner, session.id) for session in sessions}
    yield sorted(
        (
            seat_of[number], one.phase.name, sorted(names[held] for held in one.sessions), sorted(one.awaits),
            one._held, repr(one._asked), one._paused, repr(one._end), one._link.over,
        )
        for number, one in gateway._connections.items()
    )  # fmt: skip
    yield [_of_session(session, seat_of) for session in sessions]
    yield [names[number] for number in sessions._detached]
    known = sessions._past | sessions._promised  # the same for who names it
    yield sorted((name, str(epoch)) for name, epoch in known.items() if name[1] == machine.session_id)
    yield [_of_run(run, seat_of) for run in gateway._runs]
    yield [(name, sorted(seat_of[number] for number in numbers)) for name, numbers in sorted(chats._awaited.items())]
    yield chats.draining
    if journal is not None:
        yield (
            journal._asked,
            journal.failing,
            [list(map(_of_entry, one)) for one in (journal._waiting, journal._saving)],
        )
    for (reason, owner), (at, *_) in sorted(gateway._timers._due.items(), key=lambda item: item[1]):
        if reason in NEVER:
            continue
        if isinstance(owner, int):
            whose: object = names[owner] if reason is Reason.SESSION else seat_of.get(owner, owner)
        else:
            whose = owner
        yield reason.name, whose, round(at - now, 6)


def _of_session(session: Session, seat_of: dict[int, str]) -> object:
    log = session.log
    arrivals = session.arrivals
    return (
        session.owner, session.id, log.epoch, log.head, list(log._payloads),
        sorted((seat_of[number], cursor.seq, cursor.acked) for number, cursor in session.cursors.items()),
        list(session.running), [run.id for run in session.waiting], list(session.accepting), list(session.open),
        list(session.known.items()), list(session.ended), session.unsaved,
        arrivals if arrivals is None else [(seat_of.get(number), repr(event)) for number, event in arrivals],
    )  # fmt: skip


def _of_run(run: Run, seat_of: dict[int, str]) -> object:
    return (
        run.id, run.session.owner, run.user_id, run.message.id, run.state.name, run.accepted,
        [seat_of.get(number) for number in run.askers], run.position, run.rerun, run.paused, list(run.pending),
        run.answer, run.sent, run.shown,
    )  # fmt: skip


def _of_entry(entry: Entry) -> object:
    run_id = None if entry.run is None else entry.run.id
    return entry.session.owner, run_id, entry.payload, entry.shown, entry.accepts, entry.ends


def _of_asked(asked: StoreEffect) -> object:
    """A question to the store, without its number and its time."""
    return ("save", [repr(record) for record in asked.records]) if isinstance(asked, SaveRecords) else tuple(asked)


def _of_world(machine: Machine) -> object:
    """What is beside the gateway: the agent, and the store."""
    node, store = machine.node, machine.node.store
    kept = None if store is None else (list(store.events.items()), list(store.runs), sorted(store.ended))
    stopping = [run_id for run_id in node.runs if run_id in node.cancelled]
    return list(node.runs), stopping, list(map(_of_asked, node.asked)), kept, bool(node.started)
