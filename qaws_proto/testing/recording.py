"""A gateway that writes its trace: each step, with all that came into it from outside.

    gateway = RecordedGateway(config, ids=ids, write=lambda step: lines.append(step.line()))
    lines.append(gateway.head.line())

Unless it is to be `redacted`, what it writes are the inputs as they came, secrets in them too; only the head is free of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, get_args

from ..admission.gate import EventCheck, Gate, Refusal, UpgradeCheck
from ..admission.keys import Key
from ..admission.tokens import Principal, TokenVerifier
from ..clock import Now
from ..config import WebSocketConfig
from ..effects import Effect
from ..extension import EventType
from ..faults import Fault
from ..gateway import Gateway
from ..inputs import Input
from .redaction import Redactor
from .trace import Head, Step, Verdict, digest, failure

_Answer = TypeVar("_Answer")
_Asked = TypeVar("_Asked")


class RecordedGateway(Gateway):
    """A gateway whose every step is given to `write`."""

    def __init__(
        self,
        config: WebSocketConfig,
        *,
        ids: Callable[[], str],
        write: Callable[[Step], None],
        verifier: TokenVerifier | None = None,
        events: Sequence[EventType] = (),
        upgrade_checks: Sequence[UpgradeCheck] = (),
        event_checks: Sequence[EventCheck] = (),
        durable: bool | None = None,
        kind: str = "recording",
        redacted: bool = False,
    ) -> None:
        """As a `Gateway`; `kind` says in the trace what wrote it. `write` may be replaced, by None as well.

        `redacted`: the secrets of peers are taken out of what is written; then steps are not written in their order.
        """
        self.write: Callable[[Step], None] | None = write
        self._seq = 0
        self._drawn: list[str] = []
        self._verdicts: list[Verdict] = []
        self._draw = ids
        security = config.security
        if security.authentication.enabled:
            verifier = verifier or TokenVerifier(
                security.authentication, authorization=security.authorization, limits=config.limits
            )
            verifier = RecordedVerifier(verifier, self._verdicts)
        super().__init__(
            config,
            ids=self._recorded_id,
            verifier=verifier,
            events=events,
            upgrade_checks=[self._recorded(check) for check in upgrade_checks],
            event_checks=[self._recorded(check) for check in event_checks],
            durable=durable,
        )
        durable = config.store.kind != "memory" if durable is None else durable
        types = (get_args(event.model.model_fields["type"].annotation) for event in events)
        checks = (len(upgrade_checks), len(event_checks))
        self.head = Head(config, durable, kind, tuple(name for (name,) in types), checks)
        self._redactor = Redactor(self.head, self._pass_on) if redacted else None

    def finish(self) -> None:
        """Write the steps that wait, since there will be no more."""
        if self._redactor is not None:
            self._redactor.finish()

    def step(self, event: Input, now: Now) -> list[Effect]:
        """As of any gateway. What raises is a step as well, and has no effects."""
        self._drawn.clear()
        self._verdicts.clear()
        try:
            effects = super().step(event, now)
        except Exception as error:
            self._wrote(event, now, failure(error))
            raise
        self._wrote(event, now, digest(effects), effects)
        return effects

    def _wrote(self, event: Input, now: Now, came: str, effects: Sequence[Effect] = ()) -> None:
        if self.write is None:
            return
        self._seq += 1
        step = Step(self._seq, now, event, tuple(self._drawn), tuple(self._verdicts), came)
        if self._redactor is None:
            self.write(step)
        else:
            self._redactor.take(step, effects)

    def _pass_on(self, step: Step) -> None:
        if self.write is not None:
            self.write(step)

    def _recorded_id(self) -> str:
        self._drawn.append(drawn := self._draw())
        return drawn

    def _recorded(self, check: Callable[[Gate, _Asked], Refusal | None]) -> Callable[[Gate, _Asked], Refusal | None]:
        """A check of a user, which may look at what a trace does not hold."""

        def ask(gate: Gate, asked: _Asked) -> Refusal | None:
            try:
                refused = check(gate, asked)
            except Exception as error:
                self._verdicts.append(("check", Refusal(Fault.INTERNAL, cause=error)))
                raise
            self._verdicts.append(("check", refused))
            return refused

        return ask


class RecordedVerifier(TokenVerifier):
    """Asks another verifier, and keeps what it says."""

    def __init__(self, verifier: TokenVerifier, verdicts: list[Verdict]) -> None:
        self._verifier = verifier
        self._verdicts = verdicts

    def load(self, keys: tuple[Key, ...]) -> None:
        """As any verifier does."""
        self._verifier.load(keys)

    def verify(self, token: str, unix: float) -> Principal | None:
        """As any verifier does."""
        return self._told("verify", lambda: self._verifier.verify(token, unix))

    def recall(self, token: str, unix: float) -> Principal | None:
        """As any verifier does."""
        return self._told("recall", lambda: self._verifier.recall(token, unix))

    def lacks_key(self, token: str, unix: float, *, any_key: bool = False) -> bool:
        """As any verifier does."""
        return self._told("lacks_key", lambda: self._verifier.lacks_key(token, unix, any_key=any_key))

    def has_keys(self, unix: float) -> bool:
        """As any verifier does."""
        return self._told("has_keys", lambda: self._verifier.has_keys(unix))

    def _told(self, name: str, ask: Callable[[], _Answer]) -> _Answer:
        try:
            answer = ask()
        except Exception as error:
            self._verdicts.append((name, error))
            raise
        self._verdicts.append((name, answer))
        return answer
