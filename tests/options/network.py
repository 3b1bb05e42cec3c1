"""Experiments on a node in virtual time: what comes over the network, up to the upgrade and behind it."""

from __future__ import annotations

from qaws_proto import WebSocketConfig
from qaws_proto.effects import SendBytes
from qaws_proto.inputs import DrainRequested
from qaws_proto.testing.client import Client
from qaws_proto.testing.peer import BINARY, PING, TEXT, frame, request, text, upgrade
from tests.helpers.node import NodeUnderTest

from .experiment import Experiment, count_until, largest, seconds_until

CONTINUATION = 0
APPLICATION_PING = text({"type": "ping"})


def status(config: WebSocketConfig, *headers: str, path: str = "/") -> int:
    """What an upgrade is answered."""
    return status_of(NodeUnderTest(config).upgrade(*headers, path=path))


def status_of(client: Client) -> int:
    """What a client was answered."""
    assert client.stream.head is not None
    return client.stream.head.status


def head_of(config: WebSocketConfig, data: bytes) -> int | None:
    """The status that these bytes are answered with at once; None where more is waited for."""
    client = NodeUnderTest(config).open()
    client.send_bytes(data)
    return None if client.stream.head is None else client.stream.head.status


# ── server ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def statuses_of_three_upgrades(config: WebSocketConfig) -> list[int]:
    node = NodeUnderTest(config)
    return [status_of(node.upgrade()) for _ in range(3)]


