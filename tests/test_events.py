"""What is an event and what is none, what a refusal says, and what a server's events look like on the wire."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError, field_validator

from qaws_proto.config import MESSAGE_SIZE_TOP, LimitsConfig
from qaws_proto.events import (
    VALUES,
    AgentChunk,
    AgentResponse,
    AgentStepEvent,
    Auth,
    Cancel,
    ChatMessage,
    ClientEvent,
    ClientEvents,
    ErrorEvent,
    Ping,
    Pong,
    Refused,
    ServerEvents,
    SystemEvent,
    correlation_of,
    dump,
    error_event,
    parse_server_event,
    system_event,
)
from qaws_proto.faults import Fault

MODELS: list[type[ClientEvent]] = [Auth, ChatMessage, Cancel, Ping]
EVENTS = ClientEvents(MODELS, LimitsConfig().json_depth)
MESSAGE_SIZE = LimitsConfig().max_message_size


class Inner(ClientEvent):
    type: Literal["inner"]
    number: float


class Survey(ClientEvent):
    """An event that a user adds, with all that the built-in ones do not have."""

    type: Literal["survey"]
    count: int = 0
    score: float = 0.0
    anything: Any = None
    inner: dict[str, Inner] | None = None


EXTENDED = ClientEvents([*MODELS, Survey], LimitsConfig().json_depth)


def _chat(fields: str = "") -> str:
    return f'{{"type":"chat_message","content":"hello"{fields}}}'


def _metadata(value: str) -> str:
    return _chat(f',"metadata":{{"a":{value}}}')


def _answer(refused: Refused) -> bytes:
    """The error event, as a connection would send it."""
    details = {"errors": list(refused.errors)} if refused.errors else None
    return dump(error_event(refused.fault, details=details, correlation_id=refused.correlation))


# ── what is taken ────────────────────────────────────────────────────────────────────────────────────────────────────

LONGEST_CHAT = {
    "type": "chat_message", "content": "ñ" * 10_000, "id": "i" * 64, "session_id": "s" * 128, "user_id": "u" * 128,
    "stream": True, "metadata": {f"key-{number}": "v" * 4096 for number in range(32)},
}  # fmt: skip
TAKEN: list[tuple[str, ClientEvent]] = [
    ('{"type":"auth","token":"a.b.c"}', Auth(type="auth", token="a.b.c")),
    ('{"type":"auth","token":""}', Auth(type="auth", token="")),  # a wrong token, not a wrong event
    (_chat(), ChatMessage(type="chat_message", content="hello")),
    (_chat(',"id":null,"metadata":null'), ChatMessage(type="chat_message", content="hello")),
    (json.dumps(LONGEST_CHAT), ChatMessage.model_validate(LONGEST_CHAT)),
    (
        _chat(',"metadata":{"a":"x","b":1,"c":1.5,"d":true,"e":-9007199254740991,"f":1e3}'),
        ChatMessage(
            type="chat_message", content="hello",
            metadata={"a": "x", "b": 1, "c": 1.5, "d": True, "e": -9007199254740991, "f": 1000.0},
        ),
    ),
    ('{"type":"cancel","run_id":"r"}', Cancel(type="cancel", run_id="r")),
    ('{"type":"cancel","correlation_id":"m"}', Cancel(type="cancel", correlation_id="m")),
    (' \t\r\n{"type" : "ping"} \n', Ping(type="ping")),
    ('{"type":"ping","id":""}', Ping(type="ping", id="")),
    ('{"id":"a:b{[","type":"ping"}', Ping(type="ping", id="a:b{[")),
    ('{"\\u0074ype":"ping","id":"\\ud83d\\ude00"}', Ping(type="ping", id="😀")),
    (f'{{"type":"ping","id":"{"[{:" * 20}"}}', Ping(type="ping", id="[{:" * 20)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "event"), TAKEN)
def test_an_event_is_taken_as_it_was_sent(text: str, event: ClientEvent) -> None:
    parsed = EVENTS.parse(text)
    assert parsed == event
    if isinstance(parsed, ChatMessage) and parsed.metadata:
        assert [type(value) for value in parsed.metadata.values()] == [
            type(value) for value in json.loads(text)["metadata"].values()
        ]


def test_what_is_counted_and_what_is_echoed_of_an_event() -> None:
    assert [model.counted for model in MODELS] == [False, True, False, False]
    chat = EVENTS.parse(_chat(',"id":"m1"'))
    assert isinstance(chat, ChatMessage)
    assert chat.correlation == "m1"
    assert Ping(type="ping", id="p").correlation is None


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

NO_JSON = {
    "empty": "",
    "white": " \n",
    "a word": "hello",
    "a BOM": '\ufeff{"type":"ping"}',
    "cut off": '{"type":"ping"',
    "a comma too many": '{"type":"ping",}',
    "more behind": '{"type":"ping"}{}',
    "single quotes": "{'type':'ping'}",
    "a control character": '{"type":"ping","id":"\t"}',
    "a bare NUL": '{"type":"ping","id":"\0"}',
    "a comment": '{"type":"ping"/**/}',
    "a leading zero": _metadata("01"),
    "a plus": _metadata("+1"),
    "-NaN": _metadata("-NaN"),
    "a lone surrogate, escaped": '{"type":"ping","id":"\\ud800"}',
    "null": "null",
    "a number": "1",
    "a text": '"ping"',
    "a list": '[{"type":"ping"}]',
    "a deep list": "[" * 1000 + "]" * 1000,
    "a list cut off": "[" * 100_000,
}


@pytest.mark.row("M1")
@pytest.mark.parametrize("text", NO_JSON.values(), ids=NO_JSON.keys())
def test_what_is_no_json_object_is_invalid_json(text: str) -> None:
    assert EVENTS.parse(text) == Refused(Fault.INVALID_JSON)


@pytest.mark.row("M2")
@pytest.mark.parametrize(
    "name", ['"chat"', '"CHAT_MESSAGE"', '""', '"pong"', "1", "null", "[]", '{"a":1}', '"\\u0000"']
)
def test_an_unknown_type_is_an_unknown_event(name: str) -> None:
    assert EVENTS.parse(f'{{"type":{name},"content":"x"}}') == Refused(Fault.UNKNOWN_EVENT)


# the text, the places that are named and why
WRONG: list[tuple[str, list[tuple[list[str | int], str]]]] = [
    ("{}", [(["type"], "missing")]),
    ('{"content":"x"}', [(["type"], "missing")]),
    ('{"type":"chat_message"}', [(["content"], "missing")]),
    ('{"type":"chat_message","content":""}', [(["content"], "string_too_short")]),
    (f'{{"type":"chat_message","content":"{"x" * 10_001}"}}', [(["content"], "string_too_long")]),
    ('{"type":"chat_message","content":5}', [(["content"], "string_type")]),
    ('{"type":"chat_message","content":null}', [(["content"], "string_type")]),
    (_chat(',"colour":"red"'), [(["colour"], "extra_forbidden")]),
    (_chat(',"not plain":1'), [(["?"], "extra_forbidden")]),
    (_chat(f',"{"k" * 65}":1'), [(["?"], "extra_forbidden")]),
    (_chat(',"id":5'), [(["id"], "string_type")]),
    (_chat(f',"id":"{"x" * 65}"'), [(["id"], "string_too_long")]),
    (_chat(',"session_id":""'), [(["session_id"], "string_too_short")]),
    (_chat(f',"user_id":"{"x" * 129}"'), [(["user_id"], "string_too_long")]),
    (_chat(',"stream":1'), [(["stream"], "bool_type")]),
    (_chat(',"stream":"true"'), [(["stream"], "bool_type")]),
    (_chat(',"metadata":[]'), [(["metadata"], "dict_type")]),
    (_metadata("null"), [(["metadata", "a"], "metadata_value")]),
    (_metadata("[1]"), [(["metadata", "a"], "metadata_value")]),
    (_metadata('{"b":1}'), [(["metadata", "a"], "metadata_value")]),
    (_metadata(f'"{"x" * 4097}"'), [(["metadata", "a"], "metadata_value")]),
    (_chat(',"metadata":{"":1}'), [(["metadata", "?", "?"], "string_too_short")]),
    (_chat(f',"metadata":{json.dumps(dict.fromkeys(map(str, range(33)), 1))}'), [(["metadata"], "too_long")]),
    ('{"type":"cancel"}', [([], "run_id_or_correlation_id")]),
    ('{"type":"cancel","run_id":"a","correlation_id":"b"}', [([], "run_id_or_correlation_id")]),
    ('{"type":"auth"}', [(["token"], "missing")]),
    ('{"type":"ping","id":{}}', [(["id"], "string_type")]),
    (
        '{"type":"chat_message","a":1,"b":1,"c":1,"d":1,"e":1,"f":1}',
        [
            (["content"], "missing"),
            (["a"], "extra_forbidden"),
            (["b"], "extra_forbidden"),
            (["c"], "extra_forbidden"),
            (["d"], "extra_forbidden"),
        ],
    ),
    ('{"type":"ping","id":"\ud800"}', [([], "string_unicode")]),  # no UTF-8 holds it: only a caller's text can
]


@pytest.mark.row("M2")
@pytest.mark.parametrize(("text", "places"), WRONG)
def test_a_wrong_event_is_told_where_it_is_wrong(text: str, places: list[tuple[list[str | int], str]]) -> None:
    refused = EVENTS.parse(text)
    assert refused == Refused(Fault.INVALID_EVENT, tuple({"loc": loc, "type": kind} for loc, kind in places))


HUGE = {
    "extra keys": '{"type":"ping",' + ",".join(f'"k{number}":1' for number in range(100_000)) + "}",
    "the same extra key": '{"type":"ping"' + ',"k":1' * 100_000 + "}",
    "metadata": _chat(',"metadata":{' + ",".join(f'"k{number}":[]' for number in range(20_000)) + "}"),
    "the same key in metadata": _chat(',"metadata":{' + ",".join(['"k":1'] * 20_000) + "}"),
    "a list": '{"type":"ping","id":[' + "1," * 100_000 + "1]}",
    "lists": '{"type":"ping","id":[' + "[]," * 80_000 + "[]]}",
    "objects": '{"type":"ping","id":[' + "{}," * 80_000 + "{}]}",
    "texts": '{"type":"ping","id":[' + '"",' * 80_000 + '""]}',
    "a type": '{"type":[' + "[]," * 80_000 + "[]]}",
    "one text": '{"type":"ping","id":"' + "x" * 250_000 + '"}',
    "escapes": '{"type":"ping","id":"' + "\\u0041" * 40_000 + '"}',
    "commas in a text": '{"type":"chat_message","content":"' + "," * 262_000 + '"}',
    "escapes and commas": '{"type":"chat_message","content":"' + "\\n," * 87_000 + '"}',
    "a number": '{"type":"ping","id":' + "1" * 250_000 + "}",
    "brackets": '{"type":"ping","id":' + "[" * 250_000,
    "white space": '{"type":"ping"' + " " * 250_000 + "]",
}


@pytest.mark.row("M2")
@pytest.mark.row("M4")
@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE.keys())
def test_huge_texts_get_a_small_answer_in_little_memory(text: str) -> None:
    tracemalloc.start()
    try:
        refused = EVENTS.parse(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(refused, Refused)
    assert len(_answer(refused)) <= 1024
    assert len(text) <= MESSAGE_SIZE_TOP + 100_000
    assert peak <= 24 * max(len(text), MESSAGE_SIZE)


# tracemalloc does not see what Pydantic's parser takes; the operating system does.
MEASURE = """
import resource, sys
from qaws_proto.events import Auth, Cancel, ChatMessage, ClientEvents, Ping
events = ClientEvents([Auth, ChatMessage, Cancel, Ping], 32)
text = sys.stdin.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
events.parse(text)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.row("M4")
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is KiB on Linux only")
@pytest.mark.parametrize(
    "name", ["extra keys", "lists", "objects", "a type", "metadata", "brackets", "commas in a text"]
)
def test_huge_containers_take_no_more_memory_than_promised(name: str) -> None:
    text = HUGE[name][:MESSAGE_SIZE]
    measured = subprocess.run([sys.executable, "-c", MEASURE], input=text, capture_output=True, text=True, check=True)
    assert int(measured.stdout) <= 24 * MESSAGE_SIZE


