"""Random numbers of a simulated world: one seed, and a stream of its own for each thing that draws.

The only module of the core that imports `random`, which is seeded here and nowhere else.
"""

from __future__ import annotations

from hashlib import sha256
from random import Random

__all__ = ["Random", "Streams"]


class Streams:
    """The streams of one seed, by name: who draws more from one does not move the others."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, Random] = {}

    def stream(self, name: str) -> Random:
        """The stream of this name: the same object each time, and the same numbers in every process."""
        found = self._streams.get(name)
        if found is None:
            digest = sha256(f"{self.seed}/{name}".encode()).digest()
            found = self._streams[name] = Random(int.from_bytes(digest))
        return found

    def text(self, name: str) -> str:
        """An unguessable text of 128 bits that belongs to this name."""
        return sha256(f"{self.seed}/text/{name}".encode()).hexdigest()[:32]
