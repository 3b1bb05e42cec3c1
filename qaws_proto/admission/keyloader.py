"""When the keys of tokens are read, and read again: at the start, at intervals, for a key that is not known (A7)."""

from __future__ import annotations

from math import ceil

from ..clock import Now, Reason, Timers
from ..config import AuthenticationConfig, ConfigError, LimitsConfig
from ..effects import LoadKeys, Note, Scalar
from ..inputs import KeysFailed, KeysLoaded, KeysRequested
from ..outbox import Outbox
from .keys import read_keys
from .tokens import TokenVerifier


class KeyLoader:
    """The source of a node's keys. One reading is under way at most; where one fails, the keys before stay in use."""

    def __init__(
        self,
        config: AuthenticationConfig,
        limits: LimitsConfig,
        verifier: TokenVerifier,
        timers: Timers,
        outbox: Outbox,
    ) -> None:
        assert config.key_source is not None
        self._config = config
        self._limits = limits
        self._verifier = verifier
        self._timers = timers
        self._outbox = outbox
        self._order = LoadKeys(config.key_source, config.jwks_timeout, limits.key_set_size)
        self._loading = self._stopped = False
        self._free_at = 0.0  # when a token may have them read again
        self._document: bytes | None = None  # what the keys in use were read from
        self._count = 0
        timers.set(Reason.KEYS, 0, 0.0)  # as soon as there is time

    @property
    def ready(self) -> bool:
        """Whether they have been read."""
        return self._document is not None

    def retry_after(self, now: Now) -> int:
        """Whole seconds until they may be here."""
        at = self._timers.at(Reason.KEYS, 0)
        return 1 if at is None else max(1, ceil(at - now.mono))

    def concerns(self, token: str, now: Now) -> bool:
        """Whether what keeps a token from being verified may be that its key is not here."""
        return self._verifier.lacks_key(token, now.unix, any_key=self.missing(now))

    def missing(self, now: Now) -> bool:
        """Whether there are no keys at all: none were read yet, or all have come to their end."""
        return self._document is None or not self._verifier.has_keys(now.unix)

    def coming(self, now: Now) -> bool:
        """Whether it is worth waiting: they are being read, or begin to be now, as often as a token may ask for it."""
        if not self._loading and now.mono >= self._free_at:
            self._load()
        return self._loading

    def due(self) -> None:
        """The time to read them has come."""
        self._load()

    def requested(self, event: KeysRequested, now: Now) -> None:
        """The operator wants them read."""
        self._load()

    def stop(self) -> None:
        """Read them no more: the node has come to its end."""
        self._stopped = True
        self._timers.clear(Reason.KEYS, 0)

    def loaded(self, event: KeysLoaded, now: Now) -> None:
        """They were read: use them from now on."""
        if event.document == self._document:
            self._wait(now, self._config.jwks_refresh)
            return
        try:
            keys, ignored = read_keys(event.document, self._config, self._limits)
        except ConfigError as error:
            self.failed(KeysFailed(str(error)), now)
            return
        self._verifier.load(keys)
        self._document, self._count = event.document, len(keys)
        self._outbox.add(Note("security", "INFO", "keys_loaded", {"keys": len(keys), "ignored": ignored}))
        self._wait(now, self._config.jwks_refresh)

    def failed(self, event: KeysFailed, now: Now) -> None:
        """They could not be read: those from before stay."""
        fields: dict[str, Scalar] = {"reason": event.reason, "kept": self._count}
        self._outbox.add(Note("security", "WARNING", "keys_failed", fields, event.cause))
        self._wait(now, 0)

    def _load(self) -> None:
        if not (self._loading or self._stopped):
            self._loading = True
            self._timers.clear(Reason.KEYS, 0)
            self._outbox.add(self._order)

    def _wait(self, now: Now, seconds: float) -> None:
        """Read them next in so many seconds, and not more often than is allowed."""
        self._loading = False
        self._free_at = now.mono + self._config.jwks_interval
        if not self._stopped:
            self._timers.set(Reason.KEYS, 0, now.mono + max(seconds, self._config.jwks_interval))
