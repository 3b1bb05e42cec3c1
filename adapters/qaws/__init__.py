"""qaws: a gateway between people and an AI agent, over WebSocket.

from qaws import WebSocketServer
server = WebSocketServer(agent)   # anything that answers a text
"""

from importlib.metadata import version

from qaws_proto import ConfigError, EventContext, EventType, WebSocketConfig

from .agents import AgentError, AgentFailure, AgentInterface, AgentReply, AgentStep, RunContext
from .asyncio_server import WebSocketServer
from .auth import WebSocketAuth
from .manager import WebSocketManager

__version__ = version("qaws-gateway")

__all__ = [
    "AgentError",
    "AgentFailure",
    "AgentInterface",
    "AgentReply",
    "AgentStep",
    "ConfigError",
    "EventContext",
    "EventType",
    "RunContext",
    "WebSocketAuth",
    "WebSocketConfig",
    "WebSocketManager",
    "WebSocketServer",
]
