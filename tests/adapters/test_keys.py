"""Reading keys from files and addresses, on every event loop: what becomes of each thing that can go wrong (A7)."""

from __future__ import annotations

import gzip
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaws import ConfigError, WebSocketAuth, WebSocketConfig, WebSocketManager
from qaws.keys import KeyPort, check_keys
from qaws_proto.effects import LoadKeys
from qaws_proto.inputs import Input, KeysFailed, KeysLoaded
from qaws_proto.testing.node import SECRET
from tests.helpers.key_server import key_server
from tests.helpers.keys import key_set, pair

from .certificates import Authority

pytestmark = pytest.mark.anyio

KEY = pair("EdDSA")
DOCUMENT = key_set(KEY.jwk())
SIZE = 64 * 1024


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    name = str(request.param)
    return ("trio", {}) if name == "trio" else ("asyncio", {"use_uvloop": name == "uvloop"})


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def config(**authentication: Any) -> WebSocketConfig:
    return WebSocketConfig.model_validate({"security": {"authentication": authentication}})


async def read(source: str, *, timeout: float = 10, size: int = SIZE) -> Input:
    """What a node is told of this source."""
    told: list[Input] = []
    with anyio.fail_after(15):
        await KeyPort(config(jwks=source), told.append).load(LoadKeys(source, timeout, size))
    (one,) = told
    return one


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A7")
async def test_a_set_is_fetched() -> None:
    with key_server(DOCUMENT) as source:
        assert await read(source.url) == KeysLoaded(DOCUMENT)
        assert source.asked == ["/keys?v=1"]


@pytest.mark.row("A7")
@pytest.mark.parametrize("status", [204, 301, 302, 307, 404, 500])
async def test_another_status_is_no_set_and_a_redirect_is_not_followed(status: int) -> None:
    with key_server(DOCUMENT) as elsewhere, key_server(DOCUMENT) as source:
        source.status, source.headers = status, {"Location": elsewhere.url}
        assert await read(source.url) == KeysFailed(f"status {status}")
        assert elsewhere.asked == []


@pytest.mark.clause("C7")
async def test_of_a_large_document_no_more_is_read_than_is_of_use() -> None:
    with key_server(b"x" * 50_000_000) as source:
        told = await read(source.url, size=1000)
    assert isinstance(told, KeysLoaded)
    assert 1000 < len(told.document) < 2_000_000


async def test_what_is_compressed_is_not_opened() -> None:
    with key_server(gzip.compress(DOCUMENT)) as source:
        source.headers = {"Content-Encoding": "gzip"}
        assert await read(source.url) == KeysFailed("it is compressed, which was not asked for")


async def test_a_source_that_is_silent_or_away_fails_in_time() -> None:
    with key_server(DOCUMENT) as source:
        source.open.clear()
        assert await read(source.url, timeout=0.05) == KeysFailed("no answer in 0.05 seconds")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert await read(f"http://127.0.0.1:{port}/") == KeysFailed("127.0.0.1: ConnectError")


