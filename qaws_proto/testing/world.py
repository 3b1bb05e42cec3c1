"""A whole world in one thread: a real node, real clients, hostile peers, agents, a store, a network and time.

    World(seed=7).run()

Everything that happens follows from the seed. While `profile.chaos` seconds pass, things go wrong; then comes a quiet
phase in which everything has to recover. What must never be is an AssertionError.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import sha256
from itertools import count

from pydantic import SecretStr

from ..client.io import ClientFault
from ..clock import Now
from ..config import WebSocketConfig
from ..effects import (
    CancelRun,
    CloseWrite,
    CollectMetrics,
    DropConnection,
    Effect,
    LoadKeys,
    LoadSession,
    Note,
    PauseReading,
    PauseRun,
    ResumeReading,
    ResumeRun,
    SaveRecords,
    StartRun,
)
from ..inputs import (
    BytesReceived,
    ConnectionLost,
    ConnectionOpened,
    EofReceived,
    Input,
    KeysFailed,
    KeysLoaded,
    MessageReceived,
    TimerFired,
    WriteBlocked,
    WriteDrained,
    WriteProgressed,
)
from . import faults, recovery
from .agents import Agents
from .client import Client
from .counters import Counters
from .disk import Disk
from .history import Truth
from .host import Host
from .issuer import Issuer
from .judge import Incarnation, Unread, check_bounds, check_taken, in_turn
from .node import AT_ONCE, MONO, SECRET, UNIX, NodeUnderTest, configure
from .pipe import Network, Pipe
from .profile import Profile, draw
from .schedule import Schedule
from .store import StoreModel
from .streams import Streams
from .taps import Tap, Watched
from .users import Tab, User

DAY = 86_400.0  # seconds
MIDNIGHT = 40.0  # seconds behind the faults, where there are budgets of a day
LAST_STEPS = 40  # that are remembered, for people


class Reached(Exception):
    """The step is reached up to which the world was to run."""


class Node(NodeUnderTest):
    """The node of a world: what it wants done, the world does, later."""

    client_type = Watched

    def __init__(self, world: World, config: WebSocketConfig, store: StoreModel | None, ids: Callable[[], str]) -> None:
        self.world = world
        self.counters = world.counters
        self.inputs: list[tuple[Input, Now]] = []
        super().__init__(config, store, ids=ids, prompt=False, opened=False, now=world.now)

    def step(self, event: Input) -> list[Effect]:
        self.world.before_step(event)
        self.inputs.append((event, self.now))
        before, drains = in_turn(self), self.gateway._node.gate.census.draining
        effects = super().step(event)
        check_taken(self, event, before, drains=drains)
        self.world.after_step(event, effects)
        return effects

    def _perform(self, effect: Effect) -> None:
        super()._perform(effect)
        self.world.perform(self, effect)


class World:
    """One world. `steps` are those of its nodes, `digest` is what tells its history from every other."""

    def __init__(
        self, seed: int, *, config: WebSocketConfig | None = None, profile: Profile | None = None,
        until: int | None = None,
    ) -> None:  # fmt: skip
        """`config` stands in the place of the one that would be drawn, with a secret in the place of public keys; so
        does `profile` of the faults.

        `until`: the number of the step behind which the world stops.
        """
        self.seed = seed
        self.streams = Streams(seed)
        self.profile = profile or draw(self.streams)
        self.config = _configured(self.profile) if config is None else _signed(config)
        hosts = self.config.server.allowed_hosts
        self.host = hosts[0] if hosts else "localhost"  # that everybody asks for
        self.until = until
        self.steps = 0
        self.calm = False
        self.lives = 0  # of the node: how often it was started
        self.latest: deque[str] = deque(maxlen=LAST_STEPS)
        self.counters = Counters()
        self.schedule = Schedule(MONO)
        self.network: Network = self.profile.network
        self.issuer = Issuer(self.config, self.streams)
        self.truth = Truth()
        durable = self.config.store.kind != "memory"
        self.store = StoreModel() if durable else None
        random = self.streams.stream
        self.disk = Disk(self.schedule, random("disk"), self.profile.disk, self.counters)
        timeout = self.config.agent.timeout
        self.agents = Agents(self.schedule, random("agents"), self.truth, timeout, self.profile.agents)
        self.node: Node | None = None  # None while it is down
        self.past: list[Incarnation] = []
        self.pipes: list[Pipe] = []
        self.users: list[User] = []
        self.excuses = {"4409"} if self.config.sessions.exclusive else set[str]()  # for an honest client to give up
        self._unix_ahead = UNIX - MONO
        if self.config.agent.budget.per_day is not None:  # what is refused until midnight comes to its end, too
            self._unix_ahead += -UNIX % DAY - self.profile.chaos - MIDNIGHT
        self._furthest = self._unix_ahead
        self._hash = sha256()
        self._ids = 0
        self._transports = 0
        self._now = ""
        self._unread = Unread()

    @property
    def now(self) -> Now:
        """Both clocks."""
        return Now(self.schedule.mono, self.schedule.mono + self._unix_ahead)

    @property
    def digest(self) -> str:
        """What tells this history from every other."""
        return self._hash.hexdigest()

    # ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Everything from the beginning to the end. Raises AssertionError, or whatever the node or a client raised."""
        try:
            self.start_node()
            for number in range(1, self.profile.users + 1):
                self.users.append(User(self, number, tabs=2 if self.profile.tabs and number == 1 else 1))
            faults.begin(self)
            self.pass_time(self.profile.chaos)
            recovery.recover(self)
        except Reached:
            return

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and everything happen that is planned in it."""
        schedule, end = self.schedule, self.schedule.mono + seconds
        while (at := self._next()) <= end:
            self._move(at)
            node = self.node
            due = node.gateway.wake_at if node is not None else None
            if node is not None and due is not None and due <= schedule.mono:
                self.do("timer of the node", lambda node=node: node.step(TimerFired()))  # type: ignore[misc]
                continue
            tab = next((tab for tab in self._tabs() if (wake := tab.client.wake_at) is not None and wake <= at), None)
            if tab is not None:
                self.do(f"timer of {tab.name}", tab.wake)
                continue
            plan = schedule.take()
            self.do(plan.what, plan.act)
        self._move(end)

    def _tabs(self) -> list[Tab]:
        return [tab for user in self.users for tab in user.tabs]

    def _next(self) -> float:
        times = [self.schedule.soonest, None if self.node is None else self.node.gateway.wake_at]
        times += [tab.client.wake_at for tab in self._tabs()]
        return min((at for at in times if at is not None), default=float("inf"))

    def _move(self, mono: float) -> None:
        self.schedule.mono = max(self.schedule.mono, mono)
        if self.node is not None:
            self.node.now = self.now

    def do(self, what: str, act: Callable[[], object]) -> None:
        """Do one thing, and then what the node has left to do of it at once."""
        self._now = what
        act()
        node = self.node
        if node is not None:
            node.now = self.now
            wake_at = node.gateway.wake_at
            if wake_at is not None and 0 < wake_at - node.now.mono < AT_ONCE:
                self.counters.count("backlog of frames")
            node.settle()
            node.marks.append(len(node.history))
            self.schedule.mono = max(self.schedule.mono, node.now.mono)
            check_bounds(node)
            self._unread.check(node)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self._furthest = max(self._furthest, self._unix_ahead)
        self._unix_ahead += seconds
        if self.node is not None:
            self.node.now = self.now

    def set_clock_right(self) -> None:
        """Let the wall clock be no earlier than it has ever been: what was revoked by then is of the past."""
        self.jump(max(0.0, self._furthest - self._unix_ahead))

    def state(self) -> list[str]:
        """How everything stands, a line each, for people."""
        lines = [f"node: {self.node.gateway.gauges}" if self.node is not None else "node: down"]
        for tab in self._tabs():
            flowing = "connected" if tab.flowing else "not connected"
            left = [one for one in tab.asked if one not in tab.heard.ends]
            lines.append(f"{tab.name}: {flowing}, {len(tab.asked)} asked, waits for {left or 'nothing'}, {tab.ended}")
        return lines

    # ── the node ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def start_node(self) -> None:
        """The node's process begins."""
        self.lives += 1
        first = self._ids

        def ids() -> str:
            self._ids += 1
            return self.streams.text(f"id {self._ids}")

        self._unread = Unread()
        self.node = Node(self, self.config, self.store, ids)
        self.past.append(Incarnation(self.node, first))
        self.node.open_store()

    def ids_from(self, first: int) -> Callable[[], str]:
        """The ids again that were given out behind the first so many."""
        numbers = count(first + 1)
        return lambda: self.streams.text(f"id {next(numbers)}")

    def trace(self) -> list[str]:
        """The trace of the newest life of the node, secrets taken out; `qaws replay` reads it."""
        return list(self.past[-1].trace(self.ids_from)) if self.past else []

    def kill_node(self) -> None:
        """The node's process is gone, with all its connections and agents."""
        node, self.node = self.node, None
        assert node is not None
        if node.store is not None:
            self.disk.crash(node)
        node.asked.clear()
        self.agents.forget()
        for pipe in self.pipes:
            pipe.crash()
        self.pipes.clear()

    def before_step(self, event: Input) -> None:
        """A node is about to take an input."""
        if self.steps == self.until:
            raise Reached
        self.steps += 1
        self.latest.append(f"{self.steps:>6}  {self.schedule.mono - MONO:12.6f}  {self._now}: {event!r}"[:300])

    def after_step(self, event: Input, effects: list[Effect]) -> None:
        """It has taken it."""
        self._hash.update(repr((self.now, tuple(event), effects)).encode("utf-8", "surrogatepass"))

    def perform(self, node: Node, effect: Effect) -> None:
        """Do what the node wants done, as soon as that can be."""
        if isinstance(effect, CloseWrite | DropConnection | PauseReading | ResumeReading):
            client = node.clients[effect.connection]
            if isinstance(client, Tap):
                self._tell(client.pipe, effect)
            if isinstance(effect, PauseReading):
                self.counters.count("reading paused")
            elif isinstance(effect, DropConnection):
                self.schedule.plan(self.network.latency, "what comes too late", lambda: self._too_late(node, client))
        elif isinstance(effect, StartRun):
            self.agents.start(node, effect)
        elif isinstance(effect, CancelRun):
            self.agents.cancel(effect.run_id)
        elif isinstance(effect, PauseRun):
            self.counters.count("agent held back")
            self.agents.pause(effect.run_id)
        elif isinstance(effect, ResumeRun):
            self.agents.resume(effect.run_id)
        elif isinstance(effect, SaveRecords | LoadSession):
            self.disk.ask(node, effect)
        elif isinstance(effect, LoadKeys):
            self.schedule.plan(0.1, "keys", lambda: self._give_keys(node))
        elif isinstance(effect, CollectMetrics):
            self.counters.count("metrics asked for")
            self.schedule.plan(0.05, "metrics", lambda: node.scrapes and self.node is node and node.collected(b"m 1\n"))
        elif isinstance(effect, Note):
            self.counters.note(effect)

    def _tell(self, pipe: Pipe, effect: CloseWrite | DropConnection | PauseReading | ResumeReading) -> None:
        if isinstance(effect, CloseWrite):
            pipe.write_closed()
        elif isinstance(effect, DropConnection):
            pipe.dropped()
            self.pipes.remove(pipe)
        elif isinstance(effect, PauseReading):
            pipe.up.hold()
        else:
            pipe.up.release()

    def _too_late(self, node: Node, client: Client) -> None:
        """A transport may still tell of a connection that it was told to drop (C6)."""
        if self.node is node:
            said = BytesReceived if client.host is None else MessageReceived
            kinds = (said, EofReceived, ConnectionLost, WriteBlocked, WriteProgressed, WriteDrained)
            kind = kinds[client.number % len(kinds)]
            node.step(kind(client.number, b"late") if kind is said else kind(client.number))  # type: ignore[call-arg]

    def _give_keys(self, node: Node) -> None:
        if self.node is not node or node.loading is None:
            return
        if not self.calm and self.streams.stream("keys").random() < 0.3:
            node.step(KeysFailed("the file is gone"))
        else:
            node.step(KeysLoaded(self.issuer.document()))

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def connect(self, tab: Tab) -> Pipe | None:
        """A transport for a client; None where there is none to be had."""
        random = self.streams.stream(f"network/{tab.name}")
        node = self.node
        if node is None or random.random() < self.network.refuse_p:
            return None
        hosted = random.random() < self.profile.hosted_p
        self._transports += 1
        name = f"{tab.name}#{self._transports}"
        accept = (lambda pipe, head: self._request(pipe, head, tab.user.address)) if hosted else None
        pipe = Pipe(name, self.schedule, self.network, random, tab, accept)
        self.pipes.append(pipe)
        if not hosted:
            number = len(node.clients)
            pipe.peer = node.clients[number] = Tap(node, number, pipe)
            node.step(ConnectionOpened(number, tab.user.address))
        return pipe

    def _request(self, pipe: Pipe, head: bytes, address: str) -> Tap | None:
        """A host that frames by itself has read a whole request."""
        node = self.node
        if node is None:
            return None
        number, host = len(node.clients), Host(head, denial=True)
        tap = node.clients[number] = Tap(node, number, pipe, host)
        node.step(host.open(number, address))
        return tap

    def judge_end(self, tab: Tab, fault: ClientFault) -> None:
        """An honest client has given up: there has to be an excuse for that."""
        why = {fault.code, str(fault.close_code), str(fault.status)}
        assert why & self.excuses, f"{tab.name} gave up: {fault}; excuses are {sorted(self.excuses)}"


def _configured(profile: Profile) -> WebSocketConfig:
    settings = {name: dict(section) for name, section in profile.settings.items()}
    return configure(authentication=profile.authentication == "secret", **settings)


def _signed(config: WebSocketConfig) -> WebSocketConfig:
    """The configuration with a secret that tokens can be signed with, where it has the public halves of keys alone, and
    with room for the addresses that a world has."""
    security = config.security
    authentication = security.authentication
    if authentication.enabled and (authentication.jwt_secret is None or authentication.key_source is not None):
        keys = {"jwks": None, "public_key_file": None, "algorithm": "HS256", "jwt_secret": SecretStr(SECRET)}
        authentication = authentication.model_copy(update=keys)
    addresses = security.addresses.model_copy(update={"allow": [], "block": []})
    security = security.model_copy(update={"authentication": authentication, "addresses": addresses})
    return config.model_copy(update={"security": security})
