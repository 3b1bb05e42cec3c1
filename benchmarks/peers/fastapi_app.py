"""The same work on FastAPI, for a server that hosts it."""

from __future__ import annotations

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from .work import Conversation, Service, Terms


def app_of(terms: Terms) -> FastAPI:
    """An application that does it."""
    service = Service(terms)
    scene = {"chat": chat, "stream": stream, "fanout": fanout}[terms.scene]
    app = FastAPI()

    @app.websocket("/")
    async def welcome(websocket: WebSocket) -> None:
        conversation = service.log_in(websocket.headers.get("Authorization"))
        if conversation is None:
            await websocket.close(4401)
            return
        await websocket.accept()
        await websocket.send_text(conversation.greeting().decode())
        try:
            await scene(websocket, conversation)
        except WebSocketDisconnect:
            conversation.leave(websocket)

    return app


async def chat(websocket: WebSocket, conversation: Conversation) -> None:
    """Answer until the connection ends, which raises WebSocketDisconnect."""
    while True:
        reply = await conversation.answer(await websocket.receive_text())
        await websocket.send_text(reply.decode())


async def stream(websocket: WebSocket, conversation: Conversation) -> None:
    """The same, in pieces."""
    while True:
        async for reply in conversation.stream(await websocket.receive_text()):
            await websocket.send_text(reply.decode())


async def fanout(websocket: WebSocket, conversation: Conversation) -> None:
    """The same, for everybody in the session. One after the other is faster than a task for each."""
    while True:
        hearers, reply = await conversation.turn(await websocket.receive_text(), websocket)
        text = reply.decode()
        for member in hearers:
            await member.send_text(text)
