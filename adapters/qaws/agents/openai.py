"""OpenAI-compatible endpoints as an agent: OpenAI itself, llama.cpp, vLLM, Ollama and what else speaks the format."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from typing import NamedTuple

import anyio
from anyio.lowlevel import RunVar

from .completion import Answer
from .interface import AgentError, AgentFailure, AgentReply, AgentStep
from .memory import Memory

try:
    import httpx2
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise ModuleNotFoundError(
        'this agent needs the package httpx2: pip install "qaws-gateway[openai]"', name="httpx2"
    ) from None

from ..responses import body

OPENAI_URL = "https://api.openai.com/v1"
ENDPOINT = "/chat/completions"
KEY_VARIABLE = "OPENAI_API_KEY"
NOT_UNDERSTOOD = (400, 422)  # what servers answer that refuse fields they do not know
TAIL = 0.2  # seconds in which a stream may end behind its last event, so that its connection can be used again
IDLE_CONNECTIONS = 20  # kept open for the next questions
SECRETS = ("key", "token", "code", "sig", "signature", "secret", "password")  # how names of such parameters end


class Exchange(NamedTuple):
    """A question and its whole answer."""

    question: str
    answer: str


class OpenAIAgent:
    """Answers with a chat model behind `POST {url}/chat/completions`, streamed; remembers each session for it."""

    def __init__(
        self,
        model: str,
        *,
        url: str = OPENAI_URL,
        key: str | None = None,
        system: str | None = None,
        parameters: Mapping[str, object] | None = None,
        history_messages: int = 40,
        history_characters: int = 40_000,
        history_sessions: int = 1_000,
        connect_timeout: float = 10.0,
        allow_insecure_key: bool = False,
    ) -> None:
        """`url` is the base, or the endpoint whole. `key`: by default OPENAI_API_KEY of the environment; "" is none.

        `system` goes before every conversation. `parameters` are further fields of the request (`temperature` …).
        Of each session the newest `history_messages` and `history_characters` are sent along, of the newest
        `history_sessions`; 0 keeps none. `connect_timeout` is seconds; how long an answer may take is for the gateway
        to say (`agent.timeout`). `allow_insecure_key` lets the key go over plain HTTP to another machine.

        Raises AgentError where one of them cannot be used.
        """
        if not model:
            raise AgentError("the name of a model is missing: openai:MODEL")
        if min(history_messages, history_characters, history_sessions) < 0 or not connect_timeout > 0:
            raise AgentError("limits of the history are 0 or more, and the time to connect is more than 0")
        self.model = model
        self._url = _endpoint(url)
        self.host = self._url.host
        self._key = _checked(os.environ.get(KEY_VARIABLE, "") if key is None else key)
        encrypted, local = self._url.scheme == "https", _is_loopback(self.host)
        if self._key and not (encrypted or local or allow_insecure_key):
            raise AgentError(
                f"the key would go to {self.host} unencrypted: use an https address, or unset {KEY_VARIABLE}"
            )
        self._system = system
        self._parameters = dict(parameters or {})
        self._asks_usage = "stream_options" not in self._parameters  # until a server does not understand that
        try:
            httpx2.Request("POST", self._url, json=self._request("", []))
        except (TypeError, ValueError):
            raise AgentError("the model, the system prompt and the parameters have to fit into JSON") from None
        self._connect_timeout = connect_timeout
        self._memory: Memory[Exchange] = Memory(
            turns=history_messages // 2, characters=history_characters, sessions=history_sessions, size=_characters
        )
        self._proxied = not local  # where the environment names a proxy; none leads to this very machine
        self._tls = _tls() if encrypted or self._proxied else _no_tls()
        self._clients: RunVar[httpx2.AsyncClient | None] = RunVar("client", default=None)  # one for each event loop
        self._check_proxies()

    def __repr__(self) -> str:
        return f"OpenAIAgent({self.model!r}, host={self.host!r})"

    async def chat(
        self, message: str, *, user_id: str = "", session_id: str = ""
    ) -> AsyncIterator[str | AgentStep | AgentReply]:
        """The answer as it comes, and the model's reasoning as steps. Raises AgentFailure where there is none.

        Where the server counts tokens, the last thing is an AgentReply with the whole answer and their number.

        What was asked and answered is remembered for the session once it is whole. Of an answer that was cancelled or
        failed nothing is: the model would take a fragment for what it meant to say.
        """
        session = (user_id, session_id)
        answer = Answer(self.host)
        request = self._request(message, self._memory.recall(session))
        try:
            async with self._respond(request) as response:
                answer.begin(response.status_code, response.headers, time.time())
                async with body(response) as chunks:
                    async for data in chunks:
                        for piece in answer.feed(data):
                            yield piece
                        if answer.done:
                            break
                    with anyio.move_on_after(TAIL):
                        async for _ in chunks:
                            pass
        except httpx2.RequestError as error:
            if not answer.finished:
                # `from None`: what a library says of a request may quote it.
                raise AgentFailure("unavailable", f"{self.host}: {type(error).__name__}") from None
        for piece in answer.end():
            yield piece
        if answer.text:
            self._memory.add(session, Exchange(message, answer.text))
        if answer.input_tokens is not None or answer.output_tokens is not None:
            yield AgentReply(answer.text, input_tokens=answer.input_tokens, output_tokens=answer.output_tokens)

    async def aclose(self) -> None:
        """Close the connections of this event loop. The agent stays usable, and makes new ones."""
        client = self._clients.get()
        if client is not None:
            self._clients.set(None)
            await client.aclose()

    def _request(self, message: str, history: list[Exchange]) -> dict[str, object]:
        messages = [] if self._system is None else [{"role": "system", "content": self._system}]
        for exchange in history:
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        messages.append({"role": "user", "content": message})
        return {**self._parameters, "model": self.model, "messages": messages, "stream": True}

    @asynccontextmanager
    async def _respond(self, request: dict[str, object]) -> AsyncIterator[httpx2.Response]:
        """The response; asked for the number of tokens as well, of a server that understands that."""
        if self._asks_usage:
            asking = {"stream_options": {"include_usage": True}, **request}
            async with self._client().stream("POST", self._url, json=asking) as response:
                if response.status_code not in NOT_UNDERSTOOD:
                    yield response
                    return
        async with self._client().stream("POST", self._url, json=request) as response:
            self._asks_usage = self._asks_usage and response.status_code != 200
            yield response

    def _client(self) -> httpx2.AsyncClient:
        client = self._clients.get()
        if client is None:
            client = self._new_client()
            self._clients.set(client)
        return client

    def _new_client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers={
                "Accept": "text/event-stream, application/json",
                "Accept-Encoding": "identity",  # compression would hold pieces back
                "User-Agent": "qaws",
                **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none: users share this client
            timeout=httpx2.Timeout(None, connect=self._connect_timeout),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS),
            follow_redirects=False,  # the question and the key are for the host that was named
            trust_env=self._proxied,
            verify=self._tls,
        )

    def _check_proxies(self) -> None:
        """A client reads them as it is made, each one the same. They are not repeated: they may hold passwords."""
        try:
            self._new_client()
        except ImportError:
            raise AgentError("a proxy of the environment (ALL_PROXY …) speaks SOCKS: pip install socksio") from None
        except (ValueError, httpx2.InvalidURL):
            raise AgentError(
                "a proxy of the environment cannot be used: look at HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY"
            ) from None


def _endpoint(text: str) -> httpx2.URL:
    """Where to post, for the base of an API or the endpoint itself. It is not repeated: it may hold a password."""
    try:
        url = httpx2.URL(text)
        usable = url.scheme in ("http", "https") and bool(url.host.encode("idna")) and 0 < (url.port or 1) < 65536
    except (httpx2.InvalidURL, UnicodeError):
        usable = False
    if not usable:
        raise AgentError(
            "the address of an OpenAI-compatible server begins with http:// or https:// and names a host, "
            "such as http://localhost:11434/v1"
        )
    if url.userinfo or url.fragment:
        raise AgentError(f"the address of an OpenAI-compatible server has no user in it and no #: use {KEY_VARIABLE}")
    if any(name.lower().endswith(SECRETS) for name in url.params):  # addresses get into logs
        raise AgentError(f"the address of an OpenAI-compatible server has no key in it: use {KEY_VARIABLE}")
    path = url.path.rstrip("/")
    return url.copy_with(path=path if path.endswith(ENDPOINT) else path + ENDPOINT)


def _tls() -> ssl.SSLContext:
    """What servers and proxies are verified by: SSL_CERT_FILE or SSL_CERT_DIR, else what this machine trusts.

    It is made at the start and not within the event loop, for reading all of that takes a while. Raises AgentError.
    """
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        raise AgentError(
            f"the certificates to verify servers by cannot be read ({error.strerror or type(error).__name__}): "
            "look at SSL_CERT_FILE and SSL_CERT_DIR"
        ) from None


def _no_tls() -> ssl.SSLContext:
    """The same where nothing is encrypted: quickly made, and trusts nobody."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _checked(key: str) -> str:
    """A key that can stand in a header. It is not repeated where it cannot."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise AgentError(f"the key ({KEY_VARIABLE}) holds characters that no key has")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _characters(exchange: Exchange) -> int:
    return len(exchange.question) + len(exchange.answer)
