"""What was said in a simulated world, and whether it is what was heard: the oracles of clause C10.

`Truth` is what the agents said, `Heard` what one client was told. Both are plain values: a wrong history can be made by
hand, to see that it is found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..events import AgentChunk, AgentResponse, AgentStepEvent, ErrorEvent, ServerEvents, SystemEvent
from ..faults import Fault, Retry

HONEST = "user-"  # what honest clients ask begins with this, and is never asked twice
MADE_UP = ("LOST", "ANSWERED")  # what a client says of a message by itself
_FINAL = {fault.value.code for fault in Fault if fault.value.code and fault.value.retry is Retry.NO}


class Life(NamedTuple):
    """One call of the agent for a run: a restart may begin another."""

    pieces: list[str]
    steps: list[str]
    answers: list[str]  # what it ended with, once it has

    @property
    def text(self) -> str:
        """All that it has said."""
        return "".join(self.pieces)


class Truth:
    """What agents were asked, and said."""

    def __init__(self) -> None:
        self.contents: dict[str, str] = {}  # by run: the message it is for
        self.lives: dict[str, list[Life]] = {}

    def begin(self, run_id: str, content: str) -> None:
        """The agent is called for a run."""
        self.contents[run_id] = content
        self.lives.setdefault(run_id, []).append(Life([], [], []))

    def life(self, run_id: str) -> Life:
        """The newest call for a run."""
        return self.lives[run_id][-1]

    def check_once(self, *, forgets: bool, reruns: bool) -> None:
        """No message is run twice, but for what a node may forget, and what it is to run again after a restart."""
        runs = Counter(self.contents.values())
        again = [content for content, count in runs.items() if count > 1 and content.startswith(HONEST)]
        assert forgets or not again, f"C8: run twice: {again}"
        twice = [run_id for run_id, lives in self.lives.items() if len(lives) > 1]
        assert reruns or not twice, f"C8: called again: {twice}"


class Heard:
    """What one client was told: each thing once, in order, and no hole that it was not told of.

    `own`: what the ids of its messages begin with. Those of others may be accepted again behind a gap: a session that
    was lost with its node begins anew, and they may know no better.
    """

    def __init__(self, own: str) -> None:
        self.own = own
        self.accepted: dict[str, str] = {}  # by message: its run
        self.repeated: set[str] = set()  # messages that were accepted before they were sent again
        self.texts: dict[str, str] = {}  # by run: what its chunks make
        self.steps: dict[str, list[str]] = {}  # by run
        self.ends: dict[str, AgentResponse | ErrorEvent] = {}  # by message, of others in the session too
        self.gaps: list[ServerEvents] = []
        self.seqs: list[int] = []  # of all that has one, since the last gap
        self.order: list[str] = []  # runs, as their messages were accepted in the log since then
        self._seq = 0

    def hear(self, event: ServerEvents) -> None:
        """One event was delivered."""
        gap = isinstance(event, SystemEvent) and event.event_name == "session_resumed"
        forgotten = isinstance(event, ErrorEvent) and event.error_code == Fault.SESSION_NOT_FOUND.value.code
        if gap or forgotten:
            self.gaps.append(event)
            self.seqs.clear()
            self.order.clear()
            self._seq = 0
            for message_id in [one for one in {**self.accepted, **self.ends} if not one.startswith(self.own)]:
                self.accepted.pop(message_id, None)
                self.ends.pop(message_id, None)
            return
        if isinstance(event, SystemEvent):
            self._system(event)
        elif isinstance(event, AgentChunk):
            self._chunk(event)
        elif isinstance(event, AgentStepEvent):
            self.steps.setdefault(event.run_id or "", []).append(event.content or event.name or "")
        elif isinstance(event, AgentResponse | ErrorEvent) and event.correlation_id is not None:
            assert event.correlation_id not in self.ends, f"C10: {event} after {self.ends[event.correlation_id]}"
            self.ends[event.correlation_id] = event
        seq = getattr(event, "seq", None)
        if seq is not None and not (seq < self._seq and self._was_missed(event)):
            pictured = isinstance(event, AgentChunk) and bool(self.gaps)  # of a snapshot, with the last event's number
            assert seq > self._seq or (pictured and seq == self._seq), f"C10: {event} behind {self._seq}"
            self._seq = seq
            self.seqs.append(seq)

    def _was_missed(self, event: ServerEvents) -> bool:
        """Whether it is the end of a message that was sent again: what came of it at first is behind, in the log."""
        return isinstance(event, AgentResponse | ErrorEvent) and event.correlation_id in self.repeated

    def _system(self, event: SystemEvent) -> None:
        if event.event_name == "message_accepted" and event.correlation_id is not None:
            assert event.correlation_id not in self.accepted, f"C10: accepted twice: {event}"
            assert event.correlation_id not in self.ends, f"C10: accepted behind its end: {event}"
            self.accepted[event.correlation_id] = str(event.data["run_id"])
            if event.seq is None:
                self.repeated.add(event.correlation_id)
            else:
                self.order.append(str(event.data["run_id"]))
        elif event.event_name == "run_started" and event.data.get("rerun"):
            self.steps.pop(str(event.data["run_id"]), None)  # told anew

    def _chunk(self, event: AgentChunk) -> None:
        assert event.run_id is not None
        assert event.content, f"C10: an empty chunk: {event}"
        assert event.correlation_id is None or event.correlation_id not in self.ends, f"C8: behind the end: {event}"
        text = self.texts.get(event.run_id, "")
        assert event.offset <= len(text), f"C10: a hole: {event} behind {text!r}"
        self.texts[event.run_id] = text[: event.offset] + event.content


class Rules(NamedTuple):
    """What a node may forget in a world."""

    durable: bool  # there is a store
    forgets: bool  # sessions may be gone: there is no store, and it was restarted, or had no room or time for them
    restarted: bool


def check_heard(heard: Heard, asked: Sequence[str], truth: Truth, rules: Rules) -> None:
    """Each message has one end, which is what the agent said; what is lost was told."""
    missing = [message_id for message_id in asked if message_id not in heard.ends]
    assert not missing, f"C8: no end of {missing}"
    for message_id in asked:
        end = heard.ends[message_id]
        if isinstance(end, AgentResponse):
            _check_answer(heard, end, truth, rules)
        elif end.error_code in MADE_UP:
            assert heard.gaps, f"C10: {end}, and nobody was told of a gap"
        elif end.run_id is None:
            _check_refused(heard, message_id, end, truth)
    if not heard.gaps:
        _check_whole(heard, asked)
    begun = list(truth.contents)  # in the order in which the agent was called
    places = [begun.index(run_id) for run_id in heard.order if run_id in truth.contents]
    assert places == sorted(places), f"G7: {heard.order} were accepted in this order, and begun in another"


def _check_answer(heard: Heard, end: AgentResponse, truth: Truth, rules: Rules) -> None:
    assert end.run_id is not None
    lives = truth.lives.get(end.run_id, [Life([], [], [])])
    if end.status == "completed":
        answers = [answer for life in lives for answer in life.answers]
        assert end.content in answers, f"C10: {end} is not what the agent said: {answers}"
    else:
        assert any(life.text.startswith(end.content) for life in lives), f"C10: {end} is nothing that the agent said"
    text = heard.texts.get(end.run_id)
    if text is None or heard.gaps or len(lives) > 1:
        return
    assert text == end.content, f"C10: the chunks of {end} make {text!r}"
    if end.status == "completed" and not rules.restarted:
        told = heard.steps.get(end.run_id, [])
        assert told == lives[-1].steps, f"C10: the steps of {end} are {told}, not {lives[-1].steps}"


def _check_refused(heard: Heard, message_id: str, end: ErrorEvent, truth: Truth) -> None:
    """A message that was refused was not accepted, and never run."""
    assert message_id not in heard.accepted, f"C8: accepted, and refused: {end}"
    run = [run_id for run_id, content in truth.contents.items() if content.startswith(f"{message_id} ")]
    assert not run or end.error_code in _FINAL, f"C8: refused, and run: {end}"


def _check_whole(heard: Heard, asked: Sequence[str]) -> None:
    """Where there was no gap, what was accepted is what ended."""
    for message_id in asked:
        end = heard.ends[message_id]
        made_up = isinstance(end, ErrorEvent) and end.error_code in MADE_UP
        if end.run_id is not None and not made_up:
            assert heard.accepted.get(message_id) == end.run_id, f"C8: {end}, and its run was not accepted"


def check_log(heard: Heard, payloads: Iterable[bytes]) -> None:
    """Who was told of no gap has heard all of a session's log, from the first event that it has heard to the last.

    Chunks of one run that follow each other may have been joined, into one with the number of the last of them.
    """
    if not heard.seqs or heard.gaps:
        return
    log: dict[int, dict[str, Any]] = {at: json.loads(payload) for at, payload in enumerate(payloads, 1)}
    first, last, told = heard.seqs[0], heard.seqs[-1], frozenset(heard.seqs)
    for seq in range(first, last + 1):
        assert seq in log, f"C10: {seq} was heard, and is in no log"
        if seq not in told and log[seq]["type"] != "agent_chunk":
            own = log[seq].get("event_name") == "message_accepted"  # may have been told when it was sent again
            assert own, f"C10: {log[seq]} was not heard"
