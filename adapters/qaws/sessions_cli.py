"""The commands `qaws sessions …`: what a SQLite store holds, read beside a running server, and pruning it."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from qaws_proto.events import AgentChunk, AgentResponse, AgentStepEvent, ErrorEvent, parse_server_event

from .serving import UsageError
from .settings import load
from .stores import StoreError
from .stores.database import Database
from .stores.history import Damage, Event, History, Message, SessionSummary, open_history
from .terminal import plain

FAILURE = 1
DAY = 86_400.0  # seconds
WIDTH = 40  # characters of a name in a table
PRUNED_AT_ONCE = 100  # sessions deleted in one transaction

sessions = App(name="sessions", help="What a SQLite store holds of sessions.")

Flag = partial(Parameter, negative=())


@sessions.command(name="list")
def list_sessions(
    *, config: Path | None = None, path: Path | None = None, json: Annotated[bool, Flag()] = False
) -> int:
    """Print a line for each session, the one that spoke last first.

    Parameters
    ----------
    config
        YAML file with a `websocket:` section that names the store (default: .env and the environment alone).
    path
        The file of the store.
    json
        Print a JSON object for each instead.
    """
    with open_history(_file(config, path)) as history:
        found = history.sessions()
    if json:
        for one in found:
            print(to_json(one._asdict() | {"touched": _time(one.touched)}, exclude={"number", "head"}).decode())
        return 0
    rows = [("owner", "session", "epoch", "events", "last activity", "unfinished")]
    rows += [
        (
            _short(one.owner),
            _short(one.session_id),
            one.epoch[:8],
            str(one.events),
            _time(one.touched),
            "?" if one.unfinished is None else str(one.unfinished),
        )
        for one in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


@sessions.command
def show(owner: str, session: str, /, *, config: Path | None = None, path: Path | None = None) -> int:
    """Print a conversation.

    Parameters
    ----------
    owner
        Whose session it is: a user id.
    session
        Its id.
    config
        YAML file with a `websocket:` section that names the store (default: .env and the environment alone).
    path
        The file of the store.
    """
    with open_history(_file(config, path)) as history:
        found = history.sessions(owner, session)
        if not found:
            raise StoreError(f"there is no session {session} of {owner}")
        return _show(history, found[0])


def _show(history: History, session: SessionSummary) -> int:
    status, pieces = 0, dict[str, str]()  # what was streamed of answers that have no end yet
    for entry in history.entries(session):
        if isinstance(entry, Damage):
            print(plain(f"qaws: {entry.what}"), file=sys.stderr)
            status = FAILURE
        elif isinstance(entry, Message):
            pieces[entry.run_id] = ""
            _say(entry.user_id, from_json(entry.payload)["content"])
        else:
            _show_event(entry, pieces)
    for unfinished in pieces.values():
        _say("agent", unfinished + " [unfinished]")
    return status


def _show_event(entry: Event, pieces: dict[str, str]) -> None:
    try:
        event = parse_server_event(entry.payload)
    except ValidationError:  # an event of a user's own
        _say("event", entry.payload.decode("utf-8", "replace"))
        return
    if isinstance(event, AgentChunk) and event.run_id is not None:
        pieces[event.run_id] = pieces.get(event.run_id, "") + event.content
    elif isinstance(event, AgentStepEvent):
        _say(event.kind, " ".join(text for text in (event.name, event.content) if text))
    elif isinstance(event, AgentResponse):
        pieces.pop(event.run_id or "", None)
        _say("agent", event.content + (" [cancelled]" if event.status == "cancelled" else ""))
    elif isinstance(event, ErrorEvent):
        streamed = pieces.pop(event.run_id or "", "")
        if streamed:
            _say("agent", streamed)
        _say("error", f"{event.error_message} ({event.error_code})")


def _say(who: str, text: str) -> None:
    print(plain(f"{_short(who)}: {text}"))


@sessions.command
def export(
    *, config: Path | None = None, path: Path | None = None, owner: str | None = None, session: str | None = None
) -> int:
    """Print sessions as JSON lines: each event, and each message before the first event of its run.

    What is damaged is named on standard error and left out; the status is 1 then.

    Parameters
    ----------
    config
        YAML file with a `websocket:` section that names the store (default: .env and the environment alone).
    path
        The file of the store.
    owner
        Of this user alone.
    session
        With this id alone.
    """
    status = 0
    with open_history(_file(config, path)) as history:
        for one in history.sessions(owner, session):
            of = {"owner": one.owner, "session_id": one.session_id, "epoch": one.epoch}
            for entry in history.entries(one):
                if isinstance(entry, Damage):
                    print(plain(f"qaws: session {one.session_id} of {one.owner}: {entry.what}"), file=sys.stderr)
                    status = FAILURE
                elif isinstance(entry, Message):
                    _line({**of, "run_id": entry.run_id, "user_id": entry.user_id}, "message", entry.payload)
                else:
                    _line({**of, "seq": entry.seq}, "event", entry.payload)
    return status


def _line(fields: dict[str, object], name: str, payload: bytes) -> None:
    """A JSON object whose last field is JSON already."""
    sys.stdout.buffer.write(to_json(fields)[:-1] + f',"{name}":'.encode() + payload + b"}\n")


@sessions.command
def prune(
    *,
    older_than: Annotated[float, Parameter(validator=Number(gt=0))],
    config: Path | None = None,
    path: Path | None = None,
    dry_run: Annotated[bool, Flag()] = False,
) -> int:
    """Delete sessions in which nothing was said for some time, but for those with unfinished runs; shrink the file.

    A server must not have the store open: it deletes by itself what is over `store.retention_days` old.

    Parameters
    ----------
    older_than
        Days behind the last event.
    config
        YAML file with a `websocket:` section that names the store (default: .env and the environment alone).
    path
        The file of the store.
    dry_run
        Only say which sessions these are.
    """
    file, before = _file(config, path), time.time() - older_than * DAY
    with open_history(file) as history:
        found = history.expired(before)
    if dry_run:
        for one in found:
            print(f"{_short(one.owner)}  {_short(one.session_id)}  {one.events} events, last {_time(one.touched)}")
        print(f"{len(found)} sessions would be deleted")
        return 0
    database = Database(file)
    try:
        deleted = 0
        while count := database.expire(before, PRUNED_AT_ONCE):
            deleted += count
        database.compact()
    finally:
        database.close()
    print(f"{deleted} sessions deleted")
    return 0


def _file(config: Path | None, path: Path | None) -> str:
    """The file that is meant."""
    if config is not None and path is not None:
        raise UsageError("--path stands instead of --config: give one or the other")
    if path is not None:
        return str(path)
    named = load(config).config.store
    if named.kind != "sqlite" or named.path is None:
        raise UsageError("the configuration keeps no sessions in a file (store.kind: sqlite); or name one by --path")
    return named.path


def _short(name: str) -> str:
    """A name on one line, with an end."""
    line = plain(" ".join(name.split()))
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _time(unix: float) -> str:
    """Seconds as date and time, in UTC."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
