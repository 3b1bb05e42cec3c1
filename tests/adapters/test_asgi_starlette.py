"""The ASGI application within Starlette and FastAPI: mounted, routed, with their lifespans, under their test client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from qaws.asgi import WebSocketApp

from .asgi_host import open_app

LOCAL, SOCKET = "http://localhost", "ws://localhost"  # by itself it says testserver, which is no private address


def ask(client: TestClient, path: str) -> str:
    """What a WebSocket at a path answers."""
    with client.websocket_connect(SOCKET + path) as socket:
        socket.send_text(json.dumps({"type": "chat_message", "content": "¿Cómo estás?"}))
        while True:
            event: dict[str, Any] = json.loads(socket.receive_text())
            if event["type"] == "agent_response":
                return str(event["content"])


async def index(request: Request) -> PlainTextResponse:
    return PlainTextResponse("index")


def starlette(gateway: WebSocketApp) -> Starlette:
    routes = [Route("/", index), WebSocketRoute("/ws", gateway), Mount("/ws", gateway)]
    return Starlette(routes=routes, lifespan=gateway.lifespan)


def fastapi(gateway: WebSocketApp) -> FastAPI:
    app = FastAPI(lifespan=gateway.lifespan)
    app.router.routes.append(WebSocketRoute("/ws", gateway))
    app.mount("/ws", gateway)
    app.add_route("/", index)
    return app


@pytest.mark.parametrize("framework", [starlette, fastapi])
def test_other_routes_and_the_gateway_with_and_without_a_slash(framework: Any) -> None:
    with TestClient(framework(open_app(server={"path": "/ws"})), base_url=LOCAL) as client:
        assert client.get("/").text == "index"
        assert client.get("/ws/healthz").json() == {"status": "ok"}
        assert [ask(client, path) for path in ("/ws", "/ws/")] == ["¿Cómo estás?"] * 2
        for path in ("/ws/other", "/other"):
            with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET + path):
                pass


def test_a_mount_within_a_mount() -> None:
    inner = Starlette(routes=[Mount("/ws", open_app())])
    app = FastAPI()
    app.mount("/api", inner)
    with TestClient(app, base_url=LOCAL) as client:
        assert ask(client, "/api/ws/") == "¿Cómo estás?"
        assert client.get("/api/ws/healthz").status_code == 200
        assert client.get("/api/ws/other").status_code == 404


def test_a_lifespan_of_the_users_own_around_the_gateways() -> None:
    gateway = open_app()
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        order.append("begin")
        async with gateway.lifespan():
            yield
        order.append("end")

    app = Starlette(routes=[Mount("/", gateway)], lifespan=lifespan)
    with TestClient(app, base_url=LOCAL) as client:
        assert ask(client, "/") == "¿Cómo estás?"
        assert order == ["begin"]
    assert order == ["begin", "end"]
    assert gateway.manager.gateway.connections == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_without_a_lifespan_each_client_may_bring_an_event_loop_of_its_own(backend: Any) -> None:
    app = open_app(agent={"roll_up": 0})
    client = TestClient(app, base_url=LOCAL, backend=backend)
    for _ in range(3):
        assert ask(client, "/") == "¿Cómo estás?"
        assert client.get("/healthz").status_code == 200
    assert app.manager.gateway.connections == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_timers_go_on_in_the_next_event_loop(backend: Any) -> None:
    app = open_app(
        security={"authentication": {"jwt_secret": "a secret of more than thirty-two bytes", "timeout": 0.05}}
    )
    client = TestClient(app, base_url=LOCAL, backend=backend)
    for _ in range(2):
        with client.websocket_connect(SOCKET + "/") as socket:
            assert "auth_required" in socket.receive_text()
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
            assert closed.value.code == 4408
