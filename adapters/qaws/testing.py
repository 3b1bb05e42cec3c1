"""Tests of one's own agent and settings, in virtual time: an hour passes in milliseconds, and nothing hangs.

    with play(agent) as node:
        ana = node.connect("ana")
        assert ana.ask("hello").content == "…"

The real `WebSocketManager` runs the real agent; its connections are in memory. An agent that is a plain function works
in a thread, for which time stands still; one that sleeps by `asyncio.sleep` or `anyio.sleep` sleeps in virtual time.
What has to happen and does not raises `Stuck`, which says what waits where. docs/testing.md shows more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, cast

from qaws_proto import EventType, WebSocketConfig
from qaws_proto.admission.gate import EventCheck, UpgradeCheck
from qaws_proto.admission.tokens import issue_token
from qaws_proto.effects import Effect, Note
from qaws_proto.events import AgentChunk, AgentResponse, ServerEvents
from qaws_proto.inputs import BytesReceived, ConnectionLost, EofReceived, Input, WriteBlocked, WriteDrained
from qaws_proto.testing import Client, configure
from qaws_proto.testing.node import ADDRESS, NodeUnderTest, counter
from qaws_proto.testing.peer import PING, PONG, frame, upgrade

from .anyio_client import QAWebSocketClient
from .client_driver import Surroundings
from .client_errors import AnswerError, ClientError
from .keys import signing_key
from .manager import WebSocketManager
from .memory import Link, MemoryClientTransport, MemoryTransport
from .stores import Store, store_of
from .virtual_time import PATIENCE, Stuck, VirtualHost, VirtualLoop

__all__ = ["Peer", "Person", "Play", "Stuck", "play"]

URL = "ws://localhost/"
WITHIN = 3600.0  # seconds of virtual time in which what is waited for has to happen
READ = 64 * 1024  # bytes

Result = TypeVar("Result")


def play(
    agent: object,
    config: WebSocketConfig | Mapping[str, Any] | None = None,
    *,
    events: Sequence[EventType] = (),
    upgrade_checks: Sequence[UpgradeCheck] = (),
    event_checks: Sequence[EventCheck] = (),
    store: Store | None = None,
    patience: float = PATIENCE,
) -> Play:
    """A node with this agent, in memory and virtual time; use it with `with`.

    `config`: settings, or sections of them such as `{"agent": {"timeout": 5}}`; everybody is let in, as often as they
    like, where those do not say otherwise. `patience`: seconds of this machine's time that a thread may work before it
    counts as stuck. The others are those of `WebSocketManager`, and so is what is raised.
    """
    if not isinstance(config, WebSocketConfig):
        config = configure(**(config or {}))
    return Play(
        agent,
        config,
        store,
        patience,
        events=events,
        upgrade_checks=upgrade_checks,
        event_checks=event_checks,
    )


class Play:
    """A node, its agent, and whoever talks to it. Time passes where one of its methods, or of theirs, lets it."""

    host: VirtualHost  # while it lasts

    def __init__(
        self, agent: object, config: WebSocketConfig, store: Store | None, patience: float, **options: Any
    ) -> None:
        self._loop: VirtualLoop | None = None
        store = store or store_of(config, clock=lambda: self.loop.now().unix)
        self.manager = _Manager(
            config, agent=agent, store=store, ids=counter(), clock=lambda: self.loop.now(), **options
        )
        self._patience = patience
        self._ids = counter()
        self._people: list[Person] = []
        self._peers = 0
        self._drained = asyncio.Event()
        self.manager.drained = self._drained.set

    def __enter__(self) -> Play:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("play brings an event loop of its own: call it in a plain function, not in an async one")
        self._loop = VirtualLoop(patience=self._patience)
        self.host = VirtualHost(self.loop, self.manager.wake)
        try:
            self.run(self._begin())
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.run(self._end())
        finally:
            self._abandon()

    async def _begin(self) -> None:
        await self.manager.open_store()
        if self.manager.metrics is not None:
            self.manager.metrics.lag.stop()  # virtual time is never late
        self.manager.attach(self.host)

    async def _end(self) -> None:
        """Everybody leaves, the node stops, the agent closes what it holds."""
        grace = self.manager.config.agent.cancel_grace
        for person in self._people:
            await person.client.close()
        self.manager.stop()
        await self._drained.wait()
        await self.host.finish(grace)
        await self.manager.close_agent(grace)
        await self.manager.close_store(grace)

    def _abandon(self) -> None:
        try:
            self.loop.abandon()
        finally:
            self.loop.close()

    # ── who talks to it ──────────────────────────────────────────────────────────────────────────────────────────────

    def connect(self, user: str = "user-1", **options: Any) -> Person:
        """Somebody with a client of their own, connected and logged in; `options` are those of `QAWebSocketClient`.

        Raises ConnectError or AuthenticationError where they are refused.
        """
        person = self.call(Person, self, user, options)
        self._people.append(person)
        self.run(person.begin())
        return person

    def peer(self, user: str | None = None, *headers: str, path: str = "/", address: str | None = ADDRESS) -> Peer:
        """A strict client that says what the test tells it to, byte by byte.

        With a `user` or `headers` (whole lines) it has asked for the upgrade, with a token where one is needed;
        otherwise it has said nothing yet.
        """
        self._peers += 1
        peer = self.call(Peer, self, self.dial(address), self._peers)
        if user is not None or headers:
            login = [f"Authorization: Bearer {self.token(user)}"] if user is not None and self.tokens_needed else []
            peer.send_bytes(upgrade(path, *login, *headers))
        return peer

    def token(self, user: str, *, expires_in: int | None = None, **claims: Any) -> str:
        """A token that is good by the virtual clock. Raises ConfigError where the settings cannot sign one."""
        config = self.manager.config
        authentication = config.security.authentication
        return issue_token(
            authentication,
            user,
            unix=self.loop.now().unix,
            token_id=self._ids(),
            expires_in=expires_in,
            claims=claims or None,
            key=signing_key(authentication, config.limits),
        )

    @property
    def tokens_needed(self) -> bool:
        """Whether authentication is on."""
        return self.manager.config.security.authentication.enabled

    def dial(self, address: str | None = ADDRESS) -> Link:
        """A new connection to the node."""
        link = Link()
        transport = MemoryTransport(self.manager, link, self.host.spawn)
        self.host.spawn(transport.converse, address)
        return link

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def loop(self) -> VirtualLoop:
        """The event loop of the node. Raises RuntimeError outside of the `with` block."""
        if self._loop is None or self._loop.is_closed():
            raise RuntimeError("nothing happens outside of the block of `with play(agent) as node:`")
        return self._loop

    @property
    def now(self) -> float:
        """Seconds of the virtual monotonic clock."""
        return self.loop.time()

    def advance(self, seconds: float) -> None:
        """Let time pass, with all that happens meanwhile. Raises ValueError where it would pass backwards."""
        if not seconds >= 0:
            raise ValueError(f"no time of {seconds} seconds can pass")
        self.loop.pass_time(seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self.loop.jump(seconds)

    def settle(self) -> None:
        """Let all happen that is to happen now."""
        self.loop.settle()

    def run(self, work: Coroutine[Any, Any, Result], *, within: float = WITHIN) -> Result:
        """Run a coroutine on the node's event loop; time passes as it has to wait.

        Raises Stuck where that takes more than `within` seconds of virtual time, or nothing is left to happen.
        """
        try:
            loop = self.loop
        except RuntimeError:
            work.close()  # nobody is going to await it
            raise
        result = loop.finish(work, within)
        self.settle()
        return result

    def call(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Call a function on the node's event loop, such as a command of the manager's; then let all happen."""

        async def work() -> Result:
            return function(*arguments, **options)

        return self.run(work())

    # ── what the node told ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def notes(self) -> list[Note]:
        """All that the node told its operator; docs/logging.md says what there is."""
        return self.manager.notes

    @property
    def raised(self) -> list[BaseException]:
        """What the agent raised."""
        return list(self.manager.causes.values())


