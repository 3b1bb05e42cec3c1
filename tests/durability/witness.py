"""What clients saw and what a store holds, and whether the two agree: lost and duplicated events and messages."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from qaws.stores.history import Damage, Event, open_history

SaidEvent = dict[str, Any]


class Seen(NamedTuple):
    """An event that a client received, and in which session and epoch."""

    session_id: str
    epoch: str
    event: SaidEvent


@dataclass
class Witness:
    """What all clients did and saw."""

    attempted: dict[str, str] = field(default_factory=dict)  # content by message id
    accepted: dict[str, str] = field(default_factory=dict)  # run id by message id
    received: list[Seen] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)  # the last seq that was received, by session

    def receive(self, session_id: str, epoch: str, event: SaidEvent) -> None:
        """A client received an event of a session's log."""
        self.received.append(Seen(session_id, epoch, event))
        self.reached[session_id] = max(self.reached.get(session_id, 0), event["seq"])


class Stored(NamedTuple):
    """A session in the store: its epoch, its events by `seq`, its unfinished runs."""

    epoch: str
    events: dict[int, SaidEvent]
    unfinished: int


def stored_sessions(path: Path) -> dict[str, Stored]:
    """Everything in a store. Raises AssertionError where something of it is damaged."""
    found: dict[str, Stored] = {}
    with open_history(str(path)) as history:
        for session in history.sessions():
            events: dict[int, SaidEvent] = {}
            for entry in history.entries(session):
                assert not isinstance(entry, Damage), entry
                if isinstance(entry, Event):
                    events[entry.seq] = json.loads(entry.payload)
            assert len(events) == session.events
            assert session.unfinished is not None
            found[session.session_id] = Stored(session.epoch, events, session.unfinished)
    return found


class Verdict(NamedTuple):
    """What is wrong, a line each."""

    lost: list[str]
    duplicated: list[str]


def judge(witness: Witness, sessions: dict[str, Stored]) -> Verdict:
    """Compare what was seen with what is there, once no run is unfinished any more."""
    lost: list[str] = []
    duplicated: list[str] = []
    for name, session in sessions.items():
        lost += _holes(name, session)
        lost += [f"{name}: {session.unfinished} runs without an end"] if session.unfinished else []
    _judge_received(witness, sessions, lost, duplicated)
    _judge_messages(witness, sessions, lost, duplicated)
    return Verdict(lost, duplicated)


def _holes(name: str, session: Stored) -> list[str]:
    wrong = [f"{name}: event {seq} says {event['seq']}" for seq, event in session.events.items() if event["seq"] != seq]
    there = list(session.events)
    return wrong + ([f"{name}: not numbered without a hole"] if there != list(range(1, len(there) + 1)) else [])


def _judge_received(witness: Witness, sessions: dict[str, Stored], lost: list[str], duplicated: list[str]) -> None:
    heard: defaultdict[str, Counter[int]] = defaultdict(Counter)
    texts = {name: _texts(session) for name, session in sessions.items()}
    for session_id, epoch, event in witness.received:
        seq, where = event["seq"], f"{session_id}: event {event['seq']}"
        heard[session_id][seq] += 1
        session = sessions.get(session_id)
        if session is None or seq not in session.events:
            lost.append(f"{where} was received and is not there")
        elif session.epoch != epoch:
            lost.append(f"{where} was received under another epoch")
        elif event["type"] == "agent_chunk":  # maybe several as one
            if texts[session_id].get(seq, "")[event["offset"] :] != event["content"]:
                lost.append(f"{where} is not the text that was received")
        elif session.events[seq] != event:
            lost.append(f"{where} is not what was received")
    for name, reached in witness.reached.items():
        events = sessions[name].events if name in sessions else {}
        whole = {seq for seq, event in events.items() if event["type"] != "agent_chunk" and seq <= reached}
        lost += [f"{name}: event {seq} was passed over" for seq in sorted(whole - set(heard[name]))]
        duplicated += [f"{name}: event {seq} came {count} times" for seq, count in heard[name].items() if count > 1]


def _texts(session: Stored) -> dict[int, str]:
    """All that a run had said with each of its chunks; what is run again begins again."""
    said: defaultdict[str, str] = defaultdict(str)
    texts: dict[int, str] = {}
    for seq, event in session.events.items():
        if event["type"] == "agent_chunk":
            run = event["run_id"]
            said[run] = said[run][: event["offset"]] + event["content"]
            texts[seq] = said[run]
        elif event.get("event_name") == "run_started" and event["data"].get("rerun"):
            said[event["data"]["run_id"]] = ""
    return texts


def _judge_messages(witness: Witness, sessions: dict[str, Stored], lost: list[str], duplicated: list[str]) -> None:
    runs: defaultdict[str, list[str]] = defaultdict(list)  # by message id
    ends: Counter[str] = Counter()  # by run id
    for session in sessions.values():
        for event in session.events.values():
            if event.get("event_name") == "message_accepted":
                message_id, data = event["correlation_id"], event["data"]
                runs[message_id].append(data["run_id"])
                if witness.attempted.get(message_id) != data["content"]:
                    lost.append(f"message {message_id} has another content")
            elif event["type"] in ("agent_response", "error"):
                ends[event["run_id"]] += 1
            elif "run_id" in event and ends[event["run_id"]]:
                duplicated.append(f"run {event['run_id']} said something behind its end")
    for message_id, run_id in witness.accepted.items():
        if run_id not in runs[message_id]:
            lost.append(f"message {message_id} was accepted and is not there")
    for message_id, its in runs.items():
        if len(its) > 1:
            duplicated.append(f"message {message_id} has {len(its)} runs")
    for run_id in (run for its in runs.values() for run in its):
        if ends[run_id] == 0:
            lost.append(f"run {run_id} has no end")
        elif ends[run_id] > 1:
            duplicated.append(f"run {run_id} has {ends[run_id]} ends")
