"""`headgate cert`: from an empty folder to a gateway with TLS, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

import headgate
from headgate.cli.app import app

if TYPE_CHECKING:
    from conftest import Rig


def invoke(*arguments: str, code: int = 0) -> str:
    """Run a command in this process, and return what it printed, or what it complained of."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def run(*arguments: str, code: int = 0) -> str:
    """Run a command, and return what it printed, or what it complained of."""
    done = subprocess.run(
        [sys.executable, "-m", "headgate", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@contextmanager
def gateway(*arguments: str) -> Iterator[dict[str, Any]]:
    """Run a gateway, and give what its ready line says."""
    command = [sys.executable, "-m", "headgate", "run", "--json", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.communicate(timeout=20)


def test_from_nothing_to_a_gateway_with_tls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cures that the refusal names lead there; clients need ca.pem, the owner nothing."""
    projects, data = rig.projects({"ACME/echo": rig.ECHO}), str(rig.folder / "data")
    beyond = ["--projects", str(projects), "--host", "0.0.0.0", "--data", data]
    refusal = run("run", *beyond, code=2)
    assert f"`headgate cert init --data {data}`" in refusal
    assert f"`headgate user add NAME --data {data}`" in refusal
    told = invoke("cert", "init", "hub.plant.example", "--data", data)
    assert "hub.plant.example" in told
    assert f"Copy {data}/tls/ca.pem" in told
    invoke("user", "add", "ann", "--no-password", "--data", data)
    with gateway(*beyond) as ready:
        number = ready["url"].rpartition(":")[2]
        assert ready["url"] == f"wss://hub.plant.example:{number}"
        assert "insecure" not in ready
        # While it runs, commands reach it by its folder.
        assert "bob" in invoke("user", "add", "bob", "--no-password", "--data", data)
        assert "ACME" in invoke("handlers", "--url", f"ws://127.0.0.1:{number}")
        ca, wss = f"{data}/tls/ca.pem", f"wss://localhost:{number}"
        monkeypatch.setenv("HEADGATE_CA", ca)
        assert json.loads(invoke("request", "ACME", "echo", "1", "--url", wss)) == 1
        with headgate.connect(wss, ca=ca) as client:
            assert client.request("ACME", "echo", 2).get() == 2


def test_documents(rig: Rig) -> None:
    """With --json there is one document, with all that people read."""
    data = ["--data", str(rig.folder / "my data")]
    made = json.loads(invoke("cert", "init", "hub", *data, "--json"))
    shown = json.loads(invoke("cert", "show", *data, "--json"))
    assert made == shown
    authority, server = shown["certificates"]
    assert authority["authority"]
    assert server["names"][0] == "hub"
    assert server["days_left"] == 396
    people = invoke("cert", "show", *data)
    for fields in (authority, server):
        assert {fields["file"], fields["spki"], fields["fingerprint"]} <= set(people.split()) | {
            fields["file"]
        }
    (client,) = json.loads(invoke("cert", "client", "ann", *data, "--json"))["certificates"]
    assert (client["users"], client["authority"]) == (["ann"], False)
    renewed = json.loads(invoke("cert", "renew", *data, "--json"))["certificates"]
    assert renewed[0] == authority
    assert renewed[1]["fingerprint"] != server["fingerprint"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["init", "http://hub"], "without scheme and port"),
        (["renew"], "headgate cert init"),
        (["client", "ann"], "headgate cert init"),
        (["client"], "Name a user or a --host"),
        (["show"], "There are no certificates"),
    ],
)
def test_mistakes(rig: Rig, arguments: list[str], text: str) -> None:
    """2: the error names what is missing, and nothing is made."""
    data = rig.folder / "data"
    assert text in invoke("cert", *arguments, "--data", str(data), code=2)
    assert not data.exists()


def test_a_clients_certificate(rig: Rig) -> None:
    """It is put where it is wanted, and tells what identifies it."""
    data = ["--data", str(rig.folder / "data")]
    invoke("cert", "init", *data)
    file = Path(rig.folder) / "ann.pem"
    told = invoke("cert", "client", "ann", "--host", "panel-3", "-o", str(file), *data)
    assert f"certificate={str(file)!r}" in told
    invoke("cert", "client", "../../ann", *data)
    clients = rig.folder / "data" / "tls" / "clients"
    assert [file.name for file in clients.iterdir()] == ["_.._ann.pem"]
    shown = json.loads(invoke("cert", "show", *data, "--json"))["certificates"][2]
    assert shown["users"] == ["../../ann"]
