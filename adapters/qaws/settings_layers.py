"""What `.env`, the environment and the command line say about each setting, and the names that settings have.

Part of `qaws.settings`, which lays these and the file over one another and judges the values. A problem names the place
of a value, never the value: a secret may stand in the wrong place.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from types import MappingProxyType
from typing import NamedTuple, get_origin

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from qaws_proto.config import Section, WebSocketConfig

FILE_SIZE = 1024 * 1024  # bytes; a real file has a few thousand
SECTION = "websocket"
VARIABLES = MappingProxyType(
    {
        "WEBSOCKET_ENABLED": "enabled",
        "WEBSOCKET_HOST": "server.host",
        "WEBSOCKET_PORT": "server.port",
        "WEBSOCKET_SECRET_KEY": "security.authentication.jwt_secret",
        "WEBSOCKET_MAX_CONNECTIONS": "server.max_connections",
    }
)

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")


class Names(NamedTuple):
    """All dotted names: what can be set, what holds it, and the other names of settings."""

    settings: dict[str, FieldInfo]
    sections: list[str]
    aliases: dict[str, str]


@cache
def known() -> Names:
    """The names of all settings, in the order of the model."""
    every = Names({}, [], {})

    def visit(section: type[Section], prefix: str) -> None:
        for name, info in section.model_fields.items():
            key = prefix + name
            if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
                every.sections.append(key)
                visit(info.annotation, f"{key}.")
                continue
            every.settings[key] = info
            if isinstance(info.validation_alias, AliasChoices):
                choices = (str(choice) for choice in info.validation_alias.choices)
                every.aliases.update({prefix + choice: key for choice in choices if choice != name})

    visit(WebSocketConfig, "")
    return every


def is_mapping(key: str) -> bool:
    """Whether a setting holds names of the user's choice, each with a value."""
    return get_origin(known().settings[key].annotation) is dict


@dataclass(frozen=True, slots=True)
class Entry:
    """What one source says about one setting. `place` is the source as problems name it."""

    value: object = field(repr=False)
    source: str
    place: str
    references: bool = False  # `${NAME}` means something in the file only


class Variables:
    """The environment, and behind it the `.env` file."""

    def __init__(self, environ: Mapping[str, str], dotenv: str | os.PathLike[str] | None, problems: list[str]) -> None:
        self._environ = environ
        self._dotenv = {} if dotenv is None else _dotenv(dotenv, environ, problems)
        self._name = "" if dotenv is None else os.path.basename(dotenv)

    def find(self, name: str) -> Entry | None:
        if value := self._environ.get(name):
            return Entry(value, f"environment {name}", f"environment {name}")
        if value := self._dotenv.get(name):
            return Entry(value, self._name, f"{self._name} {name}")
        return None


def _dotenv(path: str | os.PathLike[str], environ: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The variables of a `.env` file, expanded as python-dotenv does it but from `environ`, not from the process."""
    name = os.path.basename(path)
    if name == ".env" and not os.path.exists(path):
        return {}
    try:
        from dotenv.parser import parse_stream
    except ImportError:
        problems.append(not_installed(name, "python-dotenv"))
        return {}
    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(content(path, problems) or "")):
        if binding.error:
            problems.append(
                f"`{name}` has a line that is not NAME=value; mend or delete it ({name}:{binding.original.line})"
            )
        elif binding.key is not None and binding.value is not None:
            found[binding.key] = REFERENCE.sub(
                lambda match: environ.get(match[1]) or found.get(match[1]) or match[2] or "", binding.value
            )
    return found


def from_variables(variables: Variables) -> dict[str, Entry]:
    """The settings that have a variable of their own."""
    found = ((key, variables.find(name)) for name, key in VARIABLES.items())
    return {key: entry for key, entry in found if entry is not None}


def from_overrides(overrides: Mapping[str, object], problems: list[str]) -> dict[str, Entry]:
    """The settings that the command line gives; None is what a flag holds that was not given."""
    every = known()
    entries: dict[str, Entry] = {}
    for given, value in overrides.items():
        key = every.aliases.get(given, given)
        if key in every.sections:
            problems.append(not_a_section(key, "command line"))
        elif key not in every.settings:
            problems.append(unknown(given, "command line"))
        elif key in entries:
            problems.append(two_names(key, "command line"))
        elif value is not None:
            entries[key] = Entry(value, "command line", "command line")
    return entries


def content(path: str | os.PathLike[str], problems: list[str]) -> str | None:
    """The content of a file, or None and a problem."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            found = file.read(FILE_SIZE + 1)
    except FileNotFoundError:
        problems.append(f"`{name}` does not exist; give the path of a file that does")
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problems.append(f"`{name}` cannot be read: {getattr(error, 'strerror', None) or 'no usable path'}")
        return None
    if len(found) > FILE_SIZE:
        problems.append(
            f"`{name}` has more than {FILE_SIZE} bytes; a settings file is much smaller: is it the right one?"
        )
        return None
    try:
        return found.decode()
    except UnicodeDecodeError as error:
        line = found.count(b"\n", 0, error.start) + 1
        problems.append(f"`{name}` is not UTF-8; save it as UTF-8 ({name}:{line})")
        return None


def not_installed(name: str, package: str) -> str:
    return f"`{name}` cannot be read without {package}; run: pip install 'qaws-gateway[server]'"


def not_a_section(key: str, place: str) -> str:
    return f"`{key}` is a section; write its settings below it, each with its name ({place})"


def two_names(key: str, place: str) -> str:
    names = [key, *(alias for alias, name in known().aliases.items() if name == key)]
    return f"{' and '.join(f'`{name}`' for name in names)} are names of one setting; keep one of them ({place})"


def unknown(key: str, place: str) -> str:
    near = _nearest(key)
    return f"unknown key `{key}`; did you mean `{near}`? ({place})"


def _nearest(given: str) -> str:
    """The known key that was probably meant: the one with the name most alike, and of those the nearest."""
    every = known()
    key = given.lower().replace("-", "_")
    name = key.rpartition(".")[2]

    def likeness(candidate: str) -> tuple[float, float]:
        alike = SequenceMatcher(None, name, candidate.rpartition(".")[2]).ratio()
        return alike, SequenceMatcher(None, key, candidate).ratio()

    names = [SECTION, *every.sections, *every.settings, *every.aliases]
    best = max((candidate for candidate in names if candidate != given), key=likeness)
    return every.aliases.get(best, best)
