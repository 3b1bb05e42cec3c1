"""What is printed of inputs and notes holds nothing secret: it comes into logs, and into messages of failed tests."""

from __future__ import annotations

import pytest

from qaws_proto.effects import Note
from qaws_proto.inputs import (
    BytesReceived,
    Input,
    LoadFailed,
    MessageReceived,
    RequestReceived,
    RunChunk,
    RunFailed,
    RunFinished,
    SaveFailed,
)

SECRET = "eyJhbGciOiJIUzI1NiJ9"


@pytest.mark.clause("C12")
@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (BytesReceived(1, SECRET.encode()), "BytesReceived(connection=1, data=<20 bytes>)"),
        (
            RequestReceived(1, None, "GET", f"/?token={SECRET}", (("authorization", SECRET),), True),
            "RequestReceived(connection=1, method='GET', upgrade=True)",
        ),
        (MessageReceived(1, SECRET), "MessageReceived(connection=1, data=<str of 20>)"),
        (MessageReceived(1, SECRET.encode()), "MessageReceived(connection=1, data=<bytes of 20>)"),
        (RunFailed("r", ValueError(SECRET), "busy", 2.0), "RunFailed('r', <ValueError>, 'busy', 2.0)"),
        (SaveFailed(1, OSError(SECRET)), "SaveFailed(1, <OSError>)"),
        (SaveFailed(1), "SaveFailed(1, None)"),
        (LoadFailed("ana", "s", OSError(SECRET)), "LoadFailed('ana', 's', <OSError>)"),
        (RunChunk("r", {"token": SECRET}), "RunChunk('r', <dict>)"),
        (RunFinished("r", {"token": SECRET}), "RunFinished('r', <dict>, (), ())"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_secret_is_shown(event: Input, shown: str) -> None:
    assert repr(event) == shown


def test_a_text_of_an_agent_is_shown() -> None:
    assert repr(RunChunk("r", "hello")) == "RunChunk('r', 'hello')"
    assert repr(RunFinished("r", None, ("thought",), ("tool",))) == "RunFinished('r', None, ('thought',), ('tool',))"


@pytest.mark.clause("C12")
def test_of_the_cause_of_a_note_its_kind_is_shown() -> None:
    note = Note("run", "ERROR", "run_failed", {"run_id": "r"}, ValueError(SECRET))
    assert repr(note) == "Note('run', 'ERROR', 'run_failed', {'run_id': 'r'}, <ValueError>)"
    assert repr(note._replace(cause=None)) == "Note('run', 'ERROR', 'run_failed', {'run_id': 'r'}, None)"
