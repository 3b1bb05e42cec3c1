"""`/metrics` over every adapter, asked by a real HTTP client: on the port of the clients, and on one of its own."""

from __future__ import annotations

import socket

import anyio
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from qaws import ConfigError, WebSocketManager
from tests.helpers.scrape import needs_promtool, promtool, samples, scrape, series

from ..byte_servers import echo
from ..hosts import Adapter, Node, client, serving
from ..peers import open_config

pytestmark = pytest.mark.anyio

TOKEN = "letters-of-Prometheus_0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def url(node: Node, path: str = "/metrics") -> str:
    return f"http://127.0.0.1:{node.port}{path}"


@needs_promtool
async def test_a_conversation_is_in_the_metrics(adapter: Adapter) -> None:
    async with serving(adapter) as node, client(node) as ana:
        for number in range(3):
            assert await ana.ask(str(number) * 10) == str(number) * 10
        scraped = await scrape(url(node))
    assert scraped.status == 200
    assert scraped.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert scraped.headers["cache-control"] == "no-store"
    found = scraped.samples
    assert found[series("qaws_connections_active")] == 1
    assert found[series("qaws_handshakes_total", status="101")] == 1
    assert found[series("qaws_messages_total", type="chat_message")] == 3
    assert found[series("qaws_run_duration_seconds_count", end="completed")] == 3
    assert found[series("qaws_agent_characters_total")] == 30
    assert found[series("process_open_fds")] > 0
    promtool("check", "metrics", text=scraped.text)


async def test_head_methods_and_openmetrics(adapter: Adapter) -> None:
    async with serving(adapter) as node:
        head = await scrape(url(node), "HEAD")
        assert (head.status, head.text) == (200, "")
        assert int(head.headers["content-length"]) > 1000
        assert (await scrape(url(node), "DELETE")).status == 405
        opened = await scrape(url(node), Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.1")
    assert opened.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = text_string_to_metric_families(opened.text)  # type: ignore[no-untyped-call]
    assert samples(families)[series("qaws_connections_active")] == 0


@pytest.mark.clause("C12")
async def test_metrics_with_a_token_are_for_who_has_it(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with serving(adapter, metrics={"token": TOKEN}) as node:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKEN}x"}):
            refused = await scrape(url(node), **headers)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert TOKEN not in refused.text
        scraped = await scrape(url(node), **BEARER)
        assert scraped.samples[series("qaws_authentication_failures_total", at="metrics")] == 3
        assert TOKEN not in scraped.text
        assert TOKEN not in repr(node.manager.config)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("qaws")]
    assert ours
    assert not [line for line in ours if TOKEN in line]


async def test_where_metrics_are_off_nothing_is_measured(adapter: Adapter) -> None:
    async with serving(adapter, metrics={"enabled": False}) as node, client(node) as ana:
        assert await ana.ask("hola") == "hola"
        assert (await scrape(url(node))).status == 404
        assert node.manager.metrics is None


async def test_an_address_of_their_own(adapter: Adapter) -> None:
    listen = {"listen": "127.0.0.1:0", "token": TOKEN}
    async with serving(adapter, metrics=listen) as node:
        async with client(node) as ana:
            assert await ana.ask("hola") == "hola"
        (own,) = node.metrics_urls
        assert own.startswith("http://127.0.0.1:")
        scraped = await scrape(own, **BEARER)
        assert scraped.samples[series("qaws_messages_total", type="chat_message")] == 1
        assert (await scrape(own)).status == 401
        base = own.removesuffix("/metrics")
        assert (await scrape(f"{base}/healthz")).text == '{"status":"ok"}'
        assert (await scrape(f"{base}/readyz")).status == 200
        assert (await scrape(f"{base}/", Upgrade="websocket", Connection="Upgrade")).status == 404
        assert (await scrape(url(node), **BEARER)).status == 404
        assert (await scrape(url(node, "/healthz"))).status == 200
        await node.stop()
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.0.0.1", int(base.rpartition(":")[2]))


@pytest.mark.row("D6")
async def test_an_address_that_is_in_use_is_named(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        manager = WebSocketManager(open_config(metrics={"listen": address}), agent=echo)
        if adapter.bytewise:
            with pytest.raises(ConfigError, match=rf"metrics.listen: cannot listen on {address}: .*in use"):
                async with serving(adapter, manager=manager):
                    pass
        else:
            from qaws.asgi import WebSocketApp

            app = WebSocketApp(manager)
            with pytest.raises(ConfigError, match=rf"metrics.listen: cannot listen on {address}: .*in use"):
                async with app.lifespan():
                    pass


async def test_the_event_loop_is_looked_at_as_often_as_is_set(adapter: Adapter) -> None:
    async with serving(adapter, metrics={"lag_interval": 0.01}) as node:
        while (await scrape(url(node))).samples[series("qaws_event_loop_lag_seconds_count")] < 2:
            pass
    async with serving(adapter, metrics={"lag_interval": 3600}) as node:
        assert (await scrape(url(node))).samples[series("qaws_event_loop_lag_seconds_count")] == 0
