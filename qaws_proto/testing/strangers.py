"""The peers of a simulated world that are no honest clients: each a script of what it does to the node.

A script yields the seconds until it goes on; it ends with its connection. What the node answers is read strictly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .client import Client
from .history import HONEST
from .issuer import WRONG
from .peer import BINARY, PING, PONG, TEXT, chat, close_frame, compressed, deflated, frame, request, text, upgrade
from .streams import Random

if TYPE_CHECKING:
    from .world import World

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
ESTABLISHED = "connection_established"
OUTSIDER = "mallory"  # no honest user
WRONG_FRAMES = (
    frame(TEXT, b"hi", mask=False), frame(3, b""), frame(PING, b"", fin=False), frame(8, b"\x03"), frame(0, b"more"),
    frame(TEXT, b"hi", reserved=1), frame(TEXT, b"\xc3\x28"), frame(PING, b"p" * 126),
    frame(TEXT, b"\x07\x07", reserved=4), close_frame(1005), bytes.fromhex("81ff8000000000000000"),
)  # fmt: skip
NO_HTTP = (b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n", b"\0" * 50)
BAD_EVENTS: tuple[object, ...] = (
    "no json", "[]", {"type": "nonsense"}, {"type": "ping", "more": 1}, {"type": "chat_message", "content": ""},
    '{"type":"ping","id":"a","id":"b"}', {"type": "cancel", "run_id": "nobody's"},
    {"type": "chat_message", "content": "hi", "metadata": {"a": {"b": 1}}},
)  # fmt: skip


class Stranger:
    """One connection of such a peer, as a script sees it."""

    def __init__(self, world: World, random: Random, address: str) -> None:
        self.world = world
        self.random = random
        self.address = address
        self.client: Client | None = None
        self.life = world.lives

    @property
    def gone(self) -> bool:
        """Whether there is no connection, or not any more, or not to this node."""
        client = self.client
        over = client is None or client.dropped or client.write_closed
        return over or self.life != self.world.lives or self.world.node is None or self.world.calm

    def open(self, data: bytes = b"") -> None:
        """Connect, where there is a node, and say this at once."""
        if self.world.node is not None:
            self.life = self.world.lives
            self.client = self.world.node.open(self.address)
            self.send(data)

    def send(self, data: bytes) -> None:
        """Send bytes, where the node reads."""
        while data and not self.gone and self.client is not None and not self.client.paused:
            size = self.client.node.gateway.read_size(self.client.number)
            self.client.send_bytes(data[:size])
            data = data[size:]

    def upgrade(self, *headers: str, path: str | None = None) -> bytes:
        """A request for a WebSocket, at the path and the host that the node serves."""
        return upgrade(path or self.world.config.server.path, *headers, host=self.world.host)

    def enter(self, *headers: str, user_id: str | None = None) -> None:
        """Connect and upgrade, with a token where one is needed."""
        if self.world.issuer.needed:
            user_id = user_id or self.random.choice(("user-1", OUTSIDER))
            token = self.world.issuer.token(user_id, unix=self.world.now.unix, life=3600)
            headers = (*headers, f"Authorization: Bearer {token}")
        self.open(self.upgrade(*headers))

    def say(self, event: object) -> None:
        """Send an event."""
        self.send(text(event))

    def heard(self, message_id: str) -> bool:
        """Whether its message of this id was accepted."""
        return self.client is not None and any(event.get("correlation_id") == message_id for event in self.client.heard)

    def resumed(self, session_id: str) -> list[dict[str, Any]]:
        """What it was told, each time that it wanted to resume this session."""
        heard = [] if self.client is None else self.client.heard
        named = (event for event in heard if event.get("session_id") == session_id)
        return [event["data"] for event in named if event.get("event_name") == "session_resumed"]

    def leave(self) -> None:
        """Break the connection."""
        if self.client is not None and self.client.node is self.world.node and not self.client.dropped:
            self.client.lose()
        self.client = None


Script = Callable[[Stranger], Iterator[float]]


def _wrong_frames(peer: Stranger) -> Iterator[float]:
    for wrong in peer.random.sample(WRONG_FRAMES, 4):
        peer.enter(*((OFFER,) if peer.random.random() < 0.5 else ()))
        yield 0.3
        peer.send(text({"type": "ping", "id": "x"}) + wrong + frame(PING))
        yield 1.5


def _frame_flood(peer: Stranger) -> Iterator[float]:
    peer.enter()
    for _ in range(peer.random.randint(5, 12)):
        yield peer.random.choice((0.0, 0.05))
        peer.send(frame(peer.random.choice((PING, PONG)), b"x") * 60)
    yield 1.0


def _slow_loris(peer: Stranger) -> Iterator[float]:
    peer.open(b"G")
    for byte in peer.upgrade()[1:]:
        yield 0.4
        peer.send(bytes((byte,)))


def _endless_fragments(peer: Stranger) -> Iterator[float]:
    peer.enter()
    yield 0.1
    peer.send(frame(TEXT, b'{"type":"', fin=False))
    for _ in range(140):
        peer.send(frame(0, b"", fin=False))
        yield 0.1


def _bomb(peer: Stranger) -> Iterator[float]:
    peer.enter(OFFER)
    yield 0.1
    peer.send(deflated({"type": "ping", "id": "y" * 40}) + deflated(chat("z" * 300, id="z1", session_id="z")))
    yield 0.5
    if peer.heard("z1"):
        peer.world.counters.count("compressed message")
    peer.send(frame(TEXT, peer.random.choice((compressed(b" " * (2 << 20)), b"\x07\x07")), reserved=4))
    yield 1.0


def _wrong_tokens(peer: Stranger) -> Iterator[float]:
    for _ in range(12):
        kind = peer.random.randrange(3)
        if kind == 0:
            peer.open(peer.upgrade(f"Authorization: Bearer {WRONG}"))
        else:
            peer.open(peer.upgrade())
            yield 0.05
            peer.say({"type": "auth", "token": WRONG if kind == 1 else "x" * 9000})
        yield 0.2
        peer.leave()


def _old_tokens(peer: Stranger) -> Iterator[float]:
    issued = peer.world.issuer.issued
    for _ in range(4):
        peer.open(peer.upgrade(f"Authorization: Bearer {peer.random.choice(issued)}") if issued else peer.upgrade())
        yield 0.2
        peer.say(chat("with a stolen token"))
        yield 1.0
        peer.leave()


def _outstayer(peer: Stranger) -> Iterator[float]:
    """Stays for longer than its token is good for, and comes again with it (A1, A4)."""
    world, life = peer.world, 3
    if not world.issuer.needed:
        return
    leeway = int(world.config.security.authentication.leeway)
    token, end = world.issuer.token(OUTSIDER, unix=world.now.unix, life=life), world.now.unix + life
    peer.open(upgrade("/", f"Authorization: Bearer {token}"))
    for _ in range(life + leeway + 1):
        yield 1.0
        peer.send(frame(PING))
    over = world.now.unix > end + leeway  # unless the clock was set back
    assert not over or peer.gone or (peer.client and peer.client.stream.closed), "A4: it stays longer than its token"
    peer.leave()
    peer.open(upgrade("/", f"Authorization: Bearer {token}"))
    yield 0.2
    told = [] if peer.client is None else [event.get("event_name") for event in peer.client.heard]
    assert ESTABLISHED not in told or not over or world.now.unix < end + leeway, "A1: let in with a token of the past"


def _foreigner(peer: Stranger) -> Iterator[float]:
    """Reads, cancels and refreshes what is another user's."""
    peer.enter(user_id=OUTSIDER)
    yield 0.1
    sessions = [tab.session_id for user in peer.world.users for tab in user.tabs if tab.session_id]
    for session_id in [*sessions, "nobody's"]:
        epoch, seq = peer.random.choice(("", "guessed")), peer.random.randint(0, 9)
        peer.say({"type": "resume", "session_id": session_id, "epoch": epoch, "seq": seq})
        yield 0.2
    if peer.world.issuer.needed:
        for _ in range(10):
            node = peer.world.node
            cancelled = set[str]() if node is None else node.cancelled
            runs = [] if node is None else [run for one, run in node.runs.items() if one not in cancelled]
            for run_id in [run.run_id for run in runs if run.user_id != OUTSIDER]:
                peer.say({"type": "cancel", "run_id": run_id})
                assert run_id not in cancelled, f"A8: {run_id} is cancelled by another user"
            yield 0.3
        peer.say({"type": "auth", "token": peer.world.issuer.token("user-1", unix=peer.world.now.unix, life=3600)})
        told = [] if peer.client is None else [event.get("event_name") for event in peer.client.heard]
        assert "token_refreshed" not in told, "A4: refreshed with the token of another user"


