"""Reading a key set over HTTPS. Imported only where an address is configured: it needs httpx2."""

from __future__ import annotations

import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy

from qaws_proto.config import ConfigError, is_loopback

try:
    import httpx2
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise ConfigError(
        'security.authentication.jwks: an address needs the package httpx2: pip install "qaws-gateway[jwks]"'
    ) from None

from .keys import Unavailable
from .responses import body

OK = 200


class KeyFetcher:
    """Fetches one address, without redirects: keys are believed because of where they come from."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError where this machine's certificates or proxies cannot be used."""
        self._url = httpx2.URL(url)
        self._local = is_loopback(self._url.host)
        self._tls = self._context()
        self._client()  # which reads the proxies of the environment, each time the same

    async def fetch(self, size: int) -> bytes:
        """The document, or so much of it that it is more than `size` bytes. Raises Unavailable."""
        try:
            async with self._client() as client, client.stream("GET", self._url) as response:
                if response.status_code != OK:
                    raise Unavailable(f"status {response.status_code}")
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise Unavailable("it is compressed, which was not asked for")
                document = b""
                async with body(response) as chunks:
                    async for chunk in chunks:
                        document += chunk
                        if len(document) > size:
                            break
                return document
        except httpx2.RequestError as error:
            # `from None`: what a library says of a request may quote it.
            raise Unavailable(f"{self._url.host}: {type(error).__name__}") from None

    def _client(self) -> httpx2.AsyncClient:
        try:
            return httpx2.AsyncClient(
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "qaws"},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                timeout=None,  # what asks for the document has the one that counts
                follow_redirects=False,
                trust_env=not self._local,  # where the environment names a proxy; none leads to this very machine
                verify=self._tls,
            )
        except (ImportError, ValueError, httpx2.InvalidURL):  # not repeated: a proxy may have a password
            raise ConfigError(
                "security.authentication.jwks: a proxy of the environment cannot be used: look at HTTPS_PROXY, "
                "HTTP_PROXY, ALL_PROXY and NO_PROXY"
            ) from None

    def _context(self) -> ssl.SSLContext:
        """What servers are verified by: SSL_CERT_FILE or SSL_CERT_DIR, else what this machine trusts."""
        if self._url.scheme == "http":
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # quickly made, and trusts nobody
        try:
            return httpx2.create_ssl_context()
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                "security.authentication.jwks: the certificates to verify servers by cannot be read "
                f"({error.strerror or type(error).__name__}): look at SSL_CERT_FILE and SSL_CERT_DIR"
            ) from None
