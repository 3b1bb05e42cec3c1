"""What an operator sees: notes of the core as log records, and how those are written."""

from .formats import JsonFormatter, TextFormatter
from .log import NoteLogger, configure_logging, log_event

__all__ = ["JsonFormatter", "NoteLogger", "TextFormatter", "configure_logging", "log_event"]
