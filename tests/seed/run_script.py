"""A program that connects to a gateway and runs a script of the manual: ``URL SCRIPT``."""

from __future__ import annotations

import logging
import runpy
import sys

import headgate


def main(url: str, script: str) -> None:
    """Run the script as it stands; what it logs and how its request ended goes to stdout."""
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format="log|%(name)s|%(threadName)s|%(message)s"
    )
    with headgate.connect(url):
        names = runpy.run_path(script, init_globals={"system": headgate.system})
        handle = names["myHandle"]
        ended = [
            f"handle|{type(handle).__name__}",
            f"block|{handle.block()}",
            f"get|{handle.get()}",
            f"getError|{handle.getError()}",
        ]
    # All callbacks have run by now, so their lines are not mixed with these.
    print(*ended, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
