"""Keys that a server fetches or reads while it serves (A7), and floods of wrong tokens (A8), over every adapter."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaws import WebSocketAuth
from qaws_proto.admission.tokens import TOKEN_LENGTH
from qaws_proto.wire.client import Accepted, Rejected
from tests.helpers.key_server import key_server
from tests.helpers.keys import Pair, key_set, pair

from ..byte_servers import until
from ..hosts import Adapter, Node, client, serving, upgrading
from ..raw import raw

pytestmark = pytest.mark.anyio

ONE, TWO = pair("RS256", "one"), pair("EdDSA", "two")
SECRET = "a secret of more than thirty-two bytes"


def loading(**settings: Any) -> dict[str, Any]:
    """Sections with keys that are loaded, again after a moment."""
    return {"security": {"authentication": {"enabled": True, "jwks_interval": 0.01, **settings}}}


def bearer(key: Pair, user_id: str = "ana") -> str:
    return f"Bearer {key.token(user_id, unix=time.time())}"


async def ready(node: Node) -> bytes:
    async with raw(node, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as one:
        return (await one.all())[len(b"HTTP/1.1 ") :][:3]


async def is_let_in(node: Node, key: Pair) -> bool:
    async with upgrading(node, authorization=bearer(key)) as verdict:
        assert isinstance(verdict, Accepted) or verdict.status == 401, verdict
        return isinstance(verdict, Accepted)


@pytest.mark.row("A7")
async def test_keys_are_fetched_and_clients_wait_for_them(adapter: Adapter) -> None:
    with key_server(key_set(ONE.jwk())) as source:
        source.open.clear()
        async with serving(adapter, **loading(jwks=source.url)) as node, anyio.create_task_group() as tasks:
            await until(lambda: source.asked)
            assert await ready(node) == b"503"
            verdicts: list[bool] = []

            async def knock() -> None:
                verdicts.append(await is_let_in(node, ONE))

            for _ in range(3):
                tasks.start_soon(knock)
            async with client(node) as ana:
                await ana.hear(event_name="auth_required")
                await ana.tell(type="auth", token=ONE.token("ana", unix=time.time()))
                await ana.say("hola")
                await until(lambda: node.manager.gateway.connections == 4)
                assert source.asked == ["/keys?v=1"]
                source.open.set()
                assert (await ana.hear(type="agent_response"))["user_id"] == "ana"
            await until(lambda: len(verdicts) == 3)
            assert verdicts == [True] * 3
            assert await ready(node) == b"200"


@pytest.mark.row("A7")
async def test_a_key_that_is_new_is_fetched_and_a_failure_keeps_the_last_ones(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    with key_server(key_set(ONE.jwk())) as source:
        async with serving(adapter, **loading(jwks=source.url)) as node:
            loader = node.manager.gateway._node.gate.keys
            assert loader is not None
            await until(lambda: loader.ready)
            source.document = key_set(ONE.jwk(), TWO.jwk())
            async with client(node, authorization=bearer(ONE)) as ana:
                await until(lambda: time.monotonic() > loader._free_at)
                await ana.tell(type="auth", token=TWO.token("ana", unix=time.time()))
                await ana.hear(event_name="token_refreshed")
            source.document = b"no keys"
            await until(lambda: time.monotonic() > loader._free_at)
            assert not await is_let_in(node, pair("ES256", "three"))
            assert [await is_let_in(node, key) for key in (ONE, TWO)] == [True, True]
    failed = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert failed[0] == 'keys_failed reason="it is no JSON" kept=2'


@pytest.mark.row("A7")
async def test_without_keys_clients_are_told_to_come_back(adapter: Adapter) -> None:
    with key_server() as source:
        source.status = 500
        async with serving(adapter, **loading(jwks=source.url, jwks_interval=50)) as node:
            await until(lambda: node.manager.gateway.wake_at is not None and source.asked)
            async with upgrading(node, authorization=bearer(ONE)) as verdict:
                assert isinstance(verdict, Rejected)
                assert verdict.status == 503
                assert verdict.retry_after is not None
                assert 0 < verdict.retry_after <= 50
            async with client(node) as ana:
                await ana.tell(type="auth", token=ONE.token("ana", unix=time.time()))
                assert await ana.ended() == 1013
            assert await ready(node) == b"503"


@pytest.mark.row("D1")
async def test_a_fetch_that_hangs_holds_up_no_end(adapter: Adapter) -> None:
    with key_server() as source:
        source.open.clear()
        async with serving(adapter, **loading(jwks=source.url, jwks_timeout=30), agent={"cancel_grace": 60}) as node:
            await until(lambda: source.asked)
            await node.stop()
            source.open.set()  # only now, so that its side of the connection ends


@pytest.mark.row("A7")
async def test_a_public_key_in_a_file_is_read_again_when_asked(adapter: Adapter, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    first, second = pair("ES256", None), pair("ES256", None, 1)
    file.write_bytes(first.public_pem)
    async with serving(adapter, **loading(algorithm="ES256", public_key_file=str(file))) as node:
        assert await is_let_in(node, first)
        file.write_bytes(second.public_pem)
        node.manager.reload_keys()
        await until(lambda: not _knows(node, first))
        assert [await is_let_in(node, key) for key in (first, second)] == [False, True]


def _knows(node: Node, key: Pair) -> bool:
    verifier = node.manager.gateway._node.gate.verifier
    assert verifier is not None
    return verifier.verify(key.token(unix=time.time()), time.time()) is not None


@pytest.mark.row("A8")
async def test_an_address_whose_tokens_fail_is_turned_away(adapter: Adapter) -> None:
    security = {"authentication": {"enabled": True, "jwt_secret": SECRET}}
    async with serving(adapter, security=security, limits={"failed_tokens_per_minute": 3}) as node:
        good = WebSocketAuth(node.manager.config).generate_token("ana")
        async with client(node) as late, client(node, authorization=f"Bearer {good}") as ana:
            for wrong in ("wrong", "a.b.c"):
                async with upgrading(node, authorization=f"Bearer {wrong}") as verdict:
                    assert isinstance(verdict, Rejected)
                    assert verdict.status == 401
            async with client(node) as eve:  # some hosts take no header as long as that
                await eve.tell(type="auth", token="x" * (TOKEN_LENGTH + 1))
                await eve.hear(type="error", error_code="AUTH_FAILED")
                assert await eve.ended() == 4401
            fresh = WebSocketAuth(node.manager.config).generate_token("eva")
            async with upgrading(node, authorization=f"Bearer {fresh}") as verdict:
                assert isinstance(verdict, Rejected)
                assert verdict.status == 429
                assert verdict.retry_after is not None
                assert 0 < verdict.retry_after <= 60
            await late.tell(type="auth", token=fresh)
            assert 0 < (await late.hear(type="error", error_code="RATE_LIMIT"))["details"]["retry_after"] <= 60
            assert await late.ended() == 4429
            assert await ana.ask("hola") == "hola"
            async with upgrading(node, authorization=f"Bearer {good}") as verdict:
                assert isinstance(verdict, Accepted)
