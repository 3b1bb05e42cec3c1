"""uvicorn as a host: of FastAPI, and of qaws."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from qaws.asgi import WebSocketApp

from . import BACKLOG
from .fastapi_app import app_of
from .gateway import agent_of, configuration
from .work import Ready, Terms


async def serve(terms: Terms, ready: Ready, variant: str) -> None:
    """Serve until cancelled. `variant` is the application, and uvicorn's WebSocket implementation."""
    name, implementation = variant.split()
    app = WebSocketApp(agent_of(terms), configuration(terms)) if name == "qaws" else app_of(terms)
    await host(app, ready, implementation)


async def host(app: Any, ready: Ready, implementation: Any) -> None:
    """Serve an ASGI application until cancelled."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    ready(listener.getsockname()[1])
    config = uvicorn.Config(
        app, ws=implementation, ws_per_message_deflate=False, lifespan="off", log_level="error", access_log=False,
        backlog=BACKLOG,
    )  # fmt: skip
    await uvicorn.Server(config).serve(sockets=[listener])
