"""Agents of frameworks, told by their classes: none of the frameworks is imported before it is used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework, the classes whose objects are agents of it, and the class here that calls them."""

    name: str
    package: str  # where the classes are defined
    classes: frozenset[str]
    attributes: tuple[str, ...]  # that such an object has, where the name of the package might be a user's as well
    wrapper: str  # `module:class`, beside this one

    def makes(self, agent: object) -> bool:
        """Whether the object is an agent of this framework."""
        return all(hasattr(agent, name) for name in self.attributes) and any(
            base.__name__ in self.classes and base.__module__.partition(".")[0] == self.package
            for base in type(agent).__mro__
        )


FRAMEWORKS = (
    Framework("agno", "agno", frozenset({"Agent", "Team"}), ("arun",), "agno:AgnoAgent"),
    Framework(
        "pydantic-ai", "pydantic_ai", frozenset({"AbstractAgent"}), ("run_stream_events",), "pydantic_ai:PydanticAgent"
    ),
    Framework("langgraph", "langgraph", frozenset({"Pregel"}), ("astream",), "langgraph:LangGraphAgent"),
    Framework("openai-agents", "agents", frozenset({"Agent"}), ("handoffs", "tools"), "openai_agents:OpenAIAgent"),
)


def framework_of(agent: object) -> Framework | None:
    """The framework that an object is an agent of. One with a `chat` of its own is called by that."""
    if callable(getattr(agent, "chat", None)):
        return None
    return next((framework for framework in FRAMEWORKS if framework.makes(agent)), None)


def adapted(agent: object) -> object:
    """An agent of a framework as one with `chat`; anything else as it is."""
    framework = framework_of(agent)
    if framework is None:
        return agent
    module, _, name = framework.wrapper.partition(":")
    wrapped: object = getattr(importlib.import_module(f".{module}", __package__), name)(agent)
    return wrapped