def time_of_the_first_ping(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    return seconds_until(node, lambda: any(opcode == PING for opcode, _ in client.stream.frames))


def time_from_the_ping_to_the_end(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    pinged = seconds_until(node, lambda: any(opcode == PING for opcode, _ in client.stream.frames))
    assert pinged == config.server.heartbeat_interval
    return seconds_until(node, lambda: client.dropped)


def status_for_a_host(config: WebSocketConfig) -> int:
    return status(config)  # which asks for localhost


def status_for_the_root(config: WebSocketConfig) -> int:
    return status(config)


def address_behind_a_proxy(config: WebSocketConfig) -> object:
    node = NodeUnderTest(config)
    node.upgrade("X-Forwarded-For: 203.0.113.7", "Forwarded: for=203.0.113.8")
    return node.note("opened").fields["address"]


# ── compression ──────────────────────────────────────────────────────────────────────────────────────────────────────

OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
LONG_ANSWER = " ".join(str(number * number) for number in range(500))


def answer_to_an_offer(config: WebSocketConfig) -> str | None:
    head = NodeUnderTest(config).upgrade(OFFER).expect_http(101)
    return head.headers.get("sec-websocket-extensions")


def bytes_of_a_long_answer(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config)
    client = node.upgrade(OFFER)
    client.chat()
    return sum(len(effect.data) for effect in node.finish(node.only_run, LONG_ANSWER) if isinstance(effect, SendBytes))


# ── limits of time ───────────────────────────────────────────────────────────────────────────────────────────────────


def time_for_a_head(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.open()
    client.send_bytes(b"GET / HTTP/1.1\r\n")
    return seconds_until(node, lambda: client.stream.head)


def time_for_a_message(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    client.send_bytes(frame(TEXT, b"{", fin=False))
    return seconds_until(node, lambda: client.stream.closed)


def time_without_progress(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    client.block()
    return seconds_until(node, lambda: client.stream.closed)


def time_for_the_answer_to_a_close(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.connect()
    node.step(DrainRequested())
    assert client.stream.closed
    assert not client.dropped
    return seconds_until(node, lambda: client.dropped)


def time_behind_the_half_close(config: WebSocketConfig) -> float:
    node = NodeUnderTest(config)
    client = node.open()
    client.send_bytes(request("/nowhere"))
    assert client.write_closed
    return seconds_until(node, lambda: client.dropped)


# ── limits of size and number ────────────────────────────────────────────────────────────────────────────────────────


def largest_head(config: WebSocketConfig) -> int:
    return largest(lambda size: head_of(config, upgrade("/", "X: " + "x" * size)) != 431)


def longest_request_line(config: WebSocketConfig) -> int:
    return largest(lambda size: head_of(config, upgrade("/" + "x" * size)) != 414)


def most_headers(config: WebSocketConfig) -> int:
    return largest(lambda number: head_of(config, upgrade("/", *["X: x"] * number)) != 431, 1000)


def largest_message(config: WebSocketConfig) -> int:
    def fits(size: int) -> bool:
        client = NodeUnderTest(config).connect()
        client.send_bytes(frame(TEXT, b"x" * size))
        return client.stream.closed is None

    return largest(fits)


def most_fragments(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    client.send_bytes(frame(TEXT, b"{", fin=False))
    return count_until(
        lambda: client.send_bytes(frame(CONTINUATION, b" ", fin=False)), lambda: client.stream.closed is not None
    )


def most_frames_at_once(config: WebSocketConfig) -> int:
    def fits(number: int) -> bool:
        node = NodeUnderTest(config)
        client = node.connect()
        client.send_bytes(frame(PING) * number)
        node.settle()
        return client.stream.closed is None

    return largest(fits, 1000)


def most_frames_over_time(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config)
    client = node.connect()

    def tenth_of_a_second() -> None:
        node.advance(0.1)
        client.send_bytes(frame(PING))

    return count_until(tenth_of_a_second, lambda: client.stream.closed is not None)


def frames_of_one_turn(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    client.send_bytes(APPLICATION_PING * 10)
    return len(client.stream.frames)


def read_before_the_upgrade(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config)
    return node.gateway.read_size(node.open().number)


def read_behind_the_upgrade(config: WebSocketConfig) -> int:
    node = NodeUnderTest(config)
    return node.gateway.read_size(node.connect().number)


def most_unread_frames(config: WebSocketConfig) -> int:
    def fits(number: int) -> bool:
        client = NodeUnderTest(config).connect()
        client.send_bytes(APPLICATION_PING * number)
        return not client.paused

    return largest(fits, 200)


def answers_until_reading_pauses(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    client.block()
    return count_until(lambda: client.send_bytes(APPLICATION_PING), lambda: client.paused)


def answers_until_the_end(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    client.block()
    return count_until(lambda: client.send_bytes(APPLICATION_PING), lambda: client.stream.closed)


def bytes_behind_a_close(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    client.send_bytes(frame(BINARY, b"x"))
    assert client.stream.closed
    return count_until(lambda: client.send_bytes(b"x"), lambda: client.dropped, 10_000)


def unanswered_sockets(config: WebSocketConfig) -> list[bool]:
    node = NodeUnderTest(config)
    clients = [node.open(f"192.0.2.{number}") for number in range(1, 4)]
    return [client.stream.head is None and not client.dropped for client in clients]


def advice_of_a_full_server(config: WebSocketConfig) -> str:
    node = NodeUnderTest(config)
    node.connect()
    return node.upgrade().expect_http(503).headers["retry-after"]


def bad_messages_until_the_end(config: WebSocketConfig) -> int:
    client = NodeUnderTest(config).connect()
    return count_until(lambda: client.send("no JSON"), lambda: client.stream.closed)


def loud_refusals(config: WebSocketConfig, *peers: str, pause: float = 0) -> list[str]:
    node = NodeUnderTest(config)
    for peer in peers:
        node.open(peer).send_bytes(request("/nowhere"))
        node.advance(pause)
    return [note.level for note in node.notes if note.name == "refused"]


def answers_to_nesting(config: WebSocketConfig) -> list[object]:
    client = NodeUnderTest(config).connect()
    client.chat(metadata={"place": "here"})
    return [(event["error_code"], event["details"]) for event in client.heard if event["type"] == "error"]


ONE_FRAME_A_TURN = {"limits.frames_per_turn": 1}
ONE_CONNECTION = {"server.max_connections": 1}
COMPRESSING = {"server.compression.enabled": True}
TRUSTING = {"server.trusted_proxies": ["192.0.2.0/24"]}

EXPERIMENTS = {
    "server.path": Experiment("/", "/ws", status_for_the_root),
    "server.max_connections": Experiment(1, 2, statuses_of_three_upgrades),
    "server.timeout": Experiment(5, 12, time_from_the_ping_to_the_end),
    "server.heartbeat_interval": Experiment(7, 20, time_of_the_first_ping),
    "server.allowed_hosts": Experiment([], ["qa.example"], status_for_a_host),
    "server.trusted_proxies": Experiment([], ["192.0.2.0/24"], address_behind_a_proxy),
    "server.forwarded_header": Experiment("x-forwarded-for", "forwarded", address_behind_a_proxy, TRUSTING),
    "server.compression.enabled": Experiment(False, True, answer_to_an_offer),
    "server.compression.level": Experiment(1, 9, bytes_of_a_long_answer, COMPRESSING),
    "server.compression.min_size": Experiment(1000, 1_000_000, bytes_of_a_long_answer, COMPRESSING),
    "limits.head_size": Experiment(1024, 2048, largest_head),
    "limits.request_line": Experiment(300, 500, longest_request_line),
    "limits.headers": Experiment(10, 20, most_headers),
    "limits.head_timeout": Experiment(2, 7, time_for_a_head),
    "limits.max_message_size": Experiment(1024, 2048, largest_message),
    "limits.max_fragments": Experiment(3, 5, most_fragments),
    "limits.message_timeout": Experiment(3, 8, time_for_a_message),
    "limits.frames_per_second": Experiment(1, 5, most_frames_over_time, {"limits.frame_burst": 5}),
    "limits.frame_burst": Experiment(5, 9, most_frames_at_once),
    "limits.frames_per_turn": Experiment(2, 4, frames_of_one_turn),
    "limits.handshake_read": Experiment(1024, 2048, read_before_the_upgrade),
    "limits.read": Experiment(1024, 2048, read_behind_the_upgrade),
    "limits.inbox": Experiment(256, 1024, most_unread_frames, ONE_FRAME_A_TURN),
    "limits.out_high": Experiment(256, 1024, answers_until_reading_pauses),
    "limits.out_top": Experiment(1024, 2048, answers_until_the_end),
    "limits.write_timeout": Experiment(3, 7, time_without_progress),
    "limits.close_timeout": Experiment(2, 6, time_for_the_answer_to_a_close),
    "limits.linger": Experiment(1, 3, time_behind_the_half_close),
    "limits.discard": Experiment(256, 512, bytes_behind_a_close),
    "limits.connections_per_address": Experiment(1, 2, statuses_of_three_upgrades),
    "limits.handshakes": Experiment(1, 2, unanswered_sockets),
    "limits.retry_after": Experiment(5, 9, advice_of_a_full_server, ONE_CONNECTION),
    "limits.bad_messages_per_minute": Experiment(2, 4, bad_messages_until_the_end),
    "limits.refusal_interval": Experiment(
        2, 9, lambda config: loud_refusals(config, "192.0.2.1", "192.0.2.1", pause=5)
    ),
    "limits.refusal_addresses": Experiment(1, 2, lambda config: loud_refusals(config, "192.0.2.1", "192.0.2.2")),
    "limits.json_depth": Experiment(1, 2, answers_to_nesting),
}
