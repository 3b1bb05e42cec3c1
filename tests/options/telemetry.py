"""Experiments on what is measured of a node and how it is read, and on spans."""

from __future__ import annotations

import json

import anyio
import trio.testing
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from qaws import WebSocketConfig, WebSocketManager, WebSocketServer
from qaws.host import AnyioHost
from qaws_proto.effects import CollectMetrics
from qaws_proto.testing.peer import request
from tests.adapters.spans import recorded
from tests.helpers.node import NodeUnderTest
from tests.helpers.scrape import samples, scrape, series

from .experiment import Experiment, seconds_until
from .machine import FREE_PORT, echo, heard, observed


def status_of_metrics(config: WebSocketConfig) -> int:
    """What whoever asks for them is answered where clients connect."""

    async def look() -> int:
        async with WebSocketServer(echo, config) as server:
            return (await scrape(f"http://127.0.0.1:{server.port}/metrics")).status

    return int(observed(look()))


def scrapers_that_may_wait(config: WebSocketConfig) -> list[bool]:
    node = NodeUnderTest(config)
    return [not node.open(internal=True).dropped for _ in range(3)]


def time_for_metrics_that_are_never_collected(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.open()
    client.send_bytes(request("/metrics"))
    waited = seconds_until(node, lambda: client.stream.head)
    client.expect_http(503)
    return waited


def looks_at_the_event_loop_in_ten_seconds(config: WebSocketConfig) -> float:
    """In the virtual time of trio."""

    async def look() -> float:
        manager = WebSocketManager(config, agent=echo)
        manager.attach(AnyioHost(manager.wake))
        await anyio.sleep(10)
        assert manager.metrics is not None
        body = manager.metrics.answer(CollectMetrics(1, openmetrics=True)).body
        manager.metrics.lag.stop()
        assert body is not None
        found = samples(text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]
        return found[series("qaws_event_loop_lag_seconds_count")]

    clock = trio.testing.MockClock(autojump_threshold=0)
    return anyio.run(look, backend="trio", backend_options={"clock": clock})


def spans_of_a_conversation(config: WebSocketConfig) -> list[str]:
    async def talk() -> None:
        async with WebSocketServer(echo, config) as server, connect(server.url) as client:
            await client.send(json.dumps({"type": "chat_message", "content": "hola"}))
            await heard(client, "agent_response")

    with recorded() as spans:
        observed(talk())
        return sorted(span.name for span in spans.ended)


APART = {"metrics.listen": "127.0.0.1:0"}

EXPERIMENTS = {
    "metrics.enabled": Experiment(True, False, status_of_metrics, FREE_PORT),
    "metrics.token": Experiment(None, "letters-of-Prometheus_0123456789", status_of_metrics, FREE_PORT),
    "metrics.listen": Experiment(None, "127.0.0.1:0", status_of_metrics, FREE_PORT),
    "metrics.scrapers": Experiment(1, 2, scrapers_that_may_wait, APART),
    "metrics.timeout": Experiment(2, 7, time_for_metrics_that_are_never_collected),
    "metrics.lag_interval": Experiment(0.8, 3, looks_at_the_event_loop_in_ten_seconds),
    "tracing.enabled": Experiment(False, True, spans_of_a_conversation, FREE_PORT),
}
