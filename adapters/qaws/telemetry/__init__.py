"""What an operator sees: notes of the core as log records."""

from .log import NoteLogger, configure_logging

__all__ = ["NoteLogger", "configure_logging"]
