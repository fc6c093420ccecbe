"""`headgate cert`: from an empty folder to a gateway with TLS, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import headgate

if TYPE_CHECKING:
    from conftest import Rig


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    """Run a command, and return what it printed, or what it complained of."""
    done = subprocess.run(
        [sys.executable, "-m", "headgate", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, **environment},
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


def test_from_nothing_to_a_gateway_with_tls(rig: Rig) -> None:
    """The cures that the refusal names lead there; clients need ca.pem, the owner nothing."""
    projects, data = rig.projects({"ACME/echo": rig.ECHO}), str(rig.folder / "data")
    beyond = ["--projects", str(projects), "--host", "0.0.0.0", "--data", data]
    assert f"`headgate cert init --data {data}`" in run("run", *beyond, code=2)
    told = run("cert", "init", "hub.plant.example", "--data", data)
    assert "hub.plant.example" in told
    assert f"Copy {data}/tls/ca.pem" in told
    refusal = run("run", *beyond, code=2)
    assert "headgate user add NAME" in refusal
    assert "cert init" not in refusal
    with gateway(*beyond, "--insecure") as ready:
        number = ready["url"].rpartition(":")[2]
        assert ready["url"] == f"wss://hub.plant.example:{number}"
        assert "without a user" in ready["insecure"]
        own = f"ws://127.0.0.1:{number}"
        assert "ACME" in run("handlers", "--url", own)
        ca = f"{data}/tls/ca.pem"
        wss = f"wss://localhost:{number}"
        assert json.loads(run("request", "ACME", "echo", "1", "--url", wss, HEADGATE_CA=ca)) == 1
        with headgate.connect(wss, ca=ca) as client:
            assert client.request("ACME", "echo", 2).get() == 2


def test_documents(rig: Rig) -> None:
    """With --json there is one document, with all that people read."""
    data = ["--data", str(rig.folder / "my data")]
    made = json.loads(run("cert", "init", "hub", *data, "--json"))
    shown = json.loads(run("cert", "show", *data, "--json"))
    assert made == shown
    authority, server = shown["certificates"]
    assert authority["authority"]
    assert server["names"][0] == "hub"
    assert server["days_left"] == 396
    people = run("cert", "show", *data)
    for fields in (authority, server):
        assert {fields["file"], fields["spki"], fields["fingerprint"]} <= set(people.split()) | {
            fields["file"]
        }
    renewed = json.loads(run("cert", "renew", *data, "--json"))["certificates"]
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
    assert text in run("cert", *arguments, "--data", str(data), code=2)
    assert not data.exists()


def test_a_clients_certificate(rig: Rig) -> None:
    """It is put where it is wanted, and tells what identifies it."""
    data = ["--data", str(rig.folder / "data")]
    run("cert", "init", *data)
    file = Path(rig.folder) / "ann.pem"
    told = run("cert", "client", "ann", "--host", "panel-3", "-o", str(file), *data)
    assert f"certificate={str(file)!r}" in told
    run("cert", "client", "../../ann", *data)
    clients = rig.folder / "data" / "tls" / "clients"
    assert [file.name for file in clients.iterdir()] == ["_.._ann.pem"]
    shown = json.loads(run("cert", "show", *data, "--json"))["certificates"][2]
    assert shown["users"] == ["../../ann"]
