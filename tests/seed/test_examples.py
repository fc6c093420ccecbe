"""
The manual page's examples, letter by letter: the gateway is one process, the script another.

The scripts in ``manual/`` are the page's code, with the two lines that the stored page cuts off:
``myHandle.get()`` and ``myHandle.onSuccess(successFunc)``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import headgate

if TYPE_CHECKING:
    from conftest import Rig

HERE = Path(__file__).parent
GET = HERE / "manual" / "get.py"
ON_SUCCESS = HERE / "manual" / "on_success.py"

TEST = "def handleMessage(payload):\n    return {'double': payload['number'] * 2}\n"


def in_handler(script: Path) -> str:
    """Return a handler that does what the script does, and returns its request's result."""
    lines = ["def handleMessage(payload):", *script.read_text("utf-8").splitlines()]
    return "\n\t".join([*lines, "return myHandle.get()"]) + "\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that gateway and scripts have in common."""
    return {**os.environ, "HEADGATE_HOME": str(tmp_path_factory.mktemp("home"))}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the gateway's log goes to."""
    return tmp_path_factory.mktemp("log") / "gateway.log"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, home: dict[str, str], log: Path) -> Iterator[str]:
    """A gateway as a process: ``headgate run``, with the project ACME."""
    messages = tmp_path_factory.mktemp("projects") / "ACME" / "messages"
    messages.mkdir(parents=True)
    for name, text in {
        "test": TEST,
        "get": in_handler(GET),
        "on_success": in_handler(ON_SUCCESS),
    }.items():
        (messages / f"{name}.py").write_text(text, "utf-8")
    command = [sys.executable, "-m", "headgate", "run", "--port", "0", "--name", "hub"]
    folders = ["--projects", str(messages.parents[1]), "--data", str(log.parent / "data")]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, *folders], stdout=subprocess.PIPE, stderr=errors, text=True, env=home
        ) as gateway,
    ):
        assert gateway.stdout is not None
        try:
            ready = gateway.stdout.readline()
            assert "ws://" in ready, log.read_text("utf-8")
            yield ready.split()[-1]
        finally:
            gateway.terminate()
            gateway.wait(20)
    assert gateway.returncode == 0


def run(script: Path, url: str, home: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script of the manual as a program of its own."""
    return subprocess.run(
        [sys.executable, str(HERE / "run_script.py"), url, str(script)],
        capture_output=True,
        text=True,
        timeout=30,
        env=home,
        check=False,
    )


ENDED_WELL = [
    "handle|Request",
    "block|True",
    "get|{'double': 110}",
    "getError|None",
]


def test_first_example_get_blocks_the_script_and_waits_for_a_return(
    url: str, home: dict[str, str]
) -> None:
    """The script of the first example ends without an error, and its handle has the result."""
    done = run(GET, url, home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ENDED_WELL


def test_first_example_get_throws_an_exception_on_failure(rig: Rig, headgate_home: Path) -> None:
    """Where the handler fails, the first example's script ends with what the handler raised."""
    hub = rig.gateway({"ACME/test": "def handleMessage(payload):\n    raise KeyError('valve')"})
    done = run(GET, hub.url, {**os.environ, "HEADGATE_HOME": str(headgate_home)})
    assert (done.returncode, done.stdout) == (1, "")
    assert "in <module>\n    myHandle.get()" in done.stderr
    assert done.stderr.splitlines()[-1] == "headgate.errors.HandlerError: KeyError: 'valve'"


def test_second_example_on_success_tells_that_it_successfully_finished(
    url: str, home: dict[str, str]
) -> None:
    """The second example's successFunc runs once, on the callback thread, with the result."""
    done = run(ON_SUCCESS, url, home)
    assert (done.returncode, done.stderr) == (0, "")
    told = "Information: Successfully finished: {'double': 110}"
    assert done.stdout.splitlines() == [
        f"log|headgate.gui|headgate-callbacks|{told}",
        *ENDED_WELL,
    ]


@pytest.mark.parametrize("example", ["get", "on_success"])
def test_examples_run_in_the_scope_gateway(
    rig: Rig,
    url: str,
    home: dict[str, str],
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
    example: str,
) -> None:
    """In a message handler both examples run as they stand, and successFunc runs on the gateway."""
    monkeypatch.setenv("HEADGATE_HOME", home["HEADGATE_HOME"])
    with headgate.connect(url) as client:
        assert client.system.util.sendRequest("ACME", example) == {"double": 110}
    if example == "on_success":
        told = "Successfully finished: {'double': 110}"
        rig.until(lambda: log.read_text("utf-8").count(told) == 1)
