"""Live control: what an operator sees of a node and does to it while it runs, as methods of `WebSocketManager`.

They take effect on open connections before they return. Call them in the thread of the event loop, and not from within
a step of the node (a check, the handler of an event of one's own): leave it to the loop there, as docs/control.md
shows. Wrong input raises ValueError and changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from qaws_proto import Gateway, Now
from qaws_proto.control import Outcome
from qaws_proto.inputs import (
    AddressBlocked,
    AddressUnblocked,
    Command,
    DisconnectRequested,
    DrainRequested,
    Input,
    LimitsChanged,
    TokenRevoked,
    UserBlocked,
    UserRevoked,
    UserUnblocked,
)
from qaws_proto.live_settings import Setting
from qaws_proto.overview import BlockInfo, ConnectionInfo, SessionInfo

OPERATOR = "operator"


class LiveControl(ABC):
    """The commands of an operator. `by` says who gives one and `reason` why, for the log and for `blocks()`."""

    gateway: Gateway
    _clock: Callable[[], Now]
    _performing: bool

    @abstractmethod
    def feed(self, event: Input) -> None:
        """Steps 2 to 5 of the drive loop for one input."""

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────

    def connections(self) -> list[ConnectionInfo]:
        """Every connection that is not closed, the oldest first."""
        return self.gateway.control.connections(self._clock())

    def sessions(self) -> list[SessionInfo]:
        """Every session that is held in memory, the oldest first."""
        return self.gateway.control.sessions()

    def blocks(self) -> list[BlockInfo]:
        """Users and addresses that are blocked."""
        return self.gateway.control.blocks(self._clock())

    def revocations(self) -> list[BlockInfo]:
        """Tokens that are revoked, and users whose tokens until then are, as long as such a token could be good."""
        return self.gateway.control.revocations(self._clock())

    def limits(self) -> dict[str, Setting]:
        """The settings that `change_limits` takes, by their dotted names, as they are now."""
        return self.gateway.control.limits()

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def disconnect(
        self, connection: int | None = None, *, user_id: str | None = None, session_id: str | None = None,
        reason: str = "", by: str = OPERATOR,
    ) -> Outcome:  # fmt: skip
        """Close the connections that match all that is named, with 1008: their clients may come back."""
        return self._command(DisconnectRequested(by, reason, connection, user_id, session_id))

    def block_user(
        self, user_id: str, *, seconds: float | None = None, reason: str = "", by: str = OPERATOR
    ) -> Outcome:
        """Keep a user out, for so many seconds or for ever: connections are closed with 4403, runs cancelled.

        Raises ValueError too where authentication is off, so that nobody is known, and where `limits.blocks` is full.
        """
        return self._command(UserBlocked(by, reason, user_id, seconds))

    def unblock_user(self, user_id: str, *, reason: str = "", by: str = OPERATOR) -> Outcome:
        """Let a user in again."""
        return self._command(UserUnblocked(by, reason, user_id))

    def block_address(
        self, address: str, *, seconds: float | None = None, reason: str = "", by: str = OPERATOR
    ) -> Outcome:
        """Keep an address or a network (CIDR) out: its connections are closed with 4403, runs go on.

        An IPv6 address without a prefix stands for its /64. Raises ValueError too where `limits.blocks` is full.
        """
        return self._command(AddressBlocked(by, reason, address, seconds))

    def unblock_address(self, address: str, *, reason: str = "", by: str = OPERATOR) -> Outcome:
        """Lift the block of this very address or network; one that holds it stays blocked."""
        return self._command(AddressUnblocked(by, reason, address))

    def revoke_token(self, jti: str, *, reason: str = "", by: str = OPERATOR) -> Outcome:
        """Make a token good for nothing, by its `jti`: connections that speak with it are closed with 4403.

        Raises ValueError too where authentication is off, and where `limits.revocations` is full.
        """
        return self._command(TokenRevoked(by, reason, jti))

    def revoke_user(self, user_id: str, *, reason: str = "", by: str = OPERATOR) -> Outcome:
        """The same for all tokens of a user with an `iat` until now; newer ones are good."""
        return self._command(UserRevoked(by, reason, user_id))

    def change_limits(self, changes: Mapping[str, object], *, reason: str = "", by: str = OPERATOR) -> Outcome:
        """Change settings by their dotted names, all or none, for open connections and keys that are counted as well.

        Those that `limits()` names can be changed, within the bounds that hold in the configuration too.
        """
        return self._command(LimitsChanged(by, reason, changes))

    def drain(self, *, reason: str = "", by: str = OPERATOR) -> None:
        """Stop gracefully: `drained` is called when no connection is left."""
        self.feed(DrainRequested(by, reason))

    def _command(self, command: Command) -> Outcome:
        if self._performing:
            raise RuntimeError(
                f"{type(command).__name__} within a step of the node: leave it to the event loop (loop.call_soon)"
            )
        self.feed(command)
        return self.gateway.control.outcome
