"""What goes wrong in a simulated world, planned from its beginning: each kind by a random stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..inputs import (
    AddressBlocked,
    AddressUnblocked,
    Command,
    DisconnectRequested,
    DrainRequested,
    KeysRequested,
    LimitsChanged,
    StopRequested,
    TimerFired,
    TokenRevoked,
    UserBlocked,
    UserRevoked,
    UserUnblocked,
)
from .peer import chat
from .strangers import Stranger, play
from .streams import Random

if TYPE_CHECKING:
    from .world import World

DOWN = (0.1, 4.0)  # seconds that a node is gone, at least and at most


def begin(world: World) -> None:
    """Plan everything that is on in this world."""
    profile, network = world.profile, world.profile.network
    for user in world.users:
        _often(world, f"acts/{user.id}", profile.asks_every, lambda random, user=user: user.act())  # type: ignore[misc]
        _often(world, f"reloads/{user.id}", profile.reload_every, lambda random, user=user: user.reload())  # type: ignore[misc]
    _often(world, "cuts", network.cut_every, lambda random: _cut(world, random))
    _often(world, "stalls", network.stall_every, lambda random: _stall(world, random))
    _often(world, "crashes", profile.crash_every, lambda random: _soon_crash(world, random))
    _often(world, "stops", profile.stop_every, lambda random: _stop(world, random))
    _often(world, "commands", profile.commands_every, lambda random: _command(world, random))
    budget = world.config.agent.budget.per_day
    _often(world, "jumps", 0.0 if budget is not None else profile.jump_every, lambda random: _jump(world, random))
    _often(world, "early", profile.early_every, lambda random: _early(world))
    if profile.hostile:
        _often(world, "strangers", profile.hostile_every, lambda random: _stranger(world, random))


def _often(world: World, name: str, every: float, act: Callable[[Random], object]) -> None:
    """Do this again and again until the world is calm, on average each so many seconds; 0 is never."""
    random = world.streams.stream(name)

    def script() -> Iterator[float]:
        while True:
            yield random.expovariate(1 / every)
            if world.calm:
                return
            act(random)

    if every:
        world.schedule.play(name, script())


# ── the network ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _cut(world: World, random: Random) -> None:
    if world.pipes:
        half = random.random() < world.network.half_open_p
        world.counters.count("half-open" if half else "cut")
        random.choice(world.pipes).cut(half=half)


def _stall(world: World, random: Random) -> None:
    if world.pipes:
        world.counters.count("stalled")
        random.choice(world.pipes).stall(random.random() * world.network.stall)


# ── the node ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _soon_crash(world: World, random: Random) -> None:
    """Let the node die now, or within a save."""
    if world.store is not None and random.random() < 0.5:
        world.disk.trap(random.choice(("written", "synced")), lambda: _crash(world, random))
    else:
        _crash(world, random)


def _crash(world: World, random: Random) -> None:
    """The node dies, and comes back in a while."""
    if world.node is not None and not world.calm:
        world.counters.count("crash with a run in flight" if world.node.runs else "crash")
        world.kill_node()
        _restart(world, random)


def _restart(world: World, random: Random) -> None:
    world.schedule.plan(random.uniform(*DOWN), "the node starts", world.start_node)


def _stop(world: World, random: Random) -> None:
    """The node is asked to stop, and comes back in a while."""
    node = world.node
    if node is None or node.drained:
        return
    if random.random() < 0.3:
        world.counters.count("stop")
        node.step(StopRequested())
    else:
        if node.runs:
            world.counters.count("drain with a run in flight")
        late = Stranger(world, random, "198.51.100.9")
        late.enter()
        node.step(DrainRequested())
        late.say(chat("too late", session_id="late"))  # D1: taken by no node that drains
    patience = world.config.drain.timeout + 2 * world.config.limits.close_timeout + 5

    def script() -> Iterator[float]:
        began, drain = world.now.mono, world.config.drain.timeout
        for _ in range(int(patience * 10)):
            if world.node is not node:
                return
            if node.drained:
                break
            over = world.now.mono > began + drain + 0.1
            assert not over or node.runs.keys() <= node.cancelled, f"D1: agents go on: {node.runs.keys()}"
            yield 0.1
        assert node.drained, f"D1: it did not drain within {patience} s"
        world.kill_node()
        _restart(world, random)

    world.schedule.play("the node drains", script())


def _early(world: World) -> None:
    if world.node is not None:
        world.counters.count("early timer")
        world.node.step(TimerFired())


def _jump(world: World, random: Random) -> None:
    world.counters.count("wall clock jumped")
    if world.issuer.needed:
        world.excuses |= {"AUTH_FAILED"}  # its token was good, and is not any more
    world.jump(random.choice((-5000.0, -40.0, -1.0, 1.0, 40.0, 5000.0, 86_400.0)))


# ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stranger(world: World, random: Random) -> None:
    if world.node is not None:
        name = random.choice(world.profile.hostile)
        address = random.choice(("198.51.100.7", "198.51.100.8", "2001:db8::7", "192.0.2.1"))
        world.schedule.play(f"stranger, {name}", play(Stranger(world, random, address), name))


def _command(world: World, random: Random) -> None:
    """What an operator does; blocks are short."""
    if world.node is None:
        return
    user = random.choice(world.users)
    seconds = random.choice((1.0, 8.0))
    commands: list[Command | KeysRequested] = [
        AddressBlocked("ops", "", user.address, seconds),
        AddressUnblocked("ops", "", user.address),
        LimitsChanged("ops", "", {"sessions.queue": random.randint(0, 4), "limits.frame_burst": 60}),
        LimitsChanged("ops", "", {"agent.timeout": random.choice((2, 5)), "limits.retry_after": 1}),
    ]
    if world.issuer.needed:
        used = [one.token_id for one in world.node.gateway.control.connections(world.now) if one.token_id]
        commands += [
            DisconnectRequested("ops", "", None, user.id),
            UserBlocked("ops", "", user.id, seconds),
            UserUnblocked("ops", "", user.id),
            TokenRevoked("ops", "", random.choice(used or world.issuer.ids or ["t0"])),
            UserRevoked("ops", "", user.id),
        ]
    command = random.choice(commands)
    if isinstance(command, UserBlocked | AddressBlocked):
        world.excuses |= {"4403", "403", "FORBIDDEN"}
    elif isinstance(command, UserRevoked | TokenRevoked):
        world.excuses |= {"AUTH_FAILED", "4403", "403", "4401"}
    if world.config.security.authentication.key_source is not None and random.random() < 0.5:
        world.issuer.rotate()
        world.excuses |= {"AUTH_FAILED"}
        command = KeysRequested()
    world.node.step(command)
    _check_kept_out(world)
    if isinstance(command, TokenRevoked):
        tokens = {one.token_id for one in world.node.gateway.control.connections(world.now) if one.phase == "open"}
        assert command.token_id not in tokens, f"A5: {command} is of somebody who is still there"


def _check_kept_out(world: World) -> None:
    """A5: whoever is kept out is not there any more."""
    assert world.node is not None
    control, now = world.node.gateway.control, world.now
    users = {block.name for block in control.blocks(now) if block.kind == "user"}
    addresses = {block.name.partition("/")[0] for block in control.blocks(now) if block.kind == "address"}
    for one in control.connections(now):
        kept_out = one.user_id in users or one.address in addresses
        assert not kept_out or one.phase in ("handshaking", "closing"), f"A5: {one} is still there"
