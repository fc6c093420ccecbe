"""A forked process has a copy of its parent's client, but nothing that serves it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Rig

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="This platform has no fork")

# A process of its own: later Pythons warn of a fork beside threads, and that is what is tried.
PROGRAM = """
    import os, sys, threading, traceback
    import headgate
    from headgate import system

    url = sys.argv[1]

    def forked(work):
        pid = os.fork()
        if pid == 0:
            try:
                work()
            except BaseException:
                traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)

    client = headgate.connect(url)
    client.request("ACME", "echo", 1).get()
    """


def run(folder: Path, url: str, lines: str) -> list[str]:
    """Run the program with these lines at its end, and return what it printed."""
    program = folder / "program.py"
    program.write_text(dedent(PROGRAM) + dedent(lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program, url],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.splitlines()


def test_a_request_of_a_child_ends_at_once(rig: Rig, tmp_path: Path) -> None:
    """It is GatewayUnreachable and says what to do, callbacks run, and the parent goes on."""
    hub = rig.gateway({"ACME/echo": rig.ECHO})
    lines = """
        def ask():
            called = threading.Event()
            handle = client.request("ACME", "echo", 1, on_error=lambda error: called.set())
            error = handle.getError()
            print(type(error).__name__, error.started, "connect after the fork" in str(error))
            print(called.wait(20), client.connected)

        forked(ask)
        print(client.request("ACME", "echo", 2).get())
        client.close()
        """
    assert run(tmp_path, hub.url, lines) == ["GatewayUnreachable False True", "True False", "2"]


def test_a_child_closes_and_connects_anew(rig: Rig, tmp_path: Path) -> None:
    """A child may close its copy, which leaves the parent's connection, and open its own client."""
    hub = rig.gateway({"ACME/echo": rig.ECHO})
    lines = """
        def anew():
            client.close()
            with headgate.connect(url) as own:
                print(own.request("ACME", "echo", 3).get())
                print(system.util.sendRequestAsync("ACME", "echo", {"n": 4}).get())

        forked(anew)
        print(client.request("ACME", "echo", 5).get())
        client.close()
        """
    assert run(tmp_path, hub.url, lines) == ["3", "{'n': 4}", "5"]
