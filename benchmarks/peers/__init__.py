"""The servers that are measured: ours, those that do the same work by hand, and a constant one that does none."""

from __future__ import annotations

from dataclasses import dataclass

from ..processes import Child
from ..report import installed, versions
from .work import Terms


@dataclass(frozen=True, slots=True)
class Peer:
    """One server: the module in this package that serves it, and the distributions that it needs."""

    name: str
    module: str
    packages: tuple[str, ...]
    variant: str = ""  # which of its implementations, where the module knows several

    @property
    def title(self) -> str:
        """Its name and the versions of what it is made of."""
        return f"{self.name} ({versions(self.packages)})" if self.packages else self.name

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        return [package for package in self.packages if installed(package) is None]

    def start(self, terms: Terms) -> Child:
        """Serve in a process of its own, which says `{"port": …}` once clients may connect."""
        told = {"module": self.module, "variant": self.variant, "terms": terms._asdict()}
        return Child(self.name, "benchmarks.peers", told)


QAWS = Peer("qaws", "gateway", ("qaws-gateway", "wsproto"))
CONSTANT = Peer("constant answers", "constant", ())
PEERS = (
    QAWS,
    Peer("websockets", "websockets_asyncio", ("websockets",)),
    Peer("FastAPI, uvicorn's wsproto", "fastapi_uvicorn", ("uvicorn", "fastapi", "wsproto"), "wsproto"),
    Peer(
        "FastAPI, uvicorn's websockets-sansio",
        "fastapi_uvicorn",
        ("uvicorn", "fastapi", "websockets"),
        "websockets-sansio",
    ),
)
