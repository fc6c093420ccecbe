"""Five hundred logins a second, and nobody who is signed in notices."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attacked import Attacked

import headgate
from headgate.gateway.rows import MOST_ROWS

LIMITS = "connections_per_address = 0"
"""Loopback counts as one address: with its limit most of the flood would be cut at once."""

RATE = 500
"""Logins, or connections, a second."""

SECONDS = 2.5
"""For how long."""

QUIET_SECONDS = 0.7
"""For how long the same client is measured without a flood."""

ROWS = 300
"""Rows of the audit a second, at most: 256 of limits, 20 of refusals, and some others."""

PAUSE = 0.003
"""Seconds between two requests of the client."""

P99 = 0.1
"""Seconds that the 99th percentile of a signed-in client's requests may take."""

NEIGHBOURS = 20
"""What a busy machine may add to that: so often the p99 without a flood."""

TRIES = 4
"""Measurements of which one has to be good: what else the machine does is none of ours."""


@contextmanager
def flood(attacked: Attacked, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Run the flood beside what is done meanwhile."""
    program = Path(__file__).with_name("flooder.py")
    command = [sys.executable, program, attacked.port, kind, RATE, SECONDS]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process


def latencies(client: headgate.Client, running: Any) -> list[float]:
    """Seconds of each of a client's requests, one after the other while something runs."""
    taken = []
    while running():
        begun = time.perf_counter()
        assert client.request("ACME", "echo", 1, timeout=20).get() == 1
        taken.append(time.perf_counter() - begun)
        time.sleep(PAUSE)
    return sorted(taken)


def p99(taken: list[float]) -> float:
    """The 99th percentile."""
    return taken[int(len(taken) * 0.99)]


def measure(attacked: Attacked, client: headgate.Client, kind: str) -> tuple[str, bool, bool]:
    """One measurement: what there is to say of it, whether it is one, and whether it is good."""
    end = time.monotonic() + QUIET_SECONDS
    quiet = latencies(client, lambda: time.monotonic() < end)
    attacked.forget()
    with flood(attacked, kind) as process:
        flooded = latencies(client, lambda: process.poll() is None)
        assert process.stdout is not None
        came = json.loads(process.stdout.read())
    rows = Counter(f"{row['event']} {row.get('outcome', '')}".strip() for row in attacked.rows())
    figures = (
        f"{kind}: {came['a second']} a second, {came['ends']}; p99 {p99(flooded) * 1000:.1f} ms of "
        f"{len(flooded)} requests, without {p99(quiet) * 1000:.1f} ms; slowest "
        f"{flooded[-1] * 1000:.1f} ms; rows {dict(rows)}"
    )
    assert rows.total() < MOST_ROWS + ROWS * (SECONDS + 3), figures
    assert "Welcome" not in str(came), figures
    return figures, came["a second"] > RATE * 0.8, p99(flooded) < P99 + NEIGHBOURS * p99(quiet)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["passwords", "connections"])
def test_a_flood(attacked: Attacked, signed_in: headgate.Client, kind: str) -> None:
    """Each login is refused, the audit tells of it in few rows, and a client's p99 stays low."""
    tried = []
    for _ in range(TRIES):
        figures, counts, good = measure(attacked, signed_in, kind)
        print(f"\n{figures}")
        tried += [figures] * counts
        if counts and good:
            break
    else:
        if not tried:
            pytest.skip(f"this machine is too busy for {RATE} connections a second: {figures}")
        pytest.fail("\n".join(tried))
    if kind == "passwords":
        attacked.told("limited", "logins")
        attacked.told("refused", "is wrong")
    else:
        attacked.told("refused", "it does not speak TLS")
    assert "Traceback" not in attacked.log