def _ack_ahead(peer: Stranger) -> Iterator[float]:
    peer.enter()
    yield 0.1
    peer.say(chat("ack", session_id="acked", id="a1"))
    yield 0.5
    peer.say({"type": "ack", "session_id": "acked", "seq": 1})
    peer.say({"type": "ack", "session_id": "acked", "seq": 1 << 40})
    yield 1.0


def _deaf_pings(peer: Stranger) -> Iterator[float]:
    peer.enter()
    yield 0.1
    if peer.client is not None and not peer.gone and peer.client.stream.head is not None:
        peer.client.block()
    for _ in range(20):
        peer.send(frame(PING, b"are you there?") * 3)
        yield 0.5
    peer.say(chat("t" * 300, stream=True, session_id="unread"))
    yield 8.0


def _late_reader(peer: Stranger) -> Iterator[float]:
    """Asks while it does not read, and reads then: no answer is lost."""
    peer.enter()
    yield 0.5
    client = peer.client
    if client is None or peer.gone or not any(event.get("event_name") == ESTABLISHED for event in client.heard):
        return
    client.block()
    for number in range(4):
        peer.say({"type": "ping", "id": f"late {number}"})
        yield 0.1
    if not peer.gone and client.stream.closed is None:
        client.unblock()
        answers = [event["id"] for event in client.heard if event["type"] == "pong"]
        assert answers == [f"late {number}" for number in range(4)], f"C1: answers were lost: {answers}"
    pings = [f"wire {number}".encode() for number in range(3)]
    for payload in pings:
        peer.send(frame(PING, payload))
        yield 0.3
    pongs = [payload for opcode, payload in client.stream.frames if opcode == PONG]
    assert pongs == pings[: len(pongs)], f"F9: {pongs} for {pings}"


