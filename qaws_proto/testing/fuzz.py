"""Byte strings as executions of a node: what a fuzzer makes up is read as a small program, and performed.

    execute(b"...")   # raises what is wrong with the node

The `NodeUnderTest` judges each step by the contract (C1, C4 to C8), `ServerStream` each byte that the node writes, and
at the end every run has ended and nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..config import WebSocketConfig
from ..inputs import RunStarted, TimerFired, WriteProgressed
from .fuzz_peers import Execution, seen
from .node import NodeUnderTest, configure
from .peer import request, upgrade
from .programs import Instruction, Program, assemble
from .store import StoreModel

PIECES = ("a", "bc", "ñ", "x" * 200, "x" * 1000, "", "\ud800", "\ud83d\ude00", None, b"bytes", 1.5)

NEAR: dict[str, Any] = {
    "server": {"max_connections": 6, "heartbeat_interval": 8, "timeout": 4},
    "limits": {
        "max_message_size": 1024, "max_fragments": 4, "frames_per_second": 20, "frame_burst": 40, "frames_per_turn": 4,
        "inbox": 256, "out_high": 256, "out_top": 1024, "write_timeout": 6, "message_timeout": 5,
        "connections_per_address": 4, "handshakes": 6, "bad_messages_per_minute": 3,
    },
    "agent": {"timeout": 5, "max_duration": 12, "max_response_size": 1024, "cancel_grace": 2, "max_runs": 4},
    "sessions": {"ttl": 20, "per_user": 2, "max_sessions": 4, "queue": 2, "max_events": 6, "max_bytes": 2048,
                 "known_ids": 2},
    "drain": {"timeout": 10, "closes": 2},
}  # fmt: skip
RATES = {"rate_limiting": {"requests_per_minute": 12, "burst_size": 3, "strikes": 2}}
STORE = {"kind": "sqlite", "path": "a model of it", "max_unsaved": 2048, "retry": 2}


def _near(**sections: dict[str, Any]) -> WebSocketConfig:
    security = sections.pop("security", {})
    merged = NEAR | {name: {**NEAR.get(name, {}), **section} for name, section in sections.items()}
    return configure(authentication=security is RATES, security=dict(security), **merged)


#: What a program begins with picks one, unless its user has settings of their own: bounds that are near, and the usual.
CONFIGS: tuple[WebSocketConfig, ...] = (
    _near(),
    configure(),
    _near(security=RATES),
    _near(server={"compression": {"enabled": True, "min_size": 0}}),
    _near(store=STORE, sessions={"double_text": "interrupt", "user_bytes": 3000}),
    _near(security=RATES, store=STORE),
    _near(sessions={"double_text": "concurrent", "node_bytes": 4096}),
)


class NodeExecution(Execution):
    """The same on a `NodeUnderTest`, where the program plays the agent, the store and the host as well."""

    def __init__(self, program: Program, node: NodeUnderTest, log: Callable[[str], None]) -> None:
        super().__init__(program, node, node.config, log)
        self._node = node

    def _run(self) -> str | None:
        runs = list(self._node.runs)
        return self._program.pick(runs) if runs else None

    def agent_yields(self) -> None:
        """An agent yields."""
        run_id, piece = self._run(), self._program.pick(PIECES)
        if run_id is not None:
            self._log(f"agent of {run_id}: {str(piece)[:40]!r}")
            self._node.chunk(run_id, piece)

    def agent_ends(self) -> None:
        """An agent is done, with what it said, or with something else; or it raises."""
        run_id, kind, piece = self._run(), self._program.number(4), self._program.pick(PIECES)
        if run_id is None:
            return
        self._log(f"agent of {run_id} ends: {('answer', 'more', 'nothing', 'error')[kind]}")
        if kind == 0:
            self._node.finish(run_id, piece, tools_used=(1,) if piece == 1.5 else ("t",))
        elif kind == 1:
            self._node.finish(run_id, self._node.said.get(run_id, "") + str(piece))
        elif kind == 2:
            self._node.finish(run_id)
        else:
            self._node.fail(run_id, RuntimeError("x"))

    def agent_steps(self) -> None:
        """An agent tells what it does; or that it begins only now."""
        run_id, kind = self._run(), self._program.pick(("reasoning", "tool_started", "tool_finished", "nonsense", ""))
        name, content = self._program.pick((None, "", "search", "\udfff")), self._program.pick((None, "x", "x" * 500))
        if run_id is not None:
            self._log(f"agent of {run_id}: {kind or 'begins'}")
            self._node.tell(run_id, kind, name, content) if kind else self._node.step(RunStarted(run_id))

    def agent_is_late(self) -> None:
        """Something comes for a run that may be over; then nothing is done."""
        started = list(self._node.started)
        run_id = self._program.pick(started) if started else ""
        if started and run_id not in self._node.runs:
            self._log(f"agent of {run_id}, too late")
            assert self._node.chunk(run_id, "late") == self._node.tell(run_id, "reasoning") == [], "late, and heard"
            assert self._node.fail(run_id) == [], "late, and heard"

    def store(self) -> None:
        """The store answers, or fails."""
        fails = self._program.number(4) == 3
        if self._node.asked:
            self._log("the store fails" if fails else "the store answers")
            self._node.answer(fail=fails)

    def host(self) -> None:
        """A host that does HTTP and frames has a request."""
        login = f"Authorization: Bearer {self._token()}"
        heads = upgrade(self._path), upgrade(self._path, login), request("/healthz"), upgrade("/x"), request()
        head = self._program.pick(heads)
        client = self._node.request(head, denial=bool(self._program.number(2)))
        self.clients.append(client)
        self._log(f"{client.number}: a host has {head[:30]!r}")

    def rest(self) -> None:
        """What is asked for beside: metrics, keys; a timer that is early; a peer that has read a little."""
        kind, node = self._program.number(4), self._node
        if kind == 0 and node.scrapes:
            self._log("metrics are collected")
            node.collected(self._program.pick((b"m 1\n", None)))
        elif kind == 1 and node.loading is not None:
            failed = self._program.number(2)
            self._log("keys cannot be read" if failed else "keys are read")
            node.fail_keys() if failed else node.give_keys(self._program.data())
        elif kind == 2:
            self._log("a timer is early")
            node.step(TimerFired())
        elif kind == 3 and self.clients:
            client = self._program.pick(self.clients)
            self._log(f"{client.number}: has read some")
            node.step(WriteProgressed(client.number))

    instructions: Mapping[str, Callable[[Any], None]] = {
        **Execution.instructions, "yields": agent_yields, "ends": agent_ends, "steps": agent_steps,
        "late": agent_is_late, "store": store, "host": host, "rest": rest,
    }  # fmt: skip

    def finish(self) -> None:
        """Everybody leaves, agents fall silent, time passes: then every run has had its end, and nothing is left."""
        node, config = self._node, self._node.gateway.config
        self._log("everybody leaves")
        for client in self.clients:
            if not client.dropped:
                client.unblock()
        node.prompt = True
        node.answer_all()
        node.advance(config.store.retry)
        for client in self.clients:
            if not client.dropped:
                client.lose()
        running = set(node.runs)
        node.advance(config.agent.max_duration)
        assert running <= node.cancelled, "C8: a run that nobody ended"
        while node.runs:  # an agent that ends makes room for one that waits
            for run_id in list(node.runs):
                node.fail(run_id)
            node.advance(config.agent.max_duration)
        node.advance(config.sessions.ttl + config.store.retry)
        gateway = node.gateway
        left = (gateway.connections, gateway.sessions, gateway.runs)
        assert left == (0, 0, 0), f"connections, sessions, runs are left: {left}"
        assert node.started.keys() <= node.ended, "C8: a run without an end"


def execute(
    code: bytes, config: WebSocketConfig | None = None, *, log: Callable[[str], None] = lambda _: None
) -> frozenset[str]:
    """Perform a program on a node of its own, with one of `CONFIGS` unless one is given; what has been seen in it.

    `log` is told each thing that is done, in words. Whatever is raised is a mistake of the node's.
    """
    program = Program(code)
    config = program.pick(CONFIGS) if config is None else config
    node = NodeUnderTest(config, StoreModel() if config.store.kind != "memory" else None, prompt=False)
    execution = NodeExecution(program, node, log)
    execution.run()
    execution.finish()
    return seen(execution.clients) | {f"note {note.name}" for note in node.notes}


# ── programs to begin with ───────────────────────────────────────────────────────────────────────────────────────────

_LOGIN = Instruction("connect", bytes((2, 1, 0)))  # with a token of ana's
_ASK = Instruction("chat", bytes((3, 0, 0, 0)))  # hi, as m1, streamed
_KEPT = Instruction("store", b"\0")  # the store answers
_SCENES: tuple[tuple[Instruction, ...], ...] = (
    (  # streamed to its end, and asked again
        _LOGIN, _KEPT, _ASK, _KEPT, Instruction("yields", b"\0\0"), Instruction("wait", b"\1"),
        Instruction("ends", b"\0\1\1"), _KEPT, _ASK, Instruction("goodbye", b"\0\0"),
    ),
    (  # lost and resumed
        _LOGIN, _ASK, _KEPT, Instruction("end", b"\0\1"), _LOGIN, Instruction("event", bytes((2, 1, 3, 0, 1))), _KEPT,
        Instruction("ends", b"\0\0\0"), Instruction("event", bytes((4, 3, 3, 1))),
    ),
    (  # a reader who does not read
        _LOGIN, _KEPT, Instruction("stall", b"\0\1"), _ASK, _KEPT, Instruction("yields", b"\0\4"), _KEPT,
        Instruction("wait", b"\5"), Instruction("stall", b"\0\0"),
    ),
    (  # in pieces
        Instruction("connect", b"\0\1\0"), Instruction("compressed", bytes((3, 0, 0, 0, 0))),
        Instruction("split", b"\1"), Instruction("fragments", bytes((0, 0, 9, 1, 0))),
        Instruction("changed", bytes((1, 0, 0, 9, 9, 0))),
    ),
    (  # behind a host, with an agent that raises
        Instruction("host", b"\1\1\1"), _ASK, _KEPT, Instruction("ends", b"\0\3\0"),
        Instruction("event", bytes((0, 0, 0, 0))), Instruction("command", b"\0"), Instruction("wait", b"\7"),
    ),
)  # fmt: skip
#: Conversations that come to an end, for a fuzzer to begin with.
SEEDS = tuple(
    assemble(config, scene, NodeExecution.instructions) for config in range(len(CONFIGS)) for scene in _SCENES
)
