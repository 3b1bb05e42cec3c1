"""qaws as users run it: authentication, limits and sessions on, the limits raised so that none refuses the load."""

from __future__ import annotations

from qaws import WebSocketConfig, WebSocketServer

from .work import Ready, Terms, agent


def configuration(terms: Terms) -> WebSocketConfig:
    """The defaults, but for the secret and the limits that a benchmark would meet."""
    return WebSocketConfig.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": 0, "max_connections": 20_000},
            "security": {
                "authentication": {
                    "jwt_secret": terms.secret, "issuer": terms.issuer, "audience": terms.audience,
                },
                "rate_limiting": {"requests_per_minute": terms.requests_per_minute, "burst_size": 100_000},
            },
            "limits": {
                "connections_per_address": 20_000, "frames_per_second": 10_000_000, "frame_burst": 10_000_000,
            },
            "sessions": {"queue": 1000, "max_sessions": 20_000},
            "agent": {"max_runs": 1_000_000},
        }
    )  # fmt: skip


async def serve(terms: Terms, ready: Ready) -> None:
    """Serve until cancelled."""
    async with WebSocketServer(agent, configuration(terms)) as server:
        ready(server.port)
        await server.serve_forever()
