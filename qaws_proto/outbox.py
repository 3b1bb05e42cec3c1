"""Where the effects of a turn are collected, until `Gateway.step` gives them out."""

from __future__ import annotations

from .effects import ConnectionEffect, Effect, MessageEffect, SendBytes


class Outbox:
    """The effects of one turn, in order; what is sent to one connection within a turn becomes one `SendBytes`.

    Bytes wait until the turn ends, or until another effect on the same connection must come after them.
    """

    __slots__ = ("_bytes", "_effects")

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self._bytes: dict[int, bytes | list[bytes]] = {}

    def send(self, connection: int, data: bytes | MessageEffect) -> None:
        """Write bytes, joined with what this turn has for the connection already; or say a message, one by one."""
        if not isinstance(data, bytes):
            self._effects.append(data)
            return
        held = self._bytes.get(connection)
        if held is None:
            self._bytes[connection] = data
        elif type(held) is list:
            held.append(data)
        else:
            self._bytes[connection] = [held, data]  # type: ignore[list-item]

    def add(self, effect: Effect) -> None:
        """Add an effect that has no order against bytes in this turn."""
        self._effects.append(effect)

    def add_behind_bytes(self, connection: int, effect: ConnectionEffect) -> None:
        """Add an effect that must come after the bytes this turn has for the connection."""
        held = self._bytes.pop(connection, None)
        if held is not None:
            self._effects.append(SendBytes(connection, _joined(held)))
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        """End the turn: all its effects."""
        effects = self._effects
        self._effects = []
        if self._bytes:
            for connection, held in self._bytes.items():
                effects.append(SendBytes(connection, _joined(held)))
            self._bytes = {}
        return effects


def _joined(held: bytes | list[bytes]) -> bytes:
    return held if isinstance(held, bytes) else b"".join(held)
