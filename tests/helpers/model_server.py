"""A model provider on the loopback: OpenAI's chat completions as server-sent events, by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG = "hang"  # a delta: say nothing more until the client has gone

Delta = str | dict[str, Any]  # a piece of content, or a whole `delta`
Turn = Sequence[Delta] | int  # what is said to one request, or the status that it is refused with


def tool_call(name: str, arguments: str, *, id: str = "call-1") -> dict[str, Any]:
    """A delta that calls a tool."""
    return {
        "tool_calls": [{"index": 0, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}}]
    }


class ModelServer(ThreadingHTTPServer):
    """Answers each request with the next turn of the script; the last turn goes for all that follow."""

    daemon_threads = True

    def __init__(self, *turns: Turn) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.turns = list(turns)
        self.requests: list[dict[str, Any]] = []
        self.gone = threading.Event()  # the client of a turn that hangs has closed its connection

    @property
    def url(self) -> str:
        """What a client calls its base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def do_POST(self) -> None:
        """`/v1/chat/completions`."""
        server = self.server
        server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        turn = server.turns.pop(0) if len(server.turns) > 1 else server.turns[0]
        self.close_connection = True
        if isinstance(turn, int):
            self.send_error(turn)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta in turn:
            if delta == HANG:
                assert self.rfile.read(1) == b""
                server.gone.set()
                return
            self._send({"index": 0, "delta": {"content": delta} if isinstance(delta, str) else delta})
        calls = any(isinstance(delta, dict) and "tool_calls" in delta for delta in turn)
        self._send({"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, choice: dict[str, Any]) -> None:
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "scripted", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests read what was asked in `requests`."""


@contextmanager
def model_server(*turns: Turn) -> Iterator[ModelServer]:
    """A server that runs in a thread."""
    with ModelServer(*turns) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
