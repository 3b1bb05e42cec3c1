"""qaws with a durable store, in a file of the machine's folder for temporary files."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from qaws import WebSocketServer

from .gateway import configuration
from .work import Ready, Terms, agent


async def serve(terms: Terms, ready: Ready, variant: str) -> None:
    """Serve until cancelled. `variant` is what `store.synchronous` says."""
    with TemporaryDirectory() as folder:
        store = {"kind": "sqlite", "path": str(Path(folder) / "sessions.db"), "synchronous": variant}
        plain = configuration(terms)
        config = plain.model_validate({**plain.model_dump(exclude_unset=True), "store": store})
        async with WebSocketServer(agent, config) as server:
            ready(server.port)
            await server.serve_forever()
