"""
The first benchmark: a client, a gateway in a process of its own, and a sync handler.

    python -m benchmarks.quick              table; exit code 1 if the floor is missed
    python -m benchmarks.quick --pairs 7    number of pairs

Each pair is a run of the bare prototype and one of Headgate, one after the other, so that both
see the same machine, each server on one core and the client on another; the ratios of the pairs
count. The floor is held against the upper quartile: a noisy machine can only make a run slower.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvloop

import headgate
from benchmarks import bare
from benchmarks.load import IN_FLIGHT, Figures, client_core, measure, server_core

FLOOR = 0.45
"""Of the bare prototype's throughput, with `IN_FLIGHT` requests in flight."""

HANDLER = 'def handleMessage(payload):\n    return {"ok": payload["number"]}\n'


@contextlib.contextmanager
def gateway_process() -> Iterator[str]:
    """Run a gateway as its own process; gives its URL."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "projects", "ACME", "messages", "test.py")
        script.parent.mkdir(parents=True)
        script.write_text(HANDLER)
        os.environ["HEADGATE_HOME"] = str(Path(folder, "home"))
        command = [sys.executable, "-m", "headgate", "run", "--port", "0", "--log-level", "error"]
        command += ["--projects", str(Path(folder, "projects")), "--name", "bench"]
        with server_core():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield next(word for word in line.split() if word.startswith("ws://"))
        finally:
            process.terminate()
            process.wait()


def run(url: str) -> Figures:
    """Measure a client of the gateway, in this process."""

    async def main() -> Figures:
        async with headgate.connect(url) as client:
            return await measure(lambda payload: client.request("ACME", "test", payload))

    return uvloop.run(main())


def main() -> int:
    """Print the pairs and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    throughput, latency = [], []
    client_core()
    columns = ("bare/s", "headgate/s", "ratio", "bare p50", "p50", "ratio")
    print(" " * 8 + "".join(f"{column:>12}" for column in columns))
    with gateway_process() as url:
        for number in range(pairs):
            floor, ours = bare.run(), run(url)
            throughput.append(ours.per_second / floor.per_second)
            latency.append(ours.p50 / floor.p50)
            row = (
                f"{floor.per_second:.0f}",
                f"{ours.per_second:.0f}",
                f"{throughput[-1]:.2f}",
                f"{floor.p50 * 1e6:.0f} µs",
                f"{ours.p50 * 1e6:.0f} µs",
                f"{latency[-1]:.2f}",
            )
            print(f"pair {number + 1:<3}" + "".join(f"{cell:>12}" for cell in row), flush=True)
    upper = statistics.quantiles(throughput, n=4)[2] if pairs > 1 else throughput[0]
    print(
        f"throughput, {IN_FLIGHT} in flight: median {statistics.median(throughput):.2f} of the bare"
    )
    print(f"  prototype (upper quartile {upper:.2f}, floor {FLOOR})")
    print(f"p50, one at a time: median {statistics.median(latency):.2f} times the bare prototype's")
    return 0 if upper >= FLOOR else 1


if __name__ == "__main__":
    sys.exit(main())
