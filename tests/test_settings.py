"""qaws.settings: what is in force, and where it comes from."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaws.settings import Settings, SettingsError, json_schema, load
from qaws_proto import WebSocketConfig
from qaws_proto.safety import unread

SAMPLE = Path(__file__).parent / "fixtures" / "agent_config.yaml"
SECRET = "correct-horse-battery-staple-0123456789"
JWT_SECRET = "security.authentication.jwt_secret"
PER_MINUTE = "security.rate_limiting.requests_per_minute"


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _file(text: str | bytes, name: str = "qaws.yaml") -> str:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


def _load(text: str, environ: dict[str, str] | None = None) -> Settings:
    return load(_file(text), environ=environ or {})


def _value(settings: Settings, key: str) -> object:
    return reduce(getattr, key.split("."), settings.config)


def test_nothing_given_is_all_defaults() -> None:
    settings = load(environ={})
    assert settings.config == WebSocketConfig()
    assert set(settings.sources.values()) == {"default"}


def test_the_documented_section_is_read() -> None:
    settings = load(SAMPLE, environ={"WEBSOCKET_JWT_SECRET": SECRET})
    config = settings.config
    assert config.enabled
    assert (config.server.host, config.server.port, config.server.max_connections) == ("localhost", 8765, 100)
    assert (config.server.timeout, config.server.heartbeat_interval) == (30, 30)
    authentication = config.security.authentication
    assert authentication.enabled
    assert authentication.jwt_secret is not None
    assert authentication.jwt_secret.get_secret_value() == SECRET
    assert authentication.token_expiry == 3600
    assert config.security.cors.origins == ["http://localhost:3000"]
    assert config.security.cors.methods == ["GET", "POST"]
    assert config.security.cors.headers == ["Content-Type", "Authorization"]
    assert (config.security.rate_limiting.requests_per_minute, config.security.rate_limiting.burst_size) == (60, 10)
    assert (config.security.ssl.enabled, config.security.ssl.cert_file) == (False, None)
    assert config.logging.level == "INFO"
    assert (config.logging.log_connections, config.logging.log_messages) == (True, False)
    assert config.logging.performance_metrics
    assert settings.sources["server.port"] == f"{SAMPLE}:3"
    assert settings.sources[JWT_SECRET] == f"{SAMPLE}:5"
    assert settings.sources["security.ssl.cert_file"] == "default"


def test_the_documented_section_needs_its_secret_only() -> None:
    with pytest.raises(SettingsError) as caught:
        load(SAMPLE, environ={})
    (problem,) = caught.value.problems
    assert problem.startswith(f"`{JWT_SECRET}` needs the variable WEBSOCKET_JWT_SECRET; set it")
    assert problem.endswith(f"({SAMPLE}:5)")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.yaml", "server: {port: 9000}"),
        ("agent_config.yaml", "model: {port: 1, x: !odd [2]}\nwebsocket:\n  server:\n    port: 9000\nport: 3\n"),
        ("agent_config.json", '{\n\t"websocket": {"server":{"port":9000}}}'),
        ("own.json", '{"server": {"port": 9000}, "security": {"ssl": {"enabled": false, "cert_file": null}}}'),
        ("bom.yaml", "\ufeffserver: {port: 9000}"),
        ("aliases.yaml", "base: &base {port: 9000}\nwebsocket: {server: *base}"),
    ],
)
def test_a_section_and_a_file_of_its_own_are_read(name: str, text: str) -> None:
    assert load(_file(text, name), environ={}).config.server.port == 9000


@pytest.mark.parametrize("text", ["", "# nothing", "websocket:", "websocket:\n  server:\n    # port: 1\n"])
def test_what_holds_only_comments_changes_nothing(text: str) -> None:
    assert _load(text).config == WebSocketConfig()


def test_what_a_higher_layer_makes_unread_is_left_out_and_nothing_else() -> None:
    file = _file("websocket: {server: {host: a, port: 1, listen: ['unix:/run/a'], unix_mode: 660}}")
    listed = load(file, environ={}, overrides={"server.listen": ["127.0.0.1:0"]})
    assert (listed.config.server.host, listed.config.server.port) == ("localhost", 8765)
    assert listed.sources["server.unix_mode"] == listed.sources["server.port"] == "default"
    assert unread(listed.config) == []
    kept = load(file, environ={}, overrides={"server.listen": ["unix:/run/b"]})
    assert kept.config.server.unix_mode == "660"
    same = load(file, environ={"WEBSOCKET_PORT": "2"})
    assert [one.setting for one in unread(same.config)] == ["server.host", "server.port"]
    memory = load(_file("store: {path: a.db}", "store.yaml"), environ={})
    assert [one.setting for one in unread(memory.config)] == ["store.path"]


LAYERS = ("file", ".env", "environment", "command line")
LAYERED: dict[str, tuple[str, list[object]]] = {
    "server.port": ("WEBSOCKET_PORT", [9001, 9002, 9003, 9004]),
    "server.max_connections": ("WEBSOCKET_MAX_CONNECTIONS", [1, 2, 3, 4]),
    "server.host": ("WEBSOCKET_HOST", ["a", "b", "c", "d"]),
}


@given(st.fixed_dictionaries({key: st.sets(st.sampled_from(LAYERS)) for key in LAYERED}))
def test_the_highest_layer_that_says_something_wins(given_by: dict[str, set[str]]) -> None:
    said: dict[str, dict[str, object]] = {layer: {} for layer in LAYERS}
    for key, (_, values) in LAYERED.items():
        for layer in given_by[key]:
            said[layer][key] = values[LAYERS.index(layer)]
    variables = {layer: {LAYERED[key][0]: str(value) for key, value in said[layer].items()} for layer in LAYERS}
    lines = "".join(f"    {key.removeprefix('server.')}: {value}\n" for key, value in said["file"].items())
    _file("".join(f"{name}={value}\n" for name, value in variables[".env"].items()), ".env")
    settings = load(
        _file(f"websocket:\n  server:\n{lines}"),
        environ=variables["environment"],
        overrides=said["command line"],
    )
    for key, (variable, values) in LAYERED.items():
        top = max((LAYERS.index(layer) for layer in given_by[key]), default=None)
        source = settings.sources[key]
        if top is None:
            assert (_value(settings, key), source) == (_value(load(environ={}, dotenv=None), key), "default")
            continue
        line = 3 + list(said["file"]).index(key) if top == 0 else 0
        expected = (f"qaws.yaml:{line}", ".env", f"environment {variable}", "command line")[top]
        assert (_value(settings, key), source) == (values[top], expected)


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("WEBSOCKET_ENABLED", "false", "enabled", False),
        ("WEBSOCKET_ENABLED", "0", "enabled", False),
        ("WEBSOCKET_ENABLED", "Yes", "enabled", True),
        ("WEBSOCKET_HOST", "0.0.0.0", "server.host", "0.0.0.0"),
        ("WEBSOCKET_HOST", "", "server.host", "localhost"),
        ("WEBSOCKET_HOST", "${OTHER}", "server.host", "${OTHER}"),
        ("WEBSOCKET_PORT", " 8765 ", "server.port", 8765),
        ("WEBSOCKET_PORT", "0755", "server.port", 755),
        ("WEBSOCKET_MAX_CONNECTIONS", "7", "server.max_connections", 7),
    ],
)
def test_variables_are_typed_by_their_setting(variable: str, text: str, key: str, value: object) -> None:
    assert _value(load(environ={variable: text}), key) == value


def test_the_secret_comes_from_its_variable() -> None:
    secret = load(environ={"WEBSOCKET_SECRET_KEY": SECRET}).config.security.authentication.jwt_secret
    assert secret is not None
    assert secret.get_secret_value() == SECRET


def test_without_a_mapping_the_environment_of_the_process_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBSOCKET_PORT", "9123")
    assert load().config.server.port == 9123
    assert load(environ={}).config.server.port == 8765


def test_a_dotenv_is_read_like_everywhere() -> None:
    _file(
        'export WEBSOCKET_PORT="9001" # why\nNAME=from-file\nWEBSOCKET_HOST=${NAME}.example\n'
        "OTHER\nWEBSOCKET_ENABLED=\n",
        ".env",
    )
    settings = load(environ={"NAME": "from-process"})
    assert (settings.config.server.port, settings.config.server.host) == (9001, "from-process.example")
    assert settings.config.enabled
    assert settings.sources["server.host"] == ".env"
    assert load(environ={}).config.server.host == "from-file.example"
    assert load(environ={}, dotenv=None).config == WebSocketConfig()


@pytest.mark.parametrize(
    ("text", "environ", "key", "value"),
    [
        ("server: {port: '${PORT:-8800}'}", {}, "server.port", 8800),
        ("server: {port: '${PORT:-8800}'}", {"PORT": ""}, "server.port", 8800),
        ("server: {port: '${PORT:-8800}'}", {"PORT": "9000"}, "server.port", 9000),
        ("server: {port: '9${PORT}${PORT}'}", {"PORT": "1"}, "server.port", 911),
        ("server: {host: '${A}-${B:-b}'}", {"A": "a"}, "server.host", "a-b"),
        ("server: {host: '${A}'}", {"A": "${B}"}, "server.host", "${B}"),
        ("enabled: ${ON}", {"ON": "off"}, "enabled", False),
        ("server: {allowed_hosts: ['${A}', b]}", {"A": "a"}, "server.allowed_hosts", ["a", "b"]),
        ("server: {allowed_hosts: '${A}'}", {"A": "a, b"}, "server.allowed_hosts", ["a", "b"]),
        ("server: {allowed_hosts: '${A:-}'}", {}, "server.allowed_hosts", []),
        ("security: {ssl: {cert_file: '${A:-}'}}", {}, "security.ssl.cert_file", None),
        ("server: {host: '$A $$ {B}'}", {}, "server.host", "$A $$ {B}"),
        # Unset, but its part is off: as if it was not there.
        ("security: {ssl: {cert_file: '${A}'}}", {}, "security.ssl.cert_file", None),
        ("security: {ssl: {enabled: '${ON}', cert_file: '${A}'}}", {"ON": "no"}, "security.ssl.cert_file", None),
        ("security: {cors: {enabled: false, methods: ['${A}', PUT]}}", {}, "security.cors.methods", ["GET", "POST"]),
        ("security: {cors: {methods: '${A}', enabled: false}}", {}, "security.cors.methods", ["GET", "POST"]),
        ("enabled: false\nserver: {host: '${A}'}", {}, "server.host", "localhost"),
        ("server: {host: '${A}'}", {"WEBSOCKET_ENABLED": "0"}, "server.host", "localhost"),
        ("enabled: false\nsecurity: {cors: {enabled: '${A}'}}", {}, "security.cors.enabled", True),
        # Unset, but something above says it.
        ("server: {host: '${A}'}", {"WEBSOCKET_HOST": "b"}, "server.host", "b"),
        ("server: {port: many}", {"WEBSOCKET_PORT": "9000"}, "server.port", 9000),
    ],
)
def test_references_are_expanded(text: str, environ: dict[str, str], key: str, value: object) -> None:
    assert _value(_load(text, environ), key) == value


def test_a_switch_of_the_command_line_makes_references_harmless() -> None:
    settings = load(SAMPLE, environ={}, overrides={"security.authentication.enabled": False})
    assert settings.config.security.authentication.jwt_secret is None


def test_references_are_found_in_the_dotenv() -> None:
    _file("PORT=9000", ".env")
    settings = load(_file("server: {port: '${PORT}'}"), environ={})
    assert (settings.config.server.port, settings.sources["server.port"]) == (9000, "qaws.yaml:1")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("security: {rate_limiting: {max_requests_per_minute: 7}}", PER_MINUTE, 7),
        (f"security: {{authentication: {{secret_key: '{SECRET}'}}}}", JWT_SECRET, None),
    ],
)
def test_other_names_are_read(text: str, key: str, value: object) -> None:
    settings = _load(text)
    assert settings.sources[key] == "qaws.yaml:1"
    assert value is None or _value(settings, key) == value


def test_other_names_are_one_setting_across_the_layers() -> None:
    settings = load(
        _file(f"security: {{authentication: {{secret_key: '{SECRET}'}}, rate_limiting: {{requests_per_minute: 5}}}}"),
        environ={"WEBSOCKET_SECRET_KEY": SECRET},
        overrides={"security.rate_limiting.max_requests_per_minute": 9},
    )
    assert settings.sources[JWT_SECRET] == "environment WEBSOCKET_SECRET_KEY"
    assert (_value(settings, PER_MINUTE), settings.sources[PER_MINUTE]) == (9, "command line")


def test_a_path_object_will_do() -> None:
    assert load(Path(_file("server: {port: 9000}")), environ={}).sources["server.port"] == "qaws.yaml:1"


def test_flags_are_typed_or_text_or_not_given() -> None:
    overrides = {"server.port": "9000", "server.host": None, "server.allowed_hosts": ("a", "b"), "enabled": False}
    settings = load(environ={}, overrides=overrides)
    assert (settings.config.server.port, settings.config.server.allowed_hosts) == (9000, ["a", "b"])
    assert settings.sources["server.host"] == "default"


EVENTS = "security.authorization.events"


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("{chat_message: [user, admin], cancel: []}", {"chat_message": ["user", "admin"], "cancel": []}),
        ("{chat_message: 'user, admin', cancel: admin}", {"chat_message": ["user", "admin"], "cancel": ["admin"]}),
        ("{'no': [yes, 1.0, '*']}", {"no": ["yes", "1.0", "*"]}),
        ("{cancel: ['${ROLE}', '${OTHER:-guest}']}", {"cancel": ["admin", "guest"]}),
        ("{cancel: '${ROLE}, user'}", {"cancel": ["admin", "user"]}),
        ("{}", {}),
        ("", {}),  # all lines below it are comments
    ],
)
def test_a_mapping_is_read_with_its_lists(text: str, events: dict[str, list[str]]) -> None:
    settings = _load(f"security:\n  authorization:\n    events: {text}", {"ROLE": "admin"})
    assert settings.config.security.authorization.events == events
    assert settings.sources[EVENTS] == ("qaws.yaml:3" if text else "default")


def test_a_mapping_may_come_from_a_program_and_is_shown_on_one_line() -> None:
    settings = load(environ={}, overrides={EVENTS: {"cancel": ["admin", "user"], "resume": "*", "ack": []}})
    assert settings.config.security.authorization.events == {"cancel": ["admin", "user"], "resume": ["*"], "ack": []}
    rows = {key: value for key, value, _ in settings.rows()}
    assert rows[EVENTS] == "cancel: admin, user; resume: *; ack: (none)"
    assert {key: value for key, value, _ in load(environ={}).rows()}[EVENTS] == "(none)"


def test_a_date_is_read_with_its_zone() -> None:
    keys = f"jwt_secret: '{SECRET}', previous_secret: '{SECRET}x', previous_secret_until"
    for written in ("2031-01-31T12:00:00Z", "2031-01-31T13:00:00+01:00", "1927627200"):
        config = _load(f"security: {{authentication: {{{keys}: {written}}}}}").config
        until = config.security.authentication.previous_secret_until
        assert until is not None
        assert until.timestamp() == 1_927_627_200


def test_rows_show_everything_in_force_but_secrets() -> None:
    settings = _load(
        "server: {timeout: 30, allowed_hosts: [a, b]}\nagent: {roll_up: 0.05}", {"WEBSOCKET_SECRET_KEY": SECRET}
    )
    rows = {key: (value, source) for key, value, source in settings.rows()}
    assert list(rows) == list(settings.sources)
    assert rows["server.timeout"] == ("30", "qaws.yaml:1")
    assert rows["server.allowed_hosts"] == ("a, b", "qaws.yaml:1")
    assert rows["server.trusted_proxies"] == ("(none)", "default")
    assert rows["agent.roll_up"] == ("0.05", "qaws.yaml:2")
    assert rows["enabled"] == ("true", "default")
    assert rows[JWT_SECRET] == ("********", "environment WEBSOCKET_SECRET_KEY")
    assert rows["security.ssl.cert_file"] == ("(not set)", "default")
    assert dict(load(environ={}).sources).keys() == rows.keys()
    assert SECRET not in repr(settings)


def test_the_schema_names_every_setting() -> None:
    schema = json_schema()
    section = schema["$defs"]["WebSocketConfig"]
    for key in load(environ={}).sources:
        at = section
        for part in key.split("."):
            at = schema["$defs"][at["$ref"].rpartition("/")[2]] if "$ref" in at else at
            assert at["additionalProperties"] is False
            at = at["properties"][part]
        assert at["description"]
    assert schema["anyOf"][0]["properties"]["websocket"] == {"$ref": "#/$defs/WebSocketConfig"}
