"""
Worker processes under fire: many requests, of which some crash, and nothing may be left of it.

    python -m soak.kills                    50,000 requests, of which 5 % crash or are killed
    python -m soak.kills --requests 2000    a short one

The exit code is 1 if a request ended as it should not have, a process or a file descriptor is left,
or the gateway's memory has grown.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import headgate
from headgate.errors import CancellationException, HandlerKilled, RequestTimeout
from headgate.request import Request

REQUESTS = 50_000

KILLED = 0.05
"""The share of requests whose worker does not survive them."""

IN_FLIGHT = 64

MOST_GROWN = 0.15
"""How much of the gateway's memory at a fifth of the way there may be more at the end."""

MIB_OF_NOISE = 8
"""MiB that an allocator may keep for itself, however short the run."""

SCRIPTS = {
    "echo": "def handleMessage(payload):\n    return payload\n",
    "exit": "import os\ndef handleMessage(payload):\n    os._exit(3)\n",
    "hang": "import time\ndef handleMessage(payload):\n    time.sleep(1e9)\n",
    "cancelled": "def handleMessage(payload):\n    while True: pass\n",
}

KINDS: dict[str, type[Exception]] = {
    "exit": HandlerKilled,
    "hang": RequestTimeout,
    "cancelled": CancellationException,
}

PROJECT = '[defaults]\nruntime = "process"\n\n[pool]\nworkers = 3\n'


def main() -> int:
    """Run it, and print what came of it."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _gateway(Path(folder)) as gateway:
        problems = _fire(gateway, options.requests, random.Random(options.seed))
    problems += _left(os.getpid())
    print("\n".join(problems) or "Nothing is left, and every request ended as it should.")
    return 1 if problems else 0


@contextmanager
def _gateway(folder: Path) -> Iterator[headgate.Gateway]:
    messages = folder / "projects/ACME/messages"
    messages.mkdir(parents=True)
    for name, script in SCRIPTS.items():
        (messages / f"{name}.py").write_text(script)
    (folder / "projects/ACME/project.toml").write_text(PROJECT)
    with headgate.Gateway("kills", projects=folder / "projects", port=0, data=folder / "data") as g:
        yield g


def _fire(gateway: headgate.Gateway, requests: int, chance: random.Random) -> list[str]:
    ends: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    open_: list[tuple[str, Request]] = []
    early, files, began = 0.0, 0, time.monotonic()
    scope = gateway.scope("")
    for number in range(requests):
        kind = chance.choice(sorted(KINDS)) if chance.random() < KILLED else "echo"
        timeout = 0.3 if kind == "hang" else 60
        handle = scope.request("ACME", kind, {"number": number}, timeout=timeout)
        open_.append((kind, handle))
        if len(open_) >= IN_FLIGHT:
            _end(open_, ends, wrong)
        if number == requests // 5:
            early, files = _memory(), _files()
    _end(open_, ends, wrong)
    seconds, grown, more = time.monotonic() - began, _memory() - early, _files() - files
    print(f"{requests} requests in {seconds:.0f} s: {dict(ends)}")
    print(f"memory {early:.0f} MiB at a fifth, {grown:+.1f} MiB since; file descriptors {more:+d}")
    problems = [f"{count} × {text}" for text, count in wrong.items()]
    if grown > max(MIB_OF_NOISE, early * MOST_GROWN):
        problems.append(f"the gateway's memory has grown by {grown:.1f} MiB")
    if more > IN_FLIGHT:
        problems.append(f"{more} file descriptors are left")
    return problems


def _end(open_: list[tuple[str, Request]], ends: Counter[str], wrong: Counter[str]) -> None:
    """End what is open: cancel what is to be cancelled, wait for the rest."""
    for kind, handle in open_:
        if kind == "cancelled":
            while not handle.started and not handle.done:
                time.sleep(0.001)
            handle.cancel()
    for kind, handle in open_:
        error = handle.getError()
        ends[type(error).__name__ if error else "result"] += 1
        if not isinstance(error, KINDS.get(kind, type(None))):
            wrong[f"{kind} ended with {error!r}"] += 1
        elif error is None and handle.get()["number"] < 0:
            wrong["another one's result"] += 1
    open_.clear()


def _memory() -> float:
    """MiB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _left(parent: int) -> list[str]:
    """What is left of processes, now that the gateway has stopped."""
    left = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            left.append(f"the process {name} is left, in state {fields[0]}")
    return left


if __name__ == "__main__":
    sys.exit(main())
