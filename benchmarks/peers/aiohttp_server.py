"""The same work on aiohttp: its low-level server, without a router, bytes in and bytes out."""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web

from . import BACKLOG
from .work import Conversation, Ready, Service, Terms


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled."""
    service = Service(terms)
    scene = {"chat": chat, "stream": stream, "fanout": fanout}[terms.scene]

    async def welcome(request: web.BaseRequest) -> web.StreamResponse:
        conversation = service.log_in(request.headers.get("Authorization"))
        if conversation is None:
            return web.Response(status=401)
        websocket = web.WebSocketResponse(compress=False, decode_text=False)
        await websocket.prepare(request)
        await websocket.send_frame(conversation.greeting(), WSMsgType.TEXT)
        try:
            await scene(websocket, conversation)
        finally:
            conversation.leave(websocket)
        return websocket

    runner = web.ServerRunner(web.Server(welcome))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
    ready(runner.addresses[0][1])
    await asyncio.Event().wait()


async def chat(websocket: web.WebSocketResponse, conversation: Conversation) -> None:
    """Answer until the connection ends."""
    async for message in websocket:
        await websocket.send_frame(await conversation.answer(message.data), WSMsgType.TEXT)


async def stream(websocket: web.WebSocketResponse, conversation: Conversation) -> None:
    """The same, in pieces."""
    async for message in websocket:
        async for reply in conversation.stream(message.data):
            await websocket.send_frame(reply, WSMsgType.TEXT)


async def fanout(websocket: web.WebSocketResponse, conversation: Conversation) -> None:
    """The same, for everybody in the session. One after the other is faster than a task for each."""
    async for message in websocket:
        hearers, reply = await conversation.turn(message.data, websocket)
        for member in hearers:
            await member.send_frame(reply, WSMsgType.TEXT)
