"""C9: a node says and does the same whether it reads bytes, or messages behind a host that frames by itself.

One history is played on two nodes: on the one each peer sends bytes, on the other it stands behind a `Host`. After
every act both peers have been told the same, runs were started, cancelled, paused and resumed alike, and the notes
agree. What differs belongs to the transport, and is kept out of the histories or out of the comparison:

- pings and pongs are the host's: the heartbeat of the node at byte level is set to a day, and pongs are not compared;
- a node at byte level waits for the peer's answer to its Close: these peers answer at once, and say nothing behind it;
- the frame budget counts frames or whole messages, a turn has a number of frames, a pause comes from unread frames:
  these limits are out of reach here (tests/test_message_level.py has the budget at message level);
- who breaks the rules of frames is closed by the host, with the same code: that node notes it as the peer's Close;
- a message in pieces has its limits of number and time at the host: here it ends at once;
- what waits for a blocked peer that closes still goes out as bytes, and nothing is said to a host that it has left;
- behind its end a node drops who comes, unless a host could answer: a history ends there;
- a request that is no HTTP, or no WebSocket by its head, is answered by the host: these are ones that it lets pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qaws_proto import WebSocketConfig
from qaws_proto.effects import Drained, Effect, Note, PauseReading, ResumeReading, RunEffect
from qaws_proto.inputs import Input
from qaws_proto.testing.client import Client
from qaws_proto.testing.histories import Act, perform
from qaws_proto.testing.node import configure, token
from qaws_proto.testing.peer import BINARY, CLOSE, PING, PONG, TEXT, chat, close_frame, frame, text, upgrade
from qaws_proto.testing.strategies import (
    act,
    agent_acts,
    bad_events,
    chats,
    contents,
    other_events,
    pieces,
    requests,
    stops,
)
from tests.helpers.node import NodeUnderTest
from tests.test_contract import NEAR, RATES, TOKENS

DAY = 86_400
FAR = {
    **NEAR,
    "server": {**NEAR["server"], "heartbeat_interval": DAY},
    "limits": {
        **NEAR["limits"], "frames_per_second": 10_000, "frame_burst": 10_000, "frames_per_turn": 10_000,
    },
}  # fmt: skip
CONFIGS: dict[str, WebSocketConfig] = {
    "open": configure(**FAR),
    "tokens": configure(authentication=True, security=RATES, **FAR),
}
SEEN_BY_THE_HOST = (1002, 1007)  # what it closes with by itself


# ── playing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Told(NamedTuple):
    """What one peer has been told so far, and where it stands. Pings and pongs are left out."""

    head: object
    said: list[bytes]
    closed: tuple[int, str] | None
    half_closed: bool
    dropped: bool
    paused: bool


class Turn(NamedTuple):
    """What an act led to: all the peers, what was done about runs and noted, and pauses of reading, in order."""

    peers: dict[int, Told]
    done: list[str]
    pauses: list[Effect]


class Level(NodeUnderTest):
    """A node at one level, and peers of such manners that both levels are the same."""

    def __init__(self, config: WebSocketConfig, *, hosted: bool) -> None:
        super().__init__(config)
        self.hosted = hosted
        self.deaf: set[int] = set()  # peers that closed, or broke the rules of frames, while they did not read
        self._left: set[int] = set()  # peers that have sent a Close

    def step(self, event: Input) -> list[Effect]:
        """A step, and the answer of each peer that has heard a Close in it."""
        effects = super().step(event)
        for client in self.clients.values():
            if self._upgraded(client) and client.stream.closed is not None and client.number not in self._left:
                self._left.add(client.number)
                if not client.dropped:
                    client.send_bytes(close_frame(client.stream.closed[0]))
        return effects

    def play(self, history: Sequence[Act]) -> Iterator[Turn]:
        """Perform a history; what each act led to."""
        for each in history:
            begin = len(self.history)
            if each.do == "request":
                self._ask(each.what)
            elif each.do == "say" and self.clients:
                self._say(self.clients[each.who % len(self.clients)], each.what)
            elif each.do != "say":
                perform(self, each, paused=False)
            self.settle()
            yield self._turn([effect for _, _, effects in self.history[begin:] for effect in effects])

    def _ask(self, head: bytes) -> None:
        if self.hosted:
            self.request(head)
        else:
            client = self.open()
            client.send_bytes(head)

    def _say(self, client: Client, messages: Sequence[bytes]) -> None:
        for message in messages:
            if not self._upgraded(client) or client.stream.closed is not None or client.dropped:
                return
            if message[0] & 0x0F == CLOSE:
                self._left.add(client.number)
            client.send_bytes(message)
            if client.host is not None and client.host.closed is not None and client.blocked:
                self.deaf.add(client.number)

    def _upgraded(self, client: Client) -> bool:
        return client.stream.head is not None and client.stream.head.status == 101

    def _turn(self, effects: list[Effect]) -> Turn:
        done = [compared(effect) for effect in effects if isinstance(effect, RunEffect | Note | Drained)]
        pauses: list[Effect] = [effect for effect in effects if isinstance(effect, PauseReading | ResumeReading)]
        return Turn({number: self._told(client) for number, client in self.clients.items()}, done, pauses)

    def _told(self, client: Client) -> Told:
        stream = client.stream
        said = [payload for opcode, payload in stream.frames if opcode == TEXT]
        closed = stream.closed
        if closed is not None and closed[0] in SEEN_BY_THE_HOST:
            closed = (closed[0], "violation")
        return Told(stream.head, said, closed, client.write_closed, client.dropped, client.paused)


def compared(effect: Effect) -> str:
    """An effect as it is compared: a violation of frames reads the same whoever saw it."""
    if isinstance(effect, Note) and effect.name == "closed" and effect.fields["code"] in SEEN_BY_THE_HOST:
        effect = effect._replace(fields={**effect.fields, "reason": "violation"})
    return repr(effect)


def check_levels(history: Sequence[Act], config: WebSocketConfig) -> None:
    """Play a history at both levels, act by act."""
    frames, messages = Level(config, hosted=False), Level(config, hosted=True)
    for each, by_bytes, by_messages in zip(history, frames.play(history), messages.play(history), strict=True):
        for number in messages.deaf:
            told, expected = by_messages.peers[number], by_bytes.peers[number]
            by_bytes.peers[number] = expected._replace(said=expected.said[: len(told.said)])
        assert by_messages == by_bytes, each
        if frames.drained:
            break


# ── histories ────────────────────────────────────────────────────────────────────────────────────────────────────────

ping = text({"type": "ping", "id": "p" * 60})
good_messages = st.one_of(
    st.builds(text, chats()),
    st.builds(text, chats()),
    st.builds(text, st.one_of(*[other_events(TOKENS)] * 3, bad_events())),
    st.sampled_from([ping, frame(PING, b"now"), frame(PONG)]),
    st.builds(
        lambda pieces: frame(TEXT, b'{"type":', fin=False) + frame(PING) + frame(0, b"", fin=False) * pieces
        + frame(0, b'"ping"}'),
        st.integers(0, 2),
    ),
)  # fmt: skip
bad_messages = st.one_of(
    st.builds(lambda size: frame(TEXT, b'"' + b"x" * size), st.integers(1020, 1030)),
    st.builds(lambda text: frame(TEXT, text.encode()), st.text(max_size=30)),
    st.builds(lambda code: close_frame(code), st.sampled_from([1000, 1001, 1002, 3000, None])),
    st.builds(lambda data: frame(BINARY, data), st.sampled_from([b"", b"{}", b"x" * 1024, b"x" * 1025])),
    st.builds(lambda data: frame(TEXT, data), st.sampled_from([b"\xff", b"\xe2\x82", b"\xc3\x28", b"\xed\xa0\x80"])),
    st.sampled_from([
        frame(PING, b"x", mask=False), frame(PING, b"", fin=False), frame(CLOSE, b"\x03"), frame(3), frame(0, b"x"),
        frame(TEXT, b"{}", reserved=4), close_frame(1005),
    ]),
    st.just(text("no json")),
)  # fmt: skip
messages = st.lists(good_messages, min_size=1, max_size=4)
lapses = st.tuples(st.lists(good_messages, max_size=2), bad_messages, st.lists(good_messages, max_size=1)).map(
    lambda parts: [*parts[0], parts[1], *parts[2]]
)
asks = act("request", who=0, what=requests(TOKENS))
talk = st.tuples(
    act("say", what=st.builds(text, chats()).map(lambda one: [one])), st.lists(agent_acts(), max_size=6)
).map(lambda parts: [parts[0], *parts[1]])
streamed = st.tuples(
    act("say", what=contents().map(lambda content: [text(chat(content, stream=True))])),
    act("yield", what=pieces()),
    act("yield", what=pieces()),
    act("answer", what=st.sampled_from(["", "more"])),
).map(list)
slow = st.tuples(
    act("block", who=1), talk, act("say", who=1, what=st.integers(1, 20).map(lambda times: [ping] * times)),
    st.lists(act("say", who=1, what=lapses), max_size=1), act("unblock", who=1), talk,
).map(lambda parts: [parts[0], *parts[1], parts[2], *parts[3], parts[4], *parts[5]])  # fmt: skip
peer_acts = st.one_of(
    asks,
    act("say", what=messages),
    act("say", what=messages),
    act("say", what=lapses),
    act("block", "block", "unblock"),
    act("eof", "lose"),
    act("wait", what=st.sampled_from([0.5, 1.0, 3.0, 7.0, 30.0])),
)
scenes = st.one_of(talk, streamed, slow, st.lists(peer_acts, min_size=1, max_size=3))
histories = st.tuples(
    st.lists(asks, min_size=1, max_size=3),
    st.lists(scenes, min_size=3, max_size=14),
    st.one_of(st.just([]), st.tuples(st.lists(stops(), min_size=1, max_size=2), st.lists(peer_acts, max_size=4))),
).map(lambda parts: [*parts[0], *chain(*parts[1]), *chain(*parts[2])])

HELLO = Act("request", what=upgrade())
ASK = Act("say", 0, [text(chat(id="m1", stream=True))])


@pytest.mark.clause("C9")
@example([HELLO, ASK, Act("yield", 0, "a"), Act("block"), Act("yield", 0, "x" * 1000), Act("wait", 0, 7.0)], "open")
@example([HELLO, Act("block"), Act("say", 0, [ping] * 4), Act("say", 0, [ping]), Act("unblock")], "open")
@example([HELLO, Act("block"), Act("say", 0, [ping] * 20), Act("wait", 0, 7.0)], "open")
@example([HELLO, Act("block"), Act("say", 0, [ping, close_frame(3000)]), Act("unblock"), Act("wait", 0, 7.0)], "open")
@example([HELLO, ASK, HELLO, Act("drain"), Act("finish", 0, {"content": "x"}), Act("wait", 0, 7.0)], "open")
@example([HELLO, ASK, HELLO, Act("stop"), Act("wait", 0, 7.0)], "open")
@example([HELLO, Act("say", 0, [text({"type": "auth", "token": token("ana", expires_in=70)})])], "tokens")
@given(histories, st.sampled_from(sorted(CONFIGS)))
def test_a_history_of_bytes_is_that_of_its_messages(history: list[Act], config: str) -> None:
    check_levels(history, CONFIGS[config])
