"""Which web pages may connect (RFC 6454, H10), and what a preflight request is told (the Fetch standard, CORS)."""

from __future__ import annotations

import re

from ..config import CorsConfig
from ..wire.http import Header

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?\Z")
_ADDRESS = re.compile(r"(localhost|\[[0-9a-f:.]+\]|[0-9]{1,3}(?:\.[0-9]{1,3}){3})(:[0-9]{1,5})?\Z")


class Origins:
    """The configured origins, compared by scheme, host and port."""

    def __init__(self, cors: CorsConfig) -> None:
        listed = cors.origins if cors.enabled else []
        self._any = "*" in listed
        self._exact = {_normal(origin) for origin in listed if not origin.endswith("*")}
        self._any_port = {origin[: -len(":*")] for origin in listed if origin.endswith(":*")}
        self._methods = ", ".join(cors.methods)
        self._headers = ", ".join(cors.headers)

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may connect to `host`.

        Besides the listed ones that is a page of this very server, where the host is an IP address or `localhost`:
        a name could have been bound to this address by anybody (DNS rebinding).
        """
        if self._any:
            return True
        normal = _normal(origin.lower())
        if normal is None:
            return False  # `null`, and whatever else is no origin
        scheme, name, _ = normal
        if normal in self._exact or f"{scheme}://{name}" in self._any_port:
            return True
        return _ADDRESS.match(host.lower()) is not None and normal == _normal(f"{scheme}://{host.lower()}")

    def headers(self, origin: str | None, host: str) -> list[Header]:
        """The CORS headers of an answer to a page of `origin`."""
        if origin is None or not self.allows(origin, host):
            return [("Vary", "Origin")]
        return [("Access-Control-Allow-Origin", "*" if self._any else origin), ("Vary", "Origin")]

    def preflight(self, origin: str | None, host: str) -> list[Header]:
        """The headers that answer an OPTIONS request."""
        headers = self.headers(origin, host)
        if len(headers) > 1:
            headers += [
                ("Access-Control-Allow-Methods", self._methods),
                ("Access-Control-Allow-Headers", self._headers),
            ]
        return headers


def _normal(origin: str) -> tuple[str, str, str] | None:
    """Scheme, host and port of a lower-case origin, the default port filled in; None where it is no http(s) origin."""
    match = _ORIGIN.match(origin)
    if match is None:
        return None
    scheme, host, port = match.groups()
    return scheme, host, port or _DEFAULT_PORTS[scheme]
