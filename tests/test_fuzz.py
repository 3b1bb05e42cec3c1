"""Programs of fuzzers: any byte string is one, and finds nothing in the node as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.testing.fuzz import CONFIGS, SEEDS, NodeExecution, execute
from qaws_proto.testing.fuzz_peers import LONGEST
from qaws_proto.testing.node import NodeUnderTest, configure
from qaws_proto.testing.peer import upgrade
from qaws_proto.testing.programs import Instruction, Program, assemble, shortest


@pytest.mark.clause("C1")
@pytest.mark.clause("C4")
@pytest.mark.clause("C5")
@pytest.mark.clause("C6")
@pytest.mark.clause("C7")
@pytest.mark.clause("C8")
@given(st.binary(max_size=400))
def test_no_program_finds_anything(code: bytes) -> None:
    execute(code)


instructions = st.builds(
    Instruction, st.sampled_from(sorted(NodeExecution.instructions)), st.binary(max_size=5)
)  # arguments as long as most need them


@pytest.mark.clause("C1")
@pytest.mark.clause("C8")
@given(st.integers(0, len(CONFIGS) - 1), st.lists(instructions, max_size=60))
def test_no_list_of_instructions_finds_anything(config: int, wanted: list[Instruction]) -> None:
    execute(assemble(config, wanted, NodeExecution.instructions))


@pytest.mark.parametrize("code", SEEDS, ids=range(len(SEEDS)))
def test_the_programs_to_begin_with_are_understood(code: bytes) -> None:
    log: list[str] = []
    execute(code, log=log.append)
    assert len(log) >= 4


def test_the_programs_to_begin_with_reach_the_agent() -> None:
    seen = set().union(*(execute(code) for code in SEEDS))
    assert {"agent_response", "agent_chunk", "message_accepted", "session_resumed", "note run_ended"} <= seen
    assert {"closed (1008, 'slow_consumer')", "closed (1000, '')", "AGENT_ERROR", "status 101"} <= seen


@pytest.mark.parametrize("name", NodeExecution.instructions)
def test_each_instruction_can_be_the_only_one(name: str) -> None:
    for arguments in (b"", b"\1\1\1\1\1", b"\xff\xff\xff\xff\xff"):
        execute(assemble(0, [Instruction(name, arguments)], NodeExecution.instructions))


LOGIN, ASK = Instruction("connect", b"\1\0\0"), Instruction("chat", b"\3\0\0\0")
NEAR, KEPT = 0, 4  # configurations
SCENES: dict[str, tuple[int, list[Instruction], str]] = {
    "an agent yields": (NEAR, [LOGIN, ASK, Instruction("yields", b"\0\1")], "agent of id-3: 'bc'"),
    "an agent answers": (NEAR, [LOGIN, ASK, Instruction("ends", b"\0\0\1")], "agent of id-3 ends: answer"),
    "an agent adds": (NEAR, [LOGIN, ASK, Instruction("ends", b"\0\1\1")], "agent of id-3 ends: more"),
    "an agent ends": (NEAR, [LOGIN, ASK, Instruction("ends", b"\0\2\1")], "agent of id-3 ends: nothing"),
    "an agent raises": (NEAR, [LOGIN, ASK, Instruction("ends", b"\0\3\1")], "agent of id-3 ends: error"),
    "an agent tells": (NEAR, [LOGIN, ASK, Instruction("steps", b"\0\1\2\1")], "agent of id-3: tool_started"),
    "an agent begins": (NEAR, [LOGIN, ASK, Instruction("steps", b"\0\4\0\0")], "agent of id-3: begins"),
    "an agent is late": (
        NEAR, [LOGIN, ASK, Instruction("ends", b"\0\2\1"), Instruction("late", b"\0")], "agent of id-3, too late",
    ),
    "agents that wait for their turn": (
        NEAR, [LOGIN, *[Instruction("chat", b"\0\0\0")] * 3], "0: {'type': 'chat_message'",
    ),
    "a message with all there is": (
        NEAR, [LOGIN, Instruction("chat", b"\xff\0\0\0\0")],
        "0: {'type': 'chat_message', 'content': 'hi', 'id': 'm1', 'stream': False, 'session_id': 's'",
    ),
    "nobody is there": (
        NEAR,
        [
            Instruction("chat", b"\0\0"), Instruction("end"), Instruction("stall"), Instruction("yields", b"\0"),
            Instruction("ends", b"\0\0"), Instruction("steps", b"\0\0\0"), Instruction("late"),
            Instruction("store", b"\0"), Instruction("rest", b"\0"), Instruction("rest", b"\1"),
            Instruction("rest", b"\3"),
        ],
        "everybody leaves",
    ),
    "somebody who says nothing": (NEAR, [Instruction("knock", b"\0\3")], "0: connect from None, b''"),
    "a wrong token": (2, [Instruction("connect", b"\2\0\0")], "0: connect from 192.0.2.1, upgrade, with a token"),
    "somebody who is gone speaks on": (
        NEAR, [Instruction("split", b"\1"), LOGIN, Instruction("end", b"\0\1"), ASK], "0: the connection is lost",
    ),
    "an agent is in time": (NEAR, [LOGIN, ASK, Instruction("late", b"\0")], "everybody leaves"),
    "a store answers": (KEPT, [LOGIN, ASK, Instruction("store", b"\0")], "the store answers"),
    "a store fails": (KEPT, [LOGIN, ASK, Instruction("store", b"\3")], "the store fails"),
    "a host": (NEAR, [Instruction("host", b"\0\2\1")], "0: a host has b'GET /healthz HTTP/1.1\\r\\nHost: l'"),
    "metrics": (
        NEAR, [Instruction("knock", b"\6\0"), Instruction("rest", b"\0\0")], "metrics are collected",
    ),
    "an early timer": (NEAR, [LOGIN, Instruction("rest", b"\2")], "a timer is early"),
    "some of it was read": (NEAR, [LOGIN, Instruction("rest", b"\3\0")], "0: has read some"),
    "a setting that is none": (NEAR, [Instruction("command", b"\x11")], "operator: refused"),
    "a read size": (NEAR, [Instruction("split", b"\2")], "reads of 2 bytes"),
    "the clock": (NEAR, [Instruction("jump", b"\1")], "the wall clock jumps by -1 seconds"),
    "a drain": (NEAR, [Instruction("stop", b"\0")], "drain"),
    "a stop": (NEAR, [Instruction("stop", b"\1")], "stop"),
    "no stop": (NEAR, [Instruction("stop", b"\2")], "everybody leaves"),
    "a Close": (NEAR, [LOGIN, Instruction("goodbye", b"\0\0")], "0: Close 1000"),
    "an end of file": (NEAR, [LOGIN, Instruction("end", b"\0\0")], "0: end of file"),
    "odd text": (NEAR, [LOGIN, Instruction("odd", b"\4\0")], "0: text b'NaN'"),
    "any text": (NEAR, [LOGIN, Instruction("odd", b"\x08\2hi\0")], "0: text b'hi'"),
    "bytes": (NEAR, [LOGIN, Instruction("bytes", b"\2\1\2\0")], "0: bytes b'\\x01\\x02'"),
    "frames": (NEAR, [LOGIN, Instruction("frame", b"\x09\1\1p\2\0")], "0: frames opcode=9 fin=True"),
}  # fmt: skip


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_what_is_done_is_told_in_words(scene: tuple[int, list[Instruction], str]) -> None:
    config, wanted, expected = scene
    log: list[str] = []
    execute(assemble(config, wanted, NodeExecution.instructions), log=log.append)
    assert any(line.startswith(expected) for line in log), log


@pytest.mark.parametrize("answer", [b"\1\1", b"\1\0\3abc"], ids=["cannot be read", "are none"])
def test_keys_are_read(answer: bytes) -> None:
    log: list[str] = []
    keys = {"authentication": {"jwks": "https://keys.example/set", "algorithm": "ES256"}}
    wanted = [Instruction("wait", b"\0"), Instruction("rest", answer)]
    code = assemble(0, wanted, NodeExecution.instructions)
    execute(code[1:], configure(security=keys), log=log.append)
    assert log[1].startswith("keys")


def test_only_so_many_instructions_are_looked_at() -> None:
    log: list[str] = []
    execute(assemble(NEAR, [Instruction("split", b"\1")] * (LONGEST + 1), NodeExecution.instructions), log=log.append)
    assert len(log) == LONGEST + 1  # and the end


def test_a_program_can_run_on_settings_of_ones_own() -> None:
    log: list[str] = []
    secret = {"authentication": {"enabled": True, "jwt_secret": "only for this test, and long enough for it"}}
    login = assemble(2, [Instruction("connect", b"\1\0"), Instruction("chat", b"\0\0\0")], NodeExecution.instructions)
    seen = execute(login[1:], configure(security=secret), log=log.append)  # no byte picks a configuration
    assert "auth_required" in seen
    assert log[0].startswith("0: connect from")


@pytest.mark.clause("C7")
def test_a_head_in_small_reads_is_held_within_its_own_bound() -> None:
    limits = {"inbox": 256, "max_message_size": 1024, "out_high": 256, "out_top": 1024}
    node = NodeUnderTest(configure(limits=limits))
    client = node.open()
    head = upgrade()[:-4] + b"\r\nX: " + b"x" * 14_000
    for start in range(0, len(head), 7):
        client.send_bytes(head[start : start + 7])
        node.settle()
    assert 14_000 < node.gateway.buffered_bytes(0) <= node.config.limits.head_size + 7
    client.send_bytes(b"\r\n\r\n")
    client.expect_http(101)


def test_a_program_reads_zeros_behind_its_end() -> None:
    program = Program(b"\2ab\7")
    assert (program.data(), program.number(5), program.ended) == (b"ab", 2, True)
    assert (program.number(), program.pick("xyz"), program.take(3)) == (0, "x", b"")


@given(st.binary(max_size=40), st.binary(min_size=1, max_size=3))
def test_the_shortest_program_that_fails_is_what_makes_it_fail(around: bytes, needle: bytes) -> None:
    code = around + needle + around
    found = shortest(code, lambda one: needle in one)
    assert found == needle


def test_what_need_not_be_there_is_zero() -> None:
    assert shortest(b"12345678", lambda one: len(one) >= 4 and one[2:3] == b"3") == b"\0\0003\0"
