"""Agents: what one is, the ones that come with qaws, and finding one by its name."""

from .builtin import echo, find_agent, load_agent
from .interface import PIECES, Agent, AgentError, AgentFailure, AgentInterface, AgentReply, AgentStep, RunContext

__all__ = [
    "PIECES",
    "Agent",
    "AgentError",
    "AgentFailure",
    "AgentInterface",
    "AgentReply",
    "AgentStep",
    "RunContext",
    "echo",
    "find_agent",
    "load_agent",
]
