"""Every row can be measured: the real sides of each, with next to no load."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import pytest

pytest.importorskip("uvloop")
if not Path("/proc/self/fd").exists():
    pytest.skip("some sides look into /proc", allow_module_level=True)

from benchmarks.company import accompanied
from benchmarks.load import Load
from benchmarks.processes import Announce, Contender, Served
from benchmarks.rows import CORE_ROWS, PEER_ROWS, ROWS, Row

TINY = Load(seconds=0.03, sessions=20, values=100_000, pause=0.05)

ALIKE = {"async", "threads", "noisy", "idle", "user", "user-p50", "tls", "tls-p50"}
"""Rows beside which stands what stands beside others too."""

PACKAGES = {"nats": "nats", "grpc": "grpc", "zmq": "zmq", "rpyc": "rpyc", "pyro": "Pyro5"}


def sides() -> dict[str, Contender]:
    """Each side that differs from those before it."""
    found = {f"{row.key}-ours": row.ours for row in CORE_ROWS}
    for row in [*CORE_ROWS, *PEER_ROWS]:
        if row.beside is not None and row.key not in ALIKE:
            found[f"{row.key}-beside"] = row.beside
    return found


@pytest.mark.parametrize("side", sides())
def test_side(side: str) -> None:
    """A side sets itself up and measures something."""
    package = PACKAGES.get(side.partition("-")[0])
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} comes with `make bench`")
    with sides()[side](TINY) as measure:
        # What a gateway grows by may be nothing.
        assert measure() > 0 or side == "stream-memory-ours"


def stay(announce: Announce, address: str) -> None:
    """Other clients that connect to nothing and stay."""
    announce("here")
    Event().wait()


def test_company_that_is_lost() -> None:
    """A figure does not count if those beside whom it was measured are not there any more."""
    mine = Served("", os.getpid())
    connection = socket.socket()
    with pytest.raises(RuntimeError, match="1 other clients lost"), accompanied(mine, stay):
        connection.close()


def test_keys() -> None:
    """No row hides another one."""
    assert len(ROWS) == len(CORE_ROWS) + len(PEER_ROWS)
    assert any(row.floor for row in ROWS.values())


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.floor], ids=lambda r: r.key)
def test_floor(row: Row) -> None:
    """A floor leaves room under what must be reached."""
    assert row.bar is not None
    assert row.floor is not None
    assert row.floor.reached(row.bar.limit)
    assert not row.bar.reached(row.floor.limit)
