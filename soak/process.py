"""Processes of the soak that are told what to do in lines and answer in JSON."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from soak import journal
from soak.plan import Setup

__all__ = ["ROOT", "Commanded", "environment", "everywhere"]

ROOT = Path(__file__).parents[1]
"""Where the package `soak` is found."""

ANSWER_SECONDS = 120.0
"""Seconds in which every command must be answered."""

END_SECONDS = 5.0
"""Seconds that a process has to end when its stdin ended."""


def environment(folder: Path) -> dict[str, str]:
    """
    Return the environment of a process of the soak.

    With its usual arenas, one for each few threads, the C library keeps so much of what was freed
    that a process grows to twice its size before it is flat; with one arena growth is growth.
    """
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "MALLOC_ARENA_MAX": "1",
        "HEADGATE_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        journal.FOLDER: str(folder),
    }


class Commanded:
    """
    One such process.

    Args:
        module: What it runs.
        setup: Its argument.
        folder: The folder of the soak.
    """

    def __init__(self, module: str, setup: Setup, folder: Path) -> None:
        self.setup = setup
        command = [sys.executable, "-m", module, msgspec.json.encode(setup).decode()]
        # A session of its own: Ctrl-C is for the controller alone, which ends all in order.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(folder),
            start_new_session=True,
        )

    def tell(self, command: str) -> None:
        """Give a command; `answer` must follow."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """
        Return the answer to the last command.

        Raises:
            RuntimeError: The process ended, or does not answer.
        """
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            state = "ended" if ready else f"did not answer for {ANSWER_SECONDS:.0f} s"
            raise RuntimeError(f"process {self.setup.process} {state}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it, whatever it does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def everywhere(processes: list[Commanded], command: str) -> list[dict[str, Any]]:
    """Give all of them a command and return their answers."""
    for process in processes:
        process.tell(command)
    return [process.answer() for process in processes]
