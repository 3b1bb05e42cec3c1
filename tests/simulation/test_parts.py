"""The parts of a simulated world, each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from qaws_proto.config import WebSocketConfig
from qaws_proto.effects import SaveRecords
from qaws_proto.records import EventRecord
from qaws_proto.testing.counters import NAMES, Counters
from qaws_proto.testing.frames import MASK
from qaws_proto.testing.issuer import Issuer
from qaws_proto.testing.node import NodeUnderTest, configure
from qaws_proto.testing.peer import frame, remasked
from qaws_proto.testing.pipe import Lane, Network
from qaws_proto.testing.profile import draw
from qaws_proto.testing.schedule import MICROSECOND, Schedule
from qaws_proto.testing.store import StoreModel
from qaws_proto.testing.streams import Streams

# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def happen(schedule: Schedule) -> None:
    """Everything that is planned."""
    while (at := schedule.soonest) is not None:
        schedule.mono = max(schedule.mono, at)
        schedule.take().act()


def test_plans_come_in_the_order_of_their_times_and_then_of_planning() -> None:
    schedule, told = Schedule(0.0), list[str]()
    for delay, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        schedule.plan(delay, name, lambda name=name: told.append(name))  # type: ignore[misc]
    happen(schedule)
    assert told == ["a", "b", "c"]


def test_a_script_goes_on_when_its_time_has_come() -> None:
    schedule, told = Schedule(10.0), list[float]()

    def script() -> Iterator[float]:
        for delay in (0.5, 0.25):
            yield delay
            told.append(schedule.mono)

    schedule.play("a script", script())
    happen(schedule)
    assert told == pytest.approx([10.5, 10.75], abs=MICROSECOND)


def test_no_two_plans_are_for_the_same_moment() -> None:
    schedule, told = Schedule(1000.0), list[tuple[float, int]]()
    for number in range(100):
        schedule.plan(0.6, "one of many", lambda number=number: told.append((schedule.mono, number)))  # type: ignore[misc]
    happen(schedule)
    times, numbers = zip(*told, strict=True)
    assert list(numbers) == list(range(100))
    assert all(1000.6 < one < other < 1000.6 + MICROSECOND for one, other in pairwise(times))


def test_the_past_cannot_be_planned() -> None:
    with pytest.raises(AssertionError):
        Schedule(0.0).plan(-1.0, "too late", lambda: None)


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Reader:
    """What comes out of a lane, and when."""

    def __init__(self, network: Network) -> None:
        self.schedule = Schedule(0.0)
        self.reads: list[tuple[float, bytes]] = []
        self.ended: list[float] = []
        random = Streams(1).stream("lane")
        self.lane = Lane("a lane", self.schedule, network, random, self._read, self._end)

    def _read(self, data: bytes) -> None:
        self.reads.append((round(self.schedule.mono, 6), data))

    def _end(self) -> None:
        self.ended.append(round(self.schedule.mono, 6))

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.reads)


def test_bytes_come_late_in_order_and_then_the_end() -> None:
    reader = Reader(Network(latency=0.5))
    reader.lane.write(b"one")
    reader.lane.write(b"two")
    reader.lane.finish()
    assert reader.lane.held == 6
    happen(reader.schedule)
    assert reader.reads == [(0.5, b"one"), (0.5, b"two")]
    assert (reader.ended, reader.lane.held) == ([0.5], 0)


@pytest.mark.parametrize(
    ("network", "fewest", "most"),
    [(Network(bytes_p=1.0, jitter=0.1), 40, 40), (Network(split_p=1.0, jitter=0.1), 4, 10), (Network(join=9.0), 1, 1)],
)
def test_what_is_written_is_read_otherwise(network: Network, fewest: int, most: int) -> None:
    reader = Reader(network)
    for part in (b"a" * 20, b"b" * 20):
        reader.lane.write(part)
    happen(reader.schedule)
    assert reader.data == b"a" * 20 + b"b" * 20
    assert fewest <= len(reader.reads) <= most


def test_a_stall_holds_everything_back_and_loses_nothing() -> None:
    reader = Reader(Network(latency=0.1))
    reader.lane.write(b"before")
    reader.lane.stall(3.0)
    reader.lane.write(b"behind")
    happen(reader.schedule)
    assert reader.reads == [(3.0, b"before"), (3.0, b"behind")]


def test_a_reader_that_does_not_read_gets_it_later() -> None:
    reader = Reader(Network(latency=0.1))
    reader.lane.hold()
    reader.lane.write(b"held")
    happen(reader.schedule)
    assert reader.reads == []
    reader.lane.release()
    happen(reader.schedule)
    assert reader.data == b"held"


def test_what_is_closed_lets_nothing_out() -> None:
    reader = Reader(Network(latency=0.1))
    reader.lane.write(b"lost")
    reader.lane.close()
    reader.lane.write(b"too late")
    reader.lane.finish()
    happen(reader.schedule)
    assert (reader.reads, reader.ended) == ([], [])


def test_frames_have_one_mask_and_say_the_same() -> None:
    payloads = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 70_000]
    wanted = b"".join(frame(1, payload) for payload in payloads)
    other = bytearray()
    for payload in payloads:
        whole = frame(1, payload)
        start = len(whole) - len(payload) - 4
        key = b"\x01\x02\x03\x04"
        other += whole[:start] + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    assert remasked(bytes(other)) == wanted == remasked(wanted)
    assert MASK in wanted


# ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────────


def record(seq: int) -> EventRecord:
    return EventRecord("ana", "s", "e", seq, b"{}")


@pytest.mark.row("D2")
@pytest.mark.parametrize(("synced", "head"), [(False, 1), (True, 2)])
def test_a_crash_loses_what_was_written_and_not_synced(synced: bool, head: int) -> None:
    store = StoreModel()
    store.save([record(1)])
    store.write([record(2)])
    if synced:
        store.sync()
    assert store.crash() is not synced
    stored = store.load("ana", "s")
    assert stored is not None
    assert stored.head == head


def test_a_store_refuses_a_second_write_before_the_first_is_synced() -> None:
    store = StoreModel()
    store.write([record(1)])
    with pytest.raises(AssertionError):
        store.write([record(2)])


def test_a_store_answers_in_any_order_and_what_is_kept_is_not_kept_again() -> None:
    node = NodeUnderTest(configure(), StoreModel(), prompt=False)
    for session_id in "st":
        client = node.connect()
        client.chat(session_id=session_id)
    node.answer(1)  # the second load
    save = next(effect for effect in node.asked if isinstance(effect, SaveRecords))
    assert node.store is not None
    node.store.save(save.records)
    node.answer(node.asked.index(save), kept=True)
    node.answer_all()
    assert len(node.runs) == 2


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.row("A7")
def test_a_token_of_a_new_key_is_good_once_the_set_is_read_again() -> None:
    settings = {"jwks": "a model of a file", "jwks_interval": 5}
    config = WebSocketConfig.model_validate({"security": {"authentication": settings}})
    issuer, node = Issuer(config, Streams(1)), NodeUnderTest(config)
    node.settle()
    node.give_keys(issuer.document())
    for _ in range(2):
        token = issuer.token("ana", unix=node.now.unix, life=3600)
        client = node.upgrade(f"Authorization: Bearer {token}")
        if node.loading is not None:
            node.give_keys(issuer.document())
        client.expect_http(101)
        issuer.rotate()
        node.advance(6)
    assert len(set(issuer.issued)) == 2
    assert not any(secret in issuer.document().decode() for secret in issuer.secrets())


# ── what is drawn, and what is counted ───────────────────────────────────────────────────────────────────────────────


def test_a_profile_follows_from_its_seed() -> None:
    assert draw(Streams(5)) == draw(Streams(5))
    assert len({repr(draw(Streams(seed))) for seed in range(20)}) == 20
    assert all(draw(Streams(seed)).faults() for seed in range(20))


def test_only_what_is_in_the_list_is_counted() -> None:
    counters = Counters()
    assert counters.missing == list(NAMES)
    counters.count("crash")
    assert "crash" not in counters.missing
    with pytest.raises(KeyError):
        counters.count("no state at all")
    assert len(NAMES) == len(set(NAMES)) >= 40
