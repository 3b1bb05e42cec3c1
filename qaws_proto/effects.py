"""What must be done: imperatives returned by `Gateway.step`, one small value each; `Outbox` collects them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .records import Record, kind
from .trace_context import TraceContext

Scalar = str | int | float | bool | None


class SendBytes(NamedTuple):
    """Write `data` to the peer."""

    connection: int
    data: bytes


class AcceptUpgrade(NamedTuple):
    """Let the request become a WebSocket, with this subprotocol or none (a host that frames by itself)."""

    connection: int
    subprotocol: str | None


class SendMessage(NamedTuple):
    """Send a text message (a host that frames by itself)."""

    connection: int
    text: str


class SendClose(NamedTuple):
    """Close the WebSocket with this code, or refuse it before it is one (a host that frames by itself)."""

    connection: int
    code: int
    reason: str


class SendResponse(NamedTuple):
    """Answer the request with HTTP (a host that does HTTP itself)."""

    connection: int
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class CloseWrite(NamedTuple):
    """Say that nothing more will be written (half-close), after what was written has gone out."""

    connection: int


class DropConnection(NamedTuple):
    """Close the transport at once and forget the connection."""

    connection: int


class PauseReading(NamedTuple):
    """Read no more from the peer until `ResumeReading`."""

    connection: int


class ResumeReading(NamedTuple):
    """Read from the peer again."""

    connection: int


class StartRun(NamedTuple):
    """Call the agent; answer with `RunChunk`, `RunStep` and one `RunFinished` or `RunFailed`.

    `asker` is the connection that brought the message, which may be gone since; None for a run that a restart had cut.
    `trace` is the place that the message names in a trace of its sender, or else its connection's upgrade.
    """

    run_id: str
    session_id: str
    user_id: str
    content: str
    stream: bool
    metadata: Mapping[str, str | int | float | bool]
    asker: int | None = None
    trace: TraceContext | None = None


class CancelRun(NamedTuple):
    """Stop the agent. Its end is still reported, and frees its place."""

    run_id: str


class PauseRun(NamedTuple):
    """Pull no more pieces from the agent until `ResumeRun`: a reader is behind (C1)."""

    run_id: str


class ResumeRun(NamedTuple):
    """Pull pieces from the agent again."""

    run_id: str


class SaveRecords(NamedTuple):
    """Keep these, all or none, in this order; answer with `RecordsSaved` or `SaveFailed`.

    There is never more than one that is not answered. `unix` is the wall clock, for retention.
    """

    batch: int
    records: tuple[Record, ...]
    unix: float


class LoadSession(NamedTuple):
    """Read a session from the store, no more of it than the bounds; answer with `SessionLoaded` or `LoadFailed`."""

    owner: str
    session_id: str


class LoadKeys(NamedTuple):
    """Read the keys of tokens; answer with `KeysLoaded` or `KeysFailed` within `timeout` seconds.

    `source` is an address (https://, on this machine http://) or the path of a file; no more than `size` bytes are of
    use. There is never more than one that is not answered.
    """

    source: str
    timeout: float
    size: int


class CollectMetrics(NamedTuple):
    """Somebody asks for `/metrics`; answer with `MetricsCollected`, in OpenMetrics where that was asked for."""

    connection: int
    openmetrics: bool


class Note(NamedTuple):
    """Something an operator may want to see. Adapters turn notes into logs and metrics.

    `topic` is `connection`, `message`, `run`, `security`, `control` or `node`; `level` a name of the standard levels.
    `cause` is what an agent or a user's check raised; it is for the log alone (C12).
    """

    topic: str
    level: str
    name: str
    fields: Mapping[str, Scalar]
    cause: BaseException | None = None

    def __repr__(self) -> str:  # the text of an exception may hold secrets (C12)
        what = f"{self.topic!r}, {self.level!r}, {self.name!r}, {dict(self.fields)!r}"
        return f"Note({what}, {kind(self.cause)})"


class Drained(NamedTuple):
    """A drain or stop is over: no connection is left."""


MessageEffect = AcceptUpgrade | SendMessage | SendClose | SendResponse
ConnectionEffect = SendBytes | MessageEffect | CloseWrite | DropConnection | PauseReading | ResumeReading
RunEffect = StartRun | CancelRun | PauseRun | ResumeRun
StoreEffect = SaveRecords | LoadSession
Effect = ConnectionEffect | RunEffect | StoreEffect | LoadKeys | CollectMetrics | Note | Drained
