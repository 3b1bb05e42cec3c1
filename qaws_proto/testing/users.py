"""The honest clients of a simulated world: the real client, and the person in front of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..client import Client, ClientConfig
from ..client.io import (
    CancelRequested,
    ClientInput,
    CloseRequested,
    CloseTransport,
    ConnectRequested,
    DataReceived,
    Deliver,
    Disconnected,
    Ended,
    FetchToken,
    MessageRequested,
    OpenTransport,
    SendData,
    TimerFired,
    TokenFailed,
    TokenFetched,
    TransportFailed,
    TransportLost,
    TransportOpened,
    Welcomed,
)
from ..events import ChatMessage, ServerEvents, SystemEvent
from .history import Heard
from .peer import remasked
from .pipe import Pipe
from .streams import Random

if TYPE_CHECKING:
    from .world import World

WORDS = ("hi", "¿qué tal?", "x" * 200, "\u2028", "\U0001f600" * 9)
ACK_EVERY = 7  # events


class Tab:
    """One client, from its first connection to its end, and all that it was told."""

    def __init__(self, world: World, name: str, user: User, config: ClientConfig) -> None:
        self.world = world
        self.name = name
        self.user = user
        random = world.streams.stream(f"client/{name}")
        ids = (world.streams.text(f"{name}/{number}") for number in range(1 << 30))
        self.client = Client(config, ids=lambda: next(ids), jitter=random.random)
        self.heard = Heard(f"{name}.")
        self.asked: list[str] = []
        self.pipe: Pipe | None = None
        self.flowing = False
        self.session_id: str | None = None
        self.ended: Ended | None = None
        self.closing = False
        self._opening = 0  # which attempt is under way

    def step(self, event: ClientInput) -> None:
        """One step of the client, its effects performed."""
        if self.ended is not None:
            return
        for effect in self.client.step(event, self.world.now):
            assert self.ended is None, f"{effect} behind the end of {self.name}"
            if isinstance(effect, Deliver):
                self._delivered(effect.event)
            elif isinstance(effect, SendData):
                assert self.pipe is not None
                self.pipe.up.write(effect.data if effect.data.startswith(b"GET ") else remasked(effect.data))
            elif isinstance(effect, OpenTransport):
                self._opening += 1
                self._plan("opens a transport", self._opened(self._opening))
            elif isinstance(effect, CloseTransport):
                self._opening += 1
                pipe, self.pipe = self.pipe, None
                if pipe is not None:
                    pipe.close()
            elif isinstance(effect, FetchToken):
                self._plan("fetches a token", self._fetched)
            elif isinstance(effect, Welcomed):
                self.flowing, self.session_id = True, effect.session_id
            elif isinstance(effect, Disconnected):
                self.flowing = False
            else:
                assert isinstance(effect, Ended)
                self._end(effect)

    def _plan(self, what: str, act: Callable[[], object]) -> None:
        network = self.world.network
        delay = network.latency + self.world.streams.stream(f"client/{self.name}").random() * network.jitter
        self.world.schedule.plan(delay, f"{self.name} {what}", act)

    def _delivered(self, event: ServerEvents) -> None:
        counters = self.world.counters
        if isinstance(event, SystemEvent) and event.event_name == "session_resumed":
            counters.count("gap told")
        elif getattr(event, "error_code", None) == "LOST":
            counters.count("answer lost")
        self.heard.hear(event)

    def _opened(self, attempt: int) -> Callable[[], None]:
        def act() -> None:
            if attempt == self._opening and self.ended is None:
                pipe = self.world.connect(self)
                if pipe is None:
                    self.step(TransportFailed("no route"))
                else:
                    self.pipe = pipe
                    self.step(TransportOpened())

        return act

    def _fetched(self) -> None:
        world, profile = self.world, self.world.profile
        if world.streams.stream(f"client/{self.name}").random() < profile.token_fails_p and not world.calm:
            self.step(TokenFailed("the issuer is down"))
        else:
            life = 3600 if world.calm else profile.token_life
            self.step(TokenFetched(world.issuer.token(self.user.id, unix=world.now.unix, life=life)))

    def _end(self, effect: Ended) -> None:
        self.ended = effect
        self.flowing = False
        if effect.error is not None:
            self.world.counters.count("client gave up for good")
            self.world.judge_end(self, effect.error)

    # ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, pipe: Pipe, data: bytes) -> None:
        """Bytes came."""
        if pipe is self.pipe:
            self.step(DataReceived(data))

    def lose(self, pipe: Pipe) -> None:
        """The transport is gone."""
        if pipe is self.pipe:
            self.pipe = None
            self.step(TransportLost())

    def wake(self) -> None:
        """A timer of the client is due."""
        self.step(TimerFired())

    # ── the person ───────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, words: str, *, stream: bool) -> None:
        """Ask something."""
        if self.ended is None and not self.closing and len(self.asked) - len(self.heard.ends) < 20:
            message_id = f"{self.name}.{len(self.asked) + 1}"
            self.asked.append(message_id)
            chat = ChatMessage(type="chat_message", content=f"{message_id} {words}", id=message_id, stream=stream)
            self.step(MessageRequested(chat))

    def cancel(self, random: Random) -> None:
        """Want no answer any more."""
        if self.asked and self.ended is None and not self.closing:
            self.step(CancelRequested(random.choice(self.asked)))

    def close(self) -> None:
        """Be done."""
        self.closing = True
        self.step(CloseRequested())


class User:
    """A person with one tab or two, who asks now and then, and opens a tab again that has ended."""

    def __init__(self, world: World, number: int, *, tabs: int) -> None:
        self.id = f"user-{number}"
        self.address = f"192.0.2.{number}"
        self.world = world
        self.random = world.streams.stream(f"user/{number}")
        self.tabs: list[Tab] = []
        self.past: list[Tab] = []  # those that came to their end
        self._opened = 0
        # Two tabs share a session by its name; a single one has a session of its own, or a named one.
        self.session = f"room-{number}" if tabs > 1 or self.random.random() < 0.5 else None
        for _ in range(tabs):
            self.open()

    def open(self) -> Tab:
        """Open a tab."""
        self._opened += 1
        session, history = self.session, self.session is not None and self.random.random() < 0.7
        server = self.world.config.server
        config = ClientConfig(
            self.world.host, server.path, token=self.world.issuer.needed, session_id=session, history=history,
            backoff_base=0.2, backoff_cap=3.0, connect_timeout=8.0, heartbeat=6.0, heartbeat_timeout=4.0,
            close_timeout=2.0, ack_every=ACK_EVERY,
        )  # fmt: skip
        tab = Tab(self.world, f"{self.id}{chr(ord('a') + self._opened - 1) if self._opened < 27 else self._opened}",
                  self, config)  # fmt: skip
        self.tabs.append(tab)
        self.world.schedule.plan(
            self.random.uniform(0, 0.5), f"{tab.name} connects", lambda: tab.step(ConnectRequested())
        )
        return tab

    def act(self) -> None:
        """Do something, as people do."""
        self.reopen()
        tab = self.random.choice(self.tabs)
        if self.random.random() < 0.15:
            tab.cancel(self.random)
        else:
            tab.ask(self.random.choice(WORDS), stream=self.random.random() < 0.75)

    def reload(self) -> None:
        """Close a tab, and open another one."""
        self.random.choice(self.tabs).close()

    def reopen(self) -> None:
        """Open those tabs again that have ended, but for those that another one has taken the session from."""
        for tab in [tab for tab in self.tabs if tab.ended is not None]:
            self.tabs.remove(tab)
            self.past.append(tab)
            taken_over = tab.ended is not None and tab.ended.error is not None and tab.ended.error.close_code == 4409
            if not (taken_over and self.tabs):
                self.open()
