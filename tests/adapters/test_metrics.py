"""What is measured of a node: exact after a scripted history, bounded whatever it is told, and silent about secrets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from qaws import WebSocketManager
from qaws.host import AnyioHost
from qaws.stores import StoreError
from qaws.telemetry.families import ACTIONS, ENDS, ERRORS, KEPT, LIMITS, OPERATIONS, OTHER, RESUMES
from qaws.telemetry.lag import LoopLag
from qaws.telemetry.metrics import Metrics
from qaws_proto.config import MetricsConfig
from qaws_proto.effects import CollectMetrics, LoadSession, Note, SaveRecords
from qaws_proto.faults import Fault
from qaws_proto.inputs import Input
from qaws_proto.testing.histories import Act
from qaws_proto.testing.node import configure, token
from qaws_proto.testing.peer import close_frame
from tests.helpers.node import NodeUnderTest
from tests.helpers.scrape import Samples, needs_promtool, promtool, samples, series
from tests.helpers.scripted_metrics import measured, scripted
from tests.test_contract import CONFIGS, STORED, all_configs, histories, play

from .byte_servers import echo
from .peers import open_config

DEFAULTS = MetricsConfig()


def read(metrics: Metrics) -> Samples:
    """What a scrape says now."""
    answer = metrics.answer(CollectMetrics(1, openmetrics=True))
    assert answer.body is not None
    return samples(text_string_to_metric_families(answer.body.decode()))  # type: ignore[no-untyped-call]


def nonzero(found: Samples, name: str) -> dict[str, float]:
    """The series of a family that are not zero, by the value of their one label."""
    chosen = ((dict(labels), value) for (family, labels), value in found.items() if family == name and value)
    return {next(iter(labels.values()), ""): value for labels, value in chosen}


# ── exact ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_metrics_after_a_history_are_exact() -> None:
    node, metrics = scripted()
    found = read(metrics)
    assert nonzero(found, "qaws_connections_active") == {"": 1}
    assert nonzero(found, "qaws_connections_opened_total") == {"": 3}
    assert nonzero(found, "qaws_connections_closed_total") == {"4401": 1, "other": 1}
    assert nonzero(found, "qaws_handshakes_total") == {"101": 3, "401": 1, "404": 1}
    assert nonzero(found, "qaws_messages_total") == {"chat_message": 6, "auth": 1, "cancel": 1, "resume": 2}
    assert nonzero(found, "qaws_event_errors_total") == {
        "AUTH_FAILED": 1, "INVALID_JSON": 1, "RATE_LIMIT": 1, "SESSION_NOT_FOUND": 1,
    }  # fmt: skip
    assert nonzero(found, "qaws_authentication_failures_total") == {"upgrade": 1, "message": 1}
    assert nonzero(found, "qaws_rate_limit_hits_total") == {"": 1}
    assert nonzero(found, "qaws_resumes_total") == {"recovered": 1, "not_found": 1}
    assert nonzero(found, "qaws_runs") == {"running": 1}
    assert nonzero(found, "qaws_runs_submitted_total") == {"": 5}
    assert nonzero(found, "qaws_agent_chunks_total") == {"": 2}
    assert nonzero(found, "qaws_agent_characters_total") == {"": 10}
    assert nonzero(found, "qaws_sessions") == {"": 1}
    assert nonzero(found, "qaws_errors_total") == {}
    assert node.gateway.sessions == 1


def test_durations_after_a_history_are_exact() -> None:
    _, metrics = scripted()
    found = read(metrics)
    # answered in 3 s; failed after 0.2 s, behind 3 s in the queue; cancelled after 3.2 s in the queue; silent for 5 s
    assert nonzero(found, "qaws_run_duration_seconds_count") == {
        "completed": 1, "AGENT_ERROR": 1, "cancelled": 1, "AGENT_TIMEOUT": 1,
    }  # fmt: skip
    assert found[series("qaws_run_duration_seconds_sum", end="completed")] == pytest.approx(3)
    assert found[series("qaws_run_duration_seconds_sum", end="AGENT_ERROR")] == pytest.approx(0.2)
    assert found[series("qaws_run_duration_seconds_sum", end="cancelled")] == 0
    assert found[series("qaws_run_duration_seconds_bucket", end="completed", le="2.5")] == 0
    assert found[series("qaws_run_duration_seconds_bucket", end="completed", le="5.0")] == 1
    assert found[series("qaws_run_duration_seconds_bucket", end="completed", le="+Inf")] == 1
    assert found[series("qaws_first_chunk_seconds_count")] == 1
    assert found[series("qaws_first_chunk_seconds_sum")] == pytest.approx(1)
    assert found[series("qaws_message_processing_seconds_count")] == 4
    assert found[series("qaws_message_processing_seconds_sum")] == pytest.approx(3 + 3.2 + 3.2 + 5)


def test_a_duration_on_a_bound_counts_below_it() -> None:
    metrics = measured(NodeUnderTest())
    for seconds in (0.05, 0.1, 600, 601):
        metrics.note(Note("run", "INFO", "run_ended", {"end": "completed", "seconds": seconds, "queued_seconds": 0}))
    found = read(metrics)
    for bound, count in (("0.05", 1), ("0.1", 2), ("300.0", 2), ("600.0", 3), ("+Inf", 4)):
        assert found[series("qaws_run_duration_seconds_bucket", end="completed", le=bound)] == count


@given(histories, all_configs)
def test_runs_add_up_whatever_happens(history: list[Act], config: str) -> None:
    node = play(history, (CONFIGS | STORED)[config])
    metrics = Metrics(node.gateway, DEFAULTS)
    for note in node.notes:
        metrics.note(note)
    found = read(metrics)
    ended = sum(nonzero(found, "qaws_run_duration_seconds_count").values())
    withdrawn = found[series("qaws_runs_withdrawn_total")]
    in_flight = found[series("qaws_runs", state="queued")] + found[series("qaws_runs", state="running")]
    assert found[series("qaws_runs_submitted_total")] == ended + withdrawn + in_flight
    assert ended == found[series("qaws_message_processing_seconds_count")]
    closed = sum(nonzero(found, "qaws_connections_closed_total").values())
    assert found[series("qaws_connections_opened_total")] - closed == found[series("qaws_connections_active")]


# ── notes of others ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "values", "make"),
    [
        ("qaws_control_actions_total", ACTIONS, lambda one: Note("control", "WARNING", one, {})),
        ("qaws_limit_dry_run_hits_total", LIMITS, lambda one: Note("security", "INFO", "limit_dry_run", {"limit": one})
        ),
        ("qaws_resumes_total", RESUMES, lambda one: Note("message", "DEBUG", "resumed", {"result": one})),
        ("qaws_errors_total", ERRORS, lambda one: Note("node", "ERROR", one, {})),
        ("qaws_run_duration_seconds_count", ENDS, lambda one: Note("run", "ERROR", "run_ended", {"end": one})),
    ],
)  # fmt: skip
@pytest.mark.clause("C7")
def test_a_label_is_of_a_fixed_set_whatever_a_note_says(name: str, values: tuple[str, ...], make: Any) -> None:
    metrics = measured(NodeUnderTest())
    for value in (*values, "user-456", 'a"b\n', ""):
        metrics.note(make(value))
    assert nonzero(read(metrics), name) == dict.fromkeys(values, 1) | {OTHER: 3}


def test_loads_of_keys_are_counted_by_how_they_went() -> None:
    metrics = measured(NodeUnderTest())
    metrics.note(Note("security", "INFO", "keys_loaded", {}))
    for _ in range(2):
        metrics.note(Note("security", "ERROR", "keys_failed", {}))
    found = read(metrics)
    assert nonzero(found, "qaws_key_loads_total") == {"loaded": 1, "failed": 2}
    assert nonzero(found, "qaws_errors_total") == {"keys_failed": 2}


def test_notes_that_a_users_handler_makes_are_not_taken_for_ours() -> None:
    metrics = measured(NodeUnderTest())
    before = read(metrics)
    metrics.note(Note("message", "INFO", "run_ended", {"end": "completed", "seconds": 1}))
    metrics.note(Note("message", "INFO", "user_blocked", {}))
    after = read(metrics)
    assert {key for key in after if key[0].startswith("qaws_") and after[key] != before[key]} == set()


def test_every_end_of_a_run_has_a_series_of_its_own() -> None:
    codes = {fault.value.code for fault in Fault if fault.name.startswith(("AGENT_", "RESPONSE_"))}
    assert {"completed", "cancelled", *codes} == set(ENDS)
    assert OTHER not in {value for family in KEPT.values() for value in family.values}


# ── the store, the event loop ────────────────────────────────────────────────────────────────────────────────────────


class Failing:
    """A store that fails at every second thing."""

    def __init__(self) -> None:
        self.asked = 0

    async def open(self) -> tuple[()]:
        return ()

    async def save(self, records: object, unix: float) -> None:
        self.asked += 1
        if self.asked % 2 == 0:
            raise StoreError("the disk is full")

    async def load(self, owner: str, session_id: str) -> None:
        raise StoreError("the disk is gone")

    async def aclose(self) -> None:
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_store_is_measured_also_where_it_fails() -> None:
    manager = WebSocketManager(open_config(), agent=echo, store=Failing())
    assert manager.store_port is not None
    assert manager.metrics is not None
    port, told = manager.store_port, list[Input]()
    port._feed = told.append
    host = AnyioHost(manager.wake)
    await port.open()
    port.attach(host.spawn)
    for batch in (1, 2, 3):
        port.save(SaveRecords(batch, (), 0.0))
        await anyio.wait_all_tasks_blocked()
    port.load(LoadSession("ana", "s"))
    await host.finish(10)
    await port.close()
    found = read(manager.metrics)
    assert nonzero(found, "qaws_store_operation_seconds_count") == {"save": 3, "load": 1}
    assert nonzero(found, "qaws_store_failures_total") == {"save": 1, "load": 1}
    assert set(OPERATIONS) == {"save", "load"}
    assert len(told) == 4


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_event_loop_that_is_held_up_is_late() -> None:
    late: list[float] = []
    begun = anyio.Event()

    def tell(seconds: float) -> None:
        late.append(seconds)
        begun.set()

    lag = LoopLag(0.01, tell)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lag.run)
            await begun.wait()
            await anyio.wait_all_tasks_blocked()  # it sleeps again
            seen = len(late)
            time.sleep(0.2)  # an agent that blocks the loop
            while len(late) == seen:
                await anyio.lowlevel.checkpoint()
            lag.stop()
    assert max(late[seen:]) > 0.1
    assert min(late) >= 0


@pytest.mark.anyio
async def test_what_is_told_to_stop_before_it_began_does_not_begin() -> None:
    lag = LoopLag(3600, lambda seconds: None)
    lag.stop()
    with anyio.fail_after(10):
        await lag.run()


# ── the registry ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_managers_of_one_process_do_not_share_their_metrics() -> None:
    one, other = (WebSocketManager(open_config(), agent=echo) for _ in range(2))
    assert one.metrics is not None
    assert other.metrics is not None
    one.metrics.note(Note("control", "INFO", "user_blocked", {}))
    assert nonzero(read(one.metrics), "qaws_control_actions_total") == {"user_blocked": 1}
    assert nonzero(read(other.metrics), "qaws_control_actions_total") == {}


def test_own_metrics_are_served_beside_ours_and_may_not_take_their_names() -> None:
    metrics = measured(NodeUnderTest())
    tokens = Counter("shop_tokens", "Tokens that were paid for", ["model"], registry=metrics.registry)
    tokens.labels("small").inc(7)
    assert read(metrics)[series("shop_tokens_total", model="small")] == 7
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("qaws_messages", "another", registry=metrics.registry)


def test_an_own_collector_that_fails_is_in_the_log_and_the_answer_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def __init__(self) -> None:
            self.broken = False

        def collect(self) -> Iterator[Metric]:
            if self.broken:
                raise RuntimeError("a mistake of theirs")
            return iter(())

    metrics, broken = measured(NodeUnderTest()), Broken()
    metrics.registry.register(broken)
    broken.broken = True
    answer = metrics.answer(CollectMetrics(7, openmetrics=False))
    assert (answer.connection, answer.body) == (7, None)
    (record,) = caplog.records
    assert (record.name, record.getMessage().splitlines()[0]) == ("qaws.node", "metrics_failed")
    assert "a mistake of theirs" not in record.getMessage()


def test_where_metrics_are_off_their_library_is_not_imported() -> None:
    code = (
        "import sys; from qaws import WebSocketConfig, WebSocketManager; from qaws.agents import echo\n"
        "off = {'security': {'authentication': {'enabled': False}}, 'metrics': {'enabled': %s}}\n"
        "WebSocketManager(WebSocketConfig.model_validate(off), agent=echo)\n"
        "print('prometheus_client' in sys.modules)"
    )
    for enabled, imported in ((False, "False"), (True, "True")):
        done = subprocess.run([sys.executable, "-c", code % enabled], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == imported


# ── what a scraper reads ─────────────────────────────────────────────────────────────────────────────────────────────


@needs_promtool
@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_foreign_parser_reads_it_and_finds_nothing_wrong_with_the_names(openmetrics: bool) -> None:
    _, metrics = scripted()
    body = metrics.answer(CollectMetrics(1, openmetrics=False)).body
    assert body is not None
    assert promtool("check", "metrics", text=body.decode()) == ""
    assert len(read(metrics)) > 100


@pytest.mark.clause("C12")
def test_nothing_of_what_a_client_or_an_agent_says_is_in_it() -> None:
    canaries = [
        "user-canary", "content-canary", "session-canary", "id-canary", "192.0.2.77", "secret-canary", "path-canary",
        "origin-canary", "metadata-canary",
    ]  # fmt: skip
    node = NodeUnderTest(configure(authentication=True))
    client = node.connect("user-canary", peer="192.0.2.77")
    client.chat("content-canary", id="id-canary", session_id="session-canary", metadata={"a": "metadata-canary"})
    node.fail(node.only_run, RuntimeError("secret-canary"))
    client.resume("session-canary", epoch="secret-canary")
    client.send("content-canary")
    client.send({"type": "content-canary"})
    node.upgrade(path="/path-canary?token=secret-canary", peer="192.0.2.77")
    node.upgrade("Origin: https://origin-canary", peer="192.0.2.77")
    mute = node.upgrade(peer="192.0.2.77")
    mute.send({"type": "auth", "token": token("user-canary") + "x"})
    client.send_bytes(close_frame(4999))
    metrics = measured(node)
    assert {"refused", "run_ended", "resumed", "auth_failed"} <= {note.name for note in node.notes}
    for openmetrics in (False, True):
        body = metrics.answer(CollectMetrics(1, openmetrics)).body
        assert body is not None
        assert not [canary for canary in [*canaries, token("user-canary")] if canary.encode() in body]


texts = st.text(max_size=20) | st.sampled_from(["completed", "recovered", "user_blocked"])
notes = st.builds(
    Note,
    st.sampled_from(["run", "message", "security", "control", "node", "connection"]),
    st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR"]),
    st.sampled_from(["run_ended", "resumed", "limit_dry_run", "keys_loaded"]) | texts,
    st.dictionaries(
        st.sampled_from(["end", "seconds", "queued_seconds", "first_chunk_seconds", "limit", "result"]),
        texts | st.none() | st.booleans() | st.floats(-1, 1e6) | st.integers(0, 10**6),
    ),
)
SERIES = read(measured(NodeUnderTest())).keys()
OTHERS = {series(name, **{family.labels[0]: OTHER}) for name, family in KEPT.items() if family.labels}


@pytest.mark.clause("C7")
@pytest.mark.clause("C12")
@given(st.lists(notes, max_size=20))
def test_no_note_makes_a_series_that_is_not_foreseen(told: list[Note]) -> None:
    metrics = measured(NodeUnderTest())
    for note in told:
        metrics.note(note)
    new = {key for key in read(metrics).keys() - SERIES if dict(key[1]).get("end") != OTHER}
    assert new <= OTHERS
