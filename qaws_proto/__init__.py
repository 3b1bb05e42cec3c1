"""The core of qaws: a gateway between people and an agent, as one pure function. See `qaws_proto.gateway.Gateway`."""

from .clock import Now
from .config import ConfigError, WebSocketConfig
from .extension import EventContext, EventType
from .gateway import Gateway

__all__ = ["ConfigError", "EventContext", "EventType", "Gateway", "Now", "WebSocketConfig"]
