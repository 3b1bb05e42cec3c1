"""qaws.settings: what is said when settings cannot be used, and that no secret is in it."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws.settings import SettingsError, load
from qaws_proto import ConfigError

CANARY = "s3cret-canary"
JWT_SECRET = "security.authentication.jwt_secret"
PER_MINUTE = "security.rate_limiting.requests_per_minute"


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _file(text: str | bytes, name: str = "qaws.yaml") -> str:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


def _problems(text: str | bytes, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(_file(text), environ=environ or {})
    assert all(len(problem.splitlines()) == 1 for problem in caught.value.problems)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("WEBSOCKET_PORT", "many", "`server.port` must be a whole number"),
        ("WEBSOCKET_PORT", "70000", "`server.port` must be less than or equal to 65535"),
        ("WEBSOCKET_PORT", "true", "`server.port` must be a whole number"),
        ("WEBSOCKET_PORT", "9" * 5000, "`server.port` must be a whole number"),
        ("WEBSOCKET_ENABLED", "flase", "`enabled` must be true or false"),
        ("WEBSOCKET_SECRET_KEY", "short", f"`{JWT_SECRET}` cannot be used: the secret is shorter than 32 bytes"),
        ("WEBSOCKET_HOST", os.fsdecode(b"\xff"), "`server.host` is not valid UTF-8"),
        ("WEBSOCKET_SECRET_KEY", os.fsdecode(b"\xff" * 40), f"`{JWT_SECRET}` is not valid UTF-8"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(environ={variable: text})
    (problem,) = caught.value.problems
    assert problem.startswith(says)
    assert problem.endswith(f"(environment {variable})")


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (f"A=1\n'{CANARY}\n", ".env", "`.env` has a line that is not NAME=value; mend or delete it (.env:2)"),
        ("WEBSOCKET_PORT=x", ".env", "0 takes a free one (.env WEBSOCKET_PORT)"),
        ("WEBSOCKET_PORT=x", "prod.env", "(prod.env WEBSOCKET_PORT)"),
        (b"A=\xff", ".env", "`.env` is not UTF-8; save it as UTF-8 (.env:1)"),
        (None, "prod.env", "`prod.env` does not exist"),
    ],
)
def test_a_dotenv_that_cannot_be_used_is_a_problem(content: str | bytes | None, name: str, says: str) -> None:
    if content is not None:
        _file(content, name)
    with pytest.raises(SettingsError) as caught:
        load(environ={}, dotenv=name)
    (problem,) = caught.value.problems
    assert says in problem
    assert CANARY not in problem


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        ("server: {host: '${A}${B}'}", {}, "`server.host` needs the variable A and B; set it, or write another value"),
        ("security: {ssl: {enabled: true, cert_file: '${A}'}}", {}, "`security.ssl.cert_file` needs the variable A"),
        ("security: {ssl: {cert_file: '${A}'}, cors: {enabled: false}}\nserver: {host: '${A}'}", {}, "`server.host`"),
        ("security: {cors: {enabled: '${A}'}}", {}, "`security.cors.enabled` needs the variable A"),
        ("security: {ssl: {enabled: '${A}'}}", {}, "`security.ssl.enabled` needs the variable A"),
        ("server: {port: '${A}'}", {"A": "x"}, "0 takes a free one (qaws.yaml:1, environment A)"),
        ("server: {host: '${A'}", {}, "`server.host` has a `${` that is neither `${NAME}` nor `${NAME:-default}`"),
        ("server: {host: '${A:-${B}}'}", {}, "`server.host` has a `${` that is neither"),
        ("server: {host: '${A:?no}'}", {}, "`server.host` has a `${` that is neither"),
        ("server: {host: '${1}'}", {}, "`server.host` has a `${` that is neither"),
        ("${A}: 1", {"A": "enabled"}, "unknown key `${A}`"),
        ("server: '${A}'", {"A": "{}"}, "`server` is a section"),
    ],
)
def test_a_reference_that_cannot_be_expanded_is_a_problem(text: str, environ: dict[str, str], says: str) -> None:
    (problem,) = _problems(text, environ)
    assert says in problem


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("server: {prot: 1}", "unknown key `server.prot`; did you mean `server.port`? (qaws.yaml:1)"),
        ("server: {Max-Connections: 1}", "did you mean `server.max_connections`?"),
        ("SERVER: {}", "did you mean `server`?"),
        ("drain: {timeou: 1}", "did you mean `drain.timeout`?"),
        ("limits: {max_connection: 1}", "did you mean `server.max_connections`?"),
        ("websocket: {websocket: {}}", "unknown key `websocket`; did you mean `s"),
        (
            "\nburst_size: 1",
            "unknown key `burst_size`; did you mean `security.rate_limiting.burst_size`? (qaws.yaml:2;",
        ),
        ("server: {log_messages: true}", "did you mean `logging.log_messages`?"),
        ("server: {cert_fil: 1}", "did you mean `security.ssl.cert_file`?"),
        ("security: {authentication: {secretkey: 1}}", f"did you mean `{JWT_SECRET}`?"),
        ("servr: {port: 1}", "unknown key `servr`; did you mean `server`?"),
        ("websockt: {}", "did you mean `websocket`? (qaws.yaml:1; the file has no `websocket:` section)"),
        ("server.port: 1", "unknown key `server…`; did you mean `server`?"),
        ("security.ssl: {}", "unknown key `security…`; did you mean `security`?"),
        ("server: {qqq: 1}", "unknown key `server.qqq`; did you mean `"),
        ("server: 1", "`server` is a section; write its settings below it"),
        ("server: [1]", "`server` is a section"),
        ("websocket: 1", "`websocket` is a section"),
        ("server: {? [port] : 1}", "a key must be one word (qaws.yaml:1)"),
        ("server: {port: 1, port: 1}", "key `port` stands twice; keep one of them (qaws.yaml:1, qaws.yaml:1)"),
        (
            "security: {authorization: {events: [cancel]}}",
            "`security.authorization.events` must be a mapping; write each",
        ),
        ("security: {authorization: {events: '${A:-x}'}}", "`security.authorization.events` must be a mapping"),
        ("security: {authorization: {events: {cancel: {a: b}}}}", "events` must be one value, or a list of them"),
        ("security: {authorization: {events: {cancel: }}}", "`security.authorization.events` must be a list"),
        ("security: {authorization: {events: {cancel: [a, !b c]}}}", "events` has a tag"),
        ("security: {authorization: {events: {a: [b], a: [c]}}}", "key `a` stands twice"),
        ("security: {authentication: {previous_secret: 'short'}}", "the secret is shorter than 32 bytes"),
        (
            "security: {authentication: {previous_secret_until: soon}}",
            "previous_secret_until` must be a valid datetime",
        ),
        ("security: {authentication: {jwks: 'http://far/'}}", "jwks` cannot be used: a key set comes by https://"),
        ("security: {authentication: {algorithm: HS512}}", "algorithm` must be 'HS256', 'RS256', 'ES256' or 'EdDSA'"),
        (
            "websocket: {}\na: 1\nwebsocket: {}",
            "key `websocket` stands twice; keep one of them (qaws.yaml:1, qaws.yaml:3)",
        ),
        (
            "security:\n  rate_limiting:\n    requests_per_minute: 1\n    max_requests_per_minute: 1",
            f"`{PER_MINUTE}` and `security.rate_limiting.max_requests_per_minute` are names of one setting; "
            "keep one of them (qaws.yaml:3, qaws.yaml:4)",
        ),
        ("server: {host: {a: b}}", "`server.host` must be one value, or a list of them"),
        ("server: {allowed_hosts: [[a]]}", "`server.allowed_hosts` must be one value, or a list of them"),
        ("server: {host: !x y}", "`server.host` has a tag; quote a value that begins with `!`"),
        ("server: {host: !!python/name:os.system ''}", "`server.host` has a tag"),
        ("server: {port: }", "`server.port` must be a whole number"),
        ("server: {timeout: 1:30}", "`server.timeout` must be a number"),
        ("server: {timeout: .nan}", "`server.timeout` must be a number"),
        ("server: {timeout: nan}", "`server.timeout` must be a finite number"),
        ("server: {timeout: 0}", "`server.timeout` must be greater than 0: seconds a peer has to answer a ping"),
        ("server: {host: ''}", "`server.host` must not be empty"),
        ("server: {host: [a]}", "`server.host` must be a text"),
        ("server: {allowed_hosts: }", "`server.allowed_hosts` must be a list"),
        ("server: {path: x}", "`server.path` must match pattern"),
        ("logging: {level: LOUD}", "`logging.level` must be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
        ("security: {cors: {origins: ['http://a', b]}}", "`security.cors.origins[1]` cannot be used: an origin is"),
        ("security: {addresses: {block: [b]}}", "`security.addresses.block[0]` cannot be used: a network is"),
    ],
)
def test_a_problem_says_where_and_what_to_do(text: str, says: str) -> None:
    (problem,) = _problems(text)
    assert says in problem
    assert "(qaws.yaml:" in problem


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: b: c", "`qaws.yaml` is not YAML: mapping values are not allowed here; mend the line"),
        ("a: 1\nb: [1", "(qaws.yaml:2)"),
        ("a:\n\t- 1", "is not YAML: found character … that cannot start any token"),
        (
            f"a: *{CANARY}",
            "is not YAML: found undefined alias …; mend the line, or quote the value on it (qaws.yaml:1)",
        ),
        ('a: "\\UFFFFFFFF"', "an escape between double quotes is no character"),
        ("a: \x07", "it has control characters"),
        ("a: 1\n---\nb: 1", "(qaws.yaml:2)"),
        ("[1]", "`qaws.yaml` is not a mapping"),
        ("text", "`qaws.yaml` is not a mapping"),
        (b"a: 1\nb: \xff", "`qaws.yaml` is not UTF-8; save it as UTF-8 (qaws.yaml:2)"),
        ("[" * 10_000, "`qaws.yaml` is nested too deeply"),
        ("# " + "x" * 1024 * 1024, "`qaws.yaml` has more than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_settings_file_is_a_problem(content: str | bytes, says: str) -> None:
    (problem,) = _problems(content)
    assert says in problem
    assert CANARY not in problem


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("absent.yaml", "`absent.yaml` does not exist"),
        (".", "`.` cannot be read: Is a directory"),
        ("a\0b", "cannot be read: no usable path"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem(path: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says.replace(".", r"\.")):
        load(path, environ={})


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nserver: {allowed_hosts: *c}",
        "server: &s {server: *s, agent: *s}",
        "\n".join(f"key{number}: 1" for number in range(2000)),
    ],
    ids=["billion laughs", "endless", "another file"],
)
def test_a_hostile_file_ends_in_few_problems(text: str) -> None:
    assert 0 < len(_problems(text)) <= 50


def test_a_switch_that_cannot_be_read_is_on() -> None:
    unset, switch = _problems("security: {cors: {enabled: flase, methods: '${A}'}}")
    assert unset.startswith("`security.cors.methods` needs the variable A")
    assert switch.startswith("`security.cors.enabled` must be true or false")


def test_all_problems_come_together() -> None:
    _file("'broken", ".env")
    with pytest.raises(SettingsError) as caught:
        load(
            _file("server:\n  prot: 1\n  timeout: soon\n  host: ${A}\nlogging: {level: LOUD}"),
            environ={"WEBSOCKET_PORT": "x"},
            overrides={"agent.timeot": 1, "drain": {}},
        )
    expected = [
        ".env:1",
        "server.prot",
        "agent.timeot",
        "`drain`",
        "`server.host`",
        "`server.port`",
        "`server.timeout`",
    ]
    expected.append("`logging.level`")
    assert len(caught.value.problems) == len(expected)
    assert all(text in problem for text, problem in zip(expected, caught.value.problems, strict=True))
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"server.prot": 1}, "unknown key `server.prot`; did you mean `server.port`? (command line)"),
        ({"websocket.server.port": 1}, "did you mean `server.port`?"),
        ({"server": {"port": 1}}, "`server` is a section"),
        ({"server.port": True}, "true and false have no meaning here (command line)"),
        ({"server.port": object()}, "`server.port` must be a whole number"),
        ({"security.authorization.events": "{}"}, "events` must be a mapping of names to lists"),
        ({"security.authorization.events": {"cancel": 1}}, "`security.authorization.events` must be a list"),
        ({"security.authorization.events": {"ping": []}}, "auth and ping are for everybody"),
        ({PER_MINUTE: 1, "security.rate_limiting.max_requests_per_minute": 1}, "are names of one setting"),
    ],
)
def test_a_wrong_flag_is_a_problem(overrides: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(environ={}, overrides=overrides)
    (problem,) = caught.value.problems
    assert says in problem


@pytest.mark.clause("C12")
@pytest.mark.parametrize(
    "text",
    [
        f"security: {{authentication: {{jwt_secret: {CANARY}}}}}",
        f"security: {{authentication: {{jwt_secret:{CANARY}}}}}",
        f"security: {{authentication: {{jwt_secret: *{CANARY}}}}}",
        f"security: {{authentication: {{jwt_secret: !{CANARY} x}}}}",
        f"security: {{authentication: {{jwt_secret: [{CANARY}]}}}}",
        f"security: {{authentication: {{jwt_secret: {{{CANARY}: 1}}}}}}",
        f"security: {{authentication: {CANARY}}}",
        f"security: {{authentication: {{jwt_secret: '{CANARY}}}}}",
        f'security: {{authentication: {{jwt_secret: "\\q{CANARY}"}}}}',
        f"security: {{authentication: {{jwt_secret: '${{{CANARY}'}}}}",
        f"security: {{addresses: {{block: [{CANARY}]}}, cors: {{origins: [{CANARY}]}}}}",
        f"security: {{authorization: {{events: {{{CANARY}: 1, a b: {CANARY}}}, roles_claim: [{CANARY}]}}}}",
        f"security: {{authorization: {{events: {CANARY}}}, authentication: {{jwks: 'http://{CANARY}/'}}}}",
        f"security: {{authentication: {{previous_secret: {CANARY}, previous_secret_until: {CANARY}}}}}",
        f"logging: {{level: {CANARY}}}\nserver: {{path: {CANARY}, timeout: {CANARY}}}\nenabled: {CANARY}",
        f"server: {{port: '${{PORT}}', max_connections: '{CANARY}${{PORT}}'}}",
        CANARY,
    ],
)
def test_no_value_is_in_what_is_raised(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(_file(text), environ={"PORT": CANARY, "WEBSOCKET_SECRET_KEY": CANARY, "WEBSOCKET_PORT": CANARY})
    assert CANARY not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert caught.value.__context__ is None


@given(st.text(alphabet="ab:{}[]\"'\\*&!|>-?#%@` \n\t${}<,\u00e9\x00\ud800", max_size=40))
def test_any_file_gives_settings_or_problems(text: str) -> None:
    path = Path(_file(text.encode("utf-8", "surrogatepass")))
    with suppress(SettingsError):
        load(path, environ={}, dotenv=None)


@given(st.text(alphabet="AB=\"'\\$ {}:-#\n\r\t\x00export", max_size=40))
def test_any_dotenv_gives_settings_or_problems(text: str) -> None:
    _file(text, ".env")
    with suppress(SettingsError):
        load(environ={})
