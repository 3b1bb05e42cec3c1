"""Which web pages may connect (RFC 6454, H10), and what a preflight request is told (the Fetch standard, CORS)."""

from __future__ import annotations

import re

from ..config import CorsConfig
from ..wire.http import Header

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?\Z")


class Origins:
    """The configured origins, compared by scheme, host and port."""

    def __init__(self, cors: CorsConfig) -> None:
        listed = cors.origins if cors.enabled else []
        self._any = "*" in listed
        self._credentials = cors.credentials and not self._any  # the Fetch standard forbids both together
        self._exact = {_normal(origin) for origin in listed if not origin.endswith("*")}
        self._any_port = {origin[: -len(":*")] for origin in listed if origin.endswith(":*")}
        self._methods = ", ".join(cors.methods)
        self._headers = ", ".join(cors.headers)

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may connect; `null`, and whatever else is no origin, may not."""
        if self._any:
            return True
        normal = _normal(origin.lower())
        return normal is not None and (normal in self._exact or f"{normal[0]}://{normal[1]}" in self._any_port)

    def headers(self, origin: str | None) -> list[Header]:
        """The CORS headers of an answer to a page of `origin`."""
        if origin is None or not self.allows(origin):
            return [("Vary", "Origin")]
        granted = [("Access-Control-Allow-Origin", "*" if self._any else origin), ("Vary", "Origin")]
        return [*granted, ("Access-Control-Allow-Credentials", "true")] if self._credentials else granted

    def preflight(self, origin: str | None) -> list[Header]:
        """The headers that answer an OPTIONS request."""
        headers = self.headers(origin)
        if origin is not None and self.allows(origin):
            allowed = ("Access-Control-Allow-Methods", self._methods), ("Access-Control-Allow-Headers", self._headers)
            headers += [header for header in allowed if header[1]]
        return headers


def _normal(origin: str) -> tuple[str, str, str] | None:
    """Scheme, host and port of a lower-case origin, the default port filled in; None where it is no http(s) origin."""
    match = _ORIGIN.match(origin)
    if match is None:
        return None
    scheme, host, port = match.groups()
    return scheme, host, port or _DEFAULT_PORTS[scheme]
