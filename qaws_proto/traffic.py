"""What went over one connection, counted for the note at its end."""

from __future__ import annotations

from .clock import Now, rounded
from .effects import Scalar


class Traffic:
    """Counts of one connection since it was opened. An integer each: it is counted at every message."""

    __slots__ = ("opened_at", "received", "resumes", "sent", "sessions")

    def __init__(self, now: Now) -> None:
        self.opened_at = now.mono
        self.received = 0  # text messages of the peer, also those that were refused
        self.sent = 0  # text messages for the peer, also those that a peer that read too slowly never got
        self.sessions = 0  # that it has read
        self.resumes = 0  # of those, how often it came back to one

    def fields(self, now: Now) -> dict[str, Scalar]:
        """Its counts, and how long it was open, in seconds."""
        return {
            "seconds": rounded(now.mono - self.opened_at),
            "messages_received": self.received,
            "messages_sent": self.sent,
            "sessions": self.sessions,
            "resumes": self.resumes,
        }
