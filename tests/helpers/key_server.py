"""Whoever publishes a key set, on a loopback port: answers as the test says, in threads, for any event loop."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 15  # seconds after which an answer that is held back is given all the same


class KeyServer(ThreadingHTTPServer):
    """`document` is what it answers with; while `open` is not set, an answer is held back."""

    daemon_threads = True

    def __init__(self, document: bytes, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.document = document
        self.status = 200
        self.headers: dict[str, str] = {}
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []  # paths
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        """Where the set is."""
        return f"{self._scheme}://localhost:{self.server_address[1]}/keys?v=1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: whoever does not trust it, or has read enough, hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.open.wait(PATIENCE)
        self.close_connection = True
        with suppress(OSError):
            self.send_response(self.server.status)
            for name, value in self.server.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(self.server.document)))
            self.end_headers()
            self.wfile.write(self.server.document)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests read what was asked in `asked`."""


@contextmanager
def key_server(document: bytes = b"", tls: ssl.SSLContext | None = None) -> Iterator[KeyServer]:
    """A server that runs in a thread."""
    with KeyServer(document, tls) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.open.set()
            server.shutdown()
            thread.join()
