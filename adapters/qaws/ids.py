"""Ids: 128 random bits each, drawn for many at once."""

from __future__ import annotations

import os
import secrets

DRAWN = 64  # ids for which the system is asked at once: asking it for each takes longer than a message does in all

_ids: list[str] = []


def random_id() -> str:
    """A new id, in hexadecimal."""
    while True:
        try:
            return _ids.pop()
        except IndexError:  # also where another thread has taken the last one
            bits = secrets.token_hex(16 * DRAWN)
            _ids.extend(bits[at : at + 32] for at in range(0, len(bits), 32))


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_ids.clear)  # two processes must not give the same ones
