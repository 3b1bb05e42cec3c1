"""`QAWebSocketClient` over real sockets, on each event loop: its verbs, its errors, and that it comes back."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from qaws import (
    AnswerCancelled,
    AnswerError,
    AnswerTimeout,
    AuthenticationError,
    ClientError,
    ClosedError,
    ConnectError,
    QAWebSocketClient,
    WebSocketAuth,
    WebSocketConfig,
    WebSocketManager,
)
from qaws.client_driver import Token
from qaws_proto.admission.gate import Applicant, Gate
from qaws_proto.events import AgentChunk, AgentResponse, ServerEvents, SystemEvent
from tests.helpers.proxy import Fault, cutting, proxying

from .byte_servers import PATIENCE, echo, until
from .certificates import Authority
from .hosts import EVERY, Adapter, Node, nothing_left, serving
from .peers import open_config

pytestmark = pytest.mark.anyio

SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture(params=["asyncio-asyncio", "anyio-uvloop", "anyio-trio"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """A server on each event loop."""
    return EVERY[request.param]


@pytest.fixture
def anyio_backend(adapter: Adapter) -> tuple[str, dict[str, Any]]:
    return adapter.backend


def guarded(**more: Any) -> dict[str, Any]:
    """Sections with authentication on."""
    return {"security": {"authentication": {"enabled": True, "jwt_secret": SECRET, **more}}}


def url(node: Node) -> str:
    return f"ws://127.0.0.1:{node.port}/"


def token(node: Node, user: str = "ana") -> str:
    return WebSocketAuth(node.manager.config).generate_token(user)


@asynccontextmanager
async def talking(
    adapter: Adapter, agent: object = echo, /, *, sections: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Node, QAWebSocketClient]]:
    """A server, and a client that is connected to it. Nothing is left of them."""
    async with serving(adapter, agent, **(sections or {})) as node, QAWebSocketClient(url(node), **options) as client:
        yield node, client


class Pieces:
    """An agent that yields what it was told to, and waits in the middle until `release` is set."""

    def __init__(self, *pieces: str, wait_behind: int | None = None) -> None:
        self.entered, self.release = anyio.Event(), anyio.Event()
        self._pieces = pieces
        self._wait_behind = wait_behind
        self.cancelled = anyio.Event()

    async def chat(self, message: str) -> AsyncIterator[str]:
        try:
            for number, piece in enumerate(self._pieces, 1):
                yield piece
                if number == self._wait_behind:
                    self.entered.set()
                    await self.release.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise


async def heard_until(client: QAWebSocketClient, last: Callable[[AgentResponse], bool]) -> list[ServerEvents]:
    """The events until this answer."""
    heard = []
    async with aclosing(client.listen_for_responses()) as events:
        async for event in events:
            heard.append(event)
            if isinstance(event, AgentResponse) and last(event):
                break
    return heard


async def gathered(pieces: AsyncIterator[str], heard: list[str]) -> None:
    """Take all pieces there are, also of an answer that ends in an error."""
    async for piece in pieces:
        heard.append(piece)


# ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_ask_gives_the_whole_answer(adapter: Adapter) -> None:
    async with talking(adapter) as (_, client):
        answer = await client.ask("¿Cómo estás?", id="m1", metadata={"lang": "es"})
        assert (answer.content, answer.status, answer.correlation_id) == ("¿Cómo estás?", "completed", "m1")
        assert answer.session_id == client.session_id


async def test_chat_gives_the_text_in_pieces(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    async with talking(adapter, agent) as (_, client):
        pieces = []
        async for piece in client.chat("?"):
            pieces.append(piece)
            agent.release.set()
        assert pieces == ["so ", "far"]


async def test_an_answer_that_is_not_streamed_comes_as_one_piece(adapter: Adapter) -> None:
    async with talking(adapter) as (_, client):
        assert [piece async for piece in client.chat("hola")] == ["hola"]


async def test_messages_are_sent_and_everything_is_heard(adapter: Adapter) -> None:
    async with talking(adapter, Pieces("so ", "far")) as (_, client):
        first = await client.send_chat_message("one", stream=True)
        second = await client.send_chat_message("two", id="m2")
        heard = await heard_until(client, lambda answer: answer.correlation_id == second)
        answers = [event for event in heard if isinstance(event, AgentResponse)]
        assert [(one.correlation_id, one.content) for one in answers] == [(first, "so far"), ("m2", "so far")]
        chunks = [event.content for event in heard if isinstance(event, AgentChunk)]
        assert "".join(chunks) == "so far"
        numbers = [event.seq for event in heard if isinstance(event, AgentChunk | AgentResponse)]
        assert numbers == sorted(set(numbers), key=lambda seq: seq or 0)


async def test_many_chats_at_once_each_get_their_own_text(adapter: Adapter) -> None:
    async def agent(message: str) -> AsyncIterator[str]:
        for word in message.split():
            yield f"{word} "
            await anyio.lowlevel.checkpoint()

    said: dict[int, str] = {}

    async def talk(number: int) -> None:
        said[number] = "".join([piece async for piece in client.chat(f"{number} " * 20)])

    sections = {"sessions": {"queue": 100, "double_text": "concurrent"}}
    async with talking(adapter, agent, sections=sections) as (_, client), anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(talk, number)
    assert said == {number: f"{number} " * 20 for number in range(30)}


async def test_two_clients_of_a_session_hear_the_same(adapter: Adapter) -> None:
    async with talking(adapter, session_id="shared") as (node, ana):
        assert (await ana.ask("0")).content == "0"
        await heard_until(ana, lambda answer: answer.content == "0")
        async with QAWebSocketClient(url(node), session_id="shared") as eva:
            await ana.send_chat_message("1", stream=True)
            await heard_until(eva, lambda answer: answer.content == "1")
            await eva.send_chat_message("2", stream=True)
            heard = await heard_until(ana, lambda answer: answer.content == "2")
            assert [event.content for event in heard if isinstance(event, AgentResponse)] == ["1", "2"]
            typed = [event.data["content"] for event in heard if isinstance(event, SystemEvent)]
            assert typed == ["1", "2"]
        async with QAWebSocketClient(url(node), session_id="shared", history=True) as late:
            heard = await heard_until(late, lambda answer: answer.content == "2")
            assert [event.content for event in heard if isinstance(event, AgentResponse)] == ["0", "1", "2"]


@pytest.mark.parametrize("message_id", [None, "m1"])
async def test_cancel_ends_an_answer_with_its_text_so_far(adapter: Adapter, message_id: str | None) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    heard: list[str] = []
    async with talking(adapter, agent) as (_, client):
        pieces = client.chat("?", id="m1")
        heard.append(await anext(pieces))
        await client.cancel(message_id)
        with pytest.raises(AnswerCancelled) as error:
            await gathered(pieces, heard)
        assert heard == ["so "]
        told = error.value
        assert (told.response.content, told.code, told.message_id) == ("so ", "CANCELLED", "m1")
        await client.cancel("m1")  # it has ended
        await client.cancel("unknown")
        agent.release.set()
        assert (await client.ask("?")).content == "so far"


@pytest.mark.clause("C3")
async def test_a_client_is_used_again_and_again_and_nothing_is_left(adapter: Adapter) -> None:
    async with talking(adapter) as (node, first):
        assert (await first.ask("?")).content == "?"  # the server has done once what it does for the first one
        for number in range(3):
            async with nothing_left(), QAWebSocketClient(url(node)) as client:
                assert (await client.ask(str(number))).content == str(number)


# ── leaving early ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_ask_that_is_cancelled_cancels_the_run_and_leaves_the_client_usable(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    async with talking(adapter, agent) as (_, client):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.ask, "?")
            await agent.entered.wait()
            tasks.cancel_scope.cancel()
        await agent.cancelled.wait()
        agent.release.set()
        assert (await client.ask("?")).content == "so far"
        assert not client._answers


async def test_a_chat_that_is_left_cancels_the_run(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    async with talking(adapter, agent) as (_, client):
        async with aclosing(client.chat("?")) as pieces:
            async for _ in pieces:
                break
        await agent.cancelled.wait()
        agent.release.set()
        assert "".join([piece async for piece in client.chat("?")]) == "so far"


async def test_an_answer_that_takes_too_long_is_an_error_and_a_cancel(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    async with talking(adapter, agent, timeout=0.05) as (_, client):
        with pytest.raises(AnswerTimeout, match=r"nothing was heard in 0\.05 seconds") as error:
            await client.ask("?", id="m1")
        assert isinstance(error.value, TimeoutError)
        assert (error.value.code, error.value.message_id) == ("TIMEOUT", "m1")
        await agent.cancelled.wait()
        heard: list[str] = []
        with pytest.raises(AnswerTimeout):
            await gathered(client.chat("?"), heard)
        assert heard == ["so "]


# ── answers that are errors ──────────────────────────────────────────────────────────────────────────────────────────


async def test_an_agent_that_fails_is_an_error_with_what_to_ask_the_operator_for(adapter: Adapter) -> None:
    async def agent(message: str) -> str:
        raise ValueError("hush")

    async with talking(adapter, agent) as (_, client):
        for asked in (client.ask("?", id="m1"), anext(client.chat("?", id="m2"))):
            with pytest.raises(AnswerError, match="The agent failed") as error:
                await asked
            assert error.value.code == "AGENT_ERROR"
            assert error.value.message_id in ("m1", "m2")
            assert error.value.error_id
            assert "hush" not in str(error.value)


async def test_a_limit_says_when_to_come_back(adapter: Adapter) -> None:
    limiting = {"security": {"rate_limiting": {"enabled": True, "requests_per_minute": 1, "burst_size": 1}}}
    async with talking(adapter, sections=limiting) as (_, client):
        assert (await client.ask("?")).content == "?"
        with pytest.raises(AnswerError) as error:
            await client.ask("?")
        assert error.value.code == "RATE_LIMIT"
        assert error.value.retry_after is not None
        assert 0 < error.value.retry_after <= 60


async def test_what_is_no_message_is_refused_before_it_is_sent(adapter: Adapter) -> None:
    async with talking(adapter) as (_, client):
        for content in ("", "x" * 10_001, "a\0b", "\ud800"):
            with pytest.raises(ValueError, match="a message has 1 to 10000 characters"):
                await client.ask(content)
        with pytest.raises(ValueError, match="this is no message: metadata"):
            await client.ask("?", metadata={"nested": {}})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="this is no message: id"):
            await client.send_chat_message("?", id="x" * 65)
        assert (await client.ask("?")).content == "?"


async def test_an_id_that_was_answered_before_has_the_same_answer(adapter: Adapter) -> None:
    asked: list[str] = []

    async def agent(message: str) -> str:
        asked.append(message)
        return f"{message} {len(asked)}"

    async with talking(adapter, agent) as (node, client):
        answers = [await client.ask("?", id=id) for id in ("m1", "m2", "m1")]
        assert [answer.content for answer in answers] == ["? 1", "? 2", "? 1"]
        async with QAWebSocketClient(url(node), session_id=client.session_id) as other:
            assert [piece async for piece in other.chat("?", id="m2")] == ["? 2"]
            assert (await other.ask("!", id="m3")).content == "! 3"
    assert asked == ["?", "?", "!"]


async def test_an_id_in_use_is_refused(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    async with talking(adapter, agent) as (_, client), anyio.create_task_group() as tasks:
        tasks.start_soon(
            client.ask,
            "?",
        )
        await agent.entered.wait()
        (pending,) = client._pending
        with pytest.raises(ValueError, match="in progress"):
            await client.ask("?", id=pending)
        agent.release.set()


async def test_messages_wait_where_too_many_have_no_answer(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    async with serving(adapter, agent) as node:
        client = QAWebSocketClient(url(node), timeout=None)
        client._settings = replace(client._settings, max_pending=2)
        sent: list[str] = []

        async def send(number: int) -> None:
            sent.append(await client.send_chat_message("?", id=str(number)))

        async with client, anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(send, number)
            await agent.entered.wait()
            await anyio.wait_all_tasks_blocked()
            assert len(sent) == 2
            client._timeout = 0.01
            with pytest.raises(AnswerTimeout):
                await client.ask("?")
            agent.release.set()
            await until(lambda: len(sent) == 4)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["text", "function", "coroutine"])
async def test_a_token_is_a_text_or_a_function(adapter: Adapter, kind: str) -> None:
    async with serving(adapter, **guarded()) as node:
        text = token(node)

        async def fetch() -> str:
            await anyio.lowlevel.checkpoint()
            return text

        kinds: dict[str, Token] = {"text": text, "function": lambda: text, "coroutine": fetch}
        given = kinds[kind]
        async with QAWebSocketClient(url(node), token=given) as client:
            assert client.user_id == "ana"
            assert (await client.ask("?")).user_id == "ana"
        other = QAWebSocketClient(url(node))
        await other.connect_with_token(given)
        assert other.connected
        await other.close()
        assert not other.connected


@pytest.mark.row("A9")
async def test_a_token_that_is_missing_or_wrong_is_an_error_of_its_own(adapter: Adapter) -> None:
    states: list[str] = []
    async with serving(adapter, **guarded()) as node:
        for given in (None, "wrong", "", "\0", lambda: None, lambda: 1 / 0):
            client = QAWebSocketClient(url(node), token=given, on_state=lambda state, _: states.append(state))  # type: ignore[arg-type]
            with pytest.raises(AuthenticationError) as error:
                await client.connect()
            assert error.value.code in ("AUTH_FAILED", "AUTH_REQUIRED", "TOKEN_UNAVAILABLE")
            if callable(given):
                assert error.value.code == "TOKEN_UNAVAILABLE"
        assert set(states) == {"closed"}
        assert isinstance(error.value.__cause__, ZeroDivisionError)
        assert "division" not in str(error.value)
        await until(lambda: node.manager.gateway.connections == 0)


class Foreign(BaseException):
    """What another library stops its tasks with."""


@pytest.mark.parametrize("raised", [asyncio.CancelledError, Foreign, SystemExit])
async def test_a_token_that_others_have_cancelled_could_not_be_got(
    adapter: Adapter, raised: type[BaseException]
) -> None:
    async def fetch() -> str:
        await anyio.lowlevel.checkpoint()
        raise raised

    async with serving(adapter, **guarded()) as node:
        error = await refused(QAWebSocketClient(url(node), token=fetch))
        assert isinstance(error, AuthenticationError)
        assert error.code == "TOKEN_UNAVAILABLE"
        assert isinstance(error.__cause__, raised)


async def test_a_token_that_does_not_come_ends_the_attempt(adapter: Adapter) -> None:
    async with serving(adapter, **guarded()) as node:
        client = QAWebSocketClient(url(node), token=anyio.sleep_forever, connect_timeout=0.1)  # type: ignore[arg-type]
        with pytest.raises(ClientError):
            await client.connect()


async def test_a_user_is_enough_where_the_secret_is_known(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(adapter, **guarded()) as node:
        client = QAWebSocketClient(url(node), config=node.manager.config)
        await client.connect("eva")
        assert (await client.ask("?")).user_id == "eva"
        await client.close()

        monkeypatch.setenv("WEBSOCKET_SECRET_KEY", SECRET)
        client = QAWebSocketClient(url(node))
        await client.connect("eva")
        assert client.user_id == "eva"
        await client.close()

        monkeypatch.delenv("WEBSOCKET_SECRET_KEY")
        client = QAWebSocketClient(url(node))
        with pytest.raises(AuthenticationError, match="use connect_with_token") as error:
            await client.connect("eva")
        assert error.value.code == "TOKEN_UNAVAILABLE"


async def test_a_user_is_just_a_name_where_authentication_is_off(adapter: Adapter) -> None:
    async with serving(adapter) as node:
        client = QAWebSocketClient(url(node), config=open_config())
        await client.connect("eva")
        assert client.user_id == "eva"
        assert (await client.ask("?")).user_id == "eva"
        await client.close()


@pytest.mark.clause("C12")
async def test_a_token_is_nowhere_to_be_read(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[object] = []
    async with serving(adapter, **guarded()) as node:
        hush = token(node)
        for given in (hush, "hush-wrong"):
            client = QAWebSocketClient(
                url(node).replace("ws://", "ws://user:hush@"),
                token=given,
                headers={"X-Key": "hush"},
                on_state=lambda state, reason: said.extend((state, reason)),  # noqa: B023
            )
            said.append(repr(client))
            try:
                async with client:
                    said.append(repr(client))
            except ClientError as error:
                said += [repr(error), str(error)]
            said += [repr(client), client.url, repr(client._settings), repr(client._driver)]
        said.append(repr(QAWebSocketClient(url(node) + "?token=hush")))
    assert len(said) > 10
    for secret in (hush, "hush"):
        assert secret not in str(said)
        assert secret not in caplog.text


async def test_headers_are_sent_with_the_upgrade(adapter: Adapter) -> None:
    seen: list[dict[str, str]] = []

    def check(gate: Gate, applicant: Applicant) -> None:
        seen.append({name.lower(): value for name, value in applicant.request.headers})

    manager = WebSocketManager(open_config(), agent=echo, upgrade_checks=[check])
    headers = {"X-Forwarded-For": "192.0.2.1", "Cookie": "affinity=7"}
    async with serving(adapter, manager=manager) as node, QAWebSocketClient(url(node), headers=headers):
        pass
    assert seen[0]["x-forwarded-for"] == "192.0.2.1"
    assert seen[0]["cookie"] == "affinity=7"


# ── connecting and its errors ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://localhost/", "is no WebSocket address"),
        ("ws+unix:///tmp/socket", "is no WebSocket address"),
        ("ws:///path", "is no WebSocket address"),
        ("ws://localhost:99999/", "is no address"),
        ("ws://[::1/", "is no address"),
        ("ws://localhost/ñ", "is no usable address"),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_no_address_is_refused_at_once(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QAWebSocketClient(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://hush:hush@localhost/?token=hush",
        "ws://hush:hush@localhost:hush/?token=hush",
        "ws://user:hush",
        "ws://hush:hush/hush@localhost/",
        "ws://hush:hush?hush@localhost/",
        "ws://hush@[::1/?token=hush",
        "hush:hush@localhost",
        "http://hush://hush@localhost",
        "ws://hush:hush@localhost/ñ?token=hush",
        "ws://localhost/hush ñ",
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_no_address_is_refused_without_what_may_be_secret_in_it(address: str) -> None:
    with pytest.raises(ValueError, match="is no") as error:
        QAWebSocketClient(address)
    assert "hush" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_header_that_cannot_be_sent_is_refused_without_its_value() -> None:
    with pytest.raises(ValueError, match="or a header or the session's name cannot be sent") as error:
        QAWebSocketClient("ws://localhost/", headers={"X-Key": "hush\r\nX: y"})
    assert "hush" not in str(error.value)
    assert error.value.__cause__ is None


async def refused(client: QAWebSocketClient) -> ClientError:
    """The error of a client that cannot connect. Nothing is left of it."""
    with anyio.fail_after(PATIENCE), pytest.raises(ClientError) as error:
        async with nothing_left():
            await client.connect()
    assert not client.connected
    return error.value


async def test_a_server_that_is_not_there_is_an_error_at_once(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = await refused(QAWebSocketClient(f"ws://127.0.0.1:{port}/"))
    assert isinstance(error, ConnectError)
    assert error.code == "CONNECT_FAILED"
    assert str(error) == f"the server cannot be reached: 127.0.0.1:{port}: Connection refused (CONNECT_FAILED)"
    error = await refused(QAWebSocketClient("ws://no.such.host.invalid/"))
    assert isinstance(error, ConnectError)


async def test_a_server_that_does_not_let_us_in_is_an_error_with_its_status(adapter: Adapter) -> None:
    async with serving(adapter, server={"max_connections": 1}) as node:
        error = await refused(QAWebSocketClient(url(node) + "elsewhere"))
        assert isinstance(error, ConnectError)
        assert (error.code, error.status) == ("REJECTED", 404)
        async with QAWebSocketClient(url(node)):
            error = await refused(QAWebSocketClient(url(node)))
            assert isinstance(error, ConnectError)
            assert (error.code, error.status, error.retry_after) == ("REJECTED", 503, 5)


async def test_a_server_that_says_nothing_is_left_in_time(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = QAWebSocketClient(f"ws://127.0.0.1:{listener.getsockname()[1]}/", connect_timeout=0.1)
        error = await refused(client)
    assert isinstance(error, ConnectError)
    assert error.code in ("TIMEOUT", "CONNECT_FAILED")


async def test_a_connect_that_is_cancelled_leaves_nothing(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with nothing_left():
            client = QAWebSocketClient(f"ws://127.0.0.1:{listener.getsockname()[1]}/")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.connect)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
    with pytest.raises(RuntimeError, match="connects once"):
        await client.connect()


async def test_wss_trusts_what_it_is_told_to_and_nothing_else(adapter: Adapter, tmp_path: Path) -> None:
    authority = Authority("authority")
    ssl_section = {"ssl": authority.issue(tmp_path).section(), "authentication": {"enabled": False}}
    agent = Pieces(*("x" * 1000 for _ in range(200)))
    async with serving(adapter, agent, security=ssl_section) as node:
        address = f"wss://localhost:{node.port}/"
        async with QAWebSocketClient(address, ssl_context=authority.trusting()) as client:
            assert "".join([piece async for piece in client.chat("?")]) == "x" * 200_000
        error = await refused(QAWebSocketClient(address))
        assert isinstance(error, ConnectError)
        assert "self-signed certificate" in str(error) or "unable to get local issuer" in str(error)
        error = await refused(QAWebSocketClient(f"wss://127.0.0.1:{node.port}/", ssl_context=authority.trusting()))
        assert "IP address mismatch" in str(error)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with QAWebSocketClient(address, ssl_context=context) as client:
            assert client.connected


async def test_wss_where_no_tls_is_spoken_is_said_to_be_that(adapter: Adapter) -> None:
    async with serving(adapter) as node:
        error = await refused(QAWebSocketClient(f"wss://127.0.0.1:{node.port}/"))
        assert str(error).endswith(f"127.0.0.1:{node.port}: no TLS is spoken there (CONNECT_FAILED)")


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_closing_ends_what_waits_and_what_comes_later(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    ends: list[object] = []

    async def wait_for(waiting: Callable[[], Any]) -> None:
        try:
            ends.append(await waiting())
        except ClientError as error:
            ends.append((type(error), error.code))

    async def listen(client: QAWebSocketClient) -> str:
        async for _ in client.listen_for_responses():
            pass
        return "listened"

    async with talking(adapter, agent) as (_, client):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for, lambda: client.ask("?"))
            tasks.start_soon(wait_for, lambda: listen(client))
            await agent.entered.wait()
            await client.close()
        assert sorted(ends, key=str) == sorted([(ClosedError, "CLOSED"), "listened"], key=str)
        for later in (client.ask("?"), client.send_chat_message("?"), anext(client.chat("?"))):
            with pytest.raises(ClosedError):
                await later
        await client.cancel()
        await client.close()
        assert "closed" in repr(client)
        agent.release.set()  # the run has gone on


async def test_behind_a_close_no_task_and_no_socket_is_left(adapter: Adapter) -> None:
    async with serving(adapter) as node:
        client = QAWebSocketClient(url(node))
        await client.connect()
        transport = client._driver._transport
        assert transport is not None
        assert transport._stream is not None
        stream = transport._stream
        await client.close()
        assert client._driver._host.running == 0
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()


async def test_before_it_is_connected_nothing_can_be_said(adapter: Adapter) -> None:
    client = QAWebSocketClient("ws://localhost/")
    with pytest.raises(ClosedError, match="not connected"):
        await client.ask("?")
    await client.close()


async def test_one_loop_at_a_time_listens(adapter: Adapter) -> None:
    async with talking(adapter) as (_, client):
        await client.ask("?")
        async with aclosing(client.listen_for_responses()) as events:
            await anext(events)
            with pytest.raises(RuntimeError, match="listens already"):
                await anext(client.listen_for_responses())
        async with aclosing(client.listen_for_responses()) as events:
            assert isinstance(await anext(events), AgentResponse)


async def test_a_server_that_stops_for_good_is_told_to_everybody(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    states: list[str] = []
    async with talking(adapter, agent, reconnect=False, on_state=lambda state, _: states.append(state)) as (
        node,
        client,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.stop_now)
            with pytest.raises((AnswerCancelled, ClosedError)):
                await client.ask("?")
        await until(lambda: states == ["connected", "closed"])
        with pytest.raises(ClosedError) as error:
            _ = [event async for event in client.listen_for_responses()]
        assert (error.value.code, error.value.close_code) == ("CLOSED", 1001)


async def test_a_callback_that_raises_is_logged_and_nothing_else(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    def on_state(state: str, reason: str) -> None:
        raise ValueError(state)

    async with talking(adapter, on_state=on_state) as (_, client):
        assert (await client.ask("?")).content == "?"
    said = [record.getMessage().splitlines()[:2] for record in caplog.records if record.name == "qaws.client"]
    assert said == [[f"on_state_failed state={state}", "  raised=ValueError"] for state in ("connected", "closed")]


# ── coming back ──────────────────────────────────────────────────────────────────────────────────────────────────────

QUICK: dict[str, Any] = {"backoff_cap": 0.01}


@pytest.mark.row("S1")
@pytest.mark.clause("C10")
@pytest.mark.parametrize("kind", ["reset", "end"])
async def test_a_connection_that_breaks_is_made_anew_and_the_answer_is_whole(adapter: Adapter, kind: str) -> None:
    agent = Pieces("so ", "far ", "so ", "good", wait_behind=2)
    states: list[str] = []
    async with (
        serving(adapter, agent) as node,
        proxying(node.port) as proxy,
        QAWebSocketClient(proxy.url(), on_state=lambda state, _: states.append(state), **QUICK) as client,
    ):
        said = ""
        async for piece in client.chat("?"):
            said += piece
            if said == "so far ":
                proxy.refuse(2)
                if kind == "reset":
                    proxy.reset()
                else:
                    proxy.end()
                agent.release.set()
        assert said == "so far so good", proxy
        assert proxy.connections == 2
        assert states[0] == states[-1] == "connected"
        assert states.count("reconnecting") == 3
    assert states[-1] == "closed"


@pytest.mark.row("F11")
async def test_a_connection_that_is_half_open_is_left(adapter: Adapter) -> None:
    agent = Pieces("so ", "far", wait_behind=1)
    async with (
        serving(adapter, agent, limits={"close_timeout": 0.1}) as node,
        proxying(node.port) as proxy,
        QAWebSocketClient(proxy.url(), heartbeat=0.05, heartbeat_timeout=0.05, **QUICK) as client,
    ):
        said = ""
        async for piece in client.chat("?"):
            if not said:
                proxy.stall()
                agent.release.set()
            said += piece
        assert said == "so far", proxy
        assert proxy.connections == 2


async def test_a_message_goes_out_once_connected_again(adapter: Adapter) -> None:
    async with (
        serving(adapter) as node,
        proxying(node.port, plan=cutting(Fault("end", "down", 2000))) as proxy,
        QAWebSocketClient(proxy.url(), **QUICK) as client,
    ):
        for number in range(20):
            assert (await client.ask(str(number))).content == str(number), proxy
        assert proxy.connections == 2


async def test_a_client_gives_up_when_told_to(adapter: Adapter) -> None:
    async with (
        serving(adapter) as node,
        proxying(node.port) as proxy,
        QAWebSocketClient(proxy.url(), max_attempts=3, **QUICK) as client,
    ):
        proxy.refuse(1000)
        proxy.reset()
        with pytest.raises(ClosedError):
            await anext(client.listen_for_responses())
        assert proxy.turned_away == 3


async def test_a_token_is_fetched_for_each_connection(adapter: Adapter) -> None:
    fetched: list[str] = []
    async with serving(adapter, **guarded()) as node, proxying(node.port) as proxy:

        def fetch() -> str:
            fetched.append(token(node))
            return fetched[-1]

        async with QAWebSocketClient(proxy.url(), token=fetch, **QUICK) as client:
            proxy.reset()
            assert (await client.ask("?")).content == "?"
    assert len(fetched) == 2


# ── callers that do not read ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Little may be unread."""
    monkeypatch.setattr("qaws.client_inbox.UNREAD", size := 10_000)
    return size


