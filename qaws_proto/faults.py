"""The one table of everything that can go wrong: what the peer is told, whose fault it is, and whether to try again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Blame(Enum):
    """Who has to change something so that it does not happen again."""

    PEER = "peer"
    SERVER = "server"
    AGENT = "agent"
    NOBODY = "nobody"


class Retry(Enum):
    """What a client does after the fault (PROTOCOL, close codes, "come back?")."""

    NO = "no"
    YES = "yes"
    BACK_OFF = "back_off"
    LATER = "later"  # after `retry_after` seconds
    NEW_TOKEN = "new_token"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault on the wire: before the upgrade a `status`; after it an `error` event `code`, a `close` code, or both.

    Where a host that does HTTP itself cannot answer an upgrade with a status (ASGI), it is told the `close` code.

    `word` is the reason of a close frame and the body of a response: short, fixed, never input.
    `text` is the `error_message` for people.
    """

    blame: Blame
    retry: Retry
    word: str
    text: str
    status: int | None = None
    close: int | None = None
    code: str | None = None


PEER, SERVER, AGENT, NOBODY = Blame.PEER, Blame.SERVER, Blame.AGENT, Blame.NOBODY
NO, YES, BACK_OFF, LATER, NEW_TOKEN = Retry.NO, Retry.YES, Retry.BACK_OFF, Retry.LATER, Retry.NEW_TOKEN


