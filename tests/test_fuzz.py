"""Programs of fuzzers: any byte string is one, and finds nothing in the node as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.testing.fuzz import CONFIGS, SEEDS, NodeExecution, execute
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
