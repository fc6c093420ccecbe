"""``python -m soak``: the arguments and the exit code."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from types import FrameType

from rich.console import Console

from soak.controller import Options, soak
from soak.faults import FAULTS
from soak.report import show


def main() -> int:
    """Run a soak; 0 if everything was as it must be, 1 if not."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"soak of {options.seconds:.0f} s with seed {options.seed}", highlight=False)
    try:
        result = soak(options, say=lambda line: console.print(line, highlight=False, markup=False))
    except KeyboardInterrupt:
        console.print("interrupted; every process was ended")
        return 130
    show(result, console)
    if options.keep:
        console.print(f"logs, ledgers and journals: {result.folder}", highlight=False)
    return 1 if result.problems else 0


def _options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m soak", description="Load a gateway, break things, and count every request."
    )
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--processes", type=int, default=4, help="client processes")
    parser.add_argument("--clients", type=int, default=16, help="clients in each of them")
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second, about")
    parser.add_argument("--cuts", type=float, default=16.0, help="cut connections a second")
    parser.add_argument("--slow", type=int, default=3, help="peers that do not read")
    parser.add_argument("--plant", choices=sorted(FAULTS), default="", help="a fault to be found")
    parser.add_argument("--keep", action="store_true", help="keep logs, ledgers and journals")
    return Options(**vars(parser.parse_args()))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
