"""Agents that come with qaws, and agents by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from typing import TypeGuard

from .frameworks import framework_of
from .interface import AgentError

_PIECE = re.compile(r"\s*\S+\s*|\s+")


async def echo(message: str) -> AsyncIterator[str]:
    """Answers with what it was told, word by word."""
    for piece in _PIECE.findall(message):
        yield piece


def find_agent(spec: str, *, url: str | None = None, system: str | None = None) -> object:
    """The agent of a name, as `load_agent` has it, looked for in the working directory too.

    Raises AgentError, in one line, whatever goes wrong in it.
    """
    sys.path.insert(0, os.getcwd())
    try:
        return load_agent(spec, url=url, system=system)
    except AgentError:
        raise
    except Exception as error:
        raise AgentError(f"{spec!r} cannot be loaded: {type(error).__name__}: {error}") from error


def load_agent(spec: str, *, url: str | None = None, system: str | None = None) -> object:
    """The agent that `spec` names: `echo`, `openai:MODEL`, or `module:attribute`.

    The attribute is an object, a class, or a factory without arguments; in `agno:module:attribute` it has to be one of
    Agno. `url` and `system` (a prompt) are for a model. Raises AgentError where there is none, with what is there
    instead.
    """
    if spec.startswith("openai:"):
        from .openai import OPENAI_URL, OpenAIAgent

        return OpenAIAgent(spec.removeprefix("openai:"), url=OPENAI_URL if url is None else url, system=system)
    if url is not None or system is not None:
        raise AgentError(f"{spec!r} takes no address and no system prompt; `openai:MODEL` does")
    if spec == "echo":
        return echo
    if spec.startswith("agno:"):
        return _load_agno(spec)
    return _load(spec)


def _load_agno(spec: str) -> object:
    if importlib.util.find_spec("agno") is None:
        raise AgentError(f'{spec!r} needs Agno: pip install "qaws-gateway[agno]"')
    found = _load(spec.removeprefix("agno:"))
    framework = framework_of(found)
    if framework is None or framework.name != "agno":
        raise AgentError(f"{spec!r}: an object of type {type(found).__name__} is no agent or team of Agno")
    return found


def _load(spec: str) -> object:
    module_name, colon, attribute = spec.partition(":")
    if not (colon and module_name and attribute) or module_name.startswith("."):
        raise AgentError(
            f"{spec!r} names no agent; give `echo`, `openai:MODEL`, `module:attribute` or `agno:module:attribute`"
        )
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # the module is there, and misses another
        raise AgentError(f"there is no module {error.name!r} (for {spec!r}, looked for on Python's path)") from None
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise AgentError(f"{spec!r}: {module_name} has no {name!r}")
        found = getattr(found, name)
    if inspect.isclass(found):
        _require_no_arguments(spec, found)
        return found()
    return found() if _is_factory(found) else found


def _require_no_arguments(spec: str, found: type) -> None:
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise AgentError(f"{spec!r}: {found.__name__} cannot be made: {error}; name a factory that makes one") from None
    except ValueError:  # built in, without a signature
        return


def _is_factory(found: object) -> TypeGuard[Callable[[], object]]:
    """A plain function without parameters makes an agent; one with a parameter is an agent."""
    if not inspect.isfunction(found) or inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        return False
    return not inspect.signature(found).parameters
