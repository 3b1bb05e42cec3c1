"""qaws as users run it: authentication, limits and sessions on, the limits raised so that none refuses the load."""

from __future__ import annotations

import asyncio
from signal import SIGTERM
from typing import Any

from qaws import WebSocketConfig, WebSocketServer, anyio_server

from .work import Ready, Terms, agent, streaming_agent

CLIENTS, ARRIVING = 11_000, 8_000  # more than any benchmark brings


def configuration(terms: Terms) -> WebSocketConfig:
    """The defaults, but for the secret and the limits that a benchmark would meet; streamed pieces are not joined."""
    return WebSocketConfig.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": 0, "max_connections": CLIENTS},
            "security": {
                "authentication": {
                    "jwt_secret": terms.secret, "issuer": terms.issuer, "audience": terms.audience,
                },
                "rate_limiting": {"requests_per_minute": terms.requests_per_minute, "burst_size": 100_000},
            },
            "limits": {
                "connections_per_address": CLIENTS, "frames_per_second": 10_000_000, "frame_burst": 10_000_000,
                "handshakes": ARRIVING,
            },
            "sessions": {"queue": 1000, "max_sessions": CLIENTS, "per_user": CLIENTS},
            "agent": {"max_runs": 1_000_000, **({"roll_up": 0} if terms.scene == "stream" else {})},
        }
    )  # fmt: skip


def agent_of(terms: Terms) -> Any:
    """The agent that answers as it is asked to."""
    return streaming_agent if terms.scene == "stream" else agent


async def serve(terms: Terms, ready: Ready, variant: str = "asyncio") -> None:
    """Serve until cancelled; a SIGTERM drains. `variant` is the adapter."""
    adapter = anyio_server.WebSocketServer if variant == "anyio" else WebSocketServer
    async with adapter(agent_of(terms), configuration(terms)) as server:
        asyncio.get_running_loop().add_signal_handler(SIGTERM, server.manager.drain)
        ready(server.port)
        await server.serve_forever()
