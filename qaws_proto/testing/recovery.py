"""The quiet phase of a simulated world: faults stop, and within a bounded time everything has to have recovered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..inputs import AddressUnblocked, UserUnblocked
from .history import Rules, check_heard, check_log
from .judge import check_reads, check_replay
from .users import Tab, User

if TYPE_CHECKING:
    from .world import World

BOUND = 240.0  # seconds until everybody is connected again and answered
REST = 30.0  # seconds more until nothing is left of those who went
LOOK = 1.0  # seconds between two looks


def recover(world: World) -> None:
    """Let everything come to rest, and judge it."""
    be_kind(world)
    _await_recovery(world)
    world.pass_time(REST)
    _await_recovery(world)  # a token may have come to its end meanwhile
    check_idle(world)
    check_fresh(world)
    check_history(world)


def _await_recovery(world: World) -> None:
    for _ in range(int(BOUND / LOOK)):
        for user in world.users:
            user.reopen()
        if _recovered(world):
            return
        world.pass_time(LOOK)
    raise AssertionError(f"not recovered within {BOUND} s: {_state(world)}")


def be_kind(world: World) -> None:
    """No more faults: the node is up, the network fast, the store prompt, agents finish, nobody is kept out."""
    world.calm = True
    world.network = world.network.calm()
    world.disk.faults = world.disk.faults._replace(slow=0.002, stall_p=0.0, save_p=0.0, load_p=0.0)
    for pipe in world.pipes:
        pipe.set_network(world.network)
    world.agents.end_all()
    world.pass_time(world.config.drain.timeout + 20)  # a drain that has begun ends, and the node comes back
    if world.node is not None:
        for user in world.users:
            if world.issuer.needed:
                world.node.step(UserUnblocked("ops", "", user.id))
            world.node.step(AddressUnblocked("ops", "", user.address))


def _tabs(world: World) -> list[Tab]:
    return [tab for user in world.users for tab in user.tabs]


def _recovered(world: World) -> bool:
    node = world.node
    if node is None or node.runs or node.asked:
        return False
    return all(tab.flowing and set(tab.asked) <= tab.heard.ends.keys() for tab in _tabs(world))


def _state(world: World) -> str:
    tabs = [f"{tab.name}: flowing {tab.flowing}, asked {tab.asked}, ends {sorted(tab.heard.ends)}, {tab.ended}"
            for tab in _tabs(world)]  # fmt: skip
    node = world.node
    return f"{tabs}; runs {None if node is None else sorted(node.runs)}"


def check_idle(world: World) -> None:
    """C3 of the resources: nothing is left of connections and runs that have ended."""
    node = world.node
    assert node is not None
    gateway, honest = node.gateway, len(_tabs(world))
    assert gateway.connections == honest, f"{gateway.connections} connections, and {honest} clients"
    assert gateway.runs == 0, f"{gateway.runs} runs are left"
    gauges = gateway.gauges
    assert (gauges.handshakes, gauges.blocked, gauges.out_bytes, gauges.unsaved_bytes) == (0, 0, 0, 0), gauges
    for number in node.clients:
        assert gateway.buffered_bytes(number) == 0, f"connection {number} holds bytes"


def check_fresh(world: World) -> None:
    """A client that nobody knows gets an answer."""
    fresh = User(world, len(world.users) + 1, tabs=1)
    world.users.append(fresh)
    tab = fresh.tabs[0]
    tab.ask("anybody there?", stream=True)
    world.pass_time(70.0)
    assert tab.flowing, f"a fresh client is not let in: {tab.ended}"
    assert set(tab.heard.ends) >= set(tab.asked), "a fresh client gets no answer"


def check_history(world: World) -> None:
    """C2, C3, C8, C10, C11, C12 of the whole history."""
    config = world.config
    restarted = world.lives > 1
    forgets = world.store is None
    rules = Rules(world.store is not None, forgets, restarted)
    for user in world.users:
        for tab in user.tabs:
            check_heard(tab.heard, tab.asked, world.truth, rules)
    world.truth.check_once(forgets=forgets, reruns=config.store.on_restart == "rerun" and restarted)
    if world.store is not None:
        assert world.store.runs.keys() == world.store.ended, "C11: an accepted message without an end"
        for tab in _tabs(world):
            for (_, session_id), payloads in world.store.events.items():
                if session_id == tab.session_id:
                    check_log(tab.heard, payloads)

    def ids(first: int) -> object:
        numbers = iter(range(first + 1, 1 << 30))
        return lambda: world.streams.text(f"id {next(numbers)}")

    random = world.streams.stream("reads")
    for life in world.past:
        check_replay(life, ids)  # type: ignore[arg-type]
        if world.store is None and world.seed % 4 == 0:
            check_reads(life, ids, random)  # type: ignore[arg-type]
