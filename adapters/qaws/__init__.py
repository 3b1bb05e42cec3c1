"""qaws: a gateway between people and an AI agent, over WebSocket."""
