"""Which tests are a module's own, and which are those of the core."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CORE = ROOT / "qaws_proto"

#: The files that test a module before any other does. A module that only holds values has those of who makes them.
OWN_TESTS: dict[str, tuple[str, ...]] = {
    "admission/addresses.py": ("admission/test_addresses.py",),
    "admission/authorization.py": ("admission/test_authorization.py",),
    "admission/blocks.py": ("admission/test_blocks.py",),
    "admission/budget.py": ("admission/test_budget.py",),
    "admission/credential.py": ("admission/test_credential.py",),
    "admission/dry_run.py": ("admission/test_rates.py", "test_limits.py"),
    "admission/gate.py": (
        "admission/test_gate.py", "admission/test_failed_tokens.py", "admission/test_rates.py",
        "admission/test_authorization.py",
    ),
    "admission/keyloader.py": ("test_key_loading.py",),
    "admission/keys.py": ("admission/test_keys.py", "admission/test_tokens.py"),
    "admission/origins.py": ("admission/test_origins.py",),
    "admission/ratelimit.py": ("admission/test_ratelimit.py",),
    "admission/rates.py": ("admission/test_rates.py",),
    "admission/restarts.py": ("admission/test_restarts.py",),
    "admission/tokens.py": ("admission/test_tokens.py", "test_key_loading.py"),
    "admission/verified.py": ("admission/test_verified.py",),
    "chats.py": (
        "conversation/test_runs.py", "conversation/test_resume.py", "conversation/test_store.py",
        "conversation/test_races.py",
    ),
    "client/config.py": ("client/test_client.py",),
    "client/connection.py": ("client/test_client.py",),
    "client/events.py": ("client/test_parts.py", "client/test_session.py"),
    "client/io.py": ("client/test_client.py",),
    "client/messages.py": ("client/test_parts.py", "client/test_messages.py"),
    "client/node.py": ("client/test_client.py", "client/test_totality.py"),
    "client/retry.py": ("client/test_parts.py", "client/test_client.py"),
    "client/session.py": ("client/test_session.py", "client/test_messages.py"),
    "client/texts.py": ("client/test_parts.py",),
    "clock.py": ("test_clock.py",),
    "config.py": ("test_config.py",),
    "connection.py": ("test_connection.py", "test_message_level.py", "test_metrics_endpoint.py", "test_key_loading.py"),
    "control.py": ("test_control.py",),
    "conversation/accounts.py": ("test_limits.py", "conversation/test_runs.py"),
    "conversation/changes.py": ("test_restarts.py", "admission/test_restarts.py"),
    "conversation/journal.py": ("conversation/test_store.py", "test_restarts.py"),
    "conversation/log.py": ("conversation/test_log.py",),
    "conversation/run.py": ("conversation/test_runs.py",),
    "conversation/runs.py": (
        "conversation/test_runs.py", "conversation/test_double_text.py", "conversation/test_races.py",
        "conversation/test_properties.py", "conversation/test_store.py", "test_live_settings.py",
    ),
    "conversation/session.py": (
        "conversation/test_session.py", "conversation/test_resume.py", "conversation/test_properties.py",
    ),
    "conversation/voice.py": ("conversation/test_runs.py", "conversation/test_store.py"),
    "counts.py": ("test_metrics_endpoint.py",),
    "effects.py": ("test_inputs.py", "test_gateway.py"),
    "outbox.py": ("test_gateway.py", "wire/test_outflow.py"),
    "events.py": ("test_events.py",),
    "extension.py": ("admission/test_authorization.py", "test_gateway.py"),
    "faults.py": ("test_faults.py",),
    "gateway.py": (
        "test_gateway.py", "test_key_loading.py", "test_metrics_endpoint.py", "conversation/test_store.py",
    ),
    "gauges.py": ("test_metrics_endpoint.py",),
    "handshake.py": ("test_handshake.py", "test_metrics_endpoint.py", "test_key_loading.py"),
    "inputs.py": ("test_inputs.py",),
    "live_settings.py": ("test_live_settings.py",),
    "overview.py": ("test_control.py",),
    "records.py": ("admission/test_restarts.py", "test_restarts.py"),
    "safety.py": ("test_safety.py",),
    "strength.py": ("test_safety.py",),
    "trace_context.py": ("test_trace_context.py",),
    "traffic.py": ("test_control.py", "test_connection.py"),
    "wire/client.py": ("test_client_link.py",),
    "wire/deflate.py": ("wire/test_deflate.py",),
    "wire/frames.py": ("wire/test_frames.py", "wire/test_deflate.py"),
    "wire/http.py": ("wire/test_http.py",),
    "wire/link.py": ("wire/test_link.py", "wire/test_message_link.py"),
    "wire/outflow.py": ("wire/test_outflow.py",),
}  # fmt: skip

#: The tests of the core: no sockets, no processes, no event loop.
CORE_TESTS = (
    "wire", "admission", "conversation", "client",
    "test_client_link.py", "test_clock.py", "test_compression.py", "test_config.py", "test_connection.py",
    "test_contract.py", "test_control.py", "test_durability.py", "test_events.py", "test_faults.py", "test_gateway.py",
    "test_handshake.py", "test_inputs.py", "test_key_loading.py", "test_levels.py", "test_limits.py",
    "test_live_settings.py", "test_message_level.py", "test_metrics_endpoint.py", "test_restarts.py",
    "test_safety.py", "test_trace_context.py",
)  # fmt: skip

#: All but those that take minutes, or measure memory, which grows where the tests are watched. (For pytest's `-k`.)
SELECTED = "not mebibytes and not tiny_reads and not cut_at and not cut_anywhere"


def dotted(module: str) -> str:
    """The name by which a module is imported."""
    return "qaws_proto." + module.removesuffix(".py").replace("/", ".")


def own_tests(module: str) -> list[str]:
    """The files of a module's own tests, from the root."""
    return [f"tests/{name}" for name in OWN_TESTS[module]]


def core_tests() -> list[str]:
    """The files and folders of the tests of the core, from the root."""
    return [f"tests/{name}" for name in CORE_TESTS]
