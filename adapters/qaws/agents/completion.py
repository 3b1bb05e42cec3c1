"""The answer of an OpenAI-compatible server, out of bytes: pieces of text, steps, and failures; no I/O of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

from pydantic import BaseModel, ValidationError

from .interface import AgentFailure, AgentStep
from .sse import EventReader, EventTooLong

LARGEST_EVENT = 1024 * 1024  # bytes of one event, which holds a few words and maybe their probabilities
LARGEST_BODY = 16 * 1024 * 1024  # bytes of an answer in one piece: the gateway's own limit is of text, and this is JSON
THOUGHT = 500  # characters of reasoning after which it is told without waiting for the end of its paragraph
CUT_SHORT = "The answer ends early: it reached the limit of tokens."

_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


class _Part(BaseModel):
    """A `delta`, or the `message` of an answer in one piece. Reasoning is not of the format, and has two names."""

    content: str | None = None
    reasoning_content: object = None
    reasoning: object = None

    @property
    def thought(self) -> str:
        """Its piece of reasoning."""
        return next((text for text in (self.reasoning_content, self.reasoning) if text and isinstance(text, str)), "")


class _Choice(BaseModel):
    delta: _Part | None = None
    message: _Part | None = None
    finish_reason: str | None = None


class _Error(BaseModel):
    code: int | str | None = None


class _Completion(BaseModel):
    """One event of a stream, or an answer in one piece. It is a foreign format: what is not listed is passed over."""

    choices: list[_Choice] | None = None
    usage: object = None
    error: _Error | str | None = None


class Answer:
    """Takes the bytes of one answer, and gives what they say. Raises AgentFailure for what is no answer.

    The failures name the host and what happened, never anything that the server wrote.
    """

    def __init__(self, host: str) -> None:
        self.done = False  # nothing more is wanted of the stream
        self._host = host
        self._finish: str | None = None
        self._text: list[str] = []
        self._thought = ""
        self.input_tokens: int | None = None  # where the server tells; the newest number counts
        self.output_tokens: int | None = None
        self._events: EventReader | None = EventReader(LARGEST_EVENT)
        self._body = bytearray()  # where the answer comes in one piece

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._text)

    @property
    def finished(self) -> bool:
        """Whether the server has said that this is the whole answer."""
        return self.done or self._finish is not None

    def begin(self, status: int, headers: Mapping[str, str], now: float) -> None:
        """Judge the head of the response; `headers` are looked up in small letters, `now` is Unix time."""
        if status != 200:
            raise failure_of(status, f"{self._host} answered {status}", retry_after(headers, now))
        if "json" in headers.get("content-type", "").lower():  # a server that does not stream
            self._events = None

    def feed(self, data: bytes) -> Iterator[str | AgentStep]:
        """Take more of the body; each piece of text and each step that is complete."""
        if self._events is None:
            self._body += data
            if len(self._body) > LARGEST_BODY:
                raise self._broken("an answer that is too large")
            return
        try:
            for event in self._events.feed(data):
                if event.strip() == b"[DONE]":
                    self.done = True
                    return
                if event.strip():
                    yield from self._take(event)
        except EventTooLong:
            raise self._broken("an event that is too large") from None

    def end(self) -> Iterator[str | AgentStep]:
        """The body has ended: what is left to say."""
        if self._events is None:
            yield from self._take(bytes(self._body))
            self.done = bool(self._text)  # some name no reason where an answer comes whole
        if not self.finished:
            raise self._broken("a stream that ends early")
        yield from self._tell_thought()
        if self._finish == "length":
            yield AgentStep("reasoning", content=CUT_SHORT)

    def _take(self, data: bytes) -> Iterator[str | AgentStep]:
        try:
            completion = _Completion.model_validate_json(data)
        except ValidationError:
            raise self._broken("something else than a chat completion") from None
        if completion.error is not None:
            status = _status(completion.error)
            raise failure_of(status, f"{self._host} answered with an error in its stream ({status})", None)
        if isinstance(completion.usage, dict):
            self.input_tokens = _count(completion.usage.get("prompt_tokens"))
            self.output_tokens = _count(completion.usage.get("completion_tokens"))
        if not completion.choices:  # numbers about the answer, a filter's verdict on the question
            return
        choice = completion.choices[0]
        part = choice.delta or choice.message or _Part()
        yield from self._think(part.thought)
        if part.content:
            yield from self._tell_thought()
            self._text.append(part.content)
            yield part.content
        self._finish = choice.finish_reason or self._finish
        if self._finish == "content_filter":
            raise AgentFailure("refused", f"{self._host} withheld the answer: its filter")

    def _think(self, text: str) -> Iterator[AgentStep]:
        """Reasoning comes in pieces of a word: it is told by the paragraph, or where one is long."""
        self._thought += text
        told, mark, rest = self._thought.rpartition("\n\n")
        if mark:
            self._thought = told
            yield from self._tell_thought()
            self._thought = rest
        elif len(self._thought) >= THOUGHT:
            yield from self._tell_thought()

    def _tell_thought(self) -> Iterator[AgentStep]:
        thought, self._thought = self._thought.strip(), ""
        if thought:
            yield AgentStep("reasoning", content=thought)

    def _broken(self, what: str) -> AgentFailure:
        return AgentFailure("unavailable", f"{self._host} answered with {what}")


def failure_of(status: int, text: str, wait: float | None) -> AgentFailure:
    """The failure that an HTTP status stands for (RFC 9110, section 15; RFC 6585)."""
    reason: Literal["busy", "unavailable", "refused"]
    if status == 429:
        reason = "busy"
    elif status >= 500 or status in (408, 425):  # timeout, too early
        reason = "unavailable"
    else:  # a key, a model or a request that is wrong now and next time; a redirect, which is not followed
        reason = "refused"
    return AgentFailure(reason, text, retry_after=wait)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, of `retry-after-ms` or `retry-after` (RFC 9110, section 10.2.3); `now` is Unix time."""
    milliseconds = headers.get("retry-after-ms", "")
    if _NUMBER.fullmatch(milliseconds):
        return float(milliseconds) / 1000
    wait = headers.get("retry-after", "")
    if _NUMBER.fullmatch(wait):
        return float(wait)
    try:
        date = parsedate_to_datetime(wait)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):  # no date, or one of a calendar beyond ours
        return None


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _status(error: _Error | str) -> int:
    """The HTTP status that an error within a stream names; 500 where it names none."""
    code = "" if isinstance(error, str) else str(error.code)
    return int(code) if re.fullmatch(r"[45]\d\d", code, re.ASCII) else 500
