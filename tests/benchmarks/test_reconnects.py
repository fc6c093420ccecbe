"""A crowd that loses its gateway comes back by ticket, whole: `make reconnects` in short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvloop")
if not Path("/proc/self/stat").exists():
    pytest.skip("what the gateway uses is read from /proc", allow_module_level=True)

ROOT = Path(__file__).parents[2]


def reconnects(*options: str) -> subprocess.CompletedProcess[str]:
    """Run it as `make reconnects` does."""
    places = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.reconnects", "--json", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=55,
    )


@pytest.mark.parametrize(
    ("kind", "pauses", "sessions"), [("plain", "at-once", 300), ("tls", "jitter", 50)]
)
def test_all_come_back_by_ticket(kind: str, pauses: str, sessions: int) -> None:
    """Each one is answered in its new session, and nobody is asked for the secret again."""
    options = ["--sessions", str(sessions), "--kinds", kind, "--pauses", pauses]
    done = reconnects(*options, "--alone", "0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)[0]
    back = found["back"]
    assert back["lost"] == []
    assert back["by_ticket"] == back["answered"] == found["logins"]["by ticket"] == sessions
    # Those of the crowd at first, and the client that went on.
    assert found["logins"]["others"] == sessions + 1
    assert found["requests"] > 0
