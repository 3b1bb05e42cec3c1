"""qaws: a gateway between people and an AI agent, over WebSocket.

from qaws import QAWebSocketClient, WebSocketServer
server = WebSocketServer(agent)   # anything that answers a text
async with QAWebSocketClient("ws://localhost:8765/", token=token) as client: ...
"""

from importlib.metadata import version

from qaws_proto import ConfigError, EventContext, EventType, WebSocketConfig

from .agents import AgentError, AgentFailure, AgentInterface, AgentReply, AgentStep, RunContext
from .anyio_client import QAWebSocketClient
from .asyncio_protocol import WebSocketServer
from .auth import WebSocketAuth
from .client_errors import (
    AnswerCancelled,
    AnswerError,
    AnswerLost,
    AnswerTimeout,
    AuthenticationError,
    ClientError,
    ClosedError,
    ConnectError,
)
from .demo import demo_client
from .manager import WebSocketManager

__version__ = version("qaws-gateway")

__all__ = [
    "AgentError",
    "AgentFailure",
    "AgentInterface",
    "AgentReply",
    "AgentStep",
    "AnswerCancelled",
    "AnswerError",
    "AnswerLost",
    "AnswerTimeout",
    "AuthenticationError",
    "ClientError",
    "ClosedError",
    "ConfigError",
    "ConnectError",
    "EventContext",
    "EventType",
    "QAWebSocketClient",
    "RunContext",
    "WebSocketAuth",
    "WebSocketConfig",
    "WebSocketManager",
    "WebSocketServer",
    "demo_client",
]