@pytest.mark.row("M4")
@pytest.mark.parametrize("piece", ["[", "\\n[", '\\"{'])
def test_brackets_in_a_huge_text_are_counted_in_little_memory(piece: str) -> None:
    text = '{"type":"survey","anything":"' + piece * (250_000 // len(piece)) + '"}'
    tracemalloc.start()
    try:
        event = EXTENDED.parse(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(event, Survey)
    assert peak <= 24 * MESSAGE_SIZE


@pytest.mark.row("M4")
def test_an_event_has_so_many_values_and_no_more() -> None:
    def listing(count: int, text: str = '"[,{"') -> str:
        return f'{{"type":"survey","anything":[{",".join([text] * count)}]}}'

    assert isinstance(EXTENDED.parse(listing(VALUES - 2)), Survey)
    too_many = Refused(Fault.INVALID_EVENT, ({"loc": [], "type": "too_many_values"},))
    assert EXTENDED.parse(listing(VALUES - 1)) == too_many
    assert EXTENDED.parse(listing(VALUES - 1, '"')) == Refused(Fault.INVALID_JSON)  # its last text is not closed
    assert isinstance(EXTENDED.parse(json.dumps({"type": "chat_message", "content": ",[{" * 3333})), ChatMessage)


DEEP = {
    "lists": '{"type":"ping","id":' + "[" * 40 + "]" * 40 + "}",
    "objects": '{"type":"ping","id":' + '{"a":' * 40 + "1" + "}" * 40 + "}",
    "deeper than the parser goes": '{"type":"ping","id":' + "[" * 1000 + "]" * 1000 + "}",
    "a deep value of an extra field": '{"type":"ping","x":' + "[" * 100 + "]" * 100 + "}",
}


@pytest.mark.row("M4")
@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP.keys())
def test_what_is_deep_is_refused(text: str) -> None:
    refused = EVENTS.parse(text)
    assert isinstance(refused, Refused)
    assert refused.fault is Fault.INVALID_EVENT


@pytest.mark.row("M4")
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_an_event_with_any_value_nests_32_deep_and_no_deeper(opening: str) -> None:
    def nested(depth: int) -> str:
        closing = "]" if opening == "[" else "}"
        return f'{{"type":"survey","anything":{opening * depth}"[[{{\\""{closing * depth}}}'

    assert isinstance(EXTENDED.parse(nested(31)), Survey)
    assert EXTENDED.parse(nested(32)) == Refused(Fault.INVALID_EVENT, ({"loc": [], "type": "too_deep"},))
    wide = '{"type":"survey","anything":[' + "[]," * 1000 + "[]]}"
    assert isinstance(EXTENDED.parse(wide), Survey)


openings = st.lists(st.sampled_from(["[", '{"a":', '["[[{",', '[{"b":[]},']), max_size=45)


@pytest.mark.row("M4")
@example(["["] * 31, "1", 0)
@example(['{"a":'] * 32, "1", 0)
@given(openings, st.sampled_from(["1", f'"{"[{" * 20}"', f'"\\"{"[{" * 20}"', "[]", "{}"]), st.integers(0, 40))
def test_an_event_nests_so_deep_and_no_deeper_whatever_is_in_it(opened: list[str], core: str, cut: int) -> None:
    value = "".join(opened) + core + "".join("]" if one[0] == "[" else "}" for one in reversed(opened))
    text = f'{{"type":"survey","anything":{value}}}'
    depth = 1 + len(opened) + (core in ("[]", "{}"))
    deepest = max([depth, *(at + 4 for at, one in enumerate(opened) if one == '[{"b":[]},')])
    limit = LimitsConfig().json_depth
    parsed = EXTENDED.parse(text)
    if deepest <= limit:
        assert parsed == Survey(type="survey", anything=json.loads(value))
    else:
        assert parsed == Refused(Fault.INVALID_EVENT, ({"loc": [], "type": "too_deep"},))
    assert isinstance(EXTENDED.parse(text[: len(text) - 1 - cut]), Refused)


huge = st.one_of(
    st.builds(  # wrong in any way
        lambda head, parts, tail: (head, "".join(parts), tail),
        st.sampled_from(['{"type":"ping","id":', '{"type":"chat_message","content":"', "[", '{"type":"ping",']),
        st.lists(
            st.sampled_from(["[", "{", "]", '{"a":', '"', '"k":1,', "[],", "1e9,", "\\", "\\u0041", "\\n,", "x", " "]),
            min_size=1, max_size=3,
        ),
        st.sampled_from(["", "]", "}", '"}']),
    ),
    st.builds(  # right but for their size, where any value may stand
        lambda element: ('{"type":"survey","anything":[', f"{element},", f"{element}]}}"),
        st.sampled_from(["[]", "{}", '{"":0}', '""', "0", "[[[]]]", '"[,[,"', "null", "1.5"]),
    ),
)  # fmt: skip


@pytest.mark.row("M2")
@pytest.mark.row("M4")
@given(huge, st.sampled_from([10_000, MESSAGE_SIZE // 2, MESSAGE_SIZE]))
def test_a_message_of_any_size_takes_no_more_memory_than_promised(parts: tuple[str, str, str], size: int) -> None:
    head, piece, tail = parts
    text = head + piece * ((size - len(head) - len(tail)) // len(piece)) + tail
    tracemalloc.start()
    try:
        parsed = EXTENDED.parse(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= min(24 * MESSAGE_SIZE, 32 * size)
    assert not isinstance(parsed, Refused) or len(_answer(parsed)) <= 1024


# ── strictness that Pydantic does not have ───────────────────────────────────────────────────────────────────────────

NUMBERS = [
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 1000, "1" * 5000, "-" + "1" * 1000, "0." + "1" * 1000,
    "1" * 1000 + ".5", "9007199254740992", "-9007199254740992", "1" * 33, "1e" + "0" * 100 + "1",
]  # fmt: skip


@pytest.mark.row("M3")
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_that_parsers_read_differently_are_refused(number: str) -> None:
    texts = [_metadata(number)]
    texts += [f'{{"type":"survey","{field}":{number}}}' for field in ("count", "score", "anything")]
    texts += [f'{{"type":"survey","inner":{{"a":{{"type":"inner","number":{number}}}}}}}']
    texts += [f'{{"type":"survey","anything":[{{"a":[{number}]}}]}}']
    for text in texts:
        refused = EXTENDED.parse(text)
        assert isinstance(refused, Refused)
        assert refused.fault is Fault.INVALID_EVENT
        assert len(_answer(refused)) <= 1024


def test_ordinary_numbers_are_taken_everywhere() -> None:
    text = '{"type":"survey","count":9007199254740991,"score":-1.5e10,"anything":[1,2.5,null]}'
    assert EXTENDED.parse(text) == Survey(type="survey", count=2**53 - 1, score=-1.5e10, anything=[1, 2.5, None])


WITH_NUL = [
    _chat(',"id":"a\\u0000b"'),
    _chat(',"session_id":"a\\u0000b"'),
    _chat(',"user_id":"a\\u0000b"'),
    _chat(',"metadata":{"a\\u0000b":1}'),
    _metadata('"a\\u0000b"'),
    '{"type":"chat_message","content":"a\\u0000b"}',
    '{"type":"auth","token":"a\\u0000b"}',
    '{"type":"cancel","run_id":"a\\u0000b"}',
    '{"type":"cancel","correlation_id":"a\\u0000b"}',
    '{"type":"ping","id":"a\\u0000b"}',
    '{"type":"ping","a\\u0000b":1}',
]


@pytest.mark.row("M3")
@pytest.mark.parametrize("text", WITH_NUL)
def test_nul_is_refused_everywhere(text: str) -> None:
    refused = EVENTS.parse(text)
    assert isinstance(refused, Refused)
    assert refused.fault is Fault.INVALID_EVENT


DOUBLED = [
    '{"type":"ping","type":"ping"}',
    '{"type":"ping","\\u0074ype":"ping"}',
    '{"type":"ping","content":"x","type":"chat_message"}',
    '{"type":"ping","id":"a","id":"a"}',
    '{"type":"ping","id":"a","id":null}',
    '{"type":"ping","id":"a:b","i\\u0064":"c"}',
    '{"type":"ping","id":null,"id":"a"}',
    '{"type":"auth","token":"good","token":"bad"}',
    _chat(',"content":"other"'),
    _chat(',"c\\u006fntent":"other:"'),
    _metadata('1,"a":2'),
    _metadata('1,"\\u0061":2'),
    _chat(',"metadata":{},"metadata":{"a":1}'),
    '{"type":"survey","anything":{"b":[{"a":1,"a":2}]}}',
    '{"type":"survey","inner":{"x":{"type":"inner","number":1,"number":2}}}',
]


@pytest.mark.row("M3")
@pytest.mark.parametrize("text", DOUBLED)
def test_a_doubled_key_is_refused_at_every_level(text: str) -> None:
    assert EXTENDED.parse(text) == Refused(Fault.INVALID_EVENT, ({"loc": [], "type": "doubled_key"},))


class DoubledKey(Exception):
    """The reference met one."""


def _reference(text: str) -> object:
    """What the text says to a strict reader."""

    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(found)) != len(found):
            raise DoubledKey
        return dict(found)

    return json.loads(text, object_pairs_hook=pairs)


def _escaped(text: str) -> st.SearchStrategy[str]:
    """The text as JSON, some of its characters written as escapes."""
    whole = [st.just(json.dumps(one)[1:-1]) | st.just(f"\\u{ord(one):04x}") for one in text]
    return st.tuples(*whole).map(lambda parts: '"' + "".join(parts) + '"')


KEYS = st.sampled_from(["type", "content", "id", "stream", "metadata", "token", "session_id", "x"]).flatmap(_escaped)
STRINGS = st.text(st.sampled_from('a:{}[],"\\'), max_size=6).flatmap(_escaped)
SCALARS = STRINGS | st.sampled_from(["1", "2.5", "true", "false", "null", '"ping"', '"chat_message"'])


def _object(keys: st.SearchStrategy[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    colons = st.sampled_from([":", " :", ": "])
    pairs = st.tuples(keys, colons, values).map("".join)
    return st.lists(pairs, max_size=5).map(lambda found: "{" + ",".join(found) + "}")


METADATA = _object(st.sampled_from(["a", "b", "type", "a:b"]).flatmap(_escaped), SCALARS)


@st.composite
def near_events(draw: st.DrawFn) -> str:
    """Texts that are events, or would be but for what was added."""
    kind = draw(st.sampled_from(["ping", "chat_message", "auth"]))
    pairs = ['"type":' + draw(_escaped(kind))]
    if kind == "chat_message":
        pairs.append('"content":' + draw(STRINGS.filter(lambda text: text != '""')))
    if kind == "auth":
        pairs.append('"token":' + draw(STRINGS))
    pairs += draw(st.lists(st.tuples(KEYS, st.just(":"), SCALARS | METADATA).map("".join), max_size=3))
    return "{" + ",".join(draw(st.permutations(pairs))) + "}"


@pytest.mark.row("M3")
@given(near_events() | _object(KEYS, SCALARS | METADATA))
@example('{"type":"ping","id":":","id":null}')
def test_no_doubled_key_ever_passes_and_what_passes_says_what_was_sent(text: str) -> None:
    event = EVENTS.parse(text)
    try:
        said = _reference(text)
    except DoubledKey:
        assert isinstance(event, Refused)
        return
    if isinstance(event, Refused):
        # Not for a key: said once again without a doubt, it is refused as well.
        assert isinstance(EVENTS.parse(json.dumps(said)), Refused)
        assert {"loc": [], "type": "doubled_key"} not in event.errors
    else:
        assert event.model_dump(exclude_unset=True) == said


@pytest.mark.clause("C1")
@pytest.mark.row("M1")
@given(st.text(st.characters(), max_size=300))
def test_arbitrary_text_never_raises(text: str) -> None:
    assert isinstance(EVENTS.parse(text), Refused)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | KEYS.map(json.loads), inner),
    max_leaves=8,
)


@pytest.mark.clause("C1")
@pytest.mark.row("M2")
@given(JSON_VALUES, st.sampled_from(["ping", "chat_message", "auth", "cancel", "survey", "x"]))
def test_arbitrary_json_never_raises_and_its_answer_is_small(value: Any, kind: str) -> None:
    fields = value if isinstance(value, dict) else {"content": value}
    for text in (
        json.dumps(value),
        json.dumps({"type": kind, **fields}),
        json.dumps({"type": kind, "anything": value}),
    ):
        event = EXTENDED.parse(text)
        if isinstance(event, Refused):
            assert len(_answer(event)) <= 1024
            assert len(event.errors) <= 5
            assert event.fault is Fault.INVALID_EVENT or not event.errors


CANARY = "canary-4711"


@pytest.mark.row("M2")
@pytest.mark.clause("C12")
@pytest.mark.parametrize(
    "text",
    [
        f'"{CANARY}"',
        f'{{"type":"{CANARY}"}}',
        f'{{"type":"auth","token":["{CANARY}"]}}',
        f'{{"type":"auth","token":"x","extra":"{CANARY}"}}',
        f'{{"type":"ping","id":"{CANARY * 10}"}}',
        f'{{"type":"ping","id":"{CANARY}\\u0000"}}',
        f'{{"type":"ping","id":"{CANARY}","id":"{CANARY}"}}',
        f'{{"type":"ping","id":"{CANARY}"',
        _metadata(f'["{CANARY}"]'),
        f'{{"type":"ping","{CANARY} {CANARY}":1}}',
        f'{{"type":"ping","{CANARY * 7}":1}}',
    ],
)
def test_a_refusal_repeats_no_value_and_no_odd_name(text: str) -> None:
    refused = EVENTS.parse(text)
    assert isinstance(refused, Refused)
    assert CANARY not in repr(refused)
    assert CANARY not in _answer(refused).decode()


@pytest.mark.row("M2")
def test_an_answer_stays_small_where_names_are_long_and_deep() -> None:
    class Deep(ClientEvent):
        type: Literal["deep"]
        level: dict[str, dict[str, dict[str, dict[str, int]]]]

    key = "k" * 64
    text = json.dumps({"type": "deep", "level": {f"{n}{key}"[:64]: {key: {key: {key: "x"}}} for n in range(9)}})
    refused = ClientEvents([*MODELS, Deep], 32).parse(text)
    assert isinstance(refused, Refused)
    assert refused.errors[0]["loc"][:2] == ["level", f"0{key}"[:64]]
    assert 1 <= len(refused.errors) < 5
    assert len(_answer(refused)) <= 1024


@pytest.mark.clause("C12")
def test_a_token_is_not_printed() -> None:
    event = EVENTS.parse(f'{{"type":"auth","token":"{CANARY}"}}')
    assert isinstance(event, Auth)
    assert CANARY not in repr(event) + str(event)


def test_events_that_cannot_be_told_apart_are_a_mistake() -> None:
    class Untyped(ClientEvent):
        """It says no literal type."""

    class Another(ClientEvent):
        type: Literal["ping"]

    with pytest.raises(ValueError, match="Untyped needs a literal type"):
        ClientEvents([*MODELS, Untyped], 32)
    with pytest.raises(ValueError, match="the same type: auth, cancel, chat_message, ping, ping"):
        ClientEvents([*MODELS, Another], 32)


# ── what a server says ───────────────────────────────────────────────────────────────────────────────────────────────

SAID: list[tuple[ServerEvents, str]] = [
    (
        AgentResponse(
            content="¡Hola!", session_id="s", user_id="u", processing_time=1.23, reasoning_steps=["…"],
            tools_used=["chat_model"], status="completed", run_id="r", correlation_id="m1", seq=7,
        ),
        '{"type":"agent_response","content":"¡Hola!","session_id":"s","user_id":"u","processing_time":1.23,'
        '"reasoning_steps":["…"],"tools_used":["chat_model"],"status":"completed","run_id":"r","correlation_id":"m1",'
        '"seq":7}',
    ),
    (
        AgentChunk(content="¡Ho", offset=0, run_id="r", correlation_id="m1", session_id="s", seq=4),
        '{"type":"agent_chunk","content":"¡Ho","offset":0,"run_id":"r","correlation_id":"m1","session_id":"s","seq":4}',
    ),
    (
        AgentStepEvent(kind="tool_started", name="search", content="…", run_id="r", session_id="s", seq=3),
        '{"type":"agent_step","kind":"tool_started","name":"search","content":"…","run_id":"r","session_id":"s","seq":3}',
    ),
    (
        SystemEvent(
            event_name="message_accepted", data={"run_id": "r", "position": 0, "duplicate": False},
            correlation_id="m1", session_id="s", seq=2,
        ),
        '{"type":"system_event","event_name":"message_accepted","data":{"run_id":"r","position":0,"duplicate":false},'
        '"correlation_id":"m1","session_id":"s","seq":2}',
    ),
    (
        SystemEvent(event_name="auth_required", data={"timeout": 10}),
        '{"type":"system_event","event_name":"auth_required","data":{"timeout":10}}',
    ),
    (
        SystemEvent(event_name="connection_established", data={"user_id": "anonymous", "token_expires_in": None}),
        '{"type":"system_event","event_name":"connection_established","data":{"user_id":"anonymous",'
        '"token_expires_in":null}}',
    ),
    (
        error_event(Fault.RATE_LIMIT, details={"retry_after": 60}, correlation_id="m1"),
        '{"type":"error","error_code":"RATE_LIMIT","error_message":"Rate limit exceeded","details":{"retry_after":60},'
        '"correlation_id":"m1"}',
    ),
    (
        ErrorEvent(error_code="AGENT_ERROR", error_message="x", session_id="s", seq=9, run_id="r"),
        '{"type":"error","error_code":"AGENT_ERROR","error_message":"x","session_id":"s","seq":9,"run_id":"r"}',
    ),
    (Pong(id="p"), '{"type":"pong","id":"p"}'),
    (Pong(), '{"type":"pong"}'),
]  # fmt: skip


@pytest.mark.parametrize(("event", "text"), SAID)
def test_a_servers_event_has_exactly_the_documented_fields(event: ServerEvents, text: str) -> None:
    assert json.loads(dump(event)) == json.loads(text)
    assert parse_server_event(text) == event
    assert parse_server_event(dump(event)) == event
    assert b", " not in dump(event).replace(b"\xe2\x80\xa6", b"")  # nothing is spent on white space


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(1, 2**53),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_servers_event_comes_back_as_it_was_said(text: str, number: int, name: str | None) -> None:
    events: list[ServerEvents] = [
        AgentChunk(content=text, offset=number, session_id=text, seq=number, correlation_id=name),
        AgentStepEvent(kind="reasoning", name=name, content=text, session_id=text, seq=number),
        SystemEvent(event_name=text, data={"text": text, "number": number, "none": None, "half": 0.5, "yes": True}),
        ErrorEvent(error_code=text, error_message=text, run_id=name),
        Pong(id=name),
    ]
    assert [parse_server_event(dump(event)) for event in events] == events


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(-1e9, 1e9)
        | st.text(st.characters(exclude_categories=["Cs"])),
    ),
)
def test_a_system_event_is_what_its_model_dumps(name: str, data: dict[str, str | int | float | bool | None]) -> None:
    assert system_event(name, data) == dump(SystemEvent(event_name=name, data=data))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"type":"ping"}', '{"type":"pong","more":1}', '{"type":"agent_chunk"}']
)
def test_what_no_server_says_is_told_to_the_client(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_server_event(text)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.value.code], ids=lambda fault: fault.name)
def test_the_error_event_of_a_fault_says_what_the_table_says(fault: Fault) -> None:
    assert error_event(fault) == ErrorEvent(error_code=str(fault.value.code), error_message=fault.value.text)
    assert error_event(fault, text="better").error_message == "better"


