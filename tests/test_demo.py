"""The demo: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import headgate
from headgate.cli import demo
from headgate.cli.app import app
from headgate.errors import PayloadError

PATIENT = """
from headgate.cli import demo, main
demo.LONGEST = 40.0
main()
"""
"""The command, on a machine that may be busy with other things."""

DEMO = [sys.executable, "-c", PATIENT, "demo"]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; nothing may be left in it, and the user's data untouched."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    assert list(folder.iterdir()) == []
    assert not Path(os.environ["HEADGATE_HOME"]).exists()


@pytest.fixture
def gateways(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes that the demo starts in this process; none of them may run any more."""
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen[str]):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(demo.subprocess, "Popen", Recorded)
    yield started
    assert started
    assert [process.poll() for process in started].count(None) == 0


def gateway_process(out: str) -> int:
    """The process id that the demo printed."""
    found = re.search(r"ws://127\.0\.0\.1:\d+, process (\d+)", out)
    assert found, out
    return int(found[1])


def test_demo_shows_everything(scratch: Path) -> None:
    """Handle, result, callbacks, progress, cancel and timeout are shown in order; exit code 0."""
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout, "no colours where there is no terminal"
    wanted = [
        "$ headgate run --name hub",
        "Ready after",
        "myHandle = system.util.sendRequestAsync(project='ACME', messageHandler='test', "
        "payload={'number':55})",
        "-> returned after",
        "myHandle.get()",
        "-> {'double': 110}",
        "def successFunc(message):",
        "payload={'number':55}, timeoutSec=5)",
        "myHandle.onSuccess(successFunc)",
        "[messageBox on thread headgate-callbacks]",
        "Successfully finished: {'double': 110}",
        "errorFunc got HandlerError: ValueError: There is no recipe 'cola'",
        "-> raised HandlerError",
        "progressFunc got {'done': 5, 'of': 5}",
        "myHandle.cancel()",
        "-> True",
        "errorFunc got CancellationException",
        "myHandle.wait_fate(2)",
        "-> 'finished'",
        "errorFunc got RequestTimeout",
        "-> False",
        "What to try next",
        "headgate run --projects",
        "headgate request ACME test",
        "README",
    ]
    place = 0
    for text in wanted:
        place = done.stdout.find(text, place)
        assert place >= 0, f"{text!r} is missing, or not in its place:\n{done.stdout}"
    with pytest.raises(ProcessLookupError):
        os.kill(gateway_process(done.stdout), 0)


def test_demo_that_is_ended_early(scratch: Path) -> None:
    """SIGTERM ends the gateway too."""
    # What is shown must come at once, also where Python buffers what goes into a pipe.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(DEMO, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        out = ""
        while "Ready after" not in out:
            out += process.stdout.readline()
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(gateway_process(out), 0)


def test_demo_that_fails(
    scratch: Path,
    gateways: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A demo that goes wrong in the middle ends the gateway, and is not fine."""

    def fall(stage: demo.Stage) -> None:
        raise headgate.RequestTimeout("planted")

    monkeypatch.setattr(demo, "_success", fall)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 3
    assert "-> {'double': 110}" in result.stdout
    assert "What to try next" not in result.stdout
    assert "RequestTimeout: planted" in result.stderr
    assert gateways[0].returncode == 0, "the gateway stopped by itself"


def test_demo_with_a_gateway_that_hangs(
    scratch: Path,
    gateways: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gateway that does not answer any more is killed, and the demo ends in time."""

    def stop(stage: demo.Stage) -> None:
        gateways[0].send_signal(signal.SIGSTOP)
        stage.run("myHandle = client.request('ACME', 'test', {'number': 55})\nmyHandle.get()")

    # Enough for the start of a gateway, and before the client itself finds it dead.
    monkeypatch.setattr(demo, "LONGEST", 4.0)
    monkeypatch.setattr("headgate.wire.session.DEAD_AFTER", 50.0)
    monkeypatch.setattr(demo, "_success", stop)
    begin = time.monotonic()
    result = CliRunner().invoke(app, ["demo"])
    assert time.monotonic() - begin < 30
    assert result.exit_code == 4
    assert "ConnectionLost" in result.stderr


def test_demo_whose_gateway_does_not_start(
    scratch: Path,
    gateways: list[subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gateway's own reason is shown."""
    monkeypatch.setattr(demo, "example_projects", lambda: tmp_path / "nowhere")
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 4
    assert "The gateway did not start" in result.stderr
    assert "nowhere cannot be read" in result.stderr


@pytest.mark.parametrize("place", ["headgate", "."], ids=["wheel", "checkout"])
def test_plant_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The example plant stands in the installed package, or beside it in a checkout."""
    package = tmp_path / "src" / "headgate"
    root = package if place == "headgate" else tmp_path
    plant = root / "examples" / "plant" / "projects"
    monkeypatch.setattr(headgate, "__file__", str(package / "__init__.py"))
    with pytest.raises(headgate.ConfigurationError):
        demo.example_projects()
    plant.mkdir(parents=True)
    assert demo.example_projects() == plant


def test_plant_has_no_problems() -> None:
    """Every handler of the example plant serves."""
    result = CliRunner().invoke(app, ["check", str(demo.example_projects())])
    assert result.exit_code == 0, result.output
    for name in ("label", "oee", "readings", "recipe", "report", "test"):
        assert f"ACME      {name} " in result.stdout


def test_plant_answers(tmp_path: Path) -> None:
    """The example plant's handlers give what they say."""
    with headgate.Gateway(
        "hub", projects=demo.example_projects(), port=0, data=tmp_path / "data"
    ) as gateway:
        scope = gateway.scope("")
        shift = {"planned": 480, "running": 430, "made": 20000, "good": 19800, "per_minute": 50}
        label = scope.request("ACME", "label", {"batch": "L7"})
        assert scope.request("ACME", "test", {"number": 55}).get() == {"double": 110}
        assert scope.request("ACME", "oee", shift).get()["oee"] == 0.825
        with pytest.raises(PayloadError, match=r"^payload\['made'\]: Expected `int`, got `str`"):
            scope.request("ACME", "oee", {**shift, "made": "20000"}).get()
        assert scope.request("ACME", "readings", {"names": ["flow"]}).get() == {"flow": 41.8}
        assert scope.request("ACME", "recipe", {"name": "iced tea"}).get()["syrup_l"] == 120
        assert scope.request("ACME", "report", {"seconds": 0}).get()["best_hour"] == 2
        assert label.get()["label"] == "L7-0001"
