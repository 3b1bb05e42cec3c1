"""The same work on ASGI alone, without a framework, for a server that hosts it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .work import Conversation, Service, Terms

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


def app_of(terms: Terms) -> App:
    """An application that does it."""
    service = Service(terms)
    scene = {"chat": chat, "stream": stream, "fanout": fanout}[terms.scene]

    async def welcome(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            raise NotImplementedError("there is nothing but a WebSocket here")
        await receive()  # websocket.connect
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        conversation = service.log_in(authorization)
        if conversation is None:
            await send({"type": "websocket.close", "code": 4401})
            return
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": conversation.greeting().decode()})
        await scene(receive, send, conversation)
        conversation.leave(send)

    return welcome


async def chat(receive: Receive, send: Send, conversation: Conversation) -> None:
    """Answer until the connection ends."""
    while (message := await receive())["type"] == "websocket.receive":
        reply = await conversation.answer(message["text"])
        await send({"type": "websocket.send", "text": reply.decode()})


async def stream(receive: Receive, send: Send, conversation: Conversation) -> None:
    """The same, in pieces."""
    while (message := await receive())["type"] == "websocket.receive":
        async for reply in conversation.stream(message["text"]):
            await send({"type": "websocket.send", "text": reply.decode()})


async def fanout(receive: Receive, send: Send, conversation: Conversation) -> None:
    """The same, for everybody in the session. A member is its `send`."""
    while (message := await receive())["type"] == "websocket.receive":
        hearers, reply = await conversation.turn(message["text"], send)
        event = {"type": "websocket.send", "text": reply.decode()}
        for member in hearers:
            await member(event)
