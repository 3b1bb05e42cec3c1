"""Streamed chunks a second: the agent yields small pieces, and each goes out as a chunk of its own."""

from __future__ import annotations

import json
from secrets import token_hex

from .chat import users
from .comparison import BEST, Task, compare, goal, python_peer
from .load import CONTENT, Plan, Result, drive
from .options import Options
from .peers import Peer
from .peers.work import PIECES, Terms
from .report import Goal, at_least

MESSAGE = json.dumps({"type": "chat_message", "content": CONTENT, "stream": True}, ensure_ascii=False)


def run(options: Options) -> list[Goal]:
    """Measure, and print a table."""
    heading = f"stream: {options.connections} connections, 1 in flight, {len(PIECES)} pieces an answer"
    results = compare(Task(heading, "stream", "chunks", "chunk"), options, lambda peer: measure(peer, options))
    return goal(f"{heading}, against {BEST}", at_least(1.2), results, python_peer, BEST)


def measure(peer: Peer, options: Options) -> Result:
    """One measurement, with a fresh server. What is counted are chunks."""
    terms = Terms(secret=token_hex(32), scene="stream")
    with peer.start(terms) as server:
        port, frames = server.hear()["port"], len(PIECES) + 1
        tokens = users(terms, options.connections)
        found = drive(Plan(port, tokens, 1, options.seconds, server.pid, MESSAGE, frames, peer.dialect))
    return Result(found.count * len(PIECES), found.seconds, found.generator_cpu, found.server_cpu, found.reply)
