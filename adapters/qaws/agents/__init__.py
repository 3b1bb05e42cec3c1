"""Agents: what one is, the ones that come with qaws, and finding one by its name."""

from .builtin import echo, load_agent
from .interface import Agent, AgentError, AgentInterface, AgentReply, AgentStep, RunContext

__all__ = ["Agent", "AgentError", "AgentInterface", "AgentReply", "AgentStep", "RunContext", "echo", "load_agent"]
