"""The quiet phase of a simulated world: faults stop, and within a bounded time everything has to have recovered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..inputs import AddressUnblocked, Command, UserUnblocked
from .history import Rules, check_heard, check_log
from .judge import check_reads, check_replay, check_secrets, check_timers, stopping
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
    world.set_clock_right()
    world.network = world.network.calm()
    world.disk.faults = world.disk.faults._replace(slow=0.002, stall_p=0.0, save_p=0.0, load_p=0.0)
    for pipe in world.pipes:
        pipe.set_network(world.network)
    _check_deadlines(world)
    world.agents.end_all()
    world.pass_time(world.config.drain.timeout + 20)  # a drain that has begun ends, and the node comes back
    node = world.node
    if node is not None:
        for user in world.users:
            lifted: list[Command] = [AddressUnblocked("ops", "", user.address)]
            lifted += [UserUnblocked("ops", "", user.id)] if world.issuer.needed else []
            for command in lifted:
                world.do("commands", partial(node.step, command))


def _check_deadlines(world: World) -> None:
    """G1, G3, G5: no agent goes on for longer than it may, and none that was told to stop is waited for."""
    agent = world.config.agent if world.node is None else world.node.gateway.config.agent
    calls = [call for call in world.agents.calls.values() if not call.over]
    for call in calls:
        silent = world.now.mono - call.moved_at
        waits = not (call.cancelled or call.paused)
        assert not waits or silent <= agent.timeout, f"G1: an agent of kind {call.kind} is silent for {silent} s"
    world.pass_time(agent.max_duration + agent.cancel_grace + 1)
    for call in calls:
        assert call.over or call.cancelled, f"G3: an agent of kind {call.kind} goes on: {call.run.run_id}"
        waited_for = not call.over and call.run.run_id in stopping(call.node)
        assert not waited_for, f"G5: an agent of kind {call.kind} is waited for: {call.run.run_id}"


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
    check_timers(node)


def check_fresh(world: World) -> None:
    """A client that nobody knows gets an answer."""
    fresh = User(world, len(world.users) + 1, tabs=1)
    world.users.append(fresh)
    tab = fresh.tabs[0]
    tab.ask("anybody there?", stream=True)
    world.pass_time(70.0)
    assert tab.flowing, f"a fresh client is not let in: {tab.ended}"
    assert set(tab.heard.ends) >= set(tab.asked), "a fresh client gets no answer"


def _sessions_forgotten(world: World) -> bool:
    """Whether sessions may have ended for want of time or room; not for certain, where there were too many to know."""
    assert world.node is not None
    past = world.node.gateway._sessions._past
    return None in past.values() or len(past) >= world.config.sessions.max_sessions


def check_history(world: World) -> None:
    """C2, C3, C8, C10, C11, C12 of the whole history."""
    config = world.config
    restarted = world.lives > 1
    forgets = world.store is None and (restarted or _sessions_forgotten(world))
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

    random = world.streams.stream("reads")
    secrets = [*world.issuer.secrets(), *world.issuer.issued]
    for life in world.past:
        check_replay(life, world.ids_from)
        check_secrets(life, secrets)
        if world.store is None and world.seed % 4 == 0:
            check_reads(life, world.ids_from, random)
