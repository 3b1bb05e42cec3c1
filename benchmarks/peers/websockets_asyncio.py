"""The same work on `websockets`, its asyncio server, bytes in and bytes out."""

from __future__ import annotations

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed

from . import BACKLOG
from .work import Conversation, Ready, Service, Terms


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled."""
    service = Service(terms)
    scene = {"chat": chat, "stream": stream, "fanout": fanout}[terms.scene]

    async def welcome(websocket: ServerConnection) -> None:
        assert websocket.request is not None
        conversation = service.log_in(websocket.request.headers.get("Authorization"))
        if conversation is None:
            await websocket.close(4401)
            return
        await websocket.send(conversation.greeting(), text=True)
        try:
            await scene(websocket, conversation)
        except ConnectionClosed:
            conversation.leave(websocket)

    async with listen(welcome, "127.0.0.1", 0, compression=None, backlog=BACKLOG, open_timeout=None) as server:
        ready(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()


async def chat(websocket: ServerConnection, conversation: Conversation) -> None:
    """Answer until the connection ends, which raises ConnectionClosed."""
    while True:
        await websocket.send(await conversation.answer(await websocket.recv(decode=False)), text=True)


async def stream(websocket: ServerConnection, conversation: Conversation) -> None:
    """The same, in pieces."""
    while True:
        async for reply in conversation.stream(await websocket.recv(decode=False)):
            await websocket.send(reply, text=True)


async def fanout(websocket: ServerConnection, conversation: Conversation) -> None:
    """The same, for everybody in the session."""
    while True:
        hearers, reply = await conversation.turn(await websocket.recv(decode=False), websocket)
        broadcast(hearers, reply, text=True)
