"""A client that talks on while its server is killed and started again: each character once, of an answer run again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import pytest

from qaws import QAWebSocketClient
from qaws_proto.events import AgentResponse
from tests.helpers.process import Served, serving

PIECES, KILLS = 80, 3
ROOT = Path(__file__).parents[2]
SETTINGS = """
websocket:
  security: {{authentication: {{enabled: false}}}}
  store: {{kind: sqlite, path: {folder}/sessions.db, on_restart: rerun}}
"""


async def counting(message: str) -> AsyncIterator[str]:
    """An agent that takes its time."""
    for number in range(PIECES):
        await anyio.sleep(0.01)
        yield f"<{number}>"


@pytest.mark.anyio
@pytest.mark.row("D2")
@pytest.mark.clause("C10")
@pytest.mark.timeout(120)
async def test_the_same_client_hears_the_whole_of_it_through_kills(tmp_path: Path) -> None:
    config = tmp_path / "qaws.yaml"
    config.write_text(SETTINGS.format(folder=tmp_path))

    def serve(port: str, ends_with: int) -> Served:
        agent = f"{__name__}:counting"
        return stack.enter_context(
            serving("--config", str(config), "--agent", agent, port=port, cwd=str(ROOT), ends_with=ends_with)
        )

    text, killed = "", 0
    with anyio.fail_after(100), ExitStack() as stack:
        server = await anyio.to_thread.run_sync(serve, "0", -9)
        port = str(urlsplit(server.url).port)
        async with QAWebSocketClient(server.url, backoff_cap=0.2) as client:
            async for piece in client.chat("count"):
                text += piece
                if killed < KILLS and text.count(">") > 15 * (killed + 1):
                    killed += 1
                    server.process.kill()
                    await anyio.to_thread.run_sync(server.process.wait)
                    server = await anyio.to_thread.run_sync(serve, port, -9 if killed < KILLS else 0)
            answer: AgentResponse = await client.ask("again")
        await anyio.to_thread.run_sync(stack.close)
    assert killed == KILLS
    assert text == answer.content == "".join(f"<{number}>" for number in range(PIECES))
