"""The same work on `picows`: one task answers what a read has brought, and frames go out without one."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from . import BACKLOG
from .work import Conversation, Ready, Service, Terms


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled."""
    service = Service(terms)
    scene = {"chat": Chat, "stream": Stream, "fanout": Fanout}[terms.scene]

    def welcome(request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        conversation = service.log_in(request.headers.get("Authorization"))
        if conversation is None:
            refusal = WSUpgradeResponse.create_error_response(HTTPStatus.UNAUTHORIZED)
            return WSUpgradeResponseWithListener(refusal, None)
        return scene(conversation)

    server = await ws_create_server(welcome, "127.0.0.1", 0, backlog=BACKLOG, websocket_handshake_timeout=None)
    ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class Chat(WSListener):
    """One client that has logged in. Its messages are answered one after the other."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._working: asyncio.Task[None] | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        transport.send(WSMsgType.TEXT, self._conversation.greeting())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self._waiting.append(frame.get_payload_as_bytes())
            if self._working is None:
                self._working = self._loop.create_task(self._work())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._conversation.leave(transport)

    async def _work(self) -> None:
        while self._waiting:
            messages, self._waiting = self._waiting, []
            for message in messages:
                await self._reply(message)
        self._working = None

    async def _reply(self, message: bytes) -> None:
        self._transport.send(WSMsgType.TEXT, await self._conversation.answer(message))


class Stream(Chat):
    """The same, in pieces."""

    async def _reply(self, message: bytes) -> None:
        async for reply in self._conversation.stream(message):
            self._transport.send(WSMsgType.TEXT, reply)


class Fanout(Chat):
    """The same, for everybody in the session."""

    async def _reply(self, message: bytes) -> None:
        hearers, reply = await self._conversation.turn(message, self._transport)
        member: Any
        for member in hearers:
            member.send(WSMsgType.TEXT, reply)
