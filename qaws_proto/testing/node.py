"""The one harness: a node under test in virtual time, with clients that speak the protocol strictly.

    node = NodeUnderTest()
    client = node.connect()
    client.chat("hi", id="m1")
    client.expect_event("system_event", event_name="message_accepted")
    node.finish(node.only_run, "hello")
    client.expect_event("agent_response", content="hello")

`node.request()` and `node.connect(hosted=True)` give clients behind a host that does HTTP and frames by itself: the
node hears of them at message level, and everything else about them is the same.

Whatever the test does, every step is checked: C4 (order on the wire and of a session's events), C5 (`wake_at`), C6
(nothing after the end), C7 (`buffered_bytes`), C8 (one end for each run, nothing after it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from ..admission.tokens import issue_token
from ..clock import Now
from ..config import DEFLATE_SLICE, AuthenticationConfig, WebSocketConfig
from ..effects import (
    CancelRun,
    CloseWrite,
    CollectMetrics,
    ConnectionEffect,
    Drained,
    DropConnection,
    Effect,
    LoadKeys,
    LoadSession,
    MessageEffect,
    Note,
    PauseReading,
    PauseRun,
    ResumeRun,
    SaveRecords,
    SendBytes,
    StartRun,
)
from ..gateway import Gateway
from ..inputs import (
    ConnectionOpened,
    Input,
    KeysFailed,
    KeysLoaded,
    LoadFailed,
    MetricsCollected,
    RecordsSaved,
    RunChunk,
    RunFailed,
    RunFinished,
    RunStep,
    SaveFailed,
    SessionLoaded,
    StoreOpened,
    TimerFired,
)
from .client import Client
from .host import Host
from .peer import upgrade
from .store import StoreModel

MONO = 1000.0
UNIX = 1_750_000_000.0
START = Now(MONO, UNIX)
SECRET = "a secret of this test, which is long enough"
AT_ONCE = 1e-9  # seconds
ADDRESS = "192.0.2.1"
ONE_EVENT = 4096  # more than any event that one connection alone is told, and a pong


def configure(*, authentication: bool = False, **sections: dict[str, Any]) -> WebSocketConfig:
    """A configuration from sections such as `limits={...}`; without authentication or rate limit unless asked."""
    security = {"rate_limiting": {"enabled": False}, **sections.pop("security", {})}
    security.setdefault(
        "authentication", {"enabled": True, "jwt_secret": SECRET} if authentication else {"enabled": False}
    )
    return WebSocketConfig.model_validate({"security": security, **sections})


def token(
    user_id: str = "user-1", *, unix: float = UNIX, expires_in: int = 3600, token_id: str = "t", **claims: Any
) -> str:
    """A valid token for the configuration that `configure(authentication=True)` makes."""
    settings = AuthenticationConfig.model_validate({"jwt_secret": SECRET})
    return issue_token(settings, user_id, unix=unix, token_id=token_id, expires_in=expires_in, claims=claims or None)


def counter() -> Callable[[], str]:
    """Ids that are the same in every run of a test."""
    ids = (f"id-{number}" for number in range(1, 1_000_000))
    return lambda: next(ids)


class NodeUnderTest:
    """A gateway, its clock, its clients, and the agent runs it has started. The test plays the agent."""

    client_type = Client

    def __init__(
        self, config: WebSocketConfig | None = None, store: StoreModel | None = None, *, prompt: bool = True,
        opened: bool = True, now: Now = START, **gateway: Any,
    ) -> None:  # fmt: skip
        """With a `store` the node is durable; where it is not `prompt`, it answers when the test says so (`answer`);
        where it is not `opened`, the test says so too."""
        self.config = config or configure()
        self.gateway = Gateway(self.config, ids=gateway.pop("ids", counter()), durable=store is not None, **gateway)
        self.own_events = "events" in gateway
        self.store = store
        self.prompt = prompt
        self.asked: list[SaveRecords | LoadSession] = []  # of the store, and not answered
        self.now = now
        self.loading: LoadKeys | None = None  # keys that the test has to answer for
        self.clients: dict[int, Client] = {}
        self._live: dict[int, Client] = {}  # those that the node has not dropped
        self.runs: dict[str, StartRun] = {}  # started and not reported as ended
        self.started: dict[str, StartRun] = {}
        self.cancelled: set[str] = set()
        self.paused: set[str] = set()
        self.said: dict[str, str] = {}  # what the agent has yielded
        self.scrapes: list[CollectMetrics] = []  # asked for and not answered
        self.notes: list[Note] = []
        self.drained = False
        self.history: list[tuple[Input, Now, list[Effect]]] = []
        self.marks: list[int] = []  # lengths of `history` that a test wants to remember
        self._ended_notes: set[str] = set()
        self._known = 0  # clients of which `_live` has heard
        if opened:
            self.open_store()

    # ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────

    def open_store(self) -> None:
        """Let the node know what the store holds of the last one's life, where there is a store: its first input."""
        if self.store is not None:
            self.step(StoreOpened(self.store.unfinished(), self.store.restrictions()))

    def answer(self, which: int = 0, *, fail: bool = False, kept: bool = False) -> list[Effect]:
        """Let the store answer what it was asked first, or another thing; or fail. `kept`: it is saved already."""
        assert self.store is not None
        effect = self.asked.pop(which)
        if isinstance(effect, SaveRecords):
            if fail:
                return self.step(SaveFailed(effect.batch, OSError("the disk is full")))
            if not kept:
                self.store.save(effect.records)
            return self.step(RecordsSaved(effect.batch))
        if fail:
            return self.step(LoadFailed(effect.owner, effect.session_id, OSError("the disk is gone")))
        newest = self.config.sessions.max_events
        stored = self.store.load(effect.owner, effect.session_id, newest)
        return self.step(SessionLoaded(effect.owner, effect.session_id, stored))

    def answer_all(self) -> None:
        """Let the store answer until it is asked nothing more."""
        while self.asked:
            self.answer()

    # ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def collected(self, body: bytes | None, *content_type: str) -> list[Effect]:
        """Answer whoever asked for metrics first."""
        return self.step(MetricsCollected(self.scrapes.pop(0).connection, body, *content_type))

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def give_keys(self, document: bytes) -> list[Effect]:
        """The source of the keys holds this."""
        assert self.loading is not None, "the node has not asked"
        return self.step(KeysLoaded(document))

    def fail_keys(self, reason: str = "status 500") -> list[Effect]:
        """The source of the keys cannot be read."""
        assert self.loading is not None, "the node has not asked"
        return self.step(KeysFailed(reason))

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def advance(self, seconds: float) -> None:
        """Let time pass, and fire every timer on the way when it is due."""
        end = Now(self.now.mono + seconds, self.now.unix + seconds)
        while (wake_at := self.gateway.wake_at) is not None and wake_at <= end.mono:
            self._move_to(max(wake_at, self.now.mono))
            self.step(TimerFired())
        self.now = end

    def settle(self) -> None:
        """Fire the timers that are due at once: all that was received is handled. No time passes."""
        while (wake_at := self.gateway.wake_at) is not None and wake_at - self.now.mono < AT_ONCE:
            self._move_to(max(wake_at, self.now.mono))
            self.step(TimerFired())

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self.now = Now(self.now.mono, self.now.unix + seconds)

    def _move_to(self, mono: float) -> None:
        self.now = Now(mono, self.now.unix + mono - self.now.mono)

    # ── peers ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, peer: str | None = ADDRESS, *, internal: bool = False) -> Client:
        """A peer connects, and says nothing yet; `internal`: at the address of `metrics.listen`."""
        number = len(self.clients)
        client = self.clients[number] = self.client_type(self, number)
        self.step(ConnectionOpened(number, peer, internal))
        return client

    def upgrade(self, *headers: str, path: str = "/", peer: str | None = ADDRESS) -> Client:
        """A peer connects and upgrades."""
        client = self.open(peer)
        client.send_bytes(upgrade(path, *headers))
        return client

    def request(self, data: bytes | None = None, *, denial: bool = True, peer: str | None = ADDRESS) -> Client:
        """A peer connects to a host, with this request (an upgrade); the node is told of it at message level."""
        number, host = len(self.clients), Host(upgrade() if data is None else data, denial=denial)
        client = self.clients[number] = self.client_type(self, number, host)
        self.step(host.open(number, peer))
        client.send_bytes(b"")  # what came behind the head
        return client

    def connect(self, user_id: str | None = None, *, peer: str | None = ADDRESS, hosted: bool = False) -> Client:
        """A peer connects, and has been welcomed; with a token of `user_id`, where one is given."""
        headers = () if user_id is None else (f"Authorization: Bearer {token(user_id, unix=self.now.unix)}",)
        client = self.request(upgrade("/", *headers), peer=peer) if hosted else self.upgrade(*headers, peer=peer)
        client.expect_http(101)
        client.expect_system("connection_established")
        return client

    # ── the agent ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def only_run(self) -> str:
        """The id of the one run that the agent works on."""
        (run_id,) = self.runs
        return run_id

    def chunk(self, run_id: str, content: object) -> list[Effect]:
        """The agent yields."""
        if type(content) is str:
            self.said[run_id] = self.said.get(run_id, "") + content
        return self.step(RunChunk(run_id, content))

    def tell(self, run_id: str, kind: str, name: str | None = None, content: str | None = None) -> list[Effect]:
        """The agent tells what it does."""
        return self.step(RunStep(run_id, kind, name, content))

    def finish(self, run_id: str, content: object = None, **fields: Any) -> list[Effect]:
        """The agent is done."""
        return self.step(RunFinished(run_id, content, **fields))

    def fail(self, run_id: str, cause: BaseException | None = None, **advice: Any) -> list[Effect]:
        """The agent raises, or stops after it was cancelled."""
        return self.step(RunFailed(run_id, cause, **advice))

    # ── the node ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, event: Input) -> list[Effect]:
        """One step at the present time, its effects performed and checked."""
        gateway, now = self.gateway, self.now
        before = gateway.wake_at
        closed = isinstance(number := getattr(event, "connection", None), int) and self.clients[number].dropped
        if isinstance(event, RunFinished | RunFailed):
            self.runs.pop(event.run_id, None)
            self.paused.discard(event.run_id)
        if isinstance(event, KeysLoaded | KeysFailed):
            self.loading = None
        effects = gateway.step(event, now)
        self.history.append((event, now, effects))
        for effect in effects:
            self._perform(effect)
        if closed:
            assert effects == [], f"C6: {event} on a closed connection"
        if isinstance(event, TimerFired):
            self._check_timer(before, effects)
        self._check_turn(effects)
        self._check_held()
        self._check_paused()
        assert sum(isinstance(effect, SaveRecords) for effect in self.asked) <= 1, "two saves at once"
        if self.prompt and self.asked:
            return effects + self.answer()
        return effects

    def _check_held(self) -> None:
        """C7 of every connection that is not closed, and of those that this step has closed."""
        live, usual = self._live, self._bound
        unanswered = max(usual, self.config.limits.head_size)
        live |= dict(islice(self.clients.items(), self._known, None))
        self._known = len(self.clients)
        for client in list(live.values()):
            held = self.gateway.buffered_bytes(client.number)
            assert not client.pressed or client.stream.closed, f"C7: {client.pressed} for a blocked peer"
            bound = usual if client.stream.head else unanswered
            assert held <= (0 if client.dropped else client.read + bound), f"C7: {held} bytes held"
            assert held or client.dropped or not client.paused, "C7: reading is paused, and nothing is held"
            if client.dropped:
                del live[client.number]
        assert self.gateway.connections == len(live)

    def _check_paused(self) -> None:
        """C7: an agent is held back as long as somebody is behind, and no longer."""
        for run_id in self.paused:
            run = self.gateway._runs.find(run_id)
            assert run is None or run.session.lagging, f"C7: {run_id} is held back, and nobody is behind"

    @property
    def _bound(self) -> int:
        limits = self.config.limits
        deflate = DEFLATE_SLICE if self.config.server.compression.enabled else 0
        return limits.inbox + limits.max_message_size + limits.out_top + ONE_EVENT + deflate

    def _check_timer(self, before: float | None, effects: list[Effect]) -> None:
        after = self.gateway.wake_at
        assert after == self.gateway.wake_at, "C5: reading wake_at changes nothing"
        if before is None or self.now.mono < before:
            assert (after, effects) == (before, []), "C5: an early timer is harmless"
        else:
            assert after is None or after > self.now.mono, "C5: a due timer moves wake_at on"

    def _check_turn(self, effects: Sequence[Effect]) -> None:
        """One write a turn for each connection, unless something had to come behind the first."""
        last: dict[int, type[Effect]] = {}
        for effect in effects:
            if isinstance(effect, SendBytes | CloseWrite | DropConnection):
                assert not (isinstance(effect, SendBytes) and last.get(effect.connection) is SendBytes), "two writes"
                last[effect.connection] = type(effect)

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, ConnectionEffect):
            client = self.clients[effect.connection]
            assert not client.dropped, f"C6: {effect} after the end"
            self._tell(client, effect)
        elif isinstance(effect, StartRun):
            assert effect.run_id not in self.started
            assert self.store is None or effect.run_id in self.store.runs, f"C11: {effect} before its message is kept"
            self.runs[effect.run_id] = self.started[effect.run_id] = effect
        elif isinstance(effect, CancelRun):
            assert effect.run_id in self.runs, "cancelled, but not running"
            assert effect.run_id not in self.cancelled, "cancelled twice"
            self.cancelled.add(effect.run_id)
        elif isinstance(effect, PauseRun):
            assert effect.run_id in self.runs.keys() - self.cancelled - self.paused
            self.paused.add(effect.run_id)
        elif isinstance(effect, ResumeRun):
            assert effect.run_id not in self.cancelled
            self.paused.remove(effect.run_id)
        elif isinstance(effect, Note):
            self.noted(effect)
        elif isinstance(effect, CollectMetrics):
            self.scrapes.append(effect)
        elif isinstance(effect, SaveRecords | LoadSession):
            self.asked.append(effect)
        elif isinstance(effect, LoadKeys):
            assert self.loading is None, "read twice at once"
            self.loading = effect
        else:
            assert isinstance(effect, Drained)
            assert not self.drained, "drained twice"
            assert all(client.dropped for client in self.clients.values())
            self.drained = True

    def _tell(self, client: Client, effect: Effect) -> None:
        if isinstance(effect, SendBytes):
            assert client.host is None, "bytes for a host"
            client.hear(effect.data)
        elif isinstance(effect, MessageEffect):
            assert client.host is not None, "a message, and no host"
            client.hear(client.host.write(effect))
        elif isinstance(effect, CloseWrite):
            assert not client.write_closed, "half-closed twice"
            client.write_closed = True
        elif isinstance(effect, DropConnection):
            client.dropped = True
        else:
            paused = isinstance(effect, PauseReading)
            assert client.paused is not paused, "paused or resumed twice"
            client.paused = paused

    def noted(self, note: Note) -> None:
        """The node has told something."""
        self.notes.append(note)
        if note.name == "run_ended":
            run_id = str(note.fields["run_id"])
            assert run_id not in self._ended_notes, "C8: a run ends once"
            self._ended_notes.add(run_id)

    def note(self, name: str) -> Note:
        """The one note of this name."""
        (found,) = [note for note in self.notes if note.name == name]
        return found

    @property
    def ended(self) -> set[str]:
        """Runs that have ended for their clients."""
        return self._ended_notes
