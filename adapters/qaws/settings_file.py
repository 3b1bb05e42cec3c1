"""What a settings file says about each setting: YAML or JSON, with the line of every value.

Part of `qaws.settings`. Every value is the text that stands in the file, never what YAML makes of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import yaml

from .settings_layers import SECTION, Entry, content, is_mapping, known, not_a_section, two_names, unknown

PROBLEMS = 50  # then the rest of a file is not looked at: it is a file of another kind
_PLAIN = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "seq")
)


def from_file(path: str | os.PathLike[str], problems: list[str]) -> dict[str, Entry]:
    """The settings of a YAML or JSON file, in its `websocket:` section or, where there is none, at its top."""
    name = os.fspath(path)
    text = content(path, problems)
    root = None if text is None else _composed(text, name, problems)
    if root is None:  # nothing but comments, or a problem
        return {}
    reader = _Reader(name, problems)
    if not isinstance(root, yaml.MappingNode):
        problems.append(f"`{name}` is not a mapping; write `{SECTION}:` and the settings below it ({name}:1)")
        return {}
    if not any(key.value == SECTION for key, _ in root.value):
        reader.remark = f"; the file has no `{SECTION}:` section"
        reader.read(root, "")
        return reader.entries
    for key, node, place in reader.pairs(root):
        if key == SECTION:
            reader.read_section(node, SECTION, "", place)
    return reader.entries


def _composed(text: str, name: str, problems: list[str]) -> yaml.Node | None:
    """The YAML document as nodes, which know their lines. Aliases stay pointers here, so they cannot multiply."""
    if name.endswith(".json"):
        text = text.replace("\t", " ")  # JSON may be indented with tabs, YAML may not; no JSON text holds a bare one
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        # What PyYAML quotes is left out (a secret that begins with `*` is an alias to it), and so is its excerpt.
        what = re.sub(r"""(['"]).*\1""", "…", error.problem or "not readable")
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problems.append(f"`{name}` is not YAML: {what}; mend the line, or quote the value on it ({name}:{line})")
    except yaml.YAMLError:
        problems.append(f"`{name}` is not YAML: it has control characters; delete them")
    except RecursionError:
        problems.append(f"`{name}` is nested too deeply; settings are four levels deep at most")
    except (ValueError, OverflowError):  # an escape such as "\UFFFFFFFF"
        problems.append(f"`{name}` is not YAML: an escape between double quotes is no character; use single quotes")
    else:
        return node
    return None


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


class _Reader:
    """Takes the settings out of YAML nodes, no deeper than there are settings: no alias can lead it round."""

    def __init__(self, name: str, problems: list[str]) -> None:
        self.entries: dict[str, Entry] = {}
        self.remark = ""
        self._name = name
        self._problems = problems

    def pairs(self, node: yaml.Node) -> Iterator[tuple[str, yaml.Node, str]]:
        """Key, value and place in a mapping; a key that stands twice is a problem."""
        seen: dict[str, str] = {}
        for key_node, value in node.value:
            if len(self._problems) >= PROBLEMS:
                return
            place = f"{self._name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.append(f"a key must be one word ({place})")
            elif key_node.value in seen:
                self._problems.append(
                    f"key `{_shown(key_node.value)}` stands twice; keep one of them ({seen[key_node.value]}, {place})"
                )
            else:
                seen[key_node.value] = place
                yield key_node.value, value, place

    def read(self, section: yaml.Node, prefix: str) -> None:
        every = known()
        for name, node, place in self.pairs(section):
            key = every.aliases.get(prefix + name, prefix + name)
            if "." in name or (key not in every.sections and key not in every.settings):
                self._problems.append(unknown(prefix + _shown(name), place + ("" if prefix else self.remark)))
            elif key in every.sections:
                self.read_section(node, key, f"{key}.", place)
            elif key in self.entries:
                self._problems.append(two_names(key, f"{self.entries[key].place}, {place}"))
            else:
                self._read_value(node, key, place)

    def read_section(self, node: yaml.Node, key: str, prefix: str, place: str) -> None:
        if isinstance(node, yaml.MappingNode):
            self.read(node, prefix)
        elif not _is_null(node):  # all lines below it may be comments
            self._problems.append(not_a_section(key, place))

    def _read_value(self, node: yaml.Node, key: str, place: str) -> None:
        value: object
        known_problems = len(self._problems)
        if not is_mapping(key):
            value = self._value(node, key, place)
        elif isinstance(node, yaml.MappingNode):
            value = {name: self._value(item, key, at) for name, item, at in self.pairs(node)}
        elif _is_null(node):  # all lines below it may be comments
            return
        else:
            self._problems.append(f"`{key}` must be a mapping; write each name with its list below it ({place})")
            return
        if len(self._problems) == known_problems:
            self.entries[key] = Entry(value, place, place, references=True)

    def _value(self, node: yaml.Node, key: str, place: str) -> object:
        """A value or a list of them; None, and a problem, where it is neither."""
        is_list = isinstance(node, yaml.SequenceNode)
        items = node.value if is_list else [node]
        if not all(isinstance(item, yaml.ScalarNode) for item in items):
            self._problems.append(f"`{key}` must be one value, or a list of them ({place})")
        elif any(part.tag not in _PLAIN for part in (node, *items)):
            self._problems.append(f"`{key}` has a tag; quote a value that begins with `!` ({place})")
        else:
            values = [None if _is_null(item) else item.value for item in items]
            return values if is_list else values[0]
        return None


def _shown(name: str) -> str:
    """An unknown key as far as it can be printed: in `{jwt_secret:abc}` the key holds the secret."""
    shown = re.match(r"[\w${}<-]{0,40}", name)[0]  # type: ignore[index]
    return shown if shown == name else f"{shown[:24]}…"
