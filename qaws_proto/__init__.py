"""The core of qaws: a gateway between people and an agent, as one pure function. See `qaws_proto.gateway.Gateway`."""

from . import connection as _connection
from .clock import Now
from .config import ConfigError, WebSocketConfig
from .extension import EventContext, EventType
from .gateway import Gateway

__all__ = ["COMPILED", "ConfigError", "EventContext", "EventType", "Gateway", "Now", "WebSocketConfig"]

COMPILED = not str(_connection.__file__).endswith(".py")
"""Whether the core runs as extension modules; it does the same, faster."""
