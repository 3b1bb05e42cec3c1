"""The same work on ASGI, hosted by hypercorn."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from hypercorn.asyncio import serve as host
from hypercorn.config import Config

from . import BACKLOG
from .asgi_app import app_of
from .work import Ready, Terms


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    ready(listener.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.backlog = BACKLOG
    config.errorlog = None
    await host(cast(Any, app_of(terms)), config, shutdown_trigger=asyncio.Event().wait)
