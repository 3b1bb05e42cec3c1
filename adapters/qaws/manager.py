"""WebSocketManager: owns a node and an agent, and performs what the node says. Every adapter drives it.

    adapter ── input ──▶ manager.feed ──▶ Gateway.step ──▶ effects ──▶ transports, agent runs, log

What belongs to an event loop comes through two ports: a `Transport` for each connection, and one `Host`.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any, Protocol, cast, get_args

import anyio
import anyio.lowlevel

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
    RunChunk,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStep,
    StopRequested,
    TimerFired,
)

from .agents import PIECES, Agent, AgentFailure, AgentReply, AgentStep, RunContext
from .control import LiveControl
from .host import start_task
from .keys import KeyPort
from .safety import log_warnings, require_safe
from .stores import Store, store_of
from .stores.port import StorePort
from .telemetry import NoteLogger, metrics_of, traces_of

_UNTRACED = nullcontext()
YIELD_EVERY = 32  # pieces of an agent that never waits, after which others get their turn


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


class _ActiveRun:
    """An agent at work: how to cancel it, and how to hold it back."""

    __slots__ = ("cancelled", "resumed", "scope", "traced", "yielded")

    def __init__(self) -> None:
        self.cancelled = False
        self.scope: anyio.CancelScope | None = None  # made by its task: a timer's callback may start a run, not a scope
        self.resumed: anyio.Event | None = None  # set while the node wants no more pieces
        self.yielded = 0
        self.traced: AbstractContextManager[None] = _UNTRACED  # what the agent runs in

    def cancel(self) -> None:
        """Tell the agent to stop, at once or as soon as it begins."""
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()


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
    ) -> None:
        """Without a `config` the settings of the environment hold (`qaws.settings.load()`).

        `store` keeps the sessions; without one it is what `config.store` names. It is opened and closed by the server.
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
        self.gateway = Gateway(
            config,
            ids=ids or _random_id,
            events=events,
            upgrade_checks=upgrade_checks,
            event_checks=event_checks,
            durable=store is not None,
        )
        self._agent: Agent | None = None
        if agent is not None:
            self.set_qa_agent(agent)
        self._clock = clock or _both_clocks
        self._host: Host | None = None
        self._numbers = count(1)
        self._transports: dict[int, Any] = {}  # Transport or MessageTransport, as the effects on it say
        self._active: dict[str, _ActiveRun] = {}
        self._inputs: deque[Input] = deque()
        self._performing = False
        self._log = NoteLogger(config.logging)
        self._traces = traces_of(config.tracing)
        self.metrics = metrics_of(self.gateway, config.metrics)
        answered = None if self.metrics is None else self.metrics.store_answered
        self._key_port = KeyPort(config, self.feed)
        self.store_port = None if store is None else StorePort(store, self.feed, self._note, answered)
        self.drained: Callable[[], None] = _nothing
        self._perform: dict[type, Callable[[Any], None]] = {
            SendBytes: lambda effect: self._transports[effect.connection].send(effect.data),
            **dict.fromkeys(get_args(MessageEffect), self._say),
            CloseWrite: lambda effect: self._transports[effect.connection].close_write(),
            DropConnection: lambda effect: self._transports.pop(effect.connection).drop(),
            PauseReading: lambda effect: self._transports[effect.connection].pause_reading(),
            ResumeReading: lambda effect: self._transports[effect.connection].resume_reading(),
            StartRun: self._start_run,
            CancelRun: self._cancel_run,
            PauseRun: self._pause_run,
            ResumeRun: self._resume_run,
            LoadKeys: self._load_keys,
            Note: self._note,
            Drained: self._ended,
        }
        if self.metrics is not None:
            self._perform[CollectMetrics] = self._collect_metrics
        if self.store_port is not None:
            self._perform |= {SaveRecords: self.store_port.save, LoadSession: self.store_port.load}

    @classmethod
    def of(cls, agent: object, config: WebSocketConfig | None) -> WebSocketManager:
        """The manager of a server: `agent` is an agent, or a manager that has one and its configuration."""
        if not isinstance(agent, WebSocketManager):
            return cls(config, agent=agent)
        if config is not None:
            raise ConfigError("a WebSocketManager brings its own configuration: give it there, not to the server")
        return agent

    def set_qa_agent(self, agent: object) -> None:
        """The agent that answers from now on. Raises AgentError where it cannot be called as one."""
        self._agent = Agent(agent, threads=self.config.agent.threads)

    # ── for adapters ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def open_store(self) -> None:
        """Open the store, where there is one: before clients are listened for, and before `attach`. Twice is once.

        Raises ConfigError where the manager could not be attached, and what the store raises: StoreError where it
        cannot be used.
        """
        self._require_ready()
        if self.store_port is not None:
            await self.store_port.open()

    def attach(self, host: Host) -> None:
        """The event loop that drives this manager. Raises ConfigError where it is unsafe to serve, or has no agent."""
        self._require_ready()
        opened = None if self.store_port is None else self.store_port.attach(host.spawn)
        self._host = host
        if self.metrics is not None:
            host.spawn(self.metrics.lag.run)
        if opened is not None:
            self.feed(opened)
        host.wake_at(self.gateway.wake_at)  # keys are read at once

    def _require_ready(self) -> None:
        self.require_safe()
        if self._agent is None:
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
        self._inputs.append(event)
        if self._performing:
            return
        self._performing = True
        try:
            while self._inputs:
                now = self._clock()  # 2. read both clocks once
                for effect in self.gateway.step(self._inputs.popleft(), now):  # 3. step
                    self._perform[type(effect)](effect)  # 4. perform the effects in order
        finally:
            self._performing = False
        if self._host is not None:
            self._host.wake_at(self.gateway.wake_at)  # 5. re-arm the one timer

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
        if self.metrics is not None:
            self.metrics.lag.stop()
        self.drained()

    async def close_agent(self, patience: float) -> None:
        """For a server that has stopped: the agent closes what it holds, in `patience` seconds, or is let go."""
        agent, closed, scope = self._agent, anyio.Event(), anyio.CancelScope()
        if agent is None:
            return

        async def close() -> None:
            try:
                with scope:
                    await agent.aclose()
            except BaseException as error:  # noqa: BLE001 - it may raise anything, and the server stops all the same
                self._note(Note("node", "ERROR", "agent_not_closed", {}, error))
            finally:
                closed.set()

        start_task(close)  # of its own: what ignores its cancellation must not hold up who stops
        with anyio.move_on_after(patience):
            await closed.wait()
        if not closed.is_set():
            scope.cancel()
            self._note(Note("node", "ERROR", "agent_not_closed", {"seconds": patience}))

    async def close_store(self, patience: float | None = None) -> None:
        """For a server that has stopped: close the store, also where the task is cancelled; see `StorePort.close`."""
        if self.store_port is not None:
            with anyio.CancelScope(shield=True):
                await self.store_port.close(patience)

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_run(self, run: StartRun) -> None:
        assert self._host is not None
        assert self._agent is not None
        active = self._active[run.run_id] = _ActiveRun()
        if self._traces is not None:
            active.traced = self._traces.start(run, self._agent.name)
        self._host.spawn(self._run, run)

    def _cancel_run(self, effect: CancelRun) -> None:
        active = self._active.get(effect.run_id)
        if active is not None:
            active.cancel()

    def _pause_run(self, effect: PauseRun) -> None:
        active = self._active.get(effect.run_id)
        if active is not None:
            active.resumed = anyio.Event()

    def _resume_run(self, effect: ResumeRun) -> None:
        active = self._active.get(effect.run_id)
        if active is not None and active.resumed is not None:
            active.resumed.set()
            active.resumed = None

    async def _run(self, run: StartRun) -> None:
        """One run of the agent, in a task of its own. However it ends, the node is told once (C8)."""
        assert self._agent is not None
        active = self._active[run.run_id]
        context = RunContext(run.run_id, run.session_id, run.user_id, run.stream, run.metadata)
        end: Input = RunFailed(run.run_id)
        try:
            if self._performing:  # the loop begins tasks at once: first all that goes with the start, a cancel too
                await anyio.lowlevel.checkpoint()
            with active.traced, anyio.CancelScope() as active.scope:
                if not active.cancelled:
                    end = await self._call(self._agent, run, context, active)
        finally:
            del self._active[run.run_id]
            self.feed(end)

    async def _call(self, agent: Agent, run: StartRun, context: RunContext, active: _ActiveRun) -> Input:
        async def emit(piece: object) -> None:
            await self._emit(run.run_id, active, piece)

        def started() -> None:
            self.feed(RunStarted(run.run_id))

        try:
            answer = await agent.run(run.content, context, emit, started)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # An agent may raise anything, its own CancelledError and SystemExit too; only a real cancellation goes on.
            if isinstance(error, anyio.get_cancelled_exc_class()) and _cancelled(active):
                raise
            return _failed(run.run_id, error)
        if answer is PIECES:
            return RunFinished(run.run_id)
        reply = answer if isinstance(answer, AgentReply) else AgentReply(cast(str, answer))
        if reply.content is None:
            return RunFailed(run.run_id, TypeError("the agent answered None: is there a `return` missing?"))
        return RunFinished(
            run.run_id,
            reply.content,
            _tuple(reply.reasoning_steps),
            _tuple(reply.tools_used),
            reply.input_tokens,
            reply.output_tokens,
        )

    async def _emit(self, run_id: str, active: _ActiveRun, piece: object) -> None:
        """A piece or a step for the node. Waits while the node wants no more, and now and then for the others."""
        if isinstance(piece, AgentStep):
            self.feed(RunStep(run_id, piece.kind, piece.name, piece.content))
        else:
            self.feed(RunChunk(run_id, piece))
        active.yielded += 1
        if active.resumed is not None:
            await active.resumed.wait()
        if active.yielded % YIELD_EVERY == 0 or active.cancelled:
            await anyio.lowlevel.checkpoint()


def _failed(run_id: str, error: BaseException) -> RunFailed:
    """The end of a run whose agent raised, with its advice where it gave some."""
    if not isinstance(error, AgentFailure):
        return RunFailed(run_id, error)
    given = vars(error)  # what a subclass makes of the names may raise in its turn, or never have been set
    return RunFailed(run_id, error, given.get("reason"), given.get("retry_after"))


def _cancelled(active: _ActiveRun) -> bool:
    """Whether the run, or what it is part of, has been told to stop."""
    return active.cancelled or anyio.current_effective_deadline() == float("-inf")


def _tuple(texts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """What an agent gave as its steps or tools. Whether they are texts is the node's to judge (G4)."""
    return tuple(texts) if isinstance(texts, list) else texts


def _random_id() -> str:
    return secrets.token_hex(16)


def _both_clocks() -> Now:
    return Now(time.monotonic(), time.time())


def _nothing() -> None:
    """What `drained` is until a server sets it."""
