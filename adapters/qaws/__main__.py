"""`python -m qaws`, and the command `qaws`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; where its packages are missing, say how to get them."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("qaws", "qaws_proto"):
            raise
        sys.exit(f"qaws: the command line needs {error.name!r}: pip install 'qaws-gateway[cli]'")
    run()


if __name__ == "__main__":
    main()
