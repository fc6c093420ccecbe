"""A gateway as a process, for the clients in other languages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import HANDLERS, Running

if TYPE_CHECKING:
    from conftest import Rig


@pytest.fixture
def gateway(rig: Rig, headgate_home: Path, tmp_path: Path) -> Iterator[Running]:
    """A gateway as a process of its own, with the handlers that the client's tests call."""
    options = ["--name", "hub", "--projects", rig.projects(HANDLERS), "--data", tmp_path / "data"]
    command = [sys.executable, "-m", "headgate", "run", *options, "--port", "0"]
    with (
        open(tmp_path / "log", "w") as log,
        subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "is ready: ws://" in line, (tmp_path / "log").read_text()
        yield Running(line.split()[-1], process.pid, headgate_home)
        process.kill()
