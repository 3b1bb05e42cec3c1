"""What the house is made of: what the core may import, what adapters leave to it, and which way imports run."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qaws_proto.faults import Fault

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "qaws_proto").rglob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))

#: Third-party packages the core stands on, and the modules of the standard library that do no I/O by themselves.
THIRD_PARTY = {"h11", "jwt", "pydantic", "pydantic_core", "wsproto"}
STANDARD = {
    "__future__", "array", "base64", "binascii", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib",
    "heapq", "hmac", "ipaddress", "itertools", "json", "math", "operator", "re", "struct", "types", "typing", "zlib",
}  # fmt: skip
#: What tools for tests need besides, each in its one file: Hypothesis, which users have for an extra; random numbers,
#: from a seed.
BESIDES = {"qaws_proto/testing/strategies.py": {"hypothesis"}, "qaws_proto/testing/streams.py": {"random"}}
WIRE = {"h11", "jwt", "json", "wsproto"}


def imports(tree: ast.AST) -> Iterator[str]:
    """The top-level packages that a module imports; the empty name stands for its own package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "" if node.level else (node.module or "").partition(".")[0]


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_is_pure(path: Path) -> None:
    tree = parse(path)
    besides = BESIDES.get(path.relative_to(ROOT).as_posix(), set())
    foreign = set(imports(tree)) - THIRD_PARTY - STANDARD - besides - {"", "qaws_proto"}
    assert not foreign, f"{sorted(foreign)} do not belong in the core"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        assert called not in {"open", "print", "input", "exec", "eval", "__import__"}, f"line {node.lineno}"  # type: ignore[attr-defined]


def loaded(code: str) -> set[str]:
    """Every module that is there once this has run in a fresh interpreter."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


DEPENDENCIES = """
import h11, jwt, pydantic, wsproto
class Model(pydantic.BaseModel):  # what Pydantic imports only when it is used
    secret: pydantic.SecretStr | None = None
pydantic.TypeAdapter(Model).validate_json("{}")
"""


def test_importing_the_core_brings_nothing_but_what_its_dependencies_bring() -> None:
    files = [path for path in CORE if path.relative_to(ROOT).as_posix() not in BESIDES]
    own = loaded(f"import {', '.join(map(_name, files))}") - loaded(DEPENDENCIES)
    roots = {name.partition(".")[0].removeprefix("_") for name in own}
    assert roots <= {"qaws_proto", *STANDARD}, sorted(own)


def test_strategies_without_hypothesis_say_what_is_missing() -> None:
    code = "import sys\nsys.modules['hypothesis'] = None\nimport qaws_proto.testing.strategies"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr.endswith(
        "ImportError: qaws_proto.testing.strategies needs Hypothesis: install qaws-gateway with the extra testing\n"
    )


def test_importing_the_adapters_brings_no_extra_that_an_agent_needs() -> None:
    assert "httpx2" not in loaded("import qaws, qaws.cli")
    assert "httpx2" in loaded("import qaws.agents.openai")
    jwks = "{'security': {'authentication': {'jwks': 'http://localhost/'}}}"
    keys = f"import qaws, qaws.keys\nqaws.keys.check_keys(qaws.WebSocketConfig.model_validate({jwks}))"
    assert "httpx2" in loaded(keys)
    assert "httpx2" not in loaded("import qaws.keys")


FRAMEWORKS = {"agno", "agents", "langchain_core", "langgraph", "openai", "pydantic_ai"}

AGENTS = """
import qaws
from qaws.agents import Agent, echo, load_agent
import qaws.agents.bridge
class Mine:
    async def chat(self, message):
        return message
for agent in (echo, Mine(), load_agent("echo")):
    Agent(agent, threads=1)
"""


def test_no_agent_framework_is_imported_for_an_agent_of_none() -> None:
    assert not {name.partition(".")[0] for name in loaded(AGENTS)} & FRAMEWORKS


def test_a_framework_is_imported_for_an_agent_of_it() -> None:
    there = loaded("from qaws.agents import Agent\nimport agno.agent\nAgent(agno.agent.Agent(), threads=1)")
    assert "qaws.agents.agno" in there
    assert not {"qaws.agents.langgraph", "langgraph", "pydantic_ai", "agents"} & there


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_adapters_leave_the_wire_to_the_core(path: Path) -> None:
    assert not set(imports(parse(path))) & WIRE


#: What belongs to one event loop or host each, and what they share; `manager.py` alone performs effects for them all.
DRIVERS = ("asyncio_protocol", "asyncio_server", "anyio_server", "asgi")
SHARED = ("asgi_transport", "byte_transport", "host", "outgoing", "server")
CLIENT = ("client_driver", "client_transport")  # what drives the node of a client; its verbs are in anyio_client.py
#: Lines of a driver. 180 are the loop, the transport and how it starts and stops; asgi.py has a factory besides, and
#: builds a request. One that grows beyond has begun to do what the core or the shared parts should.
THIN = 210
PUBLIC = {"ConfigError", "WebSocketConfig"}


@pytest.mark.parametrize("name", DRIVERS)
def test_adapters_stay_thin(name: str) -> None:
    assert len((ROOT / "adapters" / "qaws" / f"{name}.py").read_text("utf-8").splitlines()) <= THIN


@pytest.mark.parametrize("name", [*DRIVERS, *SHARED])
def test_adapters_know_inputs_and_effects_and_nothing_else_of_the_core(name: str) -> None:
    for node in ast.walk(parse(ROOT / "adapters" / "qaws" / f"{name}.py")):
        if isinstance(node, ast.Import):
            assert not [one.name for one in node.names if one.name.startswith("qaws_proto")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qaws_proto"):
            names = {one.name for one in node.names}
            assert node.module in ("qaws_proto.inputs", "qaws_proto.effects") or names <= PUBLIC, ast.unparse(node)


@pytest.mark.parametrize("name", [*DRIVERS, *SHARED, *CLIENT, "manager"])
def test_adapters_branch_on_the_type_of_an_effect_and_not_on_what_it_says(name: str) -> None:
    for node in ast.walk(parse(ROOT / "adapters" / "qaws" / f"{name}.py")):
        asked = node.subject if isinstance(node, ast.Match) else getattr(node, "test", None)
        read = [one for one in ast.walk(asked) if isinstance(one, ast.Attribute)] if asked is not None else []
        fields = [ast.unparse(one) for one in read if ast.unparse(one).startswith("effect.")]
        assert not fields, f"line {asked.lineno if asked is not None else 0} decides by {fields}"


@pytest.mark.parametrize("name", [*DRIVERS, *SHARED, *CLIENT, "manager"])
def test_adapters_know_no_word_of_the_protocol(name: str) -> None:
    tree = parse(ROOT / "adapters" / "qaws" / f"{name}.py")
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    codes = {fault.value.code for fault in Fault} - {None}
    assert {"RATE_LIMIT", "AUTH_FAILED"} <= codes
    assert not texts & ({"chat_message", "auth", "cancel", "agent_chunk", "agent_response", "system_event"} | codes)


def test_imports_run_one_way() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_the_folder_of_adapters_is_no_package() -> None:
    assert not (ROOT / "adapters" / "__init__.py").exists()
