"""TLS for byte servers: the context of a configuration, and one session as a filter that touches no socket."""

from __future__ import annotations

import ssl
from contextlib import suppress

from qaws_proto import ConfigError
from qaws_proto.config import SslConfig


def tls_context(config: SslConfig) -> ssl.SSLContext | None:
    """The TLS context of a configuration, None where it is off. Raises ConfigError where the files cannot be used."""
    if not config.enabled:
        return None
    if config.cert_file is None or config.key_file is None:
        raise ConfigError("security.ssl: cert_file and key_file are both needed where ssl is enabled")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # which costs the server more than the client
    try:
        for file in (config.cert_file, config.key_file):  # load_cert_chain does not say which one it cannot read
            open(file, "rb").close()
        context.load_cert_chain(config.cert_file, config.key_file, password=_no_passphrase)
    except ssl.SSLError as error:
        raise ConfigError(
            f"security.ssl: certificate and key do not fit, or are no PEM files ({error.reason})"
        ) from None
    except OSError as error:
        raise ConfigError(f"security.ssl: {error.strerror}: {error.filename}") from None
    if config.client_ca_file is not None:
        _require_client_certificates(context, config.client_ca_file)
    return context


def _require_client_certificates(context: ssl.SSLContext, file: str) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError as error:
        raise ConfigError(f"security.ssl: client_ca_file is no PEM file with certificates ({error.reason})") from None
    except OSError as error:
        raise ConfigError(f"security.ssl: {error.strerror}: {file}") from None
    context.verify_mode = ssl.CERT_REQUIRED


def _no_passphrase() -> str:
    """Instead of OpenSSL's prompt, at which a server would wait for ever."""
    raise ConfigError("security.ssl: the private key is encrypted; give one without a passphrase")


class TlsSession:
    """The server's side of one TLS connection: what came from the socket goes in, what has to be sent comes out.

    Nothing in it waits. What is written before the handshake is over is held until then.
    """

    __slots__ = ("_closing", "_established", "_held", "_incoming", "_outgoing", "_session", "closed")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._established = False
        self._held: list[bytes] = []
        self._closing = False
        self.closed = False  # we have said that nothing more will come

    def receive(self, data: bytes) -> bytes:
        """Take what came from the socket; what has to be sent because of it.

        Raises ssl.SSLError where the handshake fails; `unsent` then tells the peer why.
        """
        self._incoming.write(data)
        if not self._established:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                return self._outgoing.read()
            self._established = True
            for held in self._held:
                self._session.write(held)
            self._held.clear()
            if self._closing:
                self._close()
        return self._outgoing.read()

    def read(self, size: int) -> bytes | None:
        """At most `size` bytes that the peer said, `b""` behind its last word, None until more comes.

        Raises ssl.SSLError for what is no TLS.
        """
        if not self._established:
            return None
        try:
            return self._session.read(size)
        except ssl.SSLWantReadError:
            return None

    def write(self, data: bytes) -> bytes:
        """Say something; what has to be sent for it."""
        if not self._established:
            self._held.append(data)
        elif not self.closed:
            self._session.write(data)
        return self._outgoing.read()

    def close(self) -> bytes:
        """Say nothing more (`close_notify`, RFC 8446 section 6.1); what has to be sent for it."""
        self._closing = True
        if self._established:
            self._close()
        return self._outgoing.read()

    def unsent(self) -> bytes:
        """What has to be sent without a cause: the alert behind an error, the answer to a change of keys."""
        return self._outgoing.read()

    def _close(self) -> None:
        with suppress(ssl.SSLError):  # it would like to read the peer's, which is not waited for
            self._session.unwrap()
        self.closed = True