def _half_head(peer: Stranger) -> Iterator[float]:
    peer.open(peer.upgrade()[: peer.random.randint(1, 90)])
    yield 9.0


def _no_http(peer: Stranger) -> Iterator[float]:
    refused = (peer.upgrade(path="/" + "x" * 5000), peer.upgrade(*["A: b"] * 70), peer.upgrade(path="/x"))
    peer.open(peer.random.choice((*NO_HTTP, *refused)))
    yield 2.0


def _never_authenticates(peer: Stranger) -> Iterator[float]:
    peer.open(peer.upgrade())
    for _ in range(30):
        yield 0.5
        peer.send(frame(PING))


def _bad_events(peer: Stranger) -> Iterator[float]:
    peer.enter()
    for _ in range(12):
        yield 0.2
        peer.say(peer.random.choice(BAD_EVENTS))


def _probes(peer: Stranger) -> Iterator[float]:
    for path in ("/healthz", "/readyz", "/metrics", "/"):
        peer.open(request(path))
        yield 0.2
        peer.leave()


def _crowd(peer: Stranger) -> Iterator[float]:
    for _ in range(14):
        peer.open(b"" if peer.random.random() < 0.5 else peer.upgrade())
        yield 0.01
        if peer.gone:
            yield 0.1
    yield 6.0


def _too_long(peer: Stranger) -> Iterator[float]:
    """A message of as many bytes as there may be is read, whatever it is; one byte more is too much."""
    size = peer.world.config.limits.max_message_size
    for more in range(2):
        peer.enter()
        yield 0.3
        client = peer.client
        if client is None or peer.gone or client.stream.head is None or client.stream.head.status != 101:
            return
        peer.send(frame(TEXT, b" " * (size + more)))
        yield 1.0
        code = None if client.stream.closed is None else client.stream.closed[0]
        assert more or code != 1009, "F6: a message of the greatest size is refused"
        assert not more or code is not None or peer.gone or client.paused, "F6: a message that is too long is read"
        peer.leave()


