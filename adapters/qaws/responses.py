"""How the body of an HTTP response is read with httpx2, on any event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import httpx2


@asynccontextmanager
async def body(response: httpx2.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The bytes of a response. At the end it is closed, and the connection with it unless all was read."""
    chunks = response.aiter_bytes()
    try:
        yield chunks
    finally:
        # Closing alone would leave generators within httpx2 to the garbage collector, about which trio complains:
        # they end where they read on from what is closed, which waits for nothing.
        with anyio.CancelScope(shield=True), suppress(httpx2.RequestError, httpx2.StreamError):
            await response.aclose()
            async for _ in chunks:
                pass
