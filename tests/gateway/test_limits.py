"""Payloads that are made to hurt a gateway are refused by it, and nobody else notices."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headgate
from headgate.errors import PayloadError
from headgate.wire.codec import encode

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="memory is measured as on POSIX")

GATEWAY = """
    import json, resource, sys
    import headgate

    with headgate.Gateway("hub", projects=sys.argv[1], data=sys.argv[2], port=0) as hub:
        print(json.dumps(hub.url), flush=True)
        for _ in sys.stdin:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps(peak // (1 if sys.platform == "darwin" else 1024) / 1024), flush=True)
    """

MIB = 1024 * 1024


def colliding(count: int) -> bytes:
    modulus = sys.hash_info.modulus
    keys = (encode((modulus + index) * modulus) + b"\xc0" for index in range(count))
    return b"\xdf" + count.to_bytes(4, "big") + b"".join(keys)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty maps": (b"\xdd" + (8 * MIB).to_bytes(4, "big") + b"\x80" * 8 * MIB, "1,000,000 are"),
    "one level too many": (b"\x91" * 64 + b"\x90", "deeper than 64 levels"),
    "deep and large": (b"\x92\xc6\0\x10\0\0" + bytes(MIB) + b"\x91" * 64, "deeper than 64 levels"),
    "a list's claim": (b"\xdd\xff\xff\xff\xff" + b"\x80" * 2 * MIB, "4,294,967,295 members"),
    "a map's claim": (b"\xdf\xff\xff\xff\xff" + b"\x80" * 2 * MIB, "4,294,967,295 members"),
    "bytes' claim": (b"\xc6\xff\xff\xff\xff" + b"\x80" * 2 * MIB, "truncated"),
    "one member too many": (b"\xdd\0\x0f\x42\x41" + b"\x80" * 1_000_001, "1,000,001 members"),
    "colliding keys": (colliding(30_000), "same hash"),
}


class Encoded(bytes):
    """What is sent as it is, because no client would encode it."""


@pytest.fixture
def hub(rig: Any, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A gateway in a process of its own; each line that it reads makes it tell its memory."""
    projects = rig.projects({"ACME/echo": rig.ECHO, "ACME/size": "handleMessage = len\n"})
    command = [sys.executable, "-c", textwrap.dedent(GATEWAY), projects, tmp_path / "data"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def told(hub: subprocess.Popen[str]) -> Any:
    assert hub.stdout is not None
    return json.loads(hub.stdout.readline())


def peak(hub: subprocess.Popen[str]) -> float:
    """The most memory that the gateway has had, in MiB."""
    assert hub.stdin is not None
    hub.stdin.write("\n")
    hub.stdin.flush()
    return float(told(hub))


def test_hostile_payloads(hub: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused by name, before there is memory for it, and others are served meanwhile."""
    monkeypatch.setattr(
        "headgate.scope.encode",
        lambda value: bytes(value) if type(value) is Encoded else encode(value),
    )
    url = told(hub)
    with headgate.connect(url) as client:
        # What is allowed needs memory too: on its way, and as one value.
        assert client.request("ACME", "size", b"x" * 9 * MIB).get() == 9 * MIB
        before = peak(hub)
        # A few milliseconds each where nothing else runs; to build the maps would take seconds.
        assert any(slowest_beside(url, lambda: refuse_all(client)) < 0.5 for _ in range(5))
        assert peak(hub) - before < 32


def refuse_all(client: headgate.Client) -> None:
    """Send everything that is hostile, and look at the refusals."""
    for name, (data, text) in HOSTILE.items():
        error = client.request("ACME", "echo", Encoded(data)).getError()
        assert isinstance(error, PayloadError), (name, error)
        assert text in str(error), (name, error)
        assert error.started is False


def slowest_beside(url: str, work: Callable[[], None]) -> float:
    """Return the 99th percentile of the seconds that others wait for answers beside some work."""
    over, waits = threading.Event(), list[float]()

    def others() -> None:
        with headgate.connect(url) as client:
            while not over.is_set():
                start = time.perf_counter()
                assert client.request("ACME", "echo", 1).get() == 1
                waits.append(time.perf_counter() - start)

    neighbour = threading.Thread(target=others)
    neighbour.start()
    try:
        work()
    finally:
        over.set()
        neighbour.join()
    waits.sort()
    return waits[len(waits) * 99 // 100]