def test_a_fault_without_a_code_has_no_error_event() -> None:
    with pytest.raises(AssertionError, match="no error code"):
        error_event(Fault.BAD_REQUEST)


def test_a_refused_cancel_says_which() -> None:
    event = EVENTS.parse('{"type":"cancel","correlation_id":"m1"}')
    assert isinstance(event, Cancel)
    assert event.correlation == "m1"


# ── which event an answer is for ─────────────────────────────────────────────────────────────────────────────────────

REFUSED = {
    "a wrong field": ('{"type":"chat_message","content":5,"id":ID}', Fault.INVALID_EVENT),
    "a field too many": ('{"type":"ping","id":ID,"x":1}', Fault.INVALID_EVENT),
    "no type": ('{"id":ID}', Fault.INVALID_EVENT),
    "a wrong number": (_chat(',"metadata":{"a":1e999},"id":ID'), Fault.INVALID_EVENT),
    "a doubled key": (_chat(',"stream":true,"stream":true,"id":ID'), Fault.INVALID_EVENT),
    "an unknown type": ('{"type":"x","id":ID}', Fault.UNKNOWN_EVENT),
}


@pytest.mark.row("M2")
@pytest.mark.parametrize(("text", "fault"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("name", ["m", "m 1", "i" * 64, "ñ😀", '"\\', "😀" * 64, '"' * 64])
def test_a_refused_event_is_named_by_its_id(text: str, fault: Fault, name: str) -> None:
    refused = EVENTS.parse(text.replace("ID", json.dumps(name)))
    assert isinstance(refused, Refused)
    assert (refused.fault, refused.correlation) == (fault, name)
    assert len(_answer(refused)) <= 1024


@pytest.mark.row("M2")
@pytest.mark.parametrize("text", [text for text, _ in REFUSED.values()], ids=REFUSED.keys())
@pytest.mark.parametrize(
    "name", ["5", "null", "[]", '{"a":"b"}', '""', f'"{"i" * 65}"', '"\\n"', '"\\u0000"', '"\\u2028"', '"\\u202e"']
)
def test_an_id_that_is_none_or_not_plain_is_not_repeated(text: str, name: str) -> None:
    refused = EVENTS.parse(text.replace("ID", name))
    assert isinstance(refused, Refused)
    assert refused.correlation is None


@pytest.mark.row("M1")
def test_what_is_no_json_has_no_id() -> None:
    assert EVENTS.parse('{"type":"ping","id":"m",}') == Refused(Fault.INVALID_JSON)
    assert EVENTS.parse('[{"type":"ping","id":"m"}]') == Refused(Fault.INVALID_JSON)


@pytest.mark.row("M2")
@pytest.mark.parametrize("letter", ["i", "ñ", "😀", '"', "\\"])
def test_the_longest_id_and_the_longest_places_fit_one_answer(letter: str) -> None:
    for length in range(1, 65):
        inner = {"type": "inner", "number": 1, "x" * length: 1}
        inners = {f"{number}{'k' * 63}": inner for number in range(5)}
        refused = EXTENDED.parse(json.dumps({"type": "survey", "id": letter * 64, "inner": inners}))
        assert isinstance(refused, Refused)
        assert refused.correlation == letter * 64
        assert len(refused.errors) >= 1
        assert len(_answer(refused)) <= 1024


class Strange(ClientEvent):
    """A user's event that answers anything for its name."""

    type: Literal["strange"]
    answer: Any = None

    @property
    def correlation(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.clause("C1")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("m", "m"),
        ("😀" * 64, "😀" * 64),
        ("i" * 65, None),
        ("a\nb", None),
        ("\ud800", None),
        (5, None),
        (b"m", None),
        (["m"], None),
        (None, None),
        (KeyError("m"), None),
    ],
)
def test_whatever_an_event_answers_for_its_name_is_plain_or_left_out(answer: object, said: str | None) -> None:
    assert correlation_of(Strange(type="strange", answer=answer)) == said


class Careless(ClientEvent):
    """A user's event whose validator raises what no validator may."""

    type: Literal["careless"]
    value: str

    @field_validator("value")
    @classmethod
    def _look_up(cls, value: str) -> str:
        return {"known": value}[value]


@pytest.mark.clause("C1")
def test_a_model_that_raises_anything_refuses() -> None:
    events = ClientEvents([*MODELS, Careless], 32)
    assert isinstance(events.parse('{"type":"careless","value":"known"}'), Careless)
    refused = events.parse('{"type":"careless","value":"unknown","id":"m"}')
    assert isinstance(refused, Refused)
    assert (refused.fault, type(refused.cause), refused.correlation) == (Fault.INTERNAL, KeyError, "m")
