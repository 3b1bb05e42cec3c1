"""Whether a client comes back, and when: what a close code or an HTTP status says, and the delay before it tries."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from ..clock import Now
from ..events import ErrorEvent
from ..faults import Fault, Retry
from .config import ClientConfig
from .io import ClientFault

LONGEST_WAIT = 86_400.0  # seconds: what a server asks for beyond a day is no help
TOKEN_REFUSALS = 2  # in a row: another token would not help
_DOUBLINGS = 64  # more would overflow a float, and every cap is reached long before

_BY_CLOSE = {fault.value.close: fault.value.retry for fault in Fault if fault.value.close is not None}
_BY_STATUS = {fault.value.status: fault.value.retry for fault in Fault if fault.value.status is not None}
_BY_CODE = {fault.value.code: fault.value.retry for fault in Fault if fault.value.code is not None}

# What our servers do not say so, and others may.
_OTHER_CLOSES = {
    1010: Retry.NO,  # RFC 6455 section 7.4.1: an extension is missing
    4409: Retry.NO,  # the session was taken over
}
_OTHER_STATUSES = {
    425: Retry.BACK_OFF,  # RFC 8470: too early
    501: Retry.NO,
}


def retry_of_close(code: int) -> Retry:
    """What a client does after this close code; one that says nothing (1000, 1005, 1006) is a lost connection."""
    return _BY_CLOSE.get(code) or _OTHER_CLOSES.get(code, Retry.BACK_OFF)


def retry_of_status(status: int) -> Retry:
    """What a client does after this answer to its upgrade; 0 stands for no HTTP at all (RFC 9110 section 15)."""
    known = _BY_STATUS.get(status) or _OTHER_STATUSES.get(status)
    return known or (Retry.BACK_OFF if status >= 500 else Retry.NO)


def retry_of_error(code: str) -> Retry:
    """What a client does after this error code; one of a newer server may have passed the next time."""
    return _BY_CODE.get(code, Retry.BACK_OFF)


def seconds(value: object) -> float:
    """What a server gave as seconds to wait, a day at most; 0 where it is no such number."""
    if type(value) not in (int, float):
        return 0.0
    try:
        wait = float(value)  # type: ignore[arg-type]  # a number, as asked just before
    except OverflowError:
        return LONGEST_WAIT
    return min(wait, LONGEST_WAIT) if isfinite(wait) and wait > 0 else 0.0


class Backoff:
    """Delays that double up to a cap, with full jitter: clients that lost the same server come back spread out."""

    __slots__ = ("_attempts", "_base", "_cap", "_jitter")

    def __init__(self, base: float, cap: float, jitter: Callable[[], float]) -> None:
        """`base` and `cap` are seconds; `jitter` gives 0 ≤ x < 1."""
        self._base = base
        self._cap = cap
        self._jitter = jitter
        self._attempts = 0

    def next(self, at_least: float = 0.0) -> float:
        """Seconds to wait before the next attempt; the jitter is on top of what the server asked for, `at_least`."""
        bound = min(self._cap, self._base * 2.0 ** min(self._attempts, _DOUBLINGS))
        self._attempts += 1
        return at_least + self._jitter() * bound

    def reset(self) -> None:
        """Begin anew."""
        self._attempts = 0


class Comeback:
    """What is known when a connection ends, and so whether there will be another, and when."""

    __slots__ = (
        "_backoff",
        "_config",
        "_failures",
        "_flowed",
        "_flowing_since",
        "_message_not_before",
        "_not_before",
        "_refusals",
        "reconnect_after",
        "said",
    )

    def __init__(self, config: ClientConfig, jitter: Callable[[], float]) -> None:
        self._config = config
        self._backoff = Backoff(config.backoff_base, config.backoff_cap, jitter)
        self._failures = 0  # attempts in a row after which no message flowed
        self._refusals = 0  # of tokens, in a row
        self._flowed = False  # ever
        self.begin()

    def begin(self) -> None:
        """There is another attempt."""
        self._flowing_since: float | None = None
        self._not_before = float("-inf")  # on the monotonic clock
        self._message_not_before = float("-inf")  # the same for a message that was refused
        self.reconnect_after = 0.0  # seconds, from the end of the connection, that the server asked for
        self.said: ErrorEvent | None = None  # what the server said of our token

    def wait(self, wait: float, now: Now, *, of_message: bool = False) -> None:
        """The server asks for so many seconds from now.

        What it asks of one message, the newest of them, counts for connections only where it closes since that was not
        waited for: one that is lost while the budget of a day is spent comes back as soon as any other.
        """
        if of_message:
            self._message_not_before = now.mono + wait
        else:
            self._not_before = max(self._not_before, now.mono + wait)

    def known(self) -> None:
        """The server knows the user."""
        self._refusals = 0

    def flows(self, now: Now) -> None:
        """Messages flow."""
        self._flowing_since = now.mono
        self._flowed = True
        self._failures = 0

    def decide(self, fault: ClientFault, retry: Retry, established: bool, now: Now) -> float | ClientFault:
        """The connection ended with this: seconds before the next attempt, or why there is none.

        The delays begin anew once messages have flowed for `backoff_cap` seconds. Not sooner: a server that falls over
        what it is told, or that drops whom it has just let in, would be hurried.
        """
        since = self._flowing_since
        self._failures += since is None
        if since is not None and now.mono - since >= self._config.backoff_cap:
            self._backoff.reset()
        if retry is Retry.NEW_TOKEN:
            self._refusals += not established
            if not self._config.token or self._refusals >= TOKEN_REFUSALS:
                return self._unauthorized(fault)
        impatient = fault.close_code == Fault.RATE_LIMIT_IGNORED.value.close
        not_before = max(self._not_before, self._message_not_before) if impatient else self._not_before
        wait = max(not_before - now.mono, self.reconnect_after, 0.0)
        enough = self._config.max_attempts is not None and self._failures >= self._config.max_attempts
        hopeless = not (self._config.insist or self._flowed or retry is Retry.NEW_TOKEN)
        if retry is Retry.NO or enough or hopeless or not self._config.reconnect:
            return fault._replace(retry_after=wait or None)
        return self._backoff.next(wait)

    def _unauthorized(self, fault: ClientFault) -> ClientFault:
        """Why another token would not help."""
        if self._config.token:
            return fault._replace(code="AUTH_FAILED", text="the server refused the token, and a new one as well")
        if self.said is not None:
            return fault._replace(code=self.said.error_code, text=self.said.error_message)
        return fault._replace(code="AUTH_REQUIRED", text="the server asks for a token, and there is none")
