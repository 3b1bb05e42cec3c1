"""What a simulated world is like: its configuration, its faults and how often they come, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .agents import KINDS
from .disk import DiskFaults
from .node import SECRET
from .pipe import Network
from .strangers import SCRIPTS
from .streams import Random, Streams

#: Bounds that a short world reaches. Honest messages are well within them.
SMALL: dict[str, dict[str, Any]] = {
    "server": {"max_connections": 10, "heartbeat_interval": 8, "timeout": 4},
    "limits": {
        "max_message_size": 2048, "max_fragments": 6, "frames_per_second": 20, "frame_burst": 60, "frames_per_turn": 4,
        "inbox": 512, "out_high": 512, "out_top": 4096, "write_timeout": 6, "message_timeout": 5, "head_timeout": 4,
        "connections_per_address": 4, "handshakes": 12, "bad_messages_per_minute": 4, "failed_tokens_per_minute": 8,
    },
    "agent": {"timeout": 5, "max_duration": 12, "max_response_size": 4096, "cancel_grace": 2, "max_runs": 5},
    "sessions": {"ttl": 40, "per_user": 3, "max_sessions": 12, "queue": 2, "max_events": 16, "max_bytes": 8192,
                 "known_ids": 64},
    "drain": {"timeout": 6, "closes": 2},
}  # fmt: skip
RATES = {"requests_per_minute": 20, "burst_size": 4, "strikes": 3}
DOUBLE_TEXTS = ("enqueue", "enqueue", "reject", "interrupt", "concurrent")


@dataclass(frozen=True, slots=True)
class Profile:
    """One world, before anything happens in it. Times are seconds; those that end in `_every` are averages, 0 never."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    authentication: str = "off"  # or "secret", "keys"
    durable: bool = False
    users: int = 2
    tabs: bool = False  # some users have two clients in one session
    hosted_p: float = 0.0  # that a connection comes through a host that frames by itself
    chaos: float = 40.0  # how long things go wrong
    asks_every: float = 4.0
    token_life: int = 3600
    token_fails_p: float = 0.0
    network: Network = field(default_factory=Network)
    disk: DiskFaults = field(default_factory=DiskFaults)
    agents: tuple[str, ...] = ("echo", "slow", "steps")
    hostile: tuple[str, ...] = ()  # scripts that may come
    hostile_every: float = 0.0
    crash_every: float = 0.0
    stop_every: float = 0.0  # by drain or stop
    commands_every: float = 0.0
    jump_every: float = 0.0
    early_every: float = 0.0
    reload_every: float = 0.0  # a user closes the client and opens another one

    def faults(self) -> dict[str, object]:
        """What is on, for people."""
        usual = Profile()
        names = [name for name in Profile.__dataclass_fields__ if getattr(self, name) != getattr(usual, name)]
        return {name: getattr(self, name) for name in names}


def draw(streams: Streams) -> Profile:
    """The profile of a seed."""
    random = streams.stream("profile")
    authentication = random.choice(("off", "off", "secret", "secret", "keys"))
    durable = random.random() < 0.5
    small = random.random() < 0.7
    budget = random.choice((2000, 100_000)) if random.random() < 0.3 else None

    def sometimes(p: float, value: float) -> float:
        return value if random.random() < p else 0.0

    return Profile(
        settings=_settings(random, authentication, small=small, durable=durable, budget=budget),
        authentication=authentication,
        durable=durable,
        users=random.randint(1, 3),
        tabs=random.random() < 0.4,
        hosted_p=random.choice((0.0, 0.0, 0.3)),
        chaos=random.choice((15.0, 30.0, 60.0)),
        asks_every=random.choice((2.0, 4.0, 8.0)),
        token_life=random.choice((3600, 70, 25)),
        token_fails_p=random.choice((0.0, 0.0, 0.2)),
        network=_network(random),
        disk=_disk(random),
        agents=tuple(sorted(random.sample(sorted(KINDS), random.randint(2, 7)))),
        hostile=tuple(sorted(random.sample(sorted(SCRIPTS), random.randint(4, 14)))),
        hostile_every=sometimes(0.7, random.choice((4.0, 10.0))),
        crash_every=sometimes(0.4, random.choice((12.0, 30.0))),
        stop_every=sometimes(0.25, 25.0),
        commands_every=sometimes(0.4, random.choice((5.0, 12.0))),
        jump_every=sometimes(0.25, 15.0),
        early_every=sometimes(0.3, 2.0),
        reload_every=sometimes(0.3, 15.0),
    )


def _settings(
    random: Random, authentication: str, *, small: bool, durable: bool, budget: int | None
) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {name: dict(section) for name, section in SMALL.items()} if small else {}
    sessions = settings.setdefault("sessions", {})
    sessions["double_text"] = random.choice(DOUBLE_TEXTS)
    sessions["exclusive"] = random.random() < 0.2
    agent = settings.setdefault("agent", {"timeout": 5, "max_duration": 20, "cancel_grace": 2})
    if budget is not None:
        agent["budget"] = {"per_day": budget, "reserve": 100}
    if random.random() < 0.3:
        agent["runs_per_user"] = 2
    agent["roll_up"] = random.choice((0.04, 0.0, 0.5))
    server = settings.setdefault("server", {"heartbeat_interval": 10, "timeout": 5})
    if random.random() < 0.4:
        server["compression"] = {"enabled": True, "min_size": random.choice((0, 128))}
    security: dict[str, Any] = settings.setdefault("security", {})
    if random.random() < 0.5:
        security["rate_limiting"] = {**RATES, "dry_run": random.random() < 0.3}
    if random.random() < 0.2:
        settings.setdefault("limits", {})["connections_per_minute"] = 15
    leeway = random.choice((2, 30))
    if authentication == "secret":
        security["authentication"] = {"enabled": True, "jwt_secret": SECRET, "leeway": leeway}
    elif authentication == "keys":
        security["authentication"] = {
            "jwks": "a model of a file", "timeout": 6, "jwks_refresh": 15, "jwks_interval": 5, "leeway": leeway,
        }  # fmt: skip
    if durable:
        settings["store"] = {
            "kind": "sqlite", "path": "a model of it", "on_restart": random.choice(("fail", "rerun")),
            "retry": random.choice((0.5, 2)), "max_unsaved": random.choice((4096, 1 << 20)),
        }  # fmt: skip
    settings["drain"] = {"timeout": 6, "closes": 2}
    return settings


def _network(random: Random) -> Network:
    return Network(
        latency=random.choice((0.001, 0.02, 0.2)),
        jitter=random.choice((0.0, 0.05, 0.3)),
        split_p=random.choice((0.0, 0.2, 0.5)),
        bytes_p=random.choice((0.0, 0.0, 0.02)),
        join=random.choice((0.0, 0.0, 0.05)),
        window=random.choice((1 << 20, 1 << 20, 4096, 700)),
        refuse_p=random.choice((0.0, 0.0, 0.2)),
        cut_every=random.choice((0.0, 5.0, 15.0)),
        stall_every=random.choice((0.0, 0.0, 6.0)),
        stall=random.choice((0.5, 4.0, 15.0)),
        half_open_p=random.choice((0.0, 0.3)),
    )


def _disk(random: Random) -> DiskFaults:
    bad = random.random() < 0.5
    return DiskFaults(
        slow=random.choice((0.0, 0.002, 0.02)),
        stall_p=random.choice((0.0, 0.02)),
        save_p=0.15 if bad else 0.0,
        load_p=0.15 if bad else 0.0,
    )
