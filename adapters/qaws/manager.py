"""WebSocketManager: owns a node and an agent, and performs what the node says. Every adapter drives it.

    adapter ── input ──▶ manager.feed ──▶ Gateway.step ──▶ effects ──▶ transports, agent runs, log

What belongs to an event loop comes through two ports: a `Transport` for each connection, and one `Host`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, get_args

import anyio

from qaws_proto import ConfigError, EventType, Gateway, Now, WebSocketConfig
from qaws_proto.admission.gate import EventCheck, UpgradeCheck
from qaws_proto.effects import (
    CancelRun,
    CloseWrite,
    CollectMetrics,
    Drained,
    DropConnection,
    LoadKeys,
    LoadSession,
    MessageEffect,
    Note,
    PauseReading,
    PauseRun,
    ResumeReading,
    ResumeRun,
    SaveRecords,
    SendBytes,
    StartRun,
)
from qaws_proto.inputs import (
    ConnectionOpened,
    Input,
    KeysRequested,
    StopRequested,
    TimerFired,
)

from .agents import Agent
from .control import LiveControl
from .ids import random_id
from .keys import KeyPort
from .running import AgentRuns
from .safety import log_warnings, require_safe
from .stores import Store, store_of
from .stores.port import StorePort
from .telemetry import NoteLogger, metrics_of, traces_of

if TYPE_CHECKING:
    from .recording import Recording


PIECE = 64 * 1024  # bytes that are joined for one write


class AnyTransport(Protocol):
    """What a connection is written to. None of it waits, none of it raises."""

    number: int  # set by the manager, before anything else is called

    def close_write(self) -> None:
        """Half-close, behind what was written."""

    def drop(self) -> None:
        """Close at once."""

    def pause_reading(self) -> None:
        """Read no more."""

    def resume_reading(self) -> None:
        """Read again."""


class Transport(AnyTransport, Protocol):
    """A transport of bytes."""

    def send(self, data: bytes) -> None:
        """Write; feed `WriteBlocked` when more is unsent than is good, and `WriteDrained` when it has gone."""


class MessageTransport(AnyTransport, Protocol):
    """A transport of a host that does HTTP and frames itself."""

    def say(self, effect: MessageEffect) -> None:
        """Perform it; feed `WriteBlocked` when more is unsent than is good, and `WriteDrained` when it has gone."""


class Host(Protocol):
    """What the event loop gives to a manager."""

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """Run an async function in a task of its own."""

    def wake_at(self, deadline: float | None) -> None:
        """Call `manager.wake()` at `deadline` (seconds of the monotonic clock); None: no need to."""

    def soon(self, function: Callable[[], None]) -> None:
        """Call this as soon as the event loop has done what is ready now; or at once, where that costs less."""


class WebSocketManager(LiveControl):
    """A node with its agent, ready to be driven by any adapter, and what an operator does to it."""

    def __init__(
        self,
        config: WebSocketConfig | None = None,
        *,
        agent: object = None,
        events: Sequence[EventType] = (),
        upgrade_checks: Sequence[UpgradeCheck] = (),
        event_checks: Sequence[EventCheck] = (),
        store: Store | None = None,
        ids: Callable[[], str] | None = None,
        clock: Callable[[], Now] | None = None,
        record: str | os.PathLike[str] | None = None,
    ) -> None:
        """Without a `config` the settings of the environment hold (`qaws.settings.load()`).

        `store` keeps the sessions; without one it is what `config.store` names. It is opened and closed by the server.
        `record` is a folder in which all that happens to the node is written, for `qaws replay` (docs/replay.md).
        `ids` and `clock` are for tests that want the same bytes every time; by default ids are 128 random bits and the
        clocks are this machine's. The timer goes by `time.monotonic`: what a `clock` says is due before or after that
        has to be told with `wake`. Raises ConfigError where the configuration cannot be used, AgentError where `agent`
        is none, StoreError where there can be no such store.
        """
        if config is None:
            from .settings import load

            config = load().config
        self.config = config
        self._stored = store is not None  # and not by what the configuration says
        store = store_of(config) if store is None else store
        ports: dict[str, Any] = {
            "ids": ids or random_id,
            "events": events,
            "upgrade_checks": upgrade_checks,
            "event_checks": event_checks,
            "durable": store is not None,
        }
        self._recording = _recording(record, config, ports)
        self.gateway = Gateway(config, **ports) if self._recording is None else self._recording.gateway
        self._clock = clock or _both_clocks
        self._host: Host | None = None
        self._numbers = count(1)
        self._transports: dict[int, Any] = {}  # Transport or MessageTransport, as the effects on it say
        self._unsent: dict[int, bytes | bytearray] = {}  # of this turn, by connection
        self._writes_soon = False
        self._soon: Callable[[Callable[[], None]], None] = _at_once  # until there is a host
        self._inputs: deque[Input] = deque()
        self._performing = False
        self._log = NoteLogger(config.logging)
        self._traces = traces_of(config.tracing)
        self._runs = AgentRuns(self.feed, self._note, self._traces)
        if agent is not None:
            self.set_qa_agent(agent)
        self.metrics = metrics_of(self.gateway, config.metrics)
        answered = None if self.metrics is None else self.metrics.store_answered
        self._key_port = KeyPort(config, self.feed)
        self.store_port = None if store is None else StorePort(store, self.feed, self._note, answered)
        self.drained: Callable[[], None] = _nothing
        self._perform: dict[type, Callable[[Any], None]] = {
            SendBytes: self._send,
            **dict.fromkeys(get_args(MessageEffect), self._say),
            CloseWrite: self._close_write,
            DropConnection: self._drop,
            PauseReading: lambda effect: self._transports[effect.connection].pause_reading(),
            ResumeReading: lambda effect: self._transports[effect.connection].resume_reading(),
            StartRun: self._runs.start,
            CancelRun: self._runs.cancel,
            PauseRun: self._runs.pause,
            ResumeRun: self._runs.resume,
            LoadKeys: self._load_keys,
            Note: self._note,
            Drained: self._ended,
        }
        if self.metrics is not None:
            self._perform[CollectMetrics] = self._collect_metrics
        if self.store_port is not None:
            self._perform |= {SaveRecords: self.store_port.save, LoadSession: self.store_port.load}

    @classmethod
    def of(
        cls, agent: object, config: WebSocketConfig | None, *, record: str | os.PathLike[str] | None = None
    ) -> WebSocketManager:
        """The manager of a server: `agent` is an agent, or a manager that has one and its configuration."""
        if not isinstance(agent, WebSocketManager):
            return cls(config, agent=agent, record=record)
        if config is not None:
            raise ConfigError("a WebSocketManager brings its own configuration: give it there, not to the server")
        return agent

    def set_qa_agent(self, agent: object) -> None:
        """The agent that answers from now on. Raises AgentError where it cannot be called as one."""
        self._runs.agent = Agent(agent, threads=self.config.agent.threads)

    # ── for adapters ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def open_store(self) -> None:
        """Open the store, where there is one: before clients are listened for, and before `attach`. Twice is once.

        Raises ConfigError where the manager could not be attached or nothing can be recorded, and what the store
        raises: StoreError where it cannot be used.
        """
        self._require_ready()
        if self._recording is not None:
            self._recording.open()
        if self.store_port is not None:
            await self.store_port.open()

    def attach(self, host: Host) -> None:
        """The event loop that drives this manager. Raises ConfigError where it is unsafe to serve, or has no agent."""
        self._require_ready()
        opened = None if self.store_port is None else self.store_port.attach(host.spawn)
        self._host, self._soon = host, host.soon
        self._runs.attach(host.spawn)
        if self.metrics is not None:
            host.spawn(self.metrics.lag.run)
        if opened is not None:
            self.feed(opened)
        host.wake_at(self.gateway.wake_at)  # keys are read at once

    def _require_ready(self) -> None:
        self.require_safe()
        if self._runs.agent is None:
            raise ConfigError("no agent is set: give one to the server, or call manager.set_qa_agent(agent)")
        if self._host is not None:
            raise RuntimeError("this manager has been given to a server before; a server is started once")

    def require_safe(self, hosts: Sequence[str] | None = None) -> None:
        """Raise ConfigError where it is unsafe to serve, at these addresses or else at those of the settings (D6)."""
        require_safe(self.config, hosts, stored=self._stored)

    def log_warnings(self, hosts: Sequence[str] | None) -> None:
        """Log which settings should be looked at, where these addresses are served; None: those of a host of ASGI."""
        log_warnings(self.config, hosts, stored=self._stored)

    def register(self, transport: AnyTransport) -> int:
        """A transport for a connection that the next input opens: its number from now on."""
        number = transport.number = next(self._numbers)
        self._transports[number] = transport
        return number

    def connect(self, transport: Transport, peer: str | None, *, internal: bool = False) -> int:
        """A peer connected: its number from now on. `peer` is its IP address, None where it has none; `internal`: it
        came to the address of `metrics.listen`."""
        number = self.register(transport)
        self.feed(ConnectionOpened(number, peer, internal))
        return number

    def feed(self, event: Input) -> None:
        """Steps 2 to 5 of the drive loop for one input. Inputs that come while effects are performed wait for them."""
        if self._performing:
            self._inputs.append(event)
            return
        if self._inputs:  # a turn has raised, and left them: they come first
            self._inputs.append(event)
            event = self._inputs.popleft()
        self._turn(event)
        if not self._runs.beginning:  # a run feeds within its first step: whoever began it does the rest
            self._settle()

    def _settle(self) -> None:
        """What every turn leaves: runs to begin, bytes to write, a timer to set."""
        starting, unsent = self._runs.starting, self._unsent
        while starting:
            for run in list(starting) if unsent else ():
                if run.asker in unsent:  # who waits for an acknowledgement need not wait for an agent
                    self._write((run.asker,))
            if self._inputs:
                self._turn(self._inputs.popleft())
            self._runs.begin()
        if unsent and not self._writes_soon:
            self._writes_soon = True
            self._soon(self._write_all)
        if self._host is not None:
            self._host.wake_at(self.gateway.wake_at)  # 5. re-arm the one timer

    def _turn(self, first: Input) -> None:
        """Take an input, and those that come of it."""
        inputs, perform = self._inputs, self._perform
        event: Input | None = first
        self._performing = True
        try:
            while event is not None:
                now = self._clock()  # 2. read both clocks once
                for effect in self.gateway.step(event, now):  # 3. step
                    perform[type(effect)](effect)  # 4. perform the effects in order
                event = inputs.popleft() if inputs else None
        finally:
            self._performing = False

    def _write_all(self) -> None:
        """Write what a turn of the event loop has for each connection, in one piece: each write is a system call, and
        wakes the peer."""
        self._writes_soon = False
        self._write(list(self._unsent))
        if self._inputs:
            self._turn(self._inputs.popleft())
            self._settle()

    def _write(self, numbers: Iterable[int]) -> None:
        self._performing = True  # a transport that has too much says so, and is heard behind the others
        try:
            for number in numbers:
                self._flush(number)
        finally:
            self._performing = False

    def _send(self, effect: SendBytes) -> None:
        """Write with what else there is for the connection."""
        number, data = effect
        held = self._unsent.get(number)
        if held is None:
            self._unsent[number] = data
        elif len(held) + len(data) > PIECE:
            self._flush(number)
            self._unsent[number] = data
        elif type(held) is bytearray:
            held += data
        else:
            self._unsent[number] = bytearray(held) + data

    def _flush(self, number: int) -> None:
        data = self._unsent.pop(number, None)
        if data is not None:
            self._transports[number].send(bytes(data))

    def _close_write(self, effect: CloseWrite) -> None:
        self._flush(effect.connection)
        self._transports[effect.connection].close_write()

    def _drop(self, effect: DropConnection) -> None:
        self._flush(effect.connection)
        self._transports.pop(effect.connection).drop()

    def _say(self, effect: MessageEffect) -> None:
        self._transports[effect.connection].say(effect)

    def _note(self, note: Note) -> None:
        self._log.write(note)
        if self.metrics is not None:
            self.metrics.note(note)
        if self._traces is not None:
            self._traces.hear(note)

    def _collect_metrics(self, effect: CollectMetrics) -> None:
        assert self.metrics is not None
        self.feed(self.metrics.answer(effect))

    def wake(self) -> None:
        """The time of the timer has come."""
        self.feed(TimerFired())

    def stop(self) -> None:
        """Stop now."""
        self.feed(StopRequested())

    def reload_keys(self) -> None:
        """Read the keys of tokens again, where they come from a file or an address; those of now stay until then."""
        if self.config.security.authentication.key_source is not None:
            self.feed(KeysRequested())

    def _load_keys(self, effect: LoadKeys) -> None:
        assert self._host is not None
        self._host.spawn(self._key_port.load, effect)

    def _ended(self, effect: Drained) -> None:
        self._key_port.close()
        self._runs.release()
        if self.metrics is not None:
            self.metrics.lag.stop()
        self.drained()

    async def close_agent(self, patience: float) -> None:
        """For a server that has stopped: the agent closes what it holds, in `patience` seconds, or is let go."""
        await self._runs.close(patience)

    async def close_store(self, patience: float | None = None) -> None:
        """For a server that has stopped: close the store, also where the task is cancelled; see `StorePort.close`."""
        try:
            if self.store_port is not None:
                with anyio.CancelScope(shield=True):
                    await self.store_port.close(patience)
        finally:
            if self._recording is not None:
                self._recording.close()


def _recording(
    folder: str | os.PathLike[str] | None, config: WebSocketConfig, ports: dict[str, Any]
) -> Recording | None:
    """What records the node, where that is wanted; its import takes a while."""
    if folder is None:
        return None
    from .recording import Recording

    return Recording(folder, config, **ports)


def _both_clocks() -> Now:
    return Now(time.monotonic(), time.time())


def _at_once(function: Callable[[], None]) -> None:
    function()


def _nothing() -> None:
    """What `drained` is until a server sets it."""
