"""What peers and operators do to a node in a program of a fuzzer, on whatever stage the node stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..admission.tokens import issue_token
from ..config import ConfigError, WebSocketConfig
from ..effects import Effect
from ..inputs import (
    AddressBlocked,
    AddressUnblocked,
    DisconnectRequested,
    DrainRequested,
    Input,
    LimitsChanged,
    StopRequested,
    TokenRevoked,
    UserBlocked,
    UserRevoked,
    UserUnblocked,
)
from .client import Client
from .node import SECRET, UNIX
from .peer import PING, TEXT, chat, close_frame, compressed, frame, request, text, upgrade
from .programs import Program

LONGEST = 200  # instructions; what follows is not looked at

CONTENTS = ("hi", "¿qué tal?", "x" * 300, "\u2028", "hi" * 600, "", "x" * 10_001, "\ud800", 7, None)
NAMES = ("m1", "m2", "m3", "x" * 65)
SESSIONS = ("s", "t", "u", "id-1")
ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1", None)
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
SECONDS = (0.001, 0.04, 0.5, 1.0, 3.0, 7.0, 30.0, 100.0, 3600.0)
JUMPS = (-5000.0, -1.0, 60.0, 5000.0, 86_400.0)
SIZES = (0, 1, 2, 7, 64, 300)  # bytes of a read; 0: all at once
HEADS = (
    upgrade("/x"), upgrade("/?token=x"), upgrade("/", "Content-Length: 1"), b"GET / HTTP/1.1\n", request("/healthz"),
    request("/metrics"), request("/readyz", method="HEAD"), request("/", method="POST"), b"\x16\x03\x01",
    b"PRI * HTTP/2.0\r\n\r\n", upgrade("/", "Origin: https://evil.example"), upgrade()[:-10],
    upgrade("/", "Sec-WebSocket-Protocol: a, qaws.v1"), upgrade("/", "Sec-WebSocket-Extensions: permessage-deflate;=a"),
)  # fmt: skip
ODD = (b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"{", b"NaN", b'{"type":"ping","type":"ping"}', b"[" * 40, b'"\\u0000"')
SETTINGS: tuple[Mapping[str, object], ...] = (
    {"security.rate_limiting.enabled": True}, {"security.rate_limiting.enabled": False}, {"limits.out_high": 1},
    {"agent.timeout": 1}, {"agent.max_runs": 1}, {"sessions.queue": 1}, {"nothing": 1}, {"agent.timeout": "x"},
)  # fmt: skip
COMMANDS: tuple[Input, ...] = (
    UserBlocked("ops", "", "ana"), UserBlocked("ops", "", "eva", 2.0), UserUnblocked("ops", "", "ana"),
    AddressBlocked("ops", "", "192.0.2.0/24", 2.0), AddressBlocked("ops", "", "2001:db8::/32"),
    AddressUnblocked("ops", "", "2001:db8::/32"), TokenRevoked("ops", "", "t"), UserRevoked("ops", "", "ana"),
    DisconnectRequested("ops", "", 0), DisconnectRequested("ops", "", None, "ana"),
    DisconnectRequested("ops", "", None, None, "s"), *(LimitsChanged("ops", "", change) for change in SETTINGS),
)  # fmt: skip


class Stage(Protocol):
    """What a program is performed on."""

    def open(self, peer: str | None) -> Client:
        """A peer connects."""

    def step(self, event: Input) -> list[Effect]:
        """An operator does something."""

    def advance(self, seconds: float) -> None:
        """Time passes."""

    def jump(self, seconds: float) -> None:
        """The wall clock is set."""

    def settle(self) -> None:
        """All happens that is to happen now."""


class Execution:
    """One program on its way: the peers of a node, and its operator."""

    def __init__(self, program: Program, stage: Stage, config: WebSocketConfig, log: Callable[[str], None]) -> None:
        """`log` is told what is done, in words."""
        self._program = program
        self._stage = stage
        self._log = log
        self._path = config.server.path
        self._read = 0  # bytes
        self.clients: list[Client] = []
        self._config = config

    def run(self) -> None:
        """Perform the whole program."""
        for _ in range(LONGEST):
            if self._program.ended:
                return
            self._program.pick(tuple(self.instructions.values()))(self)
            self._stage.settle()

    def _say(self, data: bytes, what: str) -> None:
        """Somebody sends bytes, in reads of the size that was set; a peer that the server does not read is not read."""
        if not self.clients:
            return
        client = self._program.pick(self.clients)
        self._log(f"{client.number}: {what}")
        size = self._read or max(1, len(data))
        for start in range(0, len(data), size):
            if client.paused or client.dropped:
                return
            client.send_bytes(data[start : start + size])
            self._stage.settle()

    def _open(self, peer: str | None, hello: bytes, what: str) -> None:
        client = self._stage.open(peer)
        self.clients.append(client)
        self._log(f"{client.number}: connect from {peer}, {what}")
        if hello:
            client.send_bytes(hello)

    # ── instructions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def connect(self) -> None:
        """Somebody connects, and asks for an upgrade."""
        kind = self._program.number(4)
        token = self._token()
        login = (OFFER,), (), (f"Authorization: Bearer {token}",), ()
        hello = upgrade(self._path, *login[kind]) + (text({"type": "auth", "token": token}) if kind == 3 else b"")
        words = ("upgrade, with an offer to compress", "upgrade", "upgrade, with a token", "upgrade, then a token")
        self._open(self._program.pick(ADDRESSES), hello, words[kind])

    def knock(self) -> None:
        """Somebody connects, and says something else, or nothing."""
        head = self._program.pick((b"", *HEADS))
        self._open(self._program.pick(ADDRESSES), head, repr(head[:60]))

    def say_chat(self) -> None:
        """A chat message."""
        self._say_event(self._chat())

    def say_event(self) -> None:
        """Another event."""
        self._say_event(self._event())

    def say_changed(self) -> None:
        """An event, and a byte of it is another one."""
        data = bytearray(_json(self._chat() if self._program.number(2) else self._event()))
        at, by = self._program.number(), self._program.number()
        data[at % len(data)] = by
        self._say(frame(TEXT, bytes(data)), f"text {bytes(data)!r}")

    def say_compressed(self) -> None:
        """An event, compressed, and maybe with something behind its end."""
        data = compressed(_json(self._chat())) + self._program.pick((b"", b"", b"\x00", b"\x07\x07"))
        self._say(frame(TEXT, data, reserved=4), "a compressed chat message")

    def say_fragments(self) -> None:
        """An event in fragments, with pings between them."""
        data, cut = _json(self._chat()), self._program.number()
        empty = frame(0, fin=False) * self._program.number(5)
        self._say(
            frame(TEXT, data[:cut], fin=False) + frame(PING, b"between") + empty + frame(0, data[cut:]),
            f"{data!r} in fragments, cut at {cut}",
        )

    def say_odd(self) -> None:
        """A text frame with something odd in it, or anything."""
        data = self._program.pick((*ODD, b"")) or self._program.data()
        self._say(frame(TEXT, data), f"text {data!r}")

    def say_frame(self) -> None:
        """Some frame: its opcode, flags and payload."""
        opcode, flags, payload = self._program.number(16), self._program.number(), self._program.data()
        fin, mask, reserved = bool(flags & 1), flags & 6 != 6, (flags >> 3) & 7 if flags & 0x40 else 0
        data = frame(opcode, payload, fin=fin, mask=mask, reserved=reserved)
        self._say(data * (1 + self._program.number(50)), f"frames {opcode=} {fin=} {mask=} {reserved=} {payload!r}")

    def say_bytes(self) -> None:
        """Bytes as they are."""
        data = self._program.data()
        self._say(data, f"bytes {data!r}")

    def say_goodbye(self) -> None:
        """A Close."""
        code = self._program.pick((1000, 1001, 3000, None, 1005, 999))
        self._say(close_frame(code), f"Close {code}")

    def end(self) -> None:
        """Somebody leaves."""
        if self.clients:
            client, lost = self._program.pick(self.clients), self._program.number(2)
            self._log(f"{client.number}: {'the connection is lost' if lost else 'end of file'}")
            client.lose() if lost else client.eof()

    def stall(self) -> None:
        """Somebody does not read, or reads again."""
        if self.clients:
            client, blocked = self._program.pick(self.clients), self._program.number(2)
            self._log(f"{client.number}: {'reads no more' if blocked else 'reads again'}")
            client.block() if blocked else client.unblock()

    def split(self) -> None:
        """From now on reads are of this size."""
        self._read = self._program.pick(SIZES)
        self._log(f"reads of {self._read or 'all'} bytes")

    def wait(self) -> None:
        """Time passes."""
        seconds = self._program.pick(SECONDS)
        self._log(f"{seconds:g} seconds pass")
        self._stage.advance(seconds)

    def jump(self) -> None:
        """The wall clock is set."""
        seconds = self._program.pick(JUMPS)
        self._log(f"the wall clock jumps by {seconds:g} seconds")
        self._stage.jump(seconds)

    def command(self) -> None:
        """An operator does something; what cannot be done is refused, and changes nothing."""
        given = self._program.pick(COMMANDS)
        self._log(f"operator: {given}")
        try:
            self._stage.step(given)
        except ValueError as error:
            self._log(f"operator: refused: {error}")

    def stop(self) -> None:
        """The node is told to stop; seldom, for not much comes behind it."""
        kind = self._program.number()
        if kind < 2:
            self._log("drain" if kind == 0 else "stop")
            self._stage.step(DrainRequested() if kind == 0 else StopRequested())

    instructions: Mapping[str, Callable[[Any], None]] = {
        "connect": connect, "chat": say_chat, "event": say_event, "wait": wait, "frame": say_frame,
        "changed": say_changed, "compressed": say_compressed, "fragments": say_fragments, "odd": say_odd,
        "bytes": say_bytes, "goodbye": say_goodbye, "end": end, "stall": stall, "split": split, "knock": knock,
        "jump": jump, "command": command, "stop": stop,
    }  # fmt: skip

    # ── material ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _say_event(self, event: dict[str, Any]) -> None:
        shown = {name: value for name, value in event.items() if name != "token"}
        self._say(frame(TEXT, _json(event)), f"{str(shown)[:100]}")

    def _chat(self) -> dict[str, Any]:
        flags = self._program.number()
        event = chat(self._program.pick(CONTENTS))  # type: ignore[arg-type]
        if flags & 1:
            event["id"] = self._program.pick(NAMES)
        if flags & 2:
            event["stream"] = not flags & 4
        if flags & 8:
            event["session_id"] = self._program.pick(SESSIONS)
        if flags & 0x30 == 0x30:
            event["user_id"] = "ana"
        if flags & 0xC0 == 0xC0:
            event["metadata"] = {"a": 1, "b": "x", "c": None if flags & 1 else True}
        return event

    def _token(self) -> str:
        """A token that is wrong, or one where the configuration has a secret to make it with."""
        wanted = self._program.pick((None, *TOKENS))
        try:
            return "wrong" if wanted is None else issue_token(self._config.security.authentication, unix=UNIX, **wanted)
        except (ConfigError, ValueError):
            return SECRET

    def _event(self) -> dict[str, Any]:
        kind, number = self._program.number(8), self._program.number(12)
        session = self._program.pick(SESSIONS)
        return (
            {"type": "cancel", "correlation_id": self._program.pick(NAMES)},
            {"type": "cancel", "run_id": f"id-{number}"},
            {"type": "resume", "session_id": session, "epoch": f"id-{number}", "seq": self._program.number(10)},
            {"type": "resume", "session_id": session, "epoch": "", "seq": number - 2},
            {"type": "ack", "session_id": session, "seq": number},
            {"type": "auth", "token": self._token()},
            {"type": "ping", "id": "p"},
            {"type": self._program.pick(("nonsense", "ping", 7, None)), "more": number},
        )[kind]


#: What tokens there are besides a wrong one.
TOKENS: tuple[dict[str, Any], ...] = (
    {"user_id": "ana", "token_id": "t"},
    {"user_id": "eva", "token_id": "t"},
    {"user_id": "ana", "token_id": "t", "expires_in": 70},
    {"user_id": "ana", "token_id": "u"},
)


def _json(event: object) -> bytes:
    return json.dumps(event).encode()


def seen(clients: Iterable[Client]) -> frozenset[str]:
    """Which kinds of things peers were told: a program in which there are new ones is worth keeping."""
    found: set[str] = set()
    for client in clients:
        found |= {f"closed {client.stream.closed}", f"status {client.stream.head and client.stream.head.status}"}
        for event in client.heard:
            found.add(str(event.get("event_name") or event.get("error_code") or event["type"]))
    return frozenset(found)
