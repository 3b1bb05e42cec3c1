"""What agent frameworks tell of a run, as steps and text: tool calls in short, reasoning by lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .interface import AgentReply, AgentStep

SHORT = 500  # characters of a tool's arguments or result that a step shows
LINE = 2000  # characters of reasoning without a line end, after which they are a step all the same


def tool_started(name: str | None, arguments: object) -> AgentStep:
    """A tool is called; `arguments` by their names, or as the text that the model wrote."""
    if isinstance(arguments, Mapping):
        arguments = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return AgentStep("tool_started", name, _short(arguments))


def tool_finished(name: str | None, result: object, *, failed: bool = False) -> AgentStep:
    """A tool has returned, or raised."""
    return AgentStep("tool_finished", name, f"failed: {_short(result)}" if failed else _short(result))


def text_of(content: object) -> str:
    """A framework's output as text: a Pydantic model as its JSON, anything else as it prints."""
    dump = getattr(content, "model_dump_json", None)
    return str(dump() if callable(dump) else content)


def reply(content: str, usage: object) -> AgentReply:
    """The whole answer with the tokens of a framework's `usage`; none at all means that nobody has counted them."""
    read, written = getattr(usage, "input_tokens", None), getattr(usage, "output_tokens", None)
    return AgentReply(content, input_tokens=read or None, output_tokens=written or None)


class Reasoning:
    """Reasoning that comes by the token, as a step for each line of it."""

    def __init__(self) -> None:
        self._text = ""

    def add(self, text: str) -> Iterator[AgentStep]:
        """A piece of reasoning; the steps that are whole now."""
        *whole, self._text = (self._text + text).split("\n")
        if len(self._text) >= LINE:
            whole.append(self._text)
            self._text = ""
        for line in whole:
            if line.strip():
                yield AgentStep("reasoning", content=line)

    def flush(self) -> Iterator[AgentStep]:
        """Something else follows: the step that is left."""
        return self.add("\n")


def _short(value: object) -> str:
    text = "" if value is None else text_of(value)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
