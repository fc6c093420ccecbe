"""The client in JavaScript, in Node: it passes the vectors, and speaks with a real gateway."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from running import CLIENT, required, user_of

if TYPE_CHECKING:
    from running import Running


def run(test: str, **environment: str) -> None:
    """Run a test file of the client."""
    # Debian's own Node finds the package ws by itself; others have to be told where it is.
    environment = {"NODE_PATH": "/usr/share/nodejs", **os.environ, **environment}
    command = [required("node", "nodejs"), "--test", str(CLIENT / "test" / test)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr


def test_vectors() -> None:
    """It passes every conformance vector."""
    run("vectors.test.mjs")


def test_heartbeat() -> None:
    """It asks for signs of life, and takes a gateway without any for dead."""
    run("heartbeat.test.mjs")


def test_gateway(gateway: Running) -> None:
    """It calls handlers of a real gateway, and survives its death."""
    password, token = user_of(gateway)
    run(
        "gateway.test.mjs",
        GATEWAY_URL=gateway.url,
        GATEWAY_PID=str(gateway.pid),
        GATEWAY_PASSWORD=password,
        GATEWAY_TOKEN=token,
    )
