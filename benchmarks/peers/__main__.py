"""A server in its own process: started by `Peer.start`, says its port, serves until its standard input ends."""

from __future__ import annotations

from importlib import import_module

from ..processes import listen_to_parent, raise_limits, run_fast, take_cores, tell_parent
from .work import Terms


def main() -> None:
    """Serve what the parent says."""
    told = listen_to_parent()
    serve = import_module(f"{__package__}.{told['module']}").serve
    take_cores(server=True)
    raise_limits()
    arguments = [told["variant"]] if told["variant"] else []
    run_fast(serve(Terms(**told["terms"]), lambda port: tell_parent({"port": port}), *arguments))


if __name__ == "__main__":
    main()
