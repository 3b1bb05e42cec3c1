"""The same work on `websockets`, its asyncio server."""

from __future__ import annotations

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen

from .work import Ready, Service, Terms


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled."""
    service = Service(terms)

    async def chat(websocket: ServerConnection) -> None:
        assert websocket.request is not None
        conversation = service.log_in(websocket.request.headers.get("Authorization"))
        if conversation is None:
            await websocket.close(4401)
            return
        await websocket.send(conversation.greeting())
        async for text in websocket:
            assert isinstance(text, str)
            await websocket.send(await conversation.answer(text))

    async with listen(chat, "127.0.0.1", 0, compression=None) as server:
        ready(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()