async def test_a_caller_that_does_not_read_holds_the_socket_back_and_misses_nothing(
    adapter: Adapter, small: int
) -> None:
    agent = Pieces(*(f"{number:05d}" * 200 for number in range(200)))
    async with talking(adapter, agent, sections={"agent": {"roll_up": 0}}) as (_, client):
        pieces = client.chat("?")
        said = await anext(pieces)
        await until(lambda: not client._gate.open)
        (answer,) = client._answers.values()
        assert answer._unread._size <= small + 64 * 1024 + 64 * 256  # what one read may bring
        said += "".join([piece async for piece in pieces])
        assert said == "".join(f"{number:05d}" * 200 for number in range(200))
        assert client._gate.open


@pytest.mark.row("F11")
async def test_a_caller_that_does_not_read_for_long_hears_all_the_same(adapter: Adapter, small: int) -> None:
    agent = Pieces(*(f"{number:05d}" * 200 for number in range(200)))
    states: list[str] = []
    async with talking(
        adapter, agent, heartbeat=0.02, heartbeat_timeout=0.02, connect_timeout=0.05, backoff_cap=0.01,
        sections={"sessions": {"max_bytes": 10_000_000}},
        on_state=lambda state, _: states.append(state),
    ) as (_, client):  # fmt: skip
        pieces = client.chat("?")
        said = await anext(pieces)
        await until(lambda: states.count("reconnecting") > 2)  # it is not there, and cannot be: there is no room
        size = next(iter(client._answers.values()))._unread._size
        await until(lambda: states.count("reconnecting") > 4)
        assert next(iter(client._answers.values()))._unread._size == size
        said += "".join([piece async for piece in pieces])
        assert said == "".join(f"{number:05d}" * 200 for number in range(200))


async def test_while_nobody_listens_the_newest_is_kept(adapter: Adapter, small: int) -> None:
    async with talking(adapter) as (_, client):
        for number in range(100):
            await client.ask(f"{number:03d}" * 100)
        assert client._gate.open
        assert client._inbox._size <= small
        await client.send_chat_message("last")
        heard = await heard_until(client, lambda answer: answer.content == "last")
        answers = [event.content for event in heard if isinstance(event, AgentResponse)]
        assert answers[-2:] == ["099" * 100, "last"]
        assert len(answers) < 100


# ── what the configuration says ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_demo_client_prints_both_sides(capsys: pytest.CaptureFixture[str], adapter: Adapter) -> None:
    from qaws import WebSocketServer, demo_client

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = WebSocketConfig.model_validate(
        {"server": {"port": port, "host": "127.0.0.1"}, "security": {"authentication": {"jwt_secret": SECRET}}}
    )
    async with WebSocketServer(echo, config):
        await demo_client(config=config, questions=["¿Cómo estás?", "¿qué?"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("client  logged in as demo, session ")
    assert lines == ["client  ¿Cómo estás?", "agent   ¿Cómo estás?", "client  ¿qué?", "agent   ¿qué?"]
