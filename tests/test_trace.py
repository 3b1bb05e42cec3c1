"""The trace of a node: every input can be written and read again, and no line of it tells a secret."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws_proto import Now, WebSocketConfig
from qaws_proto.admission.gate import Applicant, Gate, Refusal
from qaws_proto.admission.tokens import Principal
from qaws_proto.config import Section
from qaws_proto.effects import Effect, LoadKeys, Note, SendBytes, StartRun
from qaws_proto.faults import Fault
from qaws_proto.inputs import (
    BytesReceived,
    ConnectionOpened,
    Input,
    RunChunk,
    RunFailed,
    RunFinished,
    RunStep,
    TimerFired,
)
from qaws_proto.records import RestrictionRecord, RunRecord, StoredSession
from qaws_proto.testing import configure, token
from qaws_proto.testing.node import UNIX, counter
from qaws_proto.testing.peer import upgrade
from qaws_proto.testing.recording import RecordedGateway
from qaws_proto.testing.trace import (
    DIGITS,
    FORMAT,
    Foreign,
    Head,
    Step,
    Subtext,
    Trace,
    TraceError,
    decode,
    digest,
    encode,
    raised,
    without_secrets,
)

# Lone surrogates too; but JSON cannot tell two halves that stand together from the character that they make.
TEXT = st.text(st.characters(codec=None), max_size=20).map(lambda text: json.loads(json.dumps(text)))
PRINTABLE = st.text(st.characters(codec="ascii")).map(str.encode)
NUMBER = st.integers(0, 1 << 62)
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
MAYBE = st.none() | TEXT
CAUSE = st.none() | st.sampled_from(["ValueError", "OSError", "Provider.Down"]).map(raised)
NAMES = st.lists(TEXT, max_size=3).map(tuple)
GIVEN = (  # by an agent, which may give anything
    st.none() | st.booleans() | st.integers() | st.integers(DIGITS, 1 << 20_000) | SECONDS | TEXT | st.binary()
    | TEXT.map(Subtext) | st.sampled_from(["Decimal", "Chunk"]).map(Foreign) | st.lists(TEXT, max_size=2) | CAUSE
)  # fmt: skip
RUN = st.builds(RunRecord, *[TEXT] * 5, MAYBE, st.binary())
STORED = st.builds(
    StoredSession, TEXT, TEXT, TEXT, NUMBER, st.lists(st.binary(), max_size=3).map(tuple),
    st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple), st.lists(RUN, max_size=2).map(tuple),
)  # fmt: skip
RESTRICTION = st.builds(
    RestrictionRecord, st.sampled_from(["blocked_user", "revoked_token"]), TEXT, TEXT, TEXT, SECONDS,
    st.none() | SECONDS, st.booleans(),
)  # fmt: skip
HEADERS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)
COMMANDS = {"by": TEXT, "reason": TEXT}
PERIOD = {"seconds": st.none() | SECONDS}

FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "ConnectionOpened": {"connection": NUMBER, "peer": MAYBE, "internal": st.booleans()},
    "BytesReceived": {"connection": NUMBER, "data": st.binary() | PRINTABLE},
    "RequestReceived": {
        "connection": NUMBER, "peer": MAYBE, "method": TEXT, "target": TEXT, "headers": HEADERS,
        "upgrade": st.booleans(), "denial": st.booleans(),
    },
    "MessageReceived": {"connection": NUMBER, "data": TEXT | st.binary()},
    "CloseReceived": {"connection": NUMBER, "code": NUMBER},
    "EofReceived": {"connection": NUMBER},
    "WriteBlocked": {"connection": NUMBER},
    "WriteProgressed": {"connection": NUMBER},
    "WriteDrained": {"connection": NUMBER},
    "ConnectionLost": {"connection": NUMBER},
    "TimerFired": {},
    "RunStarted": {"run_id": TEXT},
    "RunChunk": {"run_id": TEXT, "content": GIVEN},
    "RunStep": {"run_id": TEXT, "kind": GIVEN, "name": GIVEN, "content": GIVEN},
    "RunFinished": {
        "run_id": TEXT, "content": GIVEN, "reasoning_steps": NAMES, "tools_used": NAMES, "input_tokens": GIVEN,
        "output_tokens": GIVEN,
    },
    "RunFailed": {"run_id": TEXT, "cause": CAUSE, "reason": GIVEN, "retry_after": GIVEN},
    "StoreOpened": {
        "unfinished": st.lists(STORED, max_size=2).map(tuple),
        "restrictions": st.none() | st.lists(RESTRICTION, max_size=2).map(tuple),
    },
    "RecordsSaved": {"batch": NUMBER},
    "SaveFailed": {"batch": NUMBER, "cause": CAUSE},
    "SessionLoaded": {"owner": TEXT, "session_id": TEXT, "stored": st.none() | STORED},
    "LoadFailed": {"owner": TEXT, "session_id": TEXT, "cause": CAUSE},
    "MetricsCollected": {"connection": NUMBER, "body": st.none() | st.binary(), "content_type": TEXT},
    "KeysLoaded": {"document": st.binary()},
    "KeysFailed": {"reason": TEXT, "cause": CAUSE},
    "KeysRequested": {},
    "DrainRequested": COMMANDS,
    "StopRequested": {},
    "DisconnectRequested": {**COMMANDS, "number": st.none() | NUMBER, "user_id": MAYBE, "session_id": MAYBE},
    "UserBlocked": {**COMMANDS, **PERIOD, "user_id": TEXT},
    "UserUnblocked": {**COMMANDS, "user_id": TEXT},
    "AddressBlocked": {**COMMANDS, **PERIOD, "address": TEXT},
    "AddressUnblocked": {**COMMANDS, "address": TEXT},
    "TokenRevoked": {**COMMANDS, "token_id": TEXT},
    "UserRevoked": {**COMMANDS, "user_id": TEXT},
    "LimitsChanged": {**COMMANDS, "changes": st.dictionaries(TEXT, MAYBE | st.booleans() | NUMBER | SECONDS)},
}  # fmt: skip


def through_json(value: Any) -> Any:
    """What is read again of what was written."""
    return decode(json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize("kind", get_args(Input), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_input_is_read_as_it_was_written(kind: Any, data: st.DataObject) -> None:
    assert FIELDS[kind.__name__].keys() == set(kind._fields)
    happened = data.draw(st.builds(kind, **FIELDS[kind.__name__]))
    again = through_json(happened)
    assert (type(again), again) == (kind, happened)
    assert [type(value).__qualname__ for value in again] == [type(value).__qualname__ for value in happened]


@pytest.mark.parametrize("answer", [
    None,
    True,
    Principal("ana", "t", {"iat": 5, "groups": ["a", {"b": None}]}, 12.5, frozenset({"admin", "user"}), frozenset()),
    Principal("ana", None, {}, None),
    Refusal(Fault.BAD_TOKEN, 2.5, "no", raised("KeyError")),
])  # fmt: skip
def test_every_verdict_is_read_as_it_was_written(answer: Any) -> None:
    assert through_json(answer) == answer


class Hostile(dict[str, str]):
    """What an agent may yield."""

    def items(self) -> Any:
        raise RuntimeError

    def __iter__(self) -> Any:
        raise RuntimeError


class Shout(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "HI"


def test_what_an_agent_gives_is_kept_by_its_type() -> None:
    itself: list[Any] = []
    itself.append(itself)
    kinds = [Decimal(1), {1: 2}, Hostile(), {"a"}, object(), StoredSession("a", "b", "c", 1, ()), type]
    kept = [through_json(RunChunk("r", content)).content for content in kinds]
    names = ["Decimal", "dict", "Hostile", "set", "object", "StoredSession", "type"]
    assert kept[0] == Foreign("Decimal")
    assert all(type(one) is not str for one in kept)
    assert [type(content).__qualname__ for content in kinds] == names
    assert through_json(RunChunk("r", itself)).content == [Foreign("list")]
    shout = through_json(RunStep("r", Shout("hi"))).kind
    assert (type(shout), str.__str__(shout)) == (Subtext, "hi")
    assert math.isnan(through_json(RunFailed("r", retry_after=math.nan)).retry_after)


def test_an_exception_is_kept_by_its_type_alone() -> None:
    failed = RunFailed("r", ValueError("the key is hunter2"), "busy", 3)
    assert "hunter2" not in json.dumps(encode(failed))
    again = through_json(failed)
    assert type(again.cause).__qualname__ == "ValueError"
    assert (str(again.cause), again.reason, again.retry_after) == ("", "busy", 3)
    assert again.cause != raised("KeyError")


# ── the digest ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_digest_tells_effects_apart_and_their_order() -> None:
    one, other = SendBytes(1, b"a"), SendBytes(2, b"a")
    many: list[list[Effect]] = [
        [], [one], [other], [one, other], [other, one], [SendBytes(1, b"b")], [Note("run", "INFO", "a", {"x": 1})],
        [Note("run", "INFO", "a", {"x": 1.0})], [Note("run", "INFO", "a", {"x": 1}, ValueError())],
        [StartRun("r", "s", "u", "hi", False, {"a": 1})], [StartRun("r", "s", "u", "hi", False, {"a": 2})],
    ]  # fmt: skip
    assert len({digest(effects) for effects in many}) == len(many)
    rendered = sha256(b'{"connection":1,"data":{"text":"a"},"is":"SendBytes"}').hexdigest()
    assert digest([one, one]) == " ".join([f"SendBytes:{rendered[:16]}"] * 2)


def test_the_digest_knows_no_text_of_a_cause_and_no_query_of_an_address() -> None:
    first, second = (Note("run", "ERROR", "a", {}, ValueError(text)) for text in ("one", "two"))
    assert digest([first]) == digest([second])
    keys = [LoadKeys(f"https://id.example/keys?secret={secret}", 5, 1000) for secret in ("one", "two")]
    assert digest(keys[:1]) == digest(keys[1:])
    assert digest([LoadKeys("keys.json", 5, 1000)]) != digest([LoadKeys("other.json", 5, 1000)])


# ── the head ─────────────────────────────────────────────────────────────────────────────────────────────────────────

CANARY = "canary-4b1d-of-the-secrets-that-nobody-may-see"


def secrets_in(section: Section, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every setting that is a secret."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in vars(section).items():
        if isinstance(value, Section):
            found |= secrets_in(value, (*path, name))
        elif "SecretStr" in str(type(section).model_fields[name].annotation):
            found[*path, name] = value
    return found


def test_no_secret_of_the_configuration_is_in_the_head() -> None:
    config = configure(
        security={"authentication": {
            "jwt_secret": CANARY, "previous_secret": CANARY + "2", "previous_secret_until": 1_800_000_000.5,
            "jwks": f"https://id.example/keys?secret={CANARY}",
        }},
        metrics={"token": CANARY},
    )  # fmt: skip
    secrets = secrets_in(config)
    assert secrets
    assert all(secrets.values()), "every one is set here"
    line = Head(config, True).line()
    assert "canary" not in line
    again = Trace.read([line]).head.config
    lengths = [len(secret.get_secret_value()) for secret in secrets.values()]
    assert [len(secret.get_secret_value()) for secret in secrets_in(again).values()] == lengths
    assert without_secrets(again) == without_secrets(config)


def test_the_head_is_read_as_it_was_written() -> None:
    config = configure(
        limits={"max_message_size": 2048}, agent={"roll_up": 0.1, "budget": {"per_day": 5000}},
        server={"listen": ["127.0.0.1:0", "unix:/run/x"], "trusted_proxies": ["10.0.0.0/8"]},
        security={"authorization": {"events": {"chat_message": ["user"]}}},
    )  # fmt: skip
    head = Head(config, True, "simulation", ("poll", "vote"), (1, 2))
    assert Trace.read([head.line()]).head == head


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def step(seq: int) -> Step:
    verdicts = (("verify", None), ("has_keys", True))
    return Step(seq, Now(0.1 + seq, 1e9 / 3), RunFinished("r", "é"), ("id-1", "id-2"), verdicts, digest([]))


HEAD = Head(WebSocketConfig.model_validate({"security": {"authentication": {"enabled": False}}}), False)


def test_a_trace_is_read_in_the_order_of_its_steps() -> None:
    steps = [step(seq) for seq in range(1, 6)]
    lines = [HEAD.line(), *(steps[place].line() for place in (3, 0, 1, 4, 2))]
    trace = Trace.read(line + "\n" for line in lines)
    assert trace.head == HEAD
    assert trace.steps == steps


def changed(line: str, change: Callable[[dict[str, Any]], object]) -> str:
    fields = json.loads(line)
    change(fields)
    return json.dumps(fields)


@pytest.mark.parametrize(("lines", "message"), [
    ([], "no trace of qaws"),
    (["# a trace of others"], "no trace of qaws"),
    (["{}"], "no trace of qaws"),
    ([HEAD.line().replace(f'"qaws_trace":{FORMAT}', '"qaws_trace":99')], "the format 99"),
    ([HEAD.line().replace('"port":8765', '"port":-1')], "cannot be used with this version of qaws: server.port"),
    ([changed(HEAD.line(), lambda fields: fields.update(unknown=1))], "none of this version"),
    ([HEAD.line() + "\n", step(1).line() + "\n", step(2).line()[:-20]], "line 3 is no JSON: the file ends within it"),
    ([HEAD.line() + "\n", "nonsense\n", step(1).line()], "line 2 is no JSON$"),
    ([HEAD.line(), "[1]"], "line 2 is no object"),
    ([HEAD.line(), step(1).line(), step(3).line()], "step 2 is missing"),
    ([HEAD.line(), step(1).line(), step(1).line()], "step 1 is there twice"),
    ([HEAD.line(), changed(step(1).line(), lambda fields: fields.pop("mono"))], "line 2 is no step: KeyError: 'mono'"),
    ([HEAD.line(), changed(step(1).line(), lambda fields: fields.update(input={"is": "Open"}))], "line 2 is no step"),
    ([HEAD.line(), changed(step(1).line(), lambda fields: fields["input"].update(more=1))], "line 2 is no step"),
    ([HEAD.line(), changed(step(1).line(), lambda fields: fields.update(input={"a": 1, "b": 2}))], "line 2 is no step"),
    ([HEAD.line(), changed(step(1).line(), lambda fields: fields.update(input=None))], "line 2 is no step"),
])  # fmt: skip
def test_what_is_no_trace_is_said(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        Trace.read(lines)


@pytest.mark.parametrize(("lines", "left", "broken"), [
    ([step(1).line(), step(2).line()], 2, None),
    ([step(1).line() + "\n", step(2).line()[:-1]], 1, "line 3 is no JSON: the file ends within it"),
    ([step(2).line() + "\n", step(4).line() + "\n", step(1).line() + "\n", '{"se'], 2, "line 5 is no JSON"),
    ([step(1).line(), step(3).line(), step(4).line()], 1, "step 2 is missing"),
    ([step(2).line()], 0, "step 1 is missing"),
])  # fmt: skip
def test_what_a_crash_has_left_can_be_read(lines: list[str], left: int, broken: str | None) -> None:
    trace = Trace.read_beginning([HEAD.line() + "\n", *lines])
    assert [one.seq for one in trace.steps] == list(range(1, left + 1))
    assert (trace.broken or "").startswith(broken or "")
    assert (trace.broken is None) is (broken is None)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def recorded(config: WebSocketConfig, **more: Any) -> tuple[RecordedGateway, list[Step]]:
    """A gateway, and the steps that it writes."""
    steps: list[Step] = []
    return RecordedGateway(config, ids=counter(), write=steps.append, **more), steps


def ask(gate: Gate, applicant: Applicant) -> Refusal | None:
    if applicant.request.path.endswith("raise"):
        raise KeyError
    return Refusal(Fault.ORIGIN_REFUSED) if applicant.request.query else None


def test_what_comes_into_a_step_from_outside_is_in_it() -> None:
    gateway, steps = recorded(configure(authentication=True), upgrade_checks=[ask], kind="test")
    assert gateway.head == Head(gateway.config, False, "test", (), (1, 0))
    now = Now(1000, UNIX)
    gateway.step(ConnectionOpened(1), now)
    effects = gateway.step(BytesReceived(1, upgrade("/", f"Authorization: Bearer {token('ana')}")), now)
    gateway.step(ConnectionOpened(2), now)
    gateway.step(BytesReceived(2, upgrade("/", "Authorization: Bearer wrong")), now)
    gateway.step(ConnectionOpened(3), now)
    gateway.step(BytesReceived(3, upgrade("/?x")), now)
    assert [step.seq for step in steps] == [1, 2, 3, 4, 5, 6]
    assert (steps[0].ids, steps[0].verdicts, steps[0].effects) == ((), (), digest([]))
    (recall, none), (verify, ana), check = steps[1].verdicts
    assert (recall, none, verify, ana.user_id, check) == ("recall", None, "verify", "ana", ("check", None))
    assert (steps[1].ids, steps[1].effects) == (("id-1", "id-2"), digest(effects))
    assert steps[3].verdicts == (("recall", None), ("verify", None))
    assert steps[5].verdicts == (("check", Refusal(Fault.ORIGIN_REFUSED)),)


def test_a_check_that_raises_is_a_refusal() -> None:
    gateway, steps = recorded(configure(server={"path": "/raise"}), upgrade_checks=[ask])
    gateway.step(ConnectionOpened(1), Now(0, 0))
    gateway.step(BytesReceived(1, upgrade("/raise")), Now(0, 0))
    ((_, refused),) = steps[1].verdicts
    assert (refused.fault, type(refused.cause)) == (Fault.INTERNAL, KeyError)


def test_what_raises_is_a_step_too() -> None:
    gateway, steps = recorded(configure())
    with pytest.raises(ValueError, match="never opened"):
        gateway.step(BytesReceived(1, b"a"), Now(0, 0))
    gateway.step(TimerFired(), Now(0, 0))
    assert [(step.seq, step.effects) for step in steps] == [(1, "!ValueError"), (2, "")]
    gateway.write = None
    gateway.step(TimerFired(), Now(0, 0))
    assert len(steps) == 2
