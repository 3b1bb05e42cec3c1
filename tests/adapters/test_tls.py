"""TLS on every byte server and event loop: counted handshakes, client certificates, reload."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaws import ConfigError
from qaws.tls import TlsSession, tls_context
from qaws_proto.config import SslConfig
from qaws_proto.wire.client import Rejected

from .byte_servers import ADAPTERS, Adapter, Client, connected, echo, rest, serving, tcp, until
from .certificates import Authority, Issued
from .peers import open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    return adapter.backend


@pytest.fixture
def authority() -> Authority:
    return Authority("authority")


@pytest.fixture
def issued(authority: Authority, tmp_path: Path) -> Issued:
    return authority.issue(tmp_path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_conversation(adapter: Adapter, version: ssl.TLSVersion, authority: Authority, issued: Issued) -> None:
    async def agent(message: str) -> AsyncIterator[str]:
        yield message * 10_000

    trusting = authority.trusting()
    trusting.minimum_version = trusting.maximum_version = version
    async with (
        serving(adapter, agent, security={"ssl": issued.section()}) as server,
        connected(await tcp(server, trusting)) as client,
    ):
        for _ in range(3):
            assert await client.ask("¿qué?") == "¿qué?" * 10_000


async def test_older_versions_and_renegotiation_are_refused(
    adapter: Adapter, authority: Authority, issued: Issued
) -> None:
    context = tls_context(SslConfig.model_validate(issued.section()))
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


async def test_a_unix_socket_speaks_plainly_beside_tls(
    adapter: Adapter, authority: Authority, issued: Issued, tmp_path: Path
) -> None:
    listen = {"listen": ["127.0.0.1:0", f"unix:{tmp_path}/qaws.sock"]}
    async with serving(adapter, server=listen, security={"ssl": issued.section()}) as server:
        assert [url.partition(":")[0] for url in server.urls] == ["wss", "ws+unix"]
        async with connected(await anyio.connect_unix(tmp_path / "qaws.sock")) as plain:
            assert await plain.ask("hola") == "hola"
        async with connected(await tcp(server, authority.trusting())) as secure:
            assert await secure.ask("hola") == "hola"


async def test_who_speaks_no_tls_is_sent_away_and_noted(
    adapter: Adapter, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "qaws.connection")
    async with serving(adapter, security={"ssl": issued.section()}) as server, await tcp(server) as plain:
        await plain.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await rest(plain)
    assert "tls_failed connection=1 reason=HTTP_REQUEST" in caplog.messages


# ── the handshake is the node's business ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("H14")
async def test_sockets_within_a_tls_handshake_are_counted(
    adapter: Adapter, authority: Authority, issued: Issued
) -> None:
    limits = {"connections_per_address": 2}
    async with serving(adapter, security={"ssl": issued.section()}, limits=limits) as server:
        silent = [await tcp(server) for _ in range(2)]
        await until(lambda: server.manager.gateway.connections == 2)
        client = Client(await tcp(server, authority.trusting()))
        refused = await client.upgrade()  # which was held until its handshake was over
        assert isinstance(refused, Rejected)
        assert (refused.status, refused.retry_after) == (429, 5)
        assert await client.ended() is None
        for stream in silent:
            await stream.aclose()
        await until(lambda: server.manager.gateway.connections == 0)
        async with connected(await tcp(server, authority.trusting())) as later:
            assert await later.ask("hola") == "hola"


@pytest.mark.row("H2")
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["nothing", "a beginning"])
async def test_a_tls_handshake_that_is_never_finished_is_dropped_by_the_nodes_own_timer(
    adapter: Adapter, said: bytes, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(adapter, security={"ssl": issued.section()}, limits={"head_timeout": 0.05}) as server:
        async with await tcp(server) as stream:
            if said:
                await stream.send(said)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        await until(lambda: server._host.running == len(server.sockets) + 1)  # and the one that looks at the loop
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.row("H3")
async def test_what_is_no_tls_ends_one_connection_and_leaves_no_line(
    adapter: Adapter, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(adapter, security={"ssl": issued.section()}) as server:
        for said in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(range(256)), b"\x16\x03\x01\xff\xff" * 100):
            async with await tcp(server) as stream:
                await stream.send(said)
                await rest(stream)
        await until(lambda: server.manager.gateway.connections == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.row("D1")
async def test_a_stop_does_not_wait_for_a_tls_handshake(adapter: Adapter, issued: Issued) -> None:
    async with serving(adapter, security={"ssl": issued.section()}) as server, await tcp(server) as stream:
        await until(lambda: server.manager.gateway.connections == 1)
        await server.stop()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()


@pytest.mark.row("F13")
async def test_the_last_words_are_within_tls_and_the_socket_is_half_closed_behind_them(
    adapter: Adapter, authority: Authority, issued: Issued
) -> None:
    async with serving(adapter, security={"ssl": issued.section()}) as server:
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = authority.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                await stream.send(outgoing.read())
                incoming.write(await stream.receive())
        session.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await stream.send(outgoing.read())
        incoming.write(await rest(stream))
        assert session.read(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        assert session.read(4096) == b""  # the end that TLS tells: nothing was cut off
        session.write(b"one more word, which is read and forgotten")
        await stream.send(outgoing.read())
        assert server.manager.gateway.connections == 1  # it lingers
        await stream.aclose()


# ── client certificates ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_clients_need_a_certificate_where_an_authority_for_them_is_set(
    adapter: Adapter, version: ssl.TLSVersion, authority: Authority, issued: Issued, tmp_path: Path
) -> None:
    clients, others = Authority("clients"), Authority("others")
    (tmp_path / "clients.pem").write_text(clients.pem)

    async def let_in(signer: Authority | None) -> bool:
        context = authority.trusting()
        context.minimum_version = context.maximum_version = version
        if signer is not None:
            (tmp_path / "client").mkdir(exist_ok=True)
            mine = signer.issue(tmp_path / "client")
            context.load_cert_chain(mine.cert_file, mine.key_file)
        try:
            async with connected(await tcp(server, context)) as client:
                return await client.ask("hola") == "hola"
        except (ssl.SSLError, anyio.BrokenResourceError) as error:
            errors.append(error)
            return False

    errors: list[Exception] = []
    section = issued.section(client_ca_file=str(tmp_path / "clients.pem"))
    async with serving(adapter, security={"ssl": section}) as server:
        assert [await let_in(signer) for signer in (clients, others, None)] == [True, False, False]
    if version is ssl.TLSVersion.TLSv1_2:  # in 1.3 the client has said more by then, which may cost it the alert
        assert len(errors) == 2
        assert all("alert" in str(error) for error in errors)


@pytest.mark.row("D6")
@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file or directory: "), ("no PEM", "client_ca_file is no PEM file")]
)
async def test_D6_authorities_that_cannot_be_read_are_a_config_error(
    adapter: Adapter, content: str | None, said: str, issued: Issued, tmp_path: Path
) -> None:
    file = tmp_path / "clients.pem"
    if content is not None:
        file.write_text(content)
    section = issued.section(client_ca_file=str(file))
    with pytest.raises(ConfigError, match=rf"security\.ssl: {said}"):
        await adapter.server(echo, open_config(security={"ssl": section})).start()


# ── reload ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_reload_is_for_new_connections_and_wrong_files_change_nothing(
    adapter: Adapter, authority: Authority, issued: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    newer = Authority("newer")
    async with (
        serving(adapter, security={"ssl": issued.section()}) as server,
        connected(await tcp(server, authority.trusting())) as open_before,
    ):
        newer.issue(tmp_path)
        server.reload_tls()
        async with connected(await tcp(server, newer.trusting())) as later:
            assert await later.ask("hola") == "hola"
        with pytest.raises(ssl.SSLCertVerificationError):
            await tcp(server, authority.trusting())
        issued.cert_file.unlink()
        with pytest.raises(ConfigError, match="No such file"):
            server.reload_tls()
        async with connected(await tcp(server, newer.trusting())) as last:
            assert await last.ask("hola") == "hola"
        assert await open_before.ask("hola") == "hola"
    told = [
        (one.levelname, one.getMessage().partition(" ")[0]) for one in caplog.records if one.name == "qaws.listener"
    ]
    assert told == [("INFO", "tls_reloaded"), ("ERROR", "tls_not_reloaded")]


async def test_without_tls_there_is_nothing_to_reload(adapter: Adapter) -> None:
    async with serving(adapter) as server:
        with pytest.raises(ConfigError, match="TLS is off"):
            server.reload_tls()


# ── the filter by itself ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_session_holds_what_is_written_too_early_and_gives_no_more_than_is_asked_for(
    authority: Authority, issued: Issued
) -> None:
    context = tls_context(SslConfig.model_validate(issued.section()))
    assert context is not None
    server = TlsSession(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
    assert server.write(b"too early") == b""
    assert server.close() == b""
    assert server.read(100) is None
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(server.receive(outgoing.read()))
    client.write(b"x" * 10_000)
    assert not server.closed
    incoming.write(server.receive(outgoing.read()))
    assert server.closed
    assert client.read(100) == b"too early"
    assert client.read(100) == b""
    assert server.write(b"too late") == b""


def test_a_record_is_read_in_pieces(authority: Authority, issued: Issued) -> None:
    context = tls_context(SslConfig.model_validate(issued.section()))
    assert context is not None
    server = TlsSession(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(server.receive(outgoing.read()))
    client.write(b"x" * 10_000)
    server.receive(outgoing.read())
    assert [server.read(4096), server.read(4096), server.read(4096), server.read(4096)] == [
        b"x" * 4096, b"x" * 4096, b"x" * 1808, None,
    ]  # fmt: skip


async def test_metrics_at_an_address_of_their_own_are_encrypted_too(
    adapter: Adapter, authority: Authority, issued: Issued
) -> None:
    sections = {"security": {"ssl": issued.section()}, "metrics": {"listen": "127.0.0.1:0"}}
    async with serving(adapter, **sections) as server:
        (url,) = server.metrics_urls
        assert url.startswith("https://127.0.0.1:")
        port = int(url.removesuffix("/metrics").rpartition(":")[2])
        async with await anyio.connect_tcp(
            "127.0.0.1", port, tls_hostname="localhost", ssl_context=authority.trusting()
        ) as stream:
            await stream.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await rest(stream)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\nqaws_connections_active 0.0\n" in answer
