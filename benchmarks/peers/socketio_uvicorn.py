"""The same work on python-socketio under uvicorn, WebSocket alone.

Its protocol is another one: names of events before their JSON, no request for a run of events, and an event is taken
apart by the standard `json` before it can be validated. Its own acknowledgements, namespaces and pings are as they are.
"""

from __future__ import annotations

from typing import Any

import socketio  # type: ignore[import-untyped]
from pydantic import BaseModel, ValidationError

from .uvicorn_host import host
from .work import EVENTS, INVALID, ChatMessage, Conversation, Ready, Resume, Service, Terms

QUIET = 3600  # seconds between two pings, so that none is counted as an answer


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled."""
    service = Service(terms)
    server = socketio.AsyncServer(
        async_mode="asgi", transports=["websocket"], always_connect=True, async_handlers=False, ping_interval=QUIET
    )
    conversations: dict[str, Conversation] = {}

    async def emit(event: BaseModel, to: str) -> None:
        told = event.model_dump(exclude_none=True)
        await server.emit(told["type"], told, to=to)

    async def connect(client: str, environ: dict[str, Any]) -> None:
        conversation = service.log_in(environ.get("HTTP_AUTHORIZATION"))
        if conversation is None:
            raise ConnectionRefusedError("AUTH_FAILED")
        conversations[client] = conversation
        await emit(conversation.welcome(), client)

    def disconnect(client: str, reason: str) -> None:
        if client in conversations:
            conversations.pop(client).leave(client)

    async def take(kind: str, client: str, data: Any) -> None:
        conversation = conversations[client]
        try:
            event = EVENTS.validate_python(data)
        except ValidationError:
            await emit(INVALID, client)
            return
        if terms.scene == "chat":
            await emit(await conversation.reply(event), client)
        elif terms.scene == "stream":
            async for reply in conversation.replies(event):
                await emit(reply, client)
        else:
            await for_all(conversation, event, client)

    async def for_all(conversation: Conversation, event: Any, client: str) -> None:
        hearers, told = await conversation.take_turn(event, client)
        room = event.session_id if isinstance(event, ChatMessage | Resume) else None
        if room is not None:
            await server.enter_room(client, room)
        await emit(told, client if hearers == {client} or room is None else room)

    for name, handler in (("connect", connect), ("disconnect", disconnect), ("*", take)):
        server.on(name, handler)
    await host(socketio.ASGIApp(server), ready, "websockets-sansio")
