"""The configuration as it is in force: a YAML file, `.env`, the environment and the command line, in that order.

Every value is read as text and typed by the setting that it is for, not by what YAML makes of it: `no` is a fine
host name, `0755` is 755, and `WEBSOCKET_PORT=8765` is a number. Nothing here prints or raises a value, because a secret
may stand in the wrong place; a place (`agent_config.yaml:4`) is named instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from qaws_proto.config import ConfigError, WebSocketConfig
from qaws_proto.safety import unread_rows

from .settings_layers import (
    REFERENCE,
    SECTION,
    Entry,
    Variables,
    from_overrides,
    from_variables,
    known,
    not_installed,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SURROGATE = re.compile("[\ud800-\udfff]")
_SWITCH = TypeAdapter(bool)
_WRONG = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number that is not so long",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names to lists",
}


class SettingsError(ConfigError):
    """The settings cannot be used; `problems` has one line for each thing to mend. Holds no values."""

    def __init__(self, problems: list[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration, and where each of its settings comes from (dotted key to source)."""

    config: WebSocketConfig
    sources: Mapping[str, str]

    def rows(self) -> list[tuple[str, str, str]]:
        """Key, printed value and source of every setting in force; secrets are not shown."""
        return [
            (key, _printed(reduce(getattr, key.split("."), self.config)), source)
            for key, source in self.sources.items()
        ]


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    dotenv: str | os.PathLike[str] | None = ".env",
) -> Settings:
    """Read and check the configuration: defaults < `path` < `dotenv` < `environ` < `overrides`.

    `path` is a YAML or JSON file with a `websocket:` section, or with what would stand in one. `overrides` maps dotted
    keys ("server.port") to what the command line said; None means that it said nothing. An empty variable counts as
    one that is not set. A missing file named `.env` is none; any other missing file is a problem.

    Raises SettingsError with all problems at once.
    """
    problems: list[str] = []
    variables = Variables(os.environ if environ is None else environ, dotenv, problems)
    layers = [
        _from_file(path, problems) if path is not None else {},
        from_variables(variables),
        from_overrides(overrides or {}, problems),
    ]
    rank = {key: number for number, layer in enumerate(layers) for key in layer}
    entries = _expanded({key: entry for layer in layers for key, entry in layer.items()}, variables, problems)
    config = _validated(entries, problems)
    if config is not None:
        beaten = [row.setting for row in unread_rows(config) if rank[row.setting] < rank.get(row.because, -1)]
        if beaten:  # what lies over them says something else instead, which is what layers are for
            entries = {key: entry for key, entry in entries.items() if key not in beaten}
            config = _validated(entries, problems)
    if config is None or problems:
        raise SettingsError(problems)
    sources = {key: entries[key].source if key in entries else "default" for key in known().settings}
    return Settings(config, MappingProxyType(sources))


