"""A client that shows both sides of a conversation: `qaws demo`, and `qaws.demo_client()` for programs."""

from __future__ import annotations

from collections.abc import Sequence

from qaws_proto import WebSocketConfig

from .anyio_client import QAWebSocketClient
from .terminal import plain

QUESTIONS = ("¿Cómo estás?", "¿Cuál es la capital de España?")


async def demo_client(
    url: str | None = None,
    *,
    user_id: str = "demo",
    config: WebSocketConfig | None = None,
    questions: Sequence[str] = QUESTIONS,
) -> None:
    """Connect to the configured server as a user, ask, and print both sides.

    `config` (default: the settings of this environment) has the secret to make a token with, and says where the server
    is, unless `url` does. Raises ClientError where there is no answer, ConfigError where the settings cannot be used.
    """
    if config is None:
        from .settings import load

        config = load().config
    client = QAWebSocketClient(url or _url(config), config=config)
    try:
        await client.connect(user_id)
        print(f"client  logged in as {plain(str(client.user_id))}, session {plain(str(client.session_id))}")
        for question in questions:
            print(f"client  {question}", flush=True)
            print("agent   ", end="", flush=True)
            async for piece in client.chat(question):
                print(plain(piece), end="", flush=True)
            print(flush=True)
    finally:
        await client.close()


def _url(config: WebSocketConfig) -> str:
    from .listening import url_of

    return url_of(config, config.server.host, config.server.port)
