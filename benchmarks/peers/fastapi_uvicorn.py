"""The same work on FastAPI, served by uvicorn with one of its WebSocket implementations."""

from __future__ import annotations

import socket
from typing import Literal

import uvicorn
from fastapi import FastAPI, WebSocket

from .work import Ready, Service, Terms


async def serve(terms: Terms, ready: Ready, implementation: Literal["wsproto", "websockets-sansio"]) -> None:
    """Serve until cancelled."""
    service = Service(terms)
    app = FastAPI()

    @app.websocket("/")
    async def chat(websocket: WebSocket) -> None:
        conversation = service.log_in(websocket.headers.get("Authorization"))
        if conversation is None:
            await websocket.close(4401)
            return
        await websocket.accept()
        await websocket.send_text(conversation.greeting())
        async for text in websocket.iter_text():
            await websocket.send_text(await conversation.answer(text))

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    ready(listener.getsockname()[1])
    config = uvicorn.Config(
        app, ws=implementation, ws_per_message_deflate=False, lifespan="off", log_level="warning", access_log=False
    )
    await uvicorn.Server(config).serve(sockets=[listener])
