"""Bytes to messages and back: HTTP, frames, and the link that joins them."""
