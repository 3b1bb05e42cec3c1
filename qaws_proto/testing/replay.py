"""A trace run through the core again: the same inputs at the same times, and what came from outside as it came then.

    replay = Replay(Trace.read(lines))
    for replayed in replay.steps():
        print(replayed.step.input, replayed.effects, replayed.difference)

Ids and the answers of the verifier and of checks are those of the trace, so no key is needed and no token is verified.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count, zip_longest
from typing import Any, NamedTuple, get_args

from ..admission.gate import Refusal
from ..admission.keys import Key
from ..admission.tokens import Principal, TokenVerifier
from ..effects import Effect
from ..extension import EventType
from ..gateway import Gateway
from .trace import Head, Step, Trace, TraceError, Verdict, digest, failure


class Replayed(NamedTuple):
    """A step that was taken again. `difference` says what is not as it was; None where all of it is."""

    step: Step
    effects: list[Effect]
    difference: str | None


class Replay:
    """A gateway made as the head of a trace says, and the steps to take with it."""

    def __init__(self, trace: Trace, *, events: Sequence[EventType] = ()) -> None:
        """`events` are those that the user had added to the node. Raises TraceError where others are named in the head.

        Checks of users need not be there: the trace has what they said.
        """
        self._outside = Outside()
        self._trace = trace
        self.gateway = Gateway(trace.head.config, **self._outside.ports(trace.head, events))

    def steps(self) -> Iterator[Replayed]:
        """Take the steps; the first that is not as it was is the last."""
        for step in self._trace.steps:
            replayed = self.take(step)
            yield replayed
            if replayed.difference is not None:
                return

    def take(self, step: Step) -> Replayed:
        """Take the next step of the trace."""
        outside = self._outside
        outside.begin(step)
        try:
            effects = self.gateway.step(step.input, step.now)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the same as then or a difference
            effects, came = [], failure(error)
        else:
            came = digest(effects)
        return Replayed(step, effects, outside.difference or compare(step.effects, came) or outside.left)


def compare(then: str, now: str) -> str | None:
    """What makes two digests differ: the first effect that does; None where they are the same."""
    if then == now:
        return None
    for place, (old, new) in enumerate(zip_longest(then.split(), now.split()), 1):
        if old != new:
            was, came = (_named(one) for one in (old, new))
            return f"effect {place} was {was} and is {'another' if was == came else came}"
    raise AssertionError("two digests differ somewhere")


def _named(one: str | None) -> str:
    """An effect as a digest names it."""
    if one is None:
        return "not there"
    return f"{one[1:]}, raised" if one.startswith("!") else one.partition(":")[0]


class Outside:
    """What comes into a step beside its input, as it came when the trace was written."""

    def __init__(self) -> None:
        self._ids: deque[str] = deque()
        self._verdicts: deque[Verdict] = deque()
        self._spare = count(1)
        self.difference: str | None = None  # the first of the step

    def ports(self, head: Head, events: Sequence[EventType] = ()) -> dict[str, Any]:
        """The arguments of a `Gateway`, beside its configuration, that make it the one of a trace."""
        types = {name for event in events for name in get_args(event.model.model_fields["type"].annotation)}
        if types != set(head.events):
            named = ", ".join(head.events) or "none"
            raise TraceError(f"the node had events of its user: {named}; replay it with those (`events`)")
        upgrades, passages = head.checks
        return {
            "ids": self.draw,
            "verifier": ReplayedVerifier(self) if head.config.security.authentication.enabled else None,
            "events": events,
            "upgrade_checks": [self._check] * upgrades,
            "event_checks": [self._check] * passages,
            "durable": head.durable,
        }

    def begin(self, step: Step) -> None:
        """What comes next is for this step."""
        self._ids, self._verdicts = deque(step.ids), deque(step.verdicts)
        self.difference = None

    @property
    def left(self) -> str | None:
        """What the step was given then and has not asked for; None where that is nothing."""
        if self._ids:
            return f"{len(self._ids)} fewer ids are drawn"
        return f"{len(self._verdicts)} fewer verdicts are asked for" if self._verdicts else None

    def draw(self) -> str:
        """The next id; one that was never drawn where there is none."""
        if self._ids:
            return self._ids.popleft()
        self._differ("more ids are drawn")
        return f"replayed-{next(self._spare)}"

    def ask(self, name: str) -> Any:
        """The next verdict, which may be to raise; None where another one was asked for."""
        if self._verdicts and self._verdicts[0][0] == name:
            answer = self._verdicts.popleft()[1]
            if isinstance(answer, Exception):
                raise answer
            return answer
        asked = self._verdicts[0][0] if self._verdicts else "nothing more"
        self._differ(f"`{name}` is asked, and was not: {asked}")
        return None

    def _differ(self, difference: str) -> None:
        self.difference = self.difference or difference

    def _check(self, gate: object, asked: object) -> Refusal | None:
        """A check of a user, of an upgrade or of an event."""
        verdict: Refusal | None = self.ask("check")
        return verdict


class ReplayedVerifier(TokenVerifier):
    """Says of every token what was said of it then."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def load(self, keys: tuple[Key, ...]) -> None:
        """What the keys are makes no difference any more."""

    def verify(self, token: str, unix: float) -> Principal | None:
        """As it was."""
        principal: Principal | None = self._outside.ask("verify")
        return principal

    def recall(self, token: str, unix: float) -> Principal | None:
        """As it was."""
        principal: Principal | None = self._outside.ask("recall")
        return principal

    def lacks_key(self, token: str, unix: float, *, any_key: bool = False) -> bool:
        """As it was."""
        return bool(self._outside.ask("lacks_key"))

    def has_keys(self, unix: float) -> bool:
        """As it was."""
        return bool(self._outside.ask("has_keys"))
