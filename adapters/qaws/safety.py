"""What is wrong with a configuration on this machine, beside what `qaws_proto.safety` finds in the settings alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from qaws_proto import WebSocketConfig
from qaws_proto.safety import Finding, findings, require_safe

from .telemetry import log_event

__all__ = ["Finding", "log_warnings", "require_safe", "warnings"]

LOGGER = logging.getLogger("qaws.node")
OTHER_FILES = 32  # descriptors beside those of connections: listeners, the event loop, the store, the log


def warnings(config: WebSocketConfig, hosts: Sequence[str] | None = None, *, stored: bool = False) -> list[Finding]:
    """What is served all the same, and should be looked at; the arguments are those of `findings`."""
    found = [one for one in findings(config, hosts, stored=stored) if not one.refuses]
    files = _descriptors()
    needed = config.server.max_connections + config.limits.handshakes + OTHER_FILES
    if files is not None and needed > files:
        wrong = f"with limits.handshakes it may take {needed} files, and this process may open {files}"
        remedy = "raise the limit (ulimit -n, LimitNOFILE), or lower the settings"
        found.append(Finding("server.max_connections", wrong, remedy, refuses=False))
    return found


def log_warnings(config: WebSocketConfig, hosts: Sequence[str] | None, *, stored: bool = False) -> None:
    """A line in the log for each. `hosts` is None behind a host of ASGI: each request tells where it came in."""
    found = warnings(config, hosts or [], stored=stored)
    if hosts is None and config.security.ssl.enabled:
        remedy = "give certificate and key to the host"
        found.append(Finding("security.ssl.enabled", "TLS is the host's under ASGI", remedy, refuses=False))
    for one in found:
        log_event(LOGGER, logging.WARNING, "setting_warning", setting=one.setting, reason=f"{one.wrong}; {one.remedy}")


def _descriptors() -> int | None:
    """How many files this process may open; None where there is no such limit."""
    try:
        import resource
    except ImportError:  # no Unix
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
