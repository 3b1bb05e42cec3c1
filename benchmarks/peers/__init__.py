"""The servers that are measured: ours, those that do the same work by hand, and a constant one that does none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..processes import Child, compiled
from ..report import installed, versions
from .work import Terms

BACKLOG = 4096  # connections that the kernel lets wait: as many as come at once
NODE = "benchmarks/peers/node_ws.mjs"


@dataclass(frozen=True, slots=True)
class Peer:
    """One server: the module in this package that serves it, and the distributions that it needs."""

    name: str
    module: str
    packages: tuple[str, ...]
    variant: str = ""  # which of its implementations, where the module knows several
    dialect: str = "websocket"  # of its clients: events as they are, or those of socket.io
    interpreted: bool = False  # though a compiled core is there

    @property
    def title(self) -> str:
        """Its name and the versions of what it is made of."""
        name = f"{self.name}, compiled" if self.home else self.name
        return f"{name} ({versions(self.packages)})" if self.packages else name

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        return [package for package in self.packages if installed(package) is None]

    @property
    def ours(self) -> bool:
        """Whether it is one of the faces of qaws."""
        return "qaws-gateway" in self.packages

    @property
    def home(self) -> Path | None:
        """Where its core is compiled; None where it is not."""
        return compiled() if self.ours and not self.interpreted else None

    @property
    def in_python(self) -> bool:
        """Whether it is another one's, and written in Python."""
        return bool(self.packages) and not self.ours and self.module != NODE

    def start(self, terms: Terms) -> Child:
        """Serve in a process of its own on a core of its own, which says `{"port": …}` once clients may connect."""
        told = {"module": self.module, "variant": self.variant, "terms": terms._asdict()}
        return Child(self.name, self.module if self.module == NODE else "benchmarks.peers", told, self.home)


QAWS = Peer("qaws", "gateway", ("qaws-gateway", "wsproto"))
QAWS_INTERPRETED = Peer("qaws, interpreted", "gateway", ("qaws-gateway", "wsproto"), interpreted=True)
QAWS_ANYIO = Peer("qaws on anyio", "gateway", ("qaws-gateway", "anyio"), "anyio")
QAWS_ASGI = Peer(
    "qaws under uvicorn", "uvicorn_host", ("qaws-gateway", "uvicorn", "websockets"), "qaws websockets-sansio"
)  # fmt: skip
PICOWS = Peer("picows", "picows_asyncio", ("picows",))
FASTAPI_WSPROTO = Peer(
    "FastAPI, uvicorn's wsproto", "uvicorn_host", ("uvicorn", "fastapi", "wsproto"), "fastapi wsproto"
)  # fmt: skip
FASTAPI_SANSIO = Peer(
    "FastAPI, uvicorn's websockets-sansio", "uvicorn_host", ("uvicorn", "fastapi", "websockets"),
    "fastapi websockets-sansio",
)  # fmt: skip
PEERS = (
    QAWS,
    QAWS_INTERPRETED,
    QAWS_ANYIO,
    QAWS_ASGI,
    PICOWS,
    Peer("websockets", "websockets_asyncio", ("websockets",)),
    Peer("aiohttp", "aiohttp_server", ("aiohttp",)),
    FASTAPI_WSPROTO,
    FASTAPI_SANSIO,
    Peer("ASGI, hypercorn", "hypercorn_host", ("hypercorn",)),
    Peer("ASGI, granian", "granian_host", ("granian",)),
    Peer("socket.io, uvicorn", "socketio_uvicorn", ("python-socketio", "uvicorn", "websockets"), dialect="socketio"),
    Peer("Node's ws", NODE, ("npm:ws", "npm:ajv", "npm:jose")),
)
CONSTANT = Peer("constant answers", "constant", ())


def available(peers: Sequence[Peer]) -> tuple[list[Peer], list[str]]:
    """The peers whose packages are installed, and a line for each that has to be left out."""
    notes = [f"Left out: {peer.name}; not installed: {', '.join(peer.missing)}." for peer in peers if peer.missing]
    present = [peer for peer in peers if not peer.missing]
    if QAWS_INTERPRETED in present and compiled() is None:
        present.remove(QAWS_INTERPRETED)
        notes.append(f"Left out: {QAWS_INTERPRETED.name}; so is qaws, as no compiled core is named (QAWS_COMPILED).")
    return present, notes
