"""Rounds of `kill -9`: a process that serves `qaws serve` in a child, talks to it, kills it, and goes on with the next.

    python -m tests.durability.rounds FOLDER fail 100 SEED

The child is forked, so that a round costs no start of an interpreter; from there on it is the command itself. Clients
behave as good ones do: they come back, resume behind what they saw, and send again what was not answered. The last
round is not killed: everything gets its end. Prints the counts and what is wrong as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from qaws.cli import main

from .witness import Witness, judge, stored_sessions

CLIENTS = 4
AT_ONCE = 3  # messages of a client without an answer
MOST_EVENTS = 60  # received in a round before it is killed
EARLY = 0.1  # of all rounds are killed before the server says that it is ready
PATIENCE = 30.0  # seconds for anything

SETTINGS = """
websocket:
  security:
    authentication: {{enabled: false}}
    rate_limiting: {{enabled: false}}
  logging: {{level: ERROR}}
  agent: {{roll_up: 0}}
  store: {{kind: sqlite, path: {folder}/q.db, on_restart: {mode}}}
"""


async def talker(message: str) -> Any:
    """Answers in as many pieces as the message says, some of them at once."""
    for number in range(int(message.split()[1])):
        if number % 3:
            await asyncio.sleep(0.001)
        yield f"{message} {number}, "


class Server:
    """`qaws serve` in a child process."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "q.sock")
        self.status: int | None = None  # once it has ended
        arguments = ["serve", "--config", f"{folder}/qaws.yaml", "--agent", f"{__name__}:talker"]
        self._said, said = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            status: object = 1
            try:
                os.dup2(said, sys.stderr.fileno())
                main([*arguments, "--listen", f"unix:{self.socket}"])
            except SystemExit as end:
                status = end.code
            finally:
                os._exit(status if isinstance(status, int) else 1)
        os.close(said)

    def wait(self) -> None:
        """Until it listens."""
        said = b""
        while b"listening on" not in said:
            more = os.read(self._said, 65_536)
            assert more, said.decode()
            said += more

    def kill(self) -> None:
        """End it as no program can hear of."""
        os.kill(self.process, signal.SIGKILL)

    def end(self) -> None:
        """Wait for its end."""
        _, status = os.waitpid(self.process, 0)
        self.status = os.waitstatus_to_exitcode(status)
        os.close(self._said)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server, which is gone at the end."""
    server = Server(folder)
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    finally:
        server.end()


@dataclass
class Client:
    """A client that comes back: its session, what it has seen of it, and the messages that have no answer yet."""

    name: str
    witness: Witness
    random: random.Random
    session_id: str = ""
    epoch: str = ""
    seq: int = 0
    sent: int = 0
    open: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def talk(self, path: str, heard: Callable[[], None], *, more: bool) -> None:
        """Come back and go on until the connection breaks; without `more` until everything is answered."""
        async with unix_connect(path, uri="ws://localhost/", max_queue=None, close_timeout=0) as socket:
            await self._come_back(socket)
            for message in self.open.values():
                await self._send(socket, message)
            while more or self.open:
                while more and len(self.open) < AT_ONCE:
                    await self._ask(socket)
                self._take(json.loads(await socket.recv()))
                heard()

    async def _come_back(self, socket: ClientConnection) -> None:
        hello = json.loads(await socket.recv())["data"]
        if self.session_id:
            await self._send(
                socket, {"type": "resume", "session_id": self.session_id, "epoch": self.epoch, "seq": self.seq}
            )
            answer = json.loads(await socket.recv())
            if answer["type"] != "error":
                assert answer["data"].get("recovered") is True, answer
                return
            assert answer["error_code"] == "SESSION_NOT_FOUND", answer
            assert self.seq == 0, f"{self.session_id} is gone behind event {self.seq}"
        self.session_id, self.epoch, self.seq = hello["session_id"], hello["epoch"], 0

    async def _ask(self, socket: ClientConnection) -> None:
        self.sent += 1
        message_id = f"{self.name}-{self.sent}"
        content = f"{message_id} {self.random.randrange(6)}"
        stream = self.random.random() < 0.7
        self.witness.attempted[message_id] = content
        message = {"type": "chat_message", "id": message_id, "content": content, "stream": stream}
        self.open[message_id] = message
        await self._send(socket, message)

    async def _send(self, socket: ClientConnection, event: dict[str, Any]) -> None:
        await socket.send(json.dumps({"session_id": self.session_id, **event}))

    def _take(self, event: dict[str, Any]) -> None:
        name = event.get("event_name")
        if name == "message_accepted":
            message_id, run_id = event["correlation_id"], event["data"]["run_id"]
            assert self.witness.accepted.setdefault(message_id, run_id) == run_id, f"{message_id} was accepted twice"
        if "seq" not in event:
            assert name == "message_accepted" or event.get("error_code") == "BUSY", event
            return
        assert event["seq"] > self.seq, f"{event} came behind {self.seq}"
        self.seq = event["seq"]
        self.witness.receive(self.session_id, self.epoch, event)
        if event["type"] in ("agent_response", "error"):
            self.open.pop(event["correlation_id"], None)


async def round_of(server: Server, clients: list[Client], dice: random.Random) -> None:
    """Let all clients talk, and kill the server behind so many events, at a moment of no order."""
    left = dice.randrange(MOST_EVENTS)
    enough = asyncio.Event()

    def heard() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            enough.set()

    async def talk(client: Client) -> None:
        with suppress(ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, EOFError):
            await client.talk(server.socket, heard, more=True)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(talk(client))
        if left > 0:
            await enough.wait()
        await asyncio.sleep(dice.random() * 0.003)
        server.kill()


async def last_round(server: Server, clients: list[Client], path: Path) -> None:
    """Every message gets its answer."""
    async with asyncio.timeout(PATIENCE):
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.talk(server.socket, lambda: None, more=False))
        while any(session.unfinished for session in stored_sessions(path).values()):
            await asyncio.sleep(0.01)
    os.kill(server.process, signal.SIGTERM)


def run(folder: Path, mode: str, rounds: int, seed: int) -> dict[str, Any]:
    """All rounds, and what came of them."""
    dice = random.Random(seed)
    (folder / "qaws.yaml").write_text(SETTINGS.format(folder=folder, mode=mode))
    witness = Witness()
    clients = [Client(f"c{number}", witness, random.Random(dice.random())) for number in range(CLIENTS)]
    for number in range(rounds):
        with serving(folder) as server:
            if number and dice.random() < EARLY:
                signal.setitimer(signal.ITIMER_REAL, 0.001 + dice.random() * 0.03)
                signal.sigwait([signal.SIGALRM])
                server.kill()
            else:
                server.wait()
                uvloop.run(round_of(server, clients, dice))
    with serving(folder) as server:
        server.wait()
        uvloop.run(last_round(server, clients, folder / "q.db"))
    assert server.status == 0
    sessions = stored_sessions(folder / "q.db")
    verdict = judge(witness, sessions)
    return {
        "rounds": rounds, "seed": seed, "attempted": len(witness.attempted), "accepted": len(witness.accepted),
        "received": len(witness.received), "stored": sum(len(one.events) for one in sessions.values()),
        "cut": sum(map(_was_cut, (event for one in sessions.values() for event in one.events.values()))),
        **verdict._asdict(),
    }  # fmt: skip


def _was_cut(event: dict[str, Any]) -> bool:
    """Whether this is what becomes of a run that a kill has cut."""
    return event["type"] == "error" or bool(event.get("data", {}).get("rerun"))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    print(json.dumps(run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