def _binary(peer: Stranger) -> Iterator[float]:
    peer.enter()
    yield 0.1
    peer.send(frame(BINARY, b"\0\1"))
    yield 1.0


def _unfinished(peer: Stranger) -> Iterator[float]:
    peer.enter()
    yield 0.1
    message = json.dumps(chat("in two parts", session_id="parts", id="p1")).encode()
    peer.send(frame(TEXT, message[:9], fin=False))
    yield 0.1
    peer.send(frame(PING) + frame(0, message[9:]))
    yield 0.5
    if peer.heard("p1"):
        peer.world.counters.count("fragmented message")
    peer.send(frame(TEXT, message[:9], fin=False))
    yield 9.0


def _early_message(peer: Stranger) -> Iterator[float]:
    peer.open(peer.upgrade() + text(chat("before the token")))
    yield 1.0


def _bare_reader(peer: Stranger) -> Iterator[float]:
    """Asks the same twice, in a session of its own, and reads; what is gone from its log is told as a gap."""
    peer.enter(OFFER)
    name = f"bare-{peer.random.randrange(1000)}"
    for number in range(3):
        yield 0.5
        for _ in range(2):
            peer.say(chat(f"{name} {number} " + "w" * 200, id=f"b{number}", session_id=name, stream=True))
    yield 4.0
    for at in range(2):
        resumed = peer.resumed(name)
        known: dict[str, Any] = resumed[-1] if at and resumed else {"epoch": "another", "from": 2}
        if known["from"] >= 2:
            peer.say({"type": "resume", "session_id": name, "epoch": known["epoch"], "seq": known["from"] - 2})
            yield 0.3
    assert not any(data["recovered"] for data in peer.resumed(name)), "C10: events that are gone are told as held"
    peer.send(close_frame(1000))
    yield 1.0


def _many_sessions(peer: Stranger) -> Iterator[float]:
    peer.enter()
    yield 0.1
    peer.say({"type": "resume", "session_id": "many", "epoch": "", "seq": 0})  # which a store has to be asked for
    for _ in range(50):
        peer.send(frame(PING, b"meanwhile" * 13) * 3)
    yield 0.5
    peer.enter()
    for number in range(6):
        yield 0.3
        peer.say(chat("one more", session_id=f"many-{peer.random.randrange(1000)}-{number}"))
    yield 1.0


def _repeater(peer: Stranger) -> Iterator[float]:
    """Sends the same messages again and again, over every connection that it gets: each is run once."""
    for _ in range(8):
        peer.enter(user_id=OUTSIDER)
        yield 0.5
        for number in range(2):
            peer.say(chat(f"{HONEST}repeated.{number} again", id=f"r{number}", session_id="repeated"))
            yield 0.5
        yield peer.random.uniform(0.5, 4.0)
        peer.leave()


SCRIPTS: dict[str, Script] = {
    "wrong frames": _wrong_frames, "frame flood": _frame_flood, "slow loris": _slow_loris,
    "endless fragments": _endless_fragments, "bomb": _bomb, "wrong tokens": _wrong_tokens, "old tokens": _old_tokens,
    "foreigner": _foreigner, "outstayer": _outstayer, "ack ahead": _ack_ahead, "deaf pings": _deaf_pings,
    "half head": _half_head, "no HTTP": _no_http, "never authenticates": _never_authenticates,
    "bad events": _bad_events, "probes": _probes, "crowd": _crowd, "binary": _binary, "too long": _too_long,
    "unfinished message": _unfinished, "early message": _early_message, "bare reader": _bare_reader,
    "repeater": _repeater, "late reader": _late_reader, "many sessions": _many_sessions,
}  # fmt: skip


def play(peer: Stranger, name: str) -> Iterator[float]:
    """What a peer does, until it is done or the world calm, and leaves."""
    for delay in SCRIPTS[name](peer):
        yield delay
        if peer.world.calm:
            break
    peer.leave()
