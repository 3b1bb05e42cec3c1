"""Listening on every server and event loop: Unix sockets, sockets of others, and a want of descriptors."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaws import ConfigError, accepting, listening
from qaws.accepting import Acceptor
from qaws.listening import Listener
from qaws_proto.wire.client import Rejected

from .byte_servers import ADAPTERS, PATIENCE, Adapter, Client, connected, echo, rest, serving, tcp, until
from .peers import open_config

pytestmark = pytest.mark.anyio


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    return adapter.backend


# ── a want of descriptors ────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def exhausted() -> Iterator[None]:
    """No descriptor can be had in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(map(int, os.listdir("/proc/self/fd"))) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, before[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)


async def heard(client: socket.socket) -> bytes:
    """What a plain socket hears next, `b""` where it was closed or reset."""
    await anyio.wait_readable(client)
    with suppress(ConnectionError):
        return client.recv(4096)
    return b""


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "qaws.listener"]


@pytest.mark.row("C2")
async def test_C2_without_descriptors_clients_are_refused_and_open_ones_go_on(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(adapter) as server, connected(await tcp(server)) as open_before:
        refused = [socket.socket() for _ in range(3)]
        with exhausted():
            for one in refused:
                one.connect(("127.0.0.1", server.port))
                assert await heard(one) == b""
                assert await open_before.ask("still here?") == "still here?"
        for one in refused:
            one.close()
        assert complaints(caplog) == ['accept_failed error=EMFILE text="Too many open files"']
        async with connected(await tcp(server)) as later:
            assert await later.ask("hola") == "hola"
        assert await open_before.ask("still here?") == "still here?"
    assert len(complaints(caplog)) == 1


@pytest.mark.row("C2")
async def test_C2_the_last_descriptor_may_be_taken_by_somebody_else(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accepting, "PAUSE", 3600)  # seconds: who does not wait is seen to
    served: list[socket.socket] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as source, closing(socket.socket()) as client:
        source.setblocking(False)
        acceptor = Acceptor(lambda accepted, peer, listener: served.append(accepted), log_interval=0)
        acceptor.close()
        async with anyio.create_task_group() as group:
            with exhausted():
                client.connect(source.getsockname())
                group.start_soon(acceptor.accept, Listener(source, "ws://"))
                await until(lambda: bool(complaints(caplog)))
                for _ in range(20):
                    await anyio.sleep(0)
                assert len(complaints(caplog)) == 1  # not again and again
            assert not served
            group.cancel_scope.cancel()
        monkeypatch.setattr(accepting, "PAUSE", 0)
        async with anyio.create_task_group() as group:
            group.start_soon(acceptor.accept, Listener(source, "ws://"))
            await until(lambda: bool(served))
            assert acceptor._reserve is not None  # and it is had again
            group.cancel_scope.cancel()
        acceptor.close()
        served[0].close()


class Troubled(socket.socket):
    """A listening socket with whose connections something is wrong first."""

    errors: list[int]

    def accept(self) -> Any:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.mark.row("C2")
async def test_C2_an_error_of_accept_never_ends_the_listener(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accepting, "PAUSE", 0)
    listener = Troubled()
    listener.errors = [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EIO, errno.ENOBUFS, errno.ENFILE]
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    async with serving(adapter, sockets=[listener], limits={"head_timeout": 1}) as server:
        refused = await tcp(server)  # by EIO, of which nobody knows what to do; ENOBUFS and ENFILE
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await refused.receive()
        await refused.aclose()
        while listener.errors:
            async with await tcp(server) as another:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    await another.receive()
        async with connected(await tcp(server)) as client:
            assert await client.ask("hola") == "hola"
    assert [line.split()[1] for line in complaints(caplog)] == ["error=EIO"]  # those behind it within 10 seconds


# ── Unix sockets ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_unix_socket_is_served_and_removed(adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "qaws.sock"
    async with serving(adapter, server={"listen": [f"unix:{path}"], "unix_mode": "0660"}) as server:
        assert server.url == f"ws+unix:{path}:/"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with connected(await anyio.connect_unix(path)) as client:
            assert await client.ask("hola") == "hola"
            assert await client.ask("x" * 10_000) == "x" * 10_000
    assert not path.exists()


@pytest.mark.row("D6")
async def test_D6_a_unix_socket_is_removed_where_the_start_fails_behind_it(
    adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, mode: int) -> None:
        raise PermissionError("not yours")

    path = tmp_path / "qaws.sock"
    monkeypatch.setattr("os.chmod", refuse)
    server = adapter.server(echo, open_config(server={"listen": [f"unix:{path}"], "unix_mode": "0660"}))
    with pytest.raises(PermissionError):
        await server.start()
    assert not path.exists()


async def test_a_unix_socket_that_a_dead_server_left_is_replaced(adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "qaws.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    async with serving(adapter, server={"listen": [f"unix:{path}"]}), connected(await anyio.connect_unix(path)) as one:
        assert await one.ask("hola") == "hola"


async def test_a_unix_socket_for_metrics_alone(adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    async with serving(adapter, metrics={"listen": f"unix:{path}"}, server={"unix_mode": "600"}) as server:
        assert server.metrics_urls == [f"http+unix:{path}:/metrics"]
        assert server.urls == [server.url]
        assert path.stat().st_mode & 0o777 == 0o600
        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"\nqaws_draining 0.0\n" in await rest(stream)
        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await rest(stream)).startswith(b"HTTP/1.1 404 ")
    assert not path.exists()


@pytest.mark.row("D6")
async def test_D6_a_unix_socket_that_is_alive_or_a_file_is_left_alone(adapter: Adapter, tmp_path: Path) -> None:
    path, file = tmp_path / "qaws.sock", tmp_path / "notes.txt"
    file.write_text("mine")
    async with serving(adapter, server={"listen": [f"unix:{path}"]}):
        for taken in (path, file):
            other = adapter.server(echo, open_config(server={"listen": [f"unix:{taken}"]}))
            with pytest.raises(OSError, match="in use") as refused:
                await other.start()
            assert refused.value.filename == f"unix:{taken}"
        async with connected(await anyio.connect_unix(path)) as client:
            assert await client.ask("hola") == "hola"
    assert file.read_text() == "mine"


async def test_the_unix_socket_of_a_server_that_came_later_stays(adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "qaws.sock"
    async with serving(adapter, server={"listen": [f"unix:{path}"]}) as first:
        path.unlink()
        async with serving(adapter, server={"listen": [f"unix:{path}"]}):
            await first.stop()
            async with connected(await anyio.connect_unix(path)) as client:
                assert await client.ask("hola") == "hola"
    assert not path.exists()


@pytest.mark.row("H13")
@pytest.mark.row("H14")
async def test_behind_a_proxy_on_a_unix_socket_clients_have_their_own_addresses(
    adapter: Adapter, tmp_path: Path
) -> None:
    async def verdict(address: str) -> object:
        client = Client(await anyio.connect_unix(path))
        answer = await client.upgrade(X_Forwarded_For=address)
        clients.append(client)
        return answer

    path, limits = tmp_path / "qaws.sock", {"connections_per_address": 1}
    for trusted in (True, False):
        clients: list[Client] = []
        listen = {"listen": [f"unix:{path}"], "trusted_proxies": ["unix"] if trusted else []}
        async with serving(adapter, server=listen, limits=limits):
            assert not isinstance(await verdict("192.0.2.1"), Rejected)
            assert isinstance(await verdict("192.0.2.2"), Rejected) is not trusted
            refused = await verdict("192.0.2.1")
            assert isinstance(refused, Rejected)
            assert refused.status == 429
            for client in clients:
                await client.stream.aclose()


# ── several, and those of others ─────────────────────────────────────────────────────────────────────────────────────


async def test_several_addresses_are_listened_on_at_once(adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "qaws.sock"
    listen = (
        ["127.0.0.1:0", "[::1]:0", f"unix:{path}"] if socket.has_dualstack_ipv6() else ["127.0.0.1:0", f"unix:{path}"]
    )
    async with serving(adapter, server={"listen": listen}) as server:
        ports = [one.getsockname()[1] for one in server.sockets if one.family != socket.AF_UNIX]
        hosts = ["127.0.0.1", "[::1]"]
        assert server.urls == [f"ws://{host}:{port}/" for host, port in zip(hosts, ports, strict=False)] + [
            f"ws+unix:{path}:/"
        ]
        assert (server.port, server.url) == (ports[0], f"ws://127.0.0.1:{ports[0]}/")
        streams = [await anyio.connect_tcp(host.strip("[]"), port) for host, port in zip(hosts, ports, strict=False)]
        for stream in (*streams, await anyio.connect_unix(path)):
            async with connected(stream) as client:
                assert await client.ask("hola") == "hola"


async def test_one_address_that_cannot_be_had_closes_the_others(adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "qaws.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match="in use") as refused:
            await adapter.server(echo, open_config(server={"listen": [f"unix:{path}", address]})).start()
    assert refused.value.filename == address
    assert not path.exists()


async def test_sockets_of_the_program_are_served_and_closed(adapter: Adapter, tmp_path: Path) -> None:
    path = str(tmp_path / "program.sock")
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(path)
    unix.listen()
    given = [socket.create_server(("127.0.0.1", 0)), unix]
    async with serving(adapter, sockets=given, server={"port": 1}) as server:
        assert server.sockets == given
        assert server.port == given[0].getsockname()[1]
        for stream in (await tcp(server), await anyio.connect_unix(path)):
            async with connected(stream) as client:
                assert await client.ask("hola") == "hola"
    assert [one.fileno() for one in given] == [-1, -1]
    assert os.path.exists(path)  # it is the program's


async def test_an_inherited_socket_is_served(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, descriptor = listener.getsockname()[1], os.dup(listener.fileno())
    async with serving(adapter, server={"listen": [f"fd:{descriptor}"]}) as server:
        assert server.url == f"ws://127.0.0.1:{port}/"
        async with connected(await tcp(server)) as client:
            assert await client.ask("hola") == "hola"


async def test_sockets_passed_to_another_process_are_left_alone(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(listening, "SYSTEMD_FIRST", listener.fileno())
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
        with pytest.raises(ConfigError, match="no sockets were passed to this process"):
            await adapter.server(echo, open_config(server={"listen": ["systemd"]})).start()
        assert listener.getsockname()[1]  # it is open still


@pytest.mark.row("D6")
@pytest.mark.parametrize("how", ["given", "inherited"])
async def test_D6_a_public_socket_is_refused_without_authentication_whoever_opened_it(
    adapter: Adapter, how: str
) -> None:
    listener = socket.create_server(("0.0.0.0", 0))
    sections = {"server": {"listen": [f"fd:{listener.fileno()}"]}} if how == "inherited" else {}
    server = adapter.server(echo, open_config(**sections), sockets=[listener] if how == "given" else None)
    with pytest.raises(ConfigError, match=r"authentication is off and '0\.0\.0\.0' can be reached"):
        await server.start()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(listener.detach())


@pytest.mark.row("D6")
async def test_D6_a_socket_that_does_not_listen_is_refused(adapter: Adapter) -> None:
    bound, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    datagrams.bind(("127.0.0.1", 0))
    pair, other = socket.socketpair(type=socket.SOCK_SEQPACKET)
    other.close()
    wrong = [([one], "does not listen") for one in (bound, datagrams, pair)]
    for given, said in (*wrong, ([], "at least one socket")):
        with pytest.raises(ConfigError, match=said):
            await adapter.server(echo, open_config(), sockets=given).start()
        assert all(one.fileno() == -1 for one in given)


async def test_a_server_that_has_stopped_listens_no_more(adapter: Adapter) -> None:
    with anyio.fail_after(PATIENCE):
        async with adapter.server(echo, open_config()) as server:
            port = server.port
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.0.0.1", port)
        await server.stop()
        await server.stop_now()


@pytest.mark.row("C3")
@pytest.mark.parametrize("turns", range(8))
async def test_a_client_that_comes_as_the_server_stops_is_not_left_behind(adapter: Adapter, turns: int) -> None:
    async with serving(adapter) as server:
        with closing(socket.create_connection(("127.0.0.1", server.port))) as client:
            for _ in range(turns):
                await anyio.sleep(0)
            await server.stop_now()
            await until(lambda: server._host.running <= len(server.sockets) + 1)
            assert await heard(client) == b""
