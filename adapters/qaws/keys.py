"""Between a node and the source of its keys: reads files and addresses, and tells the node what became of that (A7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from qaws_proto.admission.keys import Key, read_keys
from qaws_proto.config import AuthenticationConfig, ConfigError, LimitsConfig, WebSocketConfig
from qaws_proto.effects import LoadKeys
from qaws_proto.inputs import Input, KeysFailed, KeysLoaded

if TYPE_CHECKING:
    from .key_fetch import KeyFetcher


class Unavailable(Exception):
    """There are no keys to be had; the text says why, without secrets."""


class KeyPort:
    """Reads the keys when the node says so."""

    def __init__(self, config: WebSocketConfig, feed: Callable[[Input], None]) -> None:
        """Raises ConfigError where the source is a file that holds no keys, or an address that cannot be asked."""
        self._feed = feed
        self._fetcher = check_keys(config)
        self._scope: anyio.CancelScope | None = None  # while keys are read
        self._closed = False

    async def load(self, effect: LoadKeys) -> None:
        """Read the keys, and tell the node."""
        with anyio.CancelScope() as self._scope:
            if not self._closed:
                read = await self._read(effect)
        self._scope = None
        if not self._closed:
            self._feed(read)

    def close(self) -> None:
        """Read nothing more: the node has come to its end."""
        self._closed = True
        if self._scope is not None:
            self._scope.cancel()

    async def _read(self, effect: LoadKeys) -> Input:
        try:
            with anyio.fail_after(effect.timeout):
                if self._fetcher is not None:
                    return KeysLoaded(await self._fetcher.fetch(effect.size))
                return KeysLoaded(
                    await anyio.to_thread.run_sync(_content, effect.source, effect.size, abandon_on_cancel=True)
                )
        except Unavailable as error:
            return KeysFailed(str(error))
        except TimeoutError:
            return KeysFailed(f"no answer in {effect.timeout:g} seconds")
        except Exception as error:  # noqa: BLE001 - whatever it is, the node must hear of it: clients wait
            return KeysFailed(type(error).__name__, error)


def check_keys(config: WebSocketConfig) -> KeyFetcher | None:
    """Read the keys where they are in a file; where they are elsewhere, what fetches them.

    Raises ConfigError where the file holds none, or there is nothing to fetch them with.
    """
    authentication = config.security.authentication
    if not authentication.enabled or authentication.key_source is None:
        return None
    if "://" not in authentication.key_source:
        keys_in_file(authentication, config.limits)
        return None
    from .key_fetch import KeyFetcher

    return KeyFetcher(authentication.key_source)


def keys_in_file(authentication: AuthenticationConfig, limits: LimitsConfig) -> tuple[Key, ...]:
    """The keys of `jwks` or `public_key_file`, where that is a file. Raises ConfigError where there are none."""
    name = "public_key_file" if authentication.jwks is None else "jwks"
    source = authentication.key_source
    assert source is not None
    try:
        return read_keys(_content(source, limits.key_set_size), authentication, limits).keys
    except (ConfigError, Unavailable) as error:
        raise ConfigError(f"security.authentication.{name}: {error}") from None


def signing_key(authentication: AuthenticationConfig, limits: LimitsConfig) -> Key | None:
    """The key in `private_key_file`; None where that is not set. Raises ConfigError where there is none in it."""
    if authentication.private_key_file is None:
        return None
    try:
        return Key(authentication.algorithm, _content(authentication.private_key_file, limits.key_set_size))
    except (ConfigError, Unavailable) as error:
        raise ConfigError(f"security.authentication.private_key_file: {error}") from None


def _content(path: str, size: int) -> bytes:
    """What stands in a file, no more of it than a byte over `size`."""
    try:
        with open(path, "rb") as file:
            return file.read(size + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Unavailable(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no usable path'}") from None
