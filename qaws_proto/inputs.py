"""What can happen to a node: past-tense facts given to `Gateway.step`, one small value each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .records import RestrictionRecord, StoredSession, kind


class ConnectionOpened(NamedTuple):
    """A peer connected. `connection` is greater than every earlier number; `peer` its IP address, or None (a pipe).

    `internal`: it came to the address of `metrics.listen`, where nothing is served but metrics, health and readiness.
    """

    connection: int
    peer: str | None = None
    internal: bool = False


class BytesReceived(NamedTuple):
    """Bytes came from the peer."""

    connection: int
    data: bytes

    def __repr__(self) -> str:  # they may hold a token (C12)
        return f"BytesReceived(connection={self.connection}, data=<{len(self.data)} bytes>)"


class RequestReceived(NamedTuple):
    """A host that does HTTP and frames itself (ASGI) has a new request; this opens the connection.

    `connection` and `peer` are those of `ConnectionOpened`. `target` is a path and a query, below where the gateway is
    mounted; names of headers are lower-case. `upgrade` says that it asks for a WebSocket, `denial` that the host can
    answer such a request with HTTP instead.
    """

    connection: int
    peer: str | None
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    upgrade: bool
    denial: bool = False

    def __repr__(self) -> str:  # the query and the headers may hold a token (C12)
        return f"RequestReceived(connection={self.connection}, method={self.method!r}, upgrade={self.upgrade})"


class MessageReceived(NamedTuple):
    """A whole message came from the peer of a host that frames by itself: a `str`, or `bytes` of a binary one."""

    connection: int
    data: str | bytes

    def __repr__(self) -> str:  # it may hold a token (C12)
        return f"MessageReceived(connection={self.connection}, data=<{type(self.data).__name__} of {len(self.data)}>)"


class CloseReceived(NamedTuple):
    """The peer of a host that frames by itself has closed, with this code."""

    connection: int
    code: int


class EofReceived(NamedTuple):
    """The peer will send no more."""

    connection: int


class WriteBlocked(NamedTuple):
    """The transport holds more unsent bytes than it likes; nothing should be written until `WriteDrained`."""

    connection: int


class WriteProgressed(NamedTuple):
    """The transport is still blocked, and has sent some of what it holds."""

    connection: int


class WriteDrained(NamedTuple):
    """The transport has room again."""

    connection: int


class ConnectionLost(NamedTuple):
    """The transport is gone: reset, or broken in any other way."""

    connection: int


class TimerFired(NamedTuple):
    """The time `Gateway.wake_at` has come. Early ones are harmless."""


class RunStarted(NamedTuple):
    """An agent that had to wait (for a thread) begins now; its time of silence counts from here."""

    run_id: str


class RunChunk(NamedTuple):
    """An agent yielded a piece of its answer. Anything but a `str` fails the run (G4)."""

    run_id: str
    content: object

    def __repr__(self) -> str:  # what is no text was refused, and is nobody's to see (C12)
        return f"RunChunk({self.run_id!r}, {_text(self.content)})"


class RunStep(NamedTuple):
    """An agent told what it does. `kind` is `reasoning`, `tool_started` or `tool_finished`."""

    run_id: str
    kind: str
    name: str | None = None
    content: str | None = None


class RunFinished(NamedTuple):
    """An agent is done. `content` is the whole answer, or None where the chunks were the answer.

    The tokens are those that models have read and written for it; None where that is not known.
    """

    run_id: str
    content: object = None
    reasoning_steps: tuple[str, ...] = ()
    tools_used: tuple[str, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None

    def __repr__(self) -> str:  # as above
        return f"RunFinished({self.run_id!r}, {_text(self.content)}, {self.reasoning_steps!r}, {self.tools_used!r})"


class RunFailed(NamedTuple):
    """An agent raised, or ended a cancelled run. `cause` goes into the note untouched, and nowhere else.

    `reason` is `busy`, `unavailable` or `refused` where the agent could tell; `retry_after` is seconds.
    """

    run_id: str
    cause: BaseException | None = None
    reason: str | None = None
    retry_after: float | None = None

    def __repr__(self) -> str:  # the text of an exception may hold secrets (C12)
        return f"RunFailed({self.run_id!r}, {kind(self.cause)}, {self.reason!r}, {self.retry_after!r})"


class StoreOpened(NamedTuple):
    """The store is there. The first input of a node that has one.

    `unfinished` are its sessions with runs that had not ended when the last node stopped (D2), and `restrictions` who
    was kept out then (A5). Where they are None the store keeps none, and is never given any.
    """

    unfinished: tuple[StoredSession, ...] = ()
    restrictions: tuple[RestrictionRecord, ...] | None = None


class RecordsSaved(NamedTuple):
    """Everything of this `SaveRecords` will be there after a crash."""

    batch: int


class SaveFailed(NamedTuple):
    """Nothing of this `SaveRecords` was kept. `cause` goes into the note untouched, and nowhere else (D4)."""

    batch: int
    cause: BaseException | None = None

    def __repr__(self) -> str:  # as above
        return f"SaveFailed({self.batch!r}, {kind(self.cause)})"


class SessionLoaded(NamedTuple):
    """What a store has of the session of a `LoadSession`; None where it has none."""

    owner: str
    session_id: str
    stored: StoredSession | None


class LoadFailed(NamedTuple):
    """A store could not read the session of a `LoadSession`."""

    owner: str
    session_id: str
    cause: BaseException | None = None

    def __repr__(self) -> str:  # as above
        return f"LoadFailed({self.owner!r}, {self.session_id!r}, {kind(self.cause)})"


class MetricsCollected(NamedTuple):
    """What a `CollectMetrics` asked for, and its media type; a `body` of None where it could not be had.

    One that comes after its time is ignored.
    """

    connection: int
    body: bytes | None
    content_type: str = "text/plain; version=0.0.4; charset=utf-8"


class KeysLoaded(NamedTuple):
    """What the source of a `LoadKeys` holds: a JSON Web Key Set, or the PEM of a public key (A7)."""

    document: bytes


class KeysFailed(NamedTuple):
    """The source of a `LoadKeys` gave nothing. `reason` says why, for the operator, in a few words without secrets."""

    reason: str
    cause: BaseException | None = None


class KeysRequested(NamedTuple):
    """The operator wants the keys read again, now."""


class DrainRequested(NamedTuple):
    """The node should stop: no new clients, runs may finish, then every connection is closed with 1012 (D1)."""

    by: str = "operator"
    reason: str = ""


class StopRequested(NamedTuple):
    """The node should stop now: runs are cancelled, connections closed with 1001."""


class DisconnectRequested(NamedTuple):
    """An operator closes connections: those that match all that is named. Their clients may come back.

    Of this and the other commands: `by` says who gave it, `reason` why.
    """

    by: str
    reason: str
    number: int | None = None  # of a connection
    user_id: str | None = None
    session_id: str | None = None


class UserBlocked(NamedTuple):
    """A user is kept out, for so many seconds or (None) for ever; connections are closed, runs cancelled (A5)."""

    by: str
    reason: str
    user_id: str
    seconds: float | None = None


class UserUnblocked(NamedTuple):
    """A user may come in again."""

    by: str
    reason: str
    user_id: str


class AddressBlocked(NamedTuple):
    """An address or a network (CIDR) is kept out, for so many seconds or (None) for ever (A5).

    An IPv6 address without a prefix stands for its /64.
    """

    by: str
    reason: str
    address: str
    seconds: float | None = None


class AddressUnblocked(NamedTuple):
    """The block of this very address or network is lifted."""

    by: str
    reason: str
    address: str


class TokenRevoked(NamedTuple):
    """The token of this `jti` is good no more; the connections that speak with it are closed (A5)."""

    by: str
    reason: str
    token_id: str


class UserRevoked(NamedTuple):
    """The tokens of a user with an `iat` until now are good no more; newer ones are."""

    by: str
    reason: str
    user_id: str


class LimitsChanged(NamedTuple):
    """Settings of `qaws_proto.live_settings` by their dotted names, and what they are from now on."""

    by: str
    reason: str
    changes: Mapping[str, object]


def _text(content: object) -> str:
    return repr(content) if content is None or type(content) is str else f"<{type(content).__qualname__}>"


ConnectionInput = (
    BytesReceived | MessageReceived | CloseReceived | EofReceived
    | WriteBlocked | WriteProgressed | WriteDrained | ConnectionLost
)  # fmt: skip
RunInput = RunStarted | RunChunk | RunStep | RunFinished | RunFailed
StoreInput = StoreOpened | RecordsSaved | SaveFailed | SessionLoaded | LoadFailed
KeysInput = KeysLoaded | KeysFailed | KeysRequested
Command = (
    DisconnectRequested | UserBlocked | UserUnblocked | AddressBlocked | AddressUnblocked
    | TokenRevoked | UserRevoked | LimitsChanged
)  # fmt: skip
Input = (
    ConnectionOpened | RequestReceived | ConnectionInput | TimerFired | RunInput | StoreInput | KeysInput
    | MetricsCollected | DrainRequested | StopRequested | Command
)  # fmt: skip