class Person:
    """Somebody who talks to a node through a `QAWebSocketClient`, over a network that the test can break.

    What is missed while it is broken is heard afterwards, as with every client.
    """

    def __init__(self, play: Play, user: str, options: Mapping[str, Any]) -> None:
        self.user = user
        self.heard: list[ServerEvents] = []  # each event once, in order
        self._play = play
        self._link: Link | None = None
        self._away_until = 0.0
        login = {"token": lambda: play.token(user)} if play.tokens_needed else {}
        self._host = VirtualHost(play.loop, lambda: None)
        self.client = _Client(self._surroundings(), config=play.manager.config, **{**login, **options})

    def _surroundings(self) -> Surroundings:
        loop = self._play.loop
        return Surroundings(
            loop.now, partial(VirtualHost, loop), partial(MemoryClientTransport, self._dial), lambda: 0.5
        )

    async def begin(self) -> None:
        """Connect, and listen from then on."""
        await self.client.connect(None if self._play.tokens_needed else self.user)
        self._host.spawn(self._listen)

    async def _listen(self) -> None:
        with suppress(ClientError):  # it is raised where somebody asks
            async for event in self.client.listen_for_responses():
                self.heard.append(event)

    def _dial(self) -> Link:
        if self._play.now < self._away_until:
            raise ConnectionRefusedError("the network is down")
        self._link = self._play.dial()
        return self._link

    # ── talking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, text: str, *, within: float = WITHIN, **options: Any) -> AgentResponse:
        """Ask, and get the whole answer. Raises AnswerError where there is none; what the agent raised is its cause.

        `options` are those of `QAWebSocketClient.ask`.
        """
        return self._told(self.client.ask(text, **options), within)

    def stream(self, text: str, *, within: float = WITHIN, **options: Any) -> list[str]:
        """Ask, and get the pieces of the answer. Raises as `ask` does."""

        async def pieces() -> list[str]:
            return [piece async for piece in self.client.chat(text, **options)]

        return self._told(pieces(), within)

    def send(self, text: str, *, stream: bool = True, **options: Any) -> str:
        """Send a message and wait for nothing; its id. What comes is in `heard` as time passes."""
        return self._play.run(self.client.send_chat_message(text, stream=stream, **options))

    def text(self, message_id: str) -> str:
        """What has been heard so far of the answer to a message."""
        text = ""
        for event in self.heard:
            if getattr(event, "correlation_id", None) == message_id:
                if isinstance(event, AgentChunk):
                    text = text[: event.offset] + event.content
                elif isinstance(event, AgentResponse):
                    text = event.content
        return text

    def close(self) -> None:
        """Leave for good."""
        self._play.run(self.client.close())

    def _told(self, work: Coroutine[Any, Any, Result], within: float) -> Result:
        try:
            return self._play.run(work, within=within)
        except AnswerError as error:
            cause = self._play.manager.causes.get(error.error_id or "")
            if cause is not None:
                raise error from cause
            raise

    # ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def link(self) -> Link:
        """The connection it has, or had last."""
        assert self._link is not None
        return self._link

    def lose(self, *, seconds: float = 0) -> None:
        """Reset the connection; a new one can be made after so many seconds."""
        self._away_until = self._play.now + seconds
        self.link.cut()
        self._play.settle()

    def lose_after(self, count: int) -> None:
        """Reset the connection as soon as so many more bytes of the node have arrived."""
        self.link.down.cut_after(count)
        self._play.settle()

    def stall(self) -> None:
        """Nothing arrives any more on this connection, in neither direction, and nobody is told."""
        self._stall(True)

    def flow(self) -> None:
        """What was stalled arrives, and what follows."""
        self._stall(False)

    def _stall(self, stalled: bool) -> None:
        self.link.up.stall(stalled)
        self.link.down.stall(stalled)
        self._play.settle()

    def split(self, size: int | None = 1) -> None:
        """No more than so many bytes of this connection arrive at once; None: as many as there are."""
        self.link.up.split(size)
        self.link.down.split(size)