def _from_file(path: str | os.PathLike[str], problems: list[str]) -> dict[str, Entry]:
    try:
        from .settings_file import from_file
    except ImportError:
        problems.append(not_installed(os.fspath(path), "PyYAML"))
        return {}
    return from_file(path, problems)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a settings file, for editors. It does not know that `${NAME}` may stand for a number."""
    schema = WebSocketConfig.model_json_schema(ref_template="#/$defs/{model}")
    definitions = schema.pop("$defs")
    wrapped = {"type": "object", "required": [SECTION], "properties": {SECTION: {"$ref": "#/$defs/WebSocketConfig"}}}
    bare = {"$ref": "#/$defs/WebSocketConfig", "not": {"required": [SECTION]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "anyOf": [wrapped, bare],
        "$defs": {**definitions, "WebSocketConfig": schema},
    }


def _expanded(entries: dict[str, Entry], variables: Variables, problems: list[str]) -> dict[str, Entry]:
    """The entries without references. One to an unset variable is absent where its part is off, else a problem."""
    expanded: dict[str, Entry] = {}
    # Switches first, the outer before the inner: they decide whether what a variable lacks does matter.
    for key in sorted(entries, key=lambda key: (key not in _switches(key), key.count("."))):
        entry = entries[key]
        if not entry.references:
            expanded[key] = entry
            continue
        reference = _References(variables)
        value = reference.expand(entry.value)
        place = ", ".join(dict.fromkeys([entry.place, *reference.places]))
        if reference.broken:
            problems.append(f"`{key}` has a `${{` that is neither `${{NAME}}` nor `${{NAME:-default}}` ({place})")
        elif not reference.unset:
            expanded[key] = replace(entry, value=value, place=place)
        elif not _is_off(key, expanded):
            names = " and ".join(reference.unset)
            problems.append(f"`{key}` needs the variable {names}; set it, or write another value ({place})")
    return expanded


class _References:
    """Expands the references of one value, and keeps where it found them."""

    def __init__(self, variables: Variables) -> None:
        self.places: list[str] = []
        self.unset: list[str] = []
        self.broken = False
        self._variables = variables

    def expand(self, value: object) -> object:
        if isinstance(value, list):
            return [self.expand(item) for item in value]
        if isinstance(value, dict):
            return {name: self.expand(item) for name, item in value.items()}
        if not isinstance(value, str):
            return value
        self.broken |= "${" in REFERENCE.sub(" ", value)
        return REFERENCE.sub(self._replacement, value)

    def _replacement(self, match: re.Match[str]) -> str:
        name, default = match.groups()
        if entry := self._variables.find(name):
            self.places.append(entry.place)
            return str(entry.value)
        if default is None:
            self.unset.append(name)
        return default or ""


def _switches(key: str) -> list[str]:
    """The `enabled` settings of all sections around a setting, the outermost first."""
    parts = key.split(".")
    names = (".".join([*parts[:depth], "enabled"]) for depth in range(len(parts)))
    return [name for name in names if name in known().settings]


def _is_off(key: str, entries: dict[str, Entry]) -> bool:
    def off(switch: str) -> bool:
        value = entries[switch].value if switch in entries else known().settings[switch].default
        try:
            return not _SWITCH.validate_python(value)
        except ValidationError:
            return False  # reported where all values are checked

    return any(off(switch) for switch in _switches(key) if switch != key)


def _validated(entries: dict[str, Entry], problems: list[str]) -> WebSocketConfig | None:
    """The configuration, or None and all that is wrong with it."""
    values: dict[str, Any] = {}
    for key, entry in entries.items():
        if not _is_unicode(entry.value):
            problems.append(f"`{key}` is not valid UTF-8; write it as such ({entry.place})")
            continue
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = _suited(entry.value, known().settings[key])
    try:
        return WebSocketConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    for wrong in found:
        key = _setting_of(wrong["loc"])
        item = "".join(f"[{part}]" for part in wrong["loc"] if isinstance(part, int))
        place = entries[key].place if key in entries else "the settings below it do not go together"
        problems.append(f"`{key}{item}` {_explained(wrong, key)} ({place})")
    return None


def _setting_of(location: tuple[int | str, ...]) -> str:
    """The setting, or the section, that something wrong is in. What stands within it may be named by a secret."""
    key = ".".join(part for part in location if isinstance(part, str))
    return next((name for name in known().settings if key.startswith(f"{name}.")), key)


def _is_unicode(value: object) -> bool:
    """False for what the environment holds of bytes that are not UTF-8 (PEP 383), and for half a pair in YAML."""
    if isinstance(value, dict):
        return all(_is_unicode(name) and _is_unicode(item) for name, item in value.items())
    texts = value if isinstance(value, list) else [value]
    return not any(isinstance(text, str) and _SURROGATE.search(text) for text in texts)


def _suited(value: object, info: FieldInfo) -> object:
    """A text in the form of its setting: a list from `a, b`, and nothing from an empty text where that is possible."""
    if isinstance(value, str) and get_origin(info.annotation) is list:
        return _items(value)
    if isinstance(value, dict):
        return {name: _items(item) if isinstance(item, str) else item for name, item in value.items()}
    if value == "" and type(None) in get_args(info.annotation):
        return None
    return value


def _items(text: str) -> list[str]:
    return [item for item in map(str.strip, text.split(",")) if item]


def _explained(wrong: ErrorDetails, key: str) -> str:
    if wrong["type"] == "value_error":  # of our own validators, which say what to do
        return f"cannot be used: {wrong['ctx']['error']}"
    what = _WRONG.get(wrong["type"]) or re.sub(r"^(Input|String) should", "must", wrong["msg"])
    return f"{what}: {known().settings[key].description}"


def _printed(value: object) -> str:
    match value:
        case None:
            return "(not set)"
        case SecretStr():
            return "********"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.10g}"
        case list():
            return ", ".join(map(str, value)) or "(none)"
        case dict():
            return "; ".join(f"{name}: {_printed(item)}" for name, item in value.items()) or "(none)"
    return str(value)
