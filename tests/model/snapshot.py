"""Machines taken down and set up again as they were: a walk goes on from one state in many ways.

A gateway is not made to be copied. This takes it to pieces with `pickle`, but for what no step changes: settings,
validators, verified tokens, the members of enumerations. Those all copies share. Functions that hold on to something
(routes of the gateway) are made anew around the copy of what they hold on to. Doing the same acts from the beginning
gives the same machine, in three times the time; a test holds the two against each other.
"""

from __future__ import annotations

import enum
import sys
from io import BytesIO
from pickle import Pickler, Unpickler
from types import CellType, CodeType, FunctionType
from typing import Any

from pydantic import BaseModel

from qaws_proto.admission.tokens import TokenVerifier
from qaws_proto.events import ClientEvents
from tests.model.machine import Machine

_SHARED: dict[int, object] = {}  # by id; they are never let go, so that none is given another's


class _Down(Pickler):
    def persistent_id(self, thing: object) -> int | None:
        unchanging = isinstance(thing, BaseModel | TokenVerifier | ClientEvents | enum.Enum | type | CodeType)
        if not unchanging and not (type(thing) is FunctionType and thing.__closure__ is None):
            return None
        _SHARED[id(thing)] = thing
        return id(thing)

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is not FunctionType:
            return NotImplemented
        held = tuple(cell.cell_contents for cell in thing.__closure__ or ())
        return _unbound, (thing.__code__, thing.__module__), held, None, None, _bind


class _Up(Unpickler):
    def persistent_load(self, number: int) -> object:
        return _SHARED[number]


def _unbound(code: CodeType, module: str) -> FunctionType:
    cells = tuple(CellType() for _ in code.co_freevars)
    return FunctionType(code, vars(sys.modules[module]), code.co_name, None, cells)


def _bind(function: FunctionType, held: tuple[object, ...]) -> None:
    for cell, content in zip(function.__closure__ or (), held, strict=True):
        cell.cell_contents = content


def take_down(machine: Machine) -> bytes:
    """A machine as bytes, for this process."""
    down = BytesIO()
    _Down(down, 5).dump(machine)
    return down.getvalue()


def set_up(down: bytes) -> Machine:
    """Another machine that is as that one was."""
    machine = _Up(BytesIO(down)).load()
    assert isinstance(machine, Machine)
    return machine