class Peer(Client):
    """One connection of a node, for a test that speaks the protocol itself; every event is held to the contract."""

    def __init__(self, play: Play, link: Link, number: int) -> None:
        super().__init__(cast(NodeUnderTest, _Steps(play, link)), number)  # of which it asks nothing but these two
        self.link = link
        self.answers_pings = True  # by itself; they are not among what it has heard then
        play.host.spawn(self._read)

    async def _read(self) -> None:
        try:
            while data := await self.link.down.read(READ):
                self.hear(data)
                if self.answers_pings:
                    await self._answer_pings()
            self.write_closed = True
            await self.link.up.gone()
        except ConnectionResetError:
            pass
        self.dropped = True

    async def _answer_pings(self) -> None:
        frames = self.stream.frames
        for ping in [one for one in frames if one[0] == PING]:
            frames.remove(ping)
            await self.link.up.write(frame(PONG, ping[1]))


class _Steps:
    """The node of a `Peer`: what it does goes through its connection."""

    own_events = True  # a node may have some; those of the protocol are judged all the same

    def __init__(self, play: Play, link: Link) -> None:
        self._play = play
        self._link = link

    def step(self, event: Input) -> list[Effect]:
        """Perform it, and let all happen that comes of it."""
        match event:
            case BytesReceived(data=data):
                self._link.up.put(data)
            case EofReceived():
                self._link.up.end()
            case ConnectionLost():
                self._link.cut()
            case WriteBlocked() | WriteDrained():
                self._link.down.stall(isinstance(event, WriteBlocked))
            case _:
                raise TypeError(f"a peer does nothing such as {event}")
        self._play.settle()
        return []


class _Client(QAWebSocketClient):
    """A client in memory."""

    def __init__(self, around: Surroundings, **options: Any) -> None:
        self._around = around
        super().__init__(URL, **options)


class _Manager(WebSocketManager):
    """A manager that remembers what the node has told."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.notes: list[Note] = []
        self.causes: dict[str, BaseException] = {}  # by error id
        super().__init__(*arguments, **options)

    def _note(self, note: Note) -> None:
        self.notes.append(note)
        if note.name == "run_ended" and note.cause is not None:
            self.causes[str(note.fields["error_id"])] = note.cause
        super()._note(note)
