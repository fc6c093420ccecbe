"""The gateway of the soak: a real process, which is stopped, killed and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import headgate
from headgate.errors import HeadgateError
from soak import faults
from soak.process import environment

__all__ = ["GatewayProcess", "Life"]

STOP_SECONDS = 20.0
"""Seconds in which a gateway must have stopped after SIGTERM; it grants 5 to what is in flight."""

SETTLE_SECONDS = 15.0
"""Seconds in which its tables must be empty when nothing is asked any more."""

PLANTED = "from soak import faults; faults.plant({!r}); from headgate.cli import main; main()"

OF_HANDLERS = "headgate.handlers"
"""The log of what handlers raise, which they do on purpose here."""


class Life(NamedTuple):
    """From a gateway's start to its end."""

    boot: str
    """Digits that are in every id of a request that it took."""
    end: str
    """``"killed"``, ``"stopped"``, or empty while it runs."""


class GatewayProcess:
    """
    A gateway that keeps its port over its lives.

    Args:
        folder: The folder of the soak, with ``projects`` in it.
        plant: A fault that is planted on purpose.
    """

    def __init__(self, folder: Path, *, plant: str = "") -> None:
        self.url = ""
        self.lives: list[Life] = []
        self.problems: list[str] = []
        self._folder = folder
        self._plant = plant
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def life(self) -> int:
        """The number of the present life."""
        return len(self.lives)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        program = ["-c", PLANTED.format(self._plant)] if self._plant in faults.FAULTS else []
        command = [sys.executable, *(program or ["-m", "headgate"]), "run", "--json"]
        command += ["--name", "soak", "--projects", str(self._folder / "projects")]
        command += ["--data", str(self._folder / "data"), "--port", str(self._port)]
        command += ["--log-level", "warning"]
        with open(self._folder / "gateway.log", "ab") as log:
            self._process = process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(self._folder),
                start_new_session=True,
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"The gateway did not start; see {self._folder / 'gateway.log'}")
        self.url = json.loads(line)["url"]
        self._port = int(self.url.rpartition(":")[2])
        with headgate.connect(self.url) as client:
            self.lives.append(Life(client.session_id[8:14], ""))

    def kill(self) -> None:
        """End it in the middle of everything."""
        self._end(signal.SIGKILL, "killed")

    def stop(self) -> None:
        """Stop it as an operator does."""
        self._end(signal.SIGTERM, "stopped")

    def restart(self, how: str) -> None:
        """End it, ``"killed"`` or ``"stopped"``, and start it again."""
        (self.kill if how == "killed" else self.stop)()
        self.start()

    def settle(self, clients: int) -> dict[str, Any]:
        """
        Wait until nothing is in its tables but the sessions of the clients; return its figures.

        Args:
            clients: Clients that are connected.
        """
        with headgate.connect(self.url) as client:
            end = time.monotonic() + SETTLE_SECONDS
            while (left := self._left(client, clients)) and time.monotonic() < end:
                time.sleep(0.05)
            if left:
                self.problems.append(f"the gateway's tables at rest have {left}")
            figures: dict[str, Any] = client.request("control", "sample", timeout=60).get()
        return {**figures, "tables": left}

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self.stop()

    def complaints(self) -> Iterator[str]:
        """What it logged as errors, but for what handlers raised."""
        for line in (self._folder / "gateway.log").read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                yield f"the gateway wrote: {line[:300]}"
                continue
            expected = record.get("logger") == OF_HANDLERS or self._is_of_edits(record)
            if record.get("level") in ("error", "critical") and not expected:
                yield f"the gateway logged: {json.dumps(record)[:1500]}"

    @staticmethod
    def _is_of_edits(record: dict[str, Any]) -> bool:
        return "brittle.py" in str(record.get("event"))

    def _left(self, client: headgate.Client, clients: int) -> dict[str, int]:
        try:
            stats: dict[str, int] = client.request("@gateway", "stats", timeout=10).get()
        except HeadgateError as error:
            self.problems.append(f"the gateway does not tell its tables: {error}")
            return {}
        # The question itself, and who asks.
        expected = {"open": 1, "session_serving": 1, "sessions": clients + 1}
        return {
            name: size - expected.get(name, 0)
            for name, size in stats.items()
            if size != expected.get(name, 0)
        }

    def _end(self, number: signal.Signals, how: str) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.problems.append(f"the gateway did not stop within {STOP_SECONDS:.0f} s")
            process.kill()
            process.wait()
        expected = -signal.SIGKILL if how == "killed" else 0
        if process.returncode != expected:
            self.problems.append(f"the gateway ended with {process.returncode}, {how}")
        assert process.stdout is not None
        process.stdout.close()
        if self.lives and not self.lives[-1].end:
            self.lives[-1] = self.lives[-1]._replace(end=how)
