"""Experiments on runs of the agent, on sessions and their keeping, and on the end of a node."""

from __future__ import annotations

from qaws_proto import WebSocketConfig
from qaws_proto.inputs import DrainRequested
from qaws_proto.testing.client import Client
from qaws_proto.testing.node import configure
from qaws_proto.testing.store import StoreModel
from tests.helpers.node import NodeUnderTest

from .experiment import AUTH, Experiment, codes, count_until, seconds_until

USER = "user-1"


def streamed(client: Client) -> str:
    """What it heard of answers so far."""
    return "".join(event["content"] for event in client.heard if event["type"] == "agent_chunk")


# ── the agent ────────────────────────────────────────────────────────────────────────────────────────────────────────


def time_until_the_run_fails(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    client.chat()
    return seconds_until(node, lambda: codes(client))


def largest_answer(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config)
    client = node.connect()
    client.chat(stream=True)
    run_id = node.only_run
    return count_until(lambda: node.chunk(run_id, "x" * 16), lambda: codes(client))


def time_until_a_piece_is_heard(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    client.chat(stream=True)
    node.chunk(node.only_run, "first")
    node.chunk(node.only_run, "second")
    return seconds_until(node, lambda: streamed(client) == "firstsecond")


def heard_at_once(config: WebSocketConfig) -> str:
    node = NodeUnderTest(config)
    client = node.connect()
    client.chat(stream=True)
    node.chunk(node.only_run, "first")
    node.chunk(node.only_run, "of eighteen letters")
    return streamed(client)


def time_until_the_next_run(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    client.chat()
    client.chat()
    client.send({"type": "cancel", "run_id": node.only_run})
    return seconds_until(node, lambda: len(node.started) == 2)


def answers_of_a_node_with_three_messages(config: WebSocketConfig) -> list[list[str]]:
    node = NodeUnderTest(config)
    clients = [node.connect() for _ in range(3)]
    for client in clients:
        client.chat()
    return [codes(client) for client in clients]


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def messages_until_the_budget_is_spent(config: WebSocketConfig) -> int:
    """Each answered with ten characters, which took two tokens."""
    node = NodeUnderTest(config)
    client = node.connect()

    def ask() -> None:
        client.chat()
        for run_id in list(node.runs):
            node.finish(run_id, "x" * 10, input_tokens=1, output_tokens=1)

    return count_until(ask, lambda: "RATE_LIMIT" in codes(client))


def unanswered_messages_until_the_budget_is_spent(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    return count_until(client.chat, lambda: codes(client) == ["RATE_LIMIT"])


def errors_of_three_users(config: WebSocketConfig) -> list[list[str]]:
    node = NodeUnderTest(config)
    clients = [node.connect(user_id) for user_id in ("ana", "eva", "leo")]
    for client in clients:
        client.chat()
    return [codes(client) for client in clients]


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def time_until_a_session_is_forgotten(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    client.chat()
    node.finish(node.only_run, "x")
    client.lose()
    assert node.gateway.sessions == 1
    return seconds_until(node, lambda: node.gateway.sessions == 0)


def sessions_after_three(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config)
    for _ in range(3):
        client = node.connect(USER)
        client.chat()
        node.finish(node.only_run, "x")
        client.lose()
    return node.gateway.sessions


def messages_until_busy(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    return count_until(client.chat, lambda: codes(client) == ["BUSY"])


def what_can_be_resumed(config: WebSocketConfig) -> object:
    node = NodeUnderTest(config)
    client = node.connect(USER)
    established = client.heard[0]["data"]
    for _ in range(6):
        client.chat()
        node.finish(node.only_run, "x" * 100)
    client.lose()
    again = node.connect(USER)
    again.resume(established["session_id"], 0, established["epoch"])
    resumed = again.expect_system("session_resumed")
    return resumed["recovered"], resumed["from"]


def runs_of_an_id_that_comes_again(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config)
    client = node.connect()
    for id in ("m1", "m2", "m1"):
        client.chat(id=id)
        for run_id in list(node.runs):
            node.finish(run_id, "x")
    return len(node.started)


def end_of_the_first_reader(config: WebSocketConfig) -> object:
    node = NodeUnderTest(config)
    first = node.connect(USER)
    first.chat()
    established = first.heard[0]["data"]
    node.connect(USER).resume(established["session_id"], 0, established["epoch"])
    return first.stream.closed


def answer_to_a_second_message(config: WebSocketConfig) -> tuple[list[str], int, int]:
    node = NodeUnderTest(config)
    client = node.connect()
    client.chat()
    client.chat()
    return codes(client), len(node.started), len(node.cancelled)


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────────


def what_becomes_of_a_run_that_was_cut(config: WebSocketConfig) -> int:
    store = StoreModel()
    before = NodeUnderTest(configure(store={"kind": "sqlite", "path": "a model of it"}), store)
    before.connect().chat()
    assert store.unfinished()
    return len(NodeUnderTest(config, store, ids=(f"later-{n}" for n in range(100)).__next__).started)


def time_until_it_is_saved_again(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config, StoreModel(), prompt=False)
    node.connect().chat()
    node.answer()
    node.finish(node.only_run, "x")
    node.answer(fail=True)
    assert not node.asked
    return seconds_until(node, lambda: node.asked)


def messages_until_the_store_is_full(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config, StoreModel(), prompt=False)

    def ask() -> None:
        node.connect().chat("x" * 100)

    return count_until(ask, lambda: any("STORAGE_UNAVAILABLE" in codes(client) for client in node.clients.values()))


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def time_for_the_last_answers(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    node.connect().chat()
    node.step(DrainRequested())
    return seconds_until(node, lambda: node.cancelled)


def advice_of_a_node_that_drains(config: WebSocketConfig) -> object:
    node = NodeUnderTest(config)
    client = node.connect()
    node.step(DrainRequested())
    return client.expect_system("server_draining")["reconnect_after"]


def when_three_are_closed(config: WebSocketConfig) -> list[float]:
    node = NodeUnderTest(config)
    clients = [node.connect() for _ in range(3)]
    began = node.now.mono
    node.step(DrainRequested())
    times = []
    for number in range(1, 4):
        seconds_until(node, lambda number=number: sum(c.stream.closed is not None for c in clients) >= number)  # type: ignore[misc]
        times.append(round(node.now.mono - began, 6))
    return times


TWENTY_A_DAY = {"agent.budget.per_day": 20}
PATIENT = {"agent.timeout": 1000}
STORED = {"store.kind": "sqlite", "store.path": "a model of it"}
ONE_BY_ONE = {"drain.closes": 1}

EXPERIMENTS = {
    "agent.timeout": Experiment(5, 9, time_until_the_run_fails),
    "agent.max_duration": Experiment(5, 9, time_until_the_run_fails, PATIENT),
    "agent.max_response_size": Experiment(256, 512, largest_answer),
    "agent.roll_up": Experiment(0.04, 0.5, time_until_a_piece_is_heard),
    "agent.chunk_size": Experiment(4, 64, heard_at_once),
    "agent.cancel_grace": Experiment(2, 6, time_until_the_next_run),
    "agent.max_runs": Experiment(1, 2, answers_of_a_node_with_three_messages),
    "agent.runs_per_user": Experiment(1, 2, answers_of_a_node_with_three_messages),
    "agent.budget.per_day": Experiment(20, 40, messages_until_the_budget_is_spent, {"agent.budget.reserve": 1}),
    "agent.budget.unit": Experiment(
        "characters", "tokens", messages_until_the_budget_is_spent, {**TWENTY_A_DAY, "agent.budget.reserve": 1}
    ),
    "agent.budget.reserve": Experiment(5, 10, unanswered_messages_until_the_budget_is_spent, TWENTY_A_DAY),
    "agent.budget.max_users": Experiment(
        1, 3, errors_of_three_users, {**AUTH, **TWENTY_A_DAY, "agent.budget.reserve": 20}
    ),
    "sessions.ttl": Experiment(60, 90, time_until_a_session_is_forgotten),
    "sessions.per_user": Experiment(1, 2, sessions_after_three, AUTH),
    "sessions.max_sessions": Experiment(1, 2, sessions_after_three, AUTH),
    "sessions.queue": Experiment(0, 2, messages_until_busy),
    "sessions.max_events": Experiment(2, 1000, what_can_be_resumed, AUTH),
    "sessions.max_bytes": Experiment(256, 65_536, what_can_be_resumed, AUTH),
    "sessions.user_bytes": Experiment(256, 65_536, what_can_be_resumed, AUTH),
    "sessions.node_bytes": Experiment(256, 65_536, what_can_be_resumed, AUTH),
    "sessions.known_ids": Experiment(1, 3, runs_of_an_id_that_comes_again),
    "sessions.exclusive": Experiment(False, True, end_of_the_first_reader, AUTH),
    "sessions.double_text": Experiment("enqueue", "reject", answer_to_a_second_message),
    "store.on_restart": Experiment("fail", "rerun", what_becomes_of_a_run_that_was_cut, STORED),
    "store.retry": Experiment(1, 4, time_until_it_is_saved_again, STORED),
    "store.max_unsaved": Experiment(256, 4096, messages_until_the_store_is_full, STORED),
    "drain.timeout": Experiment(5, 9, time_for_the_last_answers),
    "drain.reconnect_after": Experiment(1, 7, advice_of_a_node_that_drains),
    "drain.interval": Experiment(0.1, 0.4, when_three_are_closed, ONE_BY_ONE),
    "drain.closes": Experiment(1, 2, when_three_are_closed),
}