class Fault(Enum):
    """FAULTS: every row by its name. `Fault.X.value` is the row."""

    # Before the upgrade (PROTOCOL, "Before the upgrade"; GUARANTEES H1 to H14)
    BAD_REQUEST = Row(PEER, NO, "bad request", "Malformed request", status=400, close=1002)
    BAD_UPGRADE = Row(PEER, NO, "bad upgrade", "Malformed WebSocket upgrade", status=400, close=1002)
    NO_UPGRADE = Row(PEER, NO, "websocket only", "This path speaks WebSocket alone", status=400)
    BODY_REFUSED = Row(PEER, NO, "body refused", "A request body is not accepted here", status=400, close=1002)
    QUERY_TOKEN = Row(PEER, NO, "token in query", "A token does not belong in the address", status=400, close=1002)
    BAD_TOKEN = Row(PEER, NEW_TOKEN, "unauthorized", "Authentication failed", status=401, close=4401)
    METRICS_TOKEN = Row(PEER, NEW_TOKEN, "unauthorized", "Metrics need a token of their own", status=401)
    ORIGIN_REFUSED = Row(PEER, NO, "origin refused", "This origin is not allowed", status=403, close=4403)
    ADDRESS_REFUSED = Row(PEER, NO, "address refused", "This address is not allowed", status=403, close=4403)
    USER_REFUSED = Row(PEER, NO, "forbidden", "This is not allowed", status=403, close=4403)
    NOT_FOUND = Row(PEER, NO, "not found", "Nothing is served at this path", status=404, close=1002)
    METHOD_REFUSED = Row(PEER, NO, "method not allowed", "This method is not allowed here", status=405)
    HEAD_TIMEOUT = Row(PEER, YES, "request timeout", "The request head did not arrive in time", status=408)
    LINE_TOO_LONG = Row(PEER, NO, "uri too long", "The request line is too long", status=414)
    WRONG_HOST = Row(PEER, NO, "misdirected", "This host is not served here", status=421, close=1002)
    NOT_WEBSOCKET = Row(PEER, NO, "upgrade required", "This path speaks WebSocket, version 13", status=426)
    ADDRESS_FULL = Row(
        PEER, LATER, "too many connections", "Too many connections of this address", status=429, close=1013
    )
    CONNECTION_RATE = Row(
        PEER, LATER, "connection rate", "Too many new connections of this address", status=429, close=1013
    )
    HEAD_TOO_BIG = Row(PEER, NO, "head too large", "The request head is too large", status=431)
    AT_CAPACITY = Row(SERVER, LATER, "at capacity", "The server is full", status=503, close=1013)
    FAILED_TOKENS = Row(PEER, LATER, "failed tokens", "Too many tokens of this address failed", status=429, close=4429)
    KEYS_UNAVAILABLE = Row(SERVER, LATER, "no keys", "No token can be verified at the moment", status=503, close=1013)
    DRAINING = Row(NOBODY, LATER, "draining", "The server is about to stop", status=503, close=1012)
    BAD_VERSION = Row(PEER, NO, "http version", "Only HTTP/1.1 is spoken here", status=505)

    # Frames (GUARANTEES F1 to F13)
    PROTOCOL_VIOLATION = Row(PEER, NO, "protocol error", "WebSocket protocol violation", close=1002)
    BINARY_REFUSED = Row(PEER, NO, "binary refused", "Binary messages are not accepted", close=1003)
    INVALID_UTF8 = Row(PEER, NO, "invalid utf-8", "Text is not valid UTF-8", close=1007)
    BAD_COMPRESSION = Row(PEER, NO, "bad compression", "The message is not compressed as agreed", close=1007)
    MESSAGE_TOO_BIG = Row(PEER, NO, "message too big", "The message is too big", close=1009)
    TOO_MANY_FRAGMENTS = Row(PEER, NO, "too fragmented", "The message has too many fragments", close=1009)
    MESSAGE_TIMEOUT = Row(PEER, YES, "message timeout", "The message was not finished in time", close=1008)
    FRAME_FLOOD = Row(PEER, YES, "frame flood", "Too many frames", close=1008)
    BAD_MESSAGE_FLOOD = Row(PEER, YES, "bad messages", "Too many unreadable messages", close=1008)
    SLOW_CONSUMER = Row(PEER, YES, "slow_consumer", "The client reads too slowly", close=1008)
    HEARTBEAT_LOST = Row(PEER, YES, "heartbeat", "The peer has gone silent")

    # Authentication (GUARANTEES A1 to A10, M6)
    AUTH_REQUIRED = Row(PEER, NEW_TOKEN, "auth required", "Authenticate first", close=4401, code="AUTH_REQUIRED")
    AUTH_FAILED = Row(PEER, NEW_TOKEN, "auth failed", "Authentication failed", close=4401, code="AUTH_FAILED")
    AUTH_TIMEOUT = Row(PEER, YES, "auth timeout", "No token came in time", close=4408)
    TOKEN_EXPIRED = Row(PEER, NEW_TOKEN, "token expired", "The token has expired", close=4401, code="TOKEN_EXPIRED")
    TOKEN_FLOOD = Row(
        PEER, LATER, "failed tokens", "Too many tokens of this address failed", close=4429, code="RATE_LIMIT"
    )
    NO_KEYS = Row(SERVER, LATER, "no keys", "No token can be verified at the moment", close=1013)
    BLOCKED = Row(PEER, NO, "forbidden", "This is not allowed", close=4403, code="FORBIDDEN")
    FORBIDDEN = Row(PEER, NO, "forbidden", "This is not allowed with this token", code="FORBIDDEN")

    # Events (GUARANTEES M1 to M5, R1)
    INVALID_JSON = Row(PEER, NO, "invalid json", "The message is not a JSON object", code="INVALID_JSON")
    INVALID_EVENT = Row(
        PEER, NO, "invalid event", "The event has missing, wrong or unknown fields", code="INVALID_EVENT"
    )
    UNKNOWN_EVENT = Row(PEER, NO, "unknown event", "There is no event of this type", code="UNKNOWN_EVENT")
    RATE_LIMIT = Row(PEER, LATER, "rate limit", "Rate limit exceeded", code="RATE_LIMIT")
    NODE_RATE = Row(SERVER, LATER, "node rate", "The server takes no more messages for now", code="RATE_LIMIT")
    RATE_LIMIT_IGNORED = Row(PEER, LATER, "rate limit", "Rate limit exceeded", close=4429)
    BUDGET_SPENT = Row(PEER, LATER, "budget", "The budget of this day is spent", code="RATE_LIMIT")
    BUSY = Row(PEER, YES, "busy", "This session has enough messages waiting", code="BUSY")
    USER_BUSY = Row(PEER, YES, "user busy", "This user has enough messages waiting", code="BUSY")
    TOO_MANY_SESSIONS = Row(PEER, YES, "sessions", "This user has enough sessions in use", code="BUSY")
    OVERLOADED = Row(SERVER, LATER, "overloaded", "The server has too much to do", code="OVERLOADED")
    STOPPING = Row(NOBODY, LATER, "stopping", "The server is about to stop", code="OVERLOADED")
    STORAGE_UNAVAILABLE = Row(
        SERVER, BACK_OFF, "storage unavailable", "Nothing can be kept at the moment", code="STORAGE_UNAVAILABLE"
    )
    SESSION_NOT_FOUND = Row(PEER, NO, "session not found", "There is no such session", code="SESSION_NOT_FOUND")
    ACK_AHEAD = Row(PEER, NO, "ack ahead", "Nothing was said that far", close=4400)
    TAKEN_OVER = Row(PEER, NO, "taken over", "Another connection reads this session now", close=4409)
    RUN_NOT_FOUND = Row(PEER, NO, "run not found", "There is no such run", code="RUN_NOT_FOUND")

    # Agents (GUARANTEES G1 to G8)
    AGENT_ERROR = Row(AGENT, YES, "agent error", "The agent failed", code="AGENT_ERROR")
    AGENT_BUSY = Row(AGENT, LATER, "agent busy", "The agent has too much to do; ask again later", code="AGENT_ERROR")
    AGENT_UNAVAILABLE = Row(
        AGENT, BACK_OFF, "agent unavailable", "The agent cannot be reached; ask again in a while", code="AGENT_ERROR"
    )
    AGENT_REFUSED = Row(
        AGENT, NO, "agent refused", "The agent refused, and would again; tell whoever runs it", code="AGENT_ERROR"
    )
    AGENT_TIMEOUT = Row(AGENT, YES, "agent timeout", "The agent took too long", code="AGENT_TIMEOUT")
    INTERRUPTED = Row(SERVER, YES, "interrupted", "The answer was interrupted by a restart", code="AGENT_ERROR")
    RESPONSE_TOO_LARGE = Row(AGENT, NO, "response too large", "The answer grew too large", code="RESPONSE_TOO_LARGE")

    # The server itself
    INTERNAL = Row(SERVER, BACK_OFF, "internal", "Something went wrong here", status=500, close=1011, code="INTERNAL")
    GOING_AWAY = Row(NOBODY, LATER, "going away", "The server stops", close=1001)
    DISCONNECTED = Row(NOBODY, YES, "closed by operator", "The operator closed the connection", close=1008)
    RESTARTING = Row(NOBODY, LATER, "restarting", "The server restarts", close=1012)
