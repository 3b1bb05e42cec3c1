"""The same work on ASGI, hosted by granian within this process: one worker, one thread of its runtime."""

from __future__ import annotations

import asyncio
import socket

from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from . import BACKLOG
from .asgi_app import app_of
from .work import Ready, Terms

LOOK = 0.02  # seconds between two looks at whether it listens


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    server = Server(
        app_of(terms), address="127.0.0.1", port=port, interface=Interfaces.ASGINL, backlog=BACKLOG,
        log_level=LogLevels.error,
    )  # fmt: skip
    serving = asyncio.create_task(server.serve())
    while not await _listens(port):
        await asyncio.sleep(LOOK)
    ready(port)
    await serving


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True
