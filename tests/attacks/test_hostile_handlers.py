"""Handlers that hang, crash or flood, each in a worker process, beside a healthy one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from textwrap import dedent

import pytest

import headgate
from headgate.errors import CancellationException, HandlerError, HandlerKilled, RequestTimeout

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")

PROJECT = """
    [defaults]
    runtime = "process"
    concurrency = 1
    memory = 200

    [pool]
    workers = 3
    """

SCRIPTS = {
    "healthy": "def handleMessage(payload):\n    return payload['number'] * 2\n",
    "spins": "def handleMessage(payload):\n    while True: pass\n",
    "sleeps": "import time\ndef handleMessage(payload):\n    time.sleep(1e9)\n",
    # PyDLL keeps the interpreter: no other thread of the worker can run.
    "in_c": "import ctypes\ndef handleMessage(payload):\n    ctypes.PyDLL(None).pause()\n",
    "exits": "import os\ndef handleMessage(payload):\n    os._exit(3)\n",
    "segfaults": "import ctypes\ndef handleMessage(payload):\n    ctypes.string_at(0)\n",
    "allocates": """
        def handleMessage(payload):
            held = []
            for _ in range(64):
                held.append(b"x" * (64 << 20))
            return len(held)
        """,
    "logs": """
        import logging
        def handleMessage(payload):
            for number in range(1_000_000):
                logging.getLogger("flood").warning("line %d", number)
        """,
    "threads": """
        import threading, time
        def handleMessage(payload):
            threads = [threading.Thread(target=time.sleep, args=(1e9,)) for _ in range(1_000)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        """,
}

STOPPED = (RequestTimeout, CancellationException)

ENDS: dict[str, tuple[type[BaseException], ...]] = {
    "spins": STOPPED,
    "sleeps": STOPPED,
    "in_c": STOPPED,
    "exits": (HandlerKilled,),
    "segfaults": (HandlerKilled,),
    "allocates": (HandlerKilled,),
    # Its lines are left out, so it may come to its end.
    "logs": (RequestTimeout, type(None)),
    "threads": (RequestTimeout, HandlerError, HandlerKilled),
}

SECONDS = 1.0
"""For how long a hostile handler may run, if it does not kill its worker before."""

CALLS = 60
"""Calls of the healthy handler at least, each time."""


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[str, int]]:
    """A gateway as a process of its own: its URL and its pid."""
    for name, script in SCRIPTS.items():
        file = folder / f"projects/ACME/messages/{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(script))
    (folder / "projects/ACME/project.toml").write_text(dedent(PROJECT))
    command = [sys.executable, "-m", "headgate", "run", "--port", "0"]
    options = ["--projects", folder / "projects", "--data", folder / "data"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, *map(str, options)], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "is ready: " in line, (folder / "log").read_text()
            yield line.split("is ready: ")[1].split()[0], process.pid
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module", autouse=True)
def headgate_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of this gateway's user; there is no other gateway here that is attacked."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADGATE_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[headgate.Client, int]]:
    """A client of such a gateway, and the gateway's pid."""
    with gateway(tmp_path_factory.mktemp("hostile")) as (url, pid), headgate.connect(url) as client:
        yield client, pid


def call_healthy(client: headgate.Client, enough: Callable[[], bool]) -> list[float]:
    """Call the healthy handler, one call after the other; how many seconds each has taken."""
    taken: list[float] = []
    while len(taken) < CALLS or not enough():
        began = time.perf_counter()
        assert client.request("ACME", "healthy", {"number": 21}, timeout=10).get() == 42
        taken.append(time.perf_counter() - began)
    return taken


def p99(taken: list[float]) -> float:
    """The time that one of a hundred calls exceeds."""
    return quantiles(taken, n=100)[98]


def attack(client: headgate.Client, handler: str) -> tuple[float, float]:
    """Run a hostile handler to its end: `p99` of the healthy one before that, and beside it."""
    seconds = 20.0 if ENDS[handler] == (HandlerKilled,) else SECONDS
    alone = p99(call_healthy(client, lambda: True))
    hostile = client.request("ACME", handler, {}, timeout=seconds)
    beside = p99(call_healthy(client, lambda: hostile.done))
    assert isinstance(hostile.getError(), ENDS[handler]), hostile.getError()
    assert hostile.started
    assert hostile.wait_fate(10) in ("stopped", "finished")
    return alone, beside


@pytest.mark.parametrize("handler", sorted(ENDS))
def test_a_hostile_handler_is_stopped_and_hurts_nobody(
    running: tuple[headgate.Client, int], handler: str
) -> None:
    """The healthy handler of the same project answers as quickly as it does alone."""
    client, _ = running
    # What else the machine does can only make it slower: one of a few measurements must be good.
    for _ in range(4):
        alone, beside = attack(client, handler)
        print(f"{handler}: p99 {beside * 1000:.2f} ms beside it, {alone * 1000:.2f} ms alone")
        if beside < 0.05 + 2 * alone:
            return
    pytest.fail(f"p99 {beside * 1000:.0f} ms beside it, {alone * 1000:.0f} ms alone")


def test_nothing_is_left_behind(running: tuple[headgate.Client, int]) -> None:
    """Of workers that died there is no zombie, and no grandchild."""
    client, pid = running
    assert isinstance(client.request("ACME", "exits", {}).getError(), HandlerKilled)
    assert client.request("ACME", "healthy", {"number": 1}).get() == 2
    states = {name: _stat(name) for name in os.listdir("/proc") if name.isdecimal()}
    children = {pid}
    for _ in range(3):
        children |= {
            int(name) for name, stat in states.items() if stat and int(stat[1]) in children
        }
    assert len(children) > 1
    assert not [each for each in children if (states[str(each)] or "Z")[0] == "Z"]


def _stat(pid: str) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