async def test_a_source_over_tls_has_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority("ours")
    issued = authority.issue(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(issued.cert_file, issued.key_file)
    with key_server(DOCUMENT, tls) as source:
        assert source.url.startswith("https://")
        assert await read(source.url) == KeysFailed("localhost: ConnectError")
        assert source.asked == []
        (tmp_path / "authority.pem").write_text(authority.pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert await read(source.url) == KeysLoaded(DOCUMENT)


async def test_a_reading_that_is_given_up_tells_nothing() -> None:
    told: list[Input] = []
    with key_server(DOCUMENT) as source:
        source.open.clear()
        port = KeyPort(config(jwks=source.url), told.append)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(port.load, LoadKeys(source.url, 30, SIZE))
            while not source.asked:
                await anyio.sleep(0)
            port.close()
        await port.load(LoadKeys(source.url, 30, SIZE))  # one that was still to begin
    assert told == []


async def test_a_mistake_within_is_told_as_a_failure() -> None:
    told: list[Input] = []
    port = KeyPort(config(jwks="http://localhost/"), told.append)
    port._fetcher = "no fetcher"  # type: ignore[assignment]
    await port.load(LoadKeys("http://localhost/", 1, SIZE))
    (failed,) = told
    assert isinstance(failed, KeysFailed)
    assert failed.reason == "AttributeError"
    assert isinstance(failed.cause, AttributeError)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_is_read_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(DOCUMENT)
    told: list[Input] = []
    port = KeyPort(config(jwks=str(file)), told.append)
    order = LoadKeys(str(file), 10, SIZE)
    await port.load(order)
    file.write_bytes(b"x" * (SIZE + 10))
    await port.load(order)
    file.unlink()
    await port.load(order)
    assert told == [
        KeysLoaded(DOCUMENT),
        KeysLoaded(b"x" * (SIZE + 1)),
        KeysFailed(f"{file} cannot be read: No such file or directory"),
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "public.pem").write_bytes(KEY.public_pem)
    (tmp_path / "private.pem").write_bytes(KEY.private_pem)
    (tmp_path / "keys.json").write_bytes(DOCUMENT)
    (tmp_path / "empty.json").write_bytes(b'{"keys":[]}')
    return tmp_path


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"jwks": "no.json"}, "security.authentication.jwks: no.json cannot be read: No such file or directory"),
    ({"jwks": "."}, "security.authentication.jwks: . cannot be read: Is a directory"),
    ({"jwks": "a\0b"}, "security.authentication.jwks: a\0b cannot be read: no usable path"),
    ({"jwks": "empty.json"}, "security.authentication.jwks: it is a key set without a key"),
    ({"jwks": "public.pem"}, "security.authentication.jwks: it is no JSON"),
    ({"algorithm": "EdDSA", "public_key_file": "no.pem"}, "security.authentication.public_key_file: no.pem cannot be"),
    ({"algorithm": "RS256", "public_key_file": "public.pem"}, "public_key_file: the key for RS256 is not one, or one"),
    ({"algorithm": "EdDSA", "public_key_file": "private.pem"}, "public_key_file: it is a private key; the public one"),
    ({"algorithm": "EdDSA", "public_key_file": "keys.json"}, "public_key_file: the key for EdDSA is not one"),
]


@pytest.mark.row("D6")
@pytest.mark.parametrize(("settings", "says"), WRONG)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_file_without_keys_refuses_to_start(folder: Path, settings: dict[str, Any], says: str) -> None:
    for begin in (check_keys, WebSocketManager, WebSocketAuth):
        with pytest.raises(ConfigError) as refused:
            begin(config(**settings))
        assert str(refused.value).startswith(says) or says in str(refused.value)
    assert check_keys(config(**settings, enabled=False)) is None  # nobody needs it then


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_address_needs_a_package_and_proxies_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    far = config(jwks="https://keys.example/set")
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://user:hunter2@x")
    with pytest.raises(ConfigError, match="jwks: a proxy of the environment cannot be used") as refused:
        check_keys(far)
    assert "hunter2" not in str(refused.value)
    check_keys(config(jwks="http://localhost/"))  # no proxy leads there
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        check_keys(far)
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.delitem(sys.modules, "qaws.key_fetch")
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(
        ConfigError, match=r'jwks: an address needs the package httpx2: pip install "qaws-gateway\[jwks\]"'
    ):
        check_keys(far)


# ── WebSocketAuth ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tokens_are_signed_by_a_private_key_and_verified_by_files(folder: Path) -> None:
    pem = {"algorithm": "EdDSA", "public_key_file": "public.pem"}
    maker = WebSocketAuth(config(**pem, private_key_file="private.pem"))
    token = maker.generate_token("ana", roles=["admin"])
    for verifier in (maker, WebSocketAuth(config(**pem))):
        principal = verifier.verify_token(token)
        assert principal is not None
        assert (principal.user_id, principal.roles) == ("ana", frozenset({"admin"}))
    with pytest.raises(ConfigError, match=r"private_key_file: no\.pem cannot be read"):
        WebSocketAuth(config(**pem, private_key_file="no.pem")).generate_token("ana")
    with pytest.raises(ConfigError, match="it verifies, and signs nothing"):
        WebSocketAuth(config(**pem, private_key_file="public.pem")).generate_token("ana")
    with pytest.raises(ConfigError, match="nothing to sign a token with"):
        WebSocketAuth(config(**pem)).generate_token("ana")
    by_set = WebSocketAuth(config(jwks="keys.json"))
    assert by_set.verify_token(KEY.token(unix=time.time())) is not None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_keys_behind_an_address_are_for_servers() -> None:
    auth = WebSocketAuth(config(jwks="https://keys.example/set"))
    with pytest.raises(ConfigError, match="by a server alone"):
        auth.verify_token("a.b.c")
    with pytest.raises(ConfigError, match="nothing to sign a token with"):
        auth.generate_token("ana")
    both = WebSocketAuth(config(jwks="https://keys.example/set", jwt_secret=SECRET))
    assert both.generate_token("ana")
