"""The commands user, token and certificate: with a gateway that runs, and without."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

import headgate
from headgate.cli.app import app
from headgate.errors import PermissionDenied
from tests.security.accounts import certificate

PASSWORD = "correct horse"


def invoke(*arguments: str, stdin: str = "") -> Any:
    """Run a command in this process."""
    return CliRunner().invoke(app, arguments, input=stdin)


def document(*arguments: str, stdin: str = "") -> Any:
    """Run a command that is fine, and return what it prints for machines."""
    result = invoke(*arguments, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("HEADGATE_URL", raising=False)


@pytest.fixture(params=["running", "stopped"])
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The options that name a gateway, which runs or does not."""
    data = tmp_path / "data"
    if request.param == "stopped":
        yield ["--data", str(data)]
        return
    with headgate.Gateway("hub", projects={}, port=0, data=data):
        yield ["--data", str(data)]


def add(plant: list[str], *arguments: str) -> Any:
    """Add the user ada."""
    options = ("--password-stdin", *arguments, *plant)
    return document("user", "add", "ada", *options, stdin=f"{PASSWORD}\n")


def test_users(plant: list[str]) -> None:
    """A user is added, listed, changed and removed."""
    made = add(plant, "--role", "viewer", "--role", "operator", "--host", "panel-*")
    assert made == {"name": "ada", "roles": ["operator", "viewer"], "hosts": ["panel-*"]}
    assert document("user", "passwd", "ADA", "--no-password", *plant) == {"name": "ada"}
    changed = document("user", "roles", "ada", "--add", "x", "--remove", "viewer", *plant)
    assert changed == {"name": "ada", "roles": ["operator", "x"]}
    assert document("user", "roles", "ada", "--role", "y", *plant)["roles"] == ["y"]
    assert document("user", "hosts", "ada", *plant) == {"name": "ada", "hosts": []}
    (row,) = document("user", "list", *plant)["users"]
    assert (row["name"], row["roles"], row["hosts"], row["password"]) == ("ada", ["y"], [], False)
    assert document("user", "remove", "ada", *plant) == {"name": "ada"}
    assert document("user", "list", *plant) == {"users": []}


def test_tokens(plant: list[str]) -> None:
    """A token is made, shown once, listed without its secret, and revoked."""
    add(plant, "--role", "operator")
    options = ["--label", "press", "--role", "operator", "--only", "ACME/*", "--host", "press-*"]
    made = document("token", "create", "ada", *options, "--expires", "90d", *plant)
    assert re.fullmatch(r"hg_[0-9a-f]{12}_[\w-]{43}", made["token"])
    assert (made["user"], made["label"], made["roles"]) == ("ada", "press", ["operator"])
    assert (made["only"], made["hosts"]) == (["ACME/*"], ["press-*"])
    listed = invoke("token", "list", "--json", *plant).stdout
    assert made["token"].split("_", 2)[2] not in listed
    (row,) = json.loads(listed)["tokens"]
    assert (row["id"], row["state"], row["label"]) == (made["id"], "good", "press")
    assert document("token", "revoke", made["id"], *plant) == {"id": made["id"], "user": "ada"}
    (row,) = document("token", "list", "--user", "ada", *plant)["tokens"]
    assert row["state"] == "revoked"
    assert document("token", "list", "--user", "bob", *plant) == {"tokens": []}


def test_token_alone_on_stdout(plant: list[str]) -> None:
    """A script takes the token from stdout; what people want to know of it is on stderr."""
    add(plant)
    result = invoke("token", "create", "ada", "--expires", "never", *plant)
    assert re.fullmatch(r"hg_\w+_[\w-]{43}\n", result.stdout)
    assert "not shown again" in result.stderr
    assert result.stdout.strip() not in result.stderr


def test_certificates(plant: list[str], tmp_path: Path) -> None:
    """A certificate is given by file, PEM or DER, by its key's hash or by a name in it."""
    add(plant)
    der = certificate()
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    (tmp_path / "cert.der").write_bytes(der)
    # Of a chain the first certificate is meant, and what stands before it is a comment.
    (tmp_path / "cert.pem").write_bytes(b"subject=ada\n" + pem + pem)
    marks = []
    for file in ("cert.pem", "cert.der"):
        made = document("certificate", "add", "ada", "--file", str(tmp_path / file), *plant)
        marks.append(made["spki"])
        document("certificate", "remove", str(made["id"]), *plant)
    assert marks[0] == marks[1]
    document("certificate", "add", "ada", "--spki", marks[0], *plant)
    document("certificate", "add", "ada", "--san", "dns:Panel-7", *plant)
    rows = document("certificate", "list", *plant)["certificates"]
    assert [(row["spki"], row["san"]) for row in rows] == [(marks[0], None), (None, "dns:panel-7")]


MISTAKES: list[tuple[list[str], int, str]] = [
    (["user", "remove", "bob"], 6, "no user 'bob'"),
    (["user", "passwd", "bob", "--no-password"], 6, "no user 'bob'"),
    (["token", "create", "bob"], 6, "no user 'bob'"),
    (["token", "revoke", "123"], 6, "no token '123'"),
    (["certificate", "remove", "5"], 6, "no certificate '5'"),
    (["user", "add", "Ada", "--no-password"], 2, "already"),
    (["user", "add", "a/b", "--no-password"], 2, "no name for a user"),
    (["user", "add", "bob", "--role", "a@b", "--no-password"], 2, "no name for a role"),
    (["user", "roles", "ada"], 2, "not said which roles"),
    (["user", "roles", "ada", "--role", "a", "--add", "b"], 2, "not said which roles"),
    (["token", "create", "ada", "--role", "other"], 2, "has not the roles other"),
    (["token", "create", "ada", "--only", "ACME"], 2, "project/handler"),
    (["certificate", "add", "ada"], 2, "one of"),
    (["certificate", "add", "ada", "--file", "missing.pem"], 2, "cannot be read"),
]


def test_mistakes(plant: list[str]) -> None:
    """What is wrong ends with the documented exit code, in the same words running or not."""
    add(plant)
    for arguments, code, text in MISTAKES:
        result = invoke(*arguments, *plant, "--json")
        assert result.exit_code == code, arguments
        assert text in json.loads(result.stdout)["error"]["message"], arguments


@pytest.mark.parametrize("text", ["", "90", "d", "1y", "-1d", "1.5d", "1234567890d"])
def test_no_time(tmp_path: Path, text: str) -> None:
    """What is no time is said before anything is done."""
    result = invoke("token", "create", "ada", "--expires", text, "--data", str(tmp_path / "data"))
    assert (result.exit_code, (tmp_path / "data").exists()) == (2, False)
    assert "90d" in result.stderr


def test_people_read_text(tmp_path: Path) -> None:
    """Without --json there is a sentence or a table, and a word where there is nothing."""
    where = ["--data", str(tmp_path / "data")]
    assert "no users" in invoke("user", "list", *where).stderr
    result = invoke("user", "add", "ada", "--role", "x", "--password-stdin", *where, stdin=PASSWORD)
    added, check = result.stdout.splitlines()
    assert added.startswith("Added the user 'ada' with the role x.")
    assert check == "  headgate check --user ada PROJECT/HANDLER"
    assert PASSWORD not in result.output
    assert invoke("user", "list", *where).stdout.split()[:5] == [
        "name",
        "roles",
        "hosts",
        "password",
        "created_at",
    ]
    assert invoke("user", "remove", "ada", *where).stdout == "Removed the user 'ada'.\n"


# --- where a password comes from -----------------------------------------------------------------


def test_password_from_a_file(tmp_path: Path) -> None:
    """The first line of a file is the password, whatever ends it; it logs in."""
    data, file = tmp_path / "data", tmp_path / "password"
    file.write_bytes("pässwörter\r\nsecond line\n".encode())
    document("user", "add", "ada", "--password-file", str(file), "--data", str(data))
    with headgate.Gateway("hub", projects={}, port=0, data=data) as gateway:
        headgate.connect(gateway.url, username="ada", password="pässwörter").close()
        with pytest.raises(PermissionDenied):
            headgate.connect(gateway.url, username="ada", password="second line")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "nobody to ask"),
        (["--password-stdin", "--no-password"], "twice"),
        (["--password-file", "missing"], "cannot be read"),
        (["--password-stdin"], "too short"),
    ],
)
def test_no_password(tmp_path: Path, options: list[str], problem: str) -> None:
    """No password is made up, and none is empty: without one the command says how to give it."""
    result = invoke("user", "add", "ada", *options, "--data", str(tmp_path / "data"))
    assert result.exit_code == 2
    assert problem in result.stderr


def test_no_password_as_an_argument() -> None:
    """A password in the arguments, which other users of the machine can read, is not taken."""
    for command in ("add", "passwd"):
        result = invoke("user", command, "ada", "--password", PASSWORD)
        assert result.exit_code == 2
        assert "No such option" in result.output


def test_password_is_asked_for_twice(tmp_path: Path) -> None:
    """On a terminal it is asked for, twice, and not shown."""
    pty = pytest.importorskip("pty")
    command = [sys.executable, "-m", "headgate", "user", "add", "ada"]
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        os.environ["TERM"] = "dumb"
        os.execv(command[0], [*command, "--data", str(tmp_path / "data")])
    shown = b""
    for prompt in (b"Password: ", b"confirmation: ", b"Added"):
        while prompt not in shown:
            shown += os.read(terminal, 1024)
        if prompt != b"Added":
            os.write(terminal, f"{PASSWORD}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert PASSWORD.encode() not in shown


# --- which gateway is meant ----------------------------------------------------------------------


def user_names(folder: Path) -> list[str]:
    """The users in a gateway's folder."""
    return [row["name"] for row in document("user", "list", "--data", str(folder))["users"]]


def test_folder_by_name(headgate_home: Path) -> None:
    """Without anything the gateway named gateway is meant, with --name another one."""
    document("user", "add", "ada", "--no-password")
    document("user", "add", "bob", "--no-password", "--name", "hub")
    assert user_names(headgate_home / "gateways" / "gateway") == ["ada"]
    assert user_names(headgate_home / "gateways" / "hub") == ["bob"]


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ('data = "own"', "conf/own"),
        ('name = "press"', "headgate-home/gateways/press"),
        ('name = "press"\ndata = "own"', "conf/own"),
    ],
)
def test_folder_by_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, folder: str
) -> None:
    """The configuration's folder counts from where it stands; it is found in the working folder."""
    file = tmp_path / "conf" / "headgate.toml"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    document("user", "add", "ada", "--no-password", "--config", str(file))
    monkeypatch.chdir(file.parent)
    document("user", "add", "bob", "--no-password")
    assert user_names(tmp_path / folder) == ["ada", "bob"]


@pytest.mark.parametrize("text", [None, "data = ["])
def test_bad_configuration(tmp_path: Path, text: str | None) -> None:
    """A configuration that is not there, or is no TOML, is named."""
    file = tmp_path / "headgate.toml"
    if text is not None:
        file.write_text(text)
    result = invoke("user", "list", "--config", str(file))
    assert result.exit_code == 2
    assert str(file) in result.stderr.replace("\n", "")


def test_running_gateway_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --url, or HEADGATE_URL, the gateway that runs there is asked."""
    data = tmp_path / "data"
    with headgate.Gateway("hub", projects={}, port=0, data=data) as gateway:
        document("user", "add", "ada", "--no-password", "--url", gateway.url)
        monkeypatch.setenv("HEADGATE_URL", gateway.url)
        document("user", "add", "bob", "--no-password")
        url = gateway.url
    assert user_names(data) == ["ada", "bob"]
    result = invoke("user", "list", "--url", url)
    assert result.exit_code == 4


def test_no_password_in_the_clear_to_another_machine() -> None:
    """Nothing is sent to another machine without TLS."""
    result = invoke("user", "passwd", "ada", "--no-password", "--url", "ws://10.255.255.1:8188")
    assert result.exit_code == 2
    assert "in the clear" in result.stderr


def test_gateway_that_was_killed(tmp_path: Path) -> None:
    """A gateway that was killed left its URL behind: its folder is used all the same."""
    (tmp_path / "projects" / "P" / "messages").mkdir(parents=True)
    data = tmp_path / "data"
    options = ["--projects", str(tmp_path / "projects"), "--port", "0", "--data", str(data)]
    with subprocess.Popen(
        [sys.executable, "-m", "headgate", "run", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert b"is ready" in process.stdout.readline()
        document("user", "add", "ada", "--no-password", "--data", str(data))
        process.kill()
    assert (data / "url").exists()
    assert user_names(data) == ["ada"]


def test_port_of_another_gateway(tmp_path: Path) -> None:
    """A URL that was left behind, where another gateway runs by now, is not asked."""
    one, other = tmp_path / "one", tmp_path / "other"
    document("user", "add", "ada", "--no-password", "--data", str(one))
    with headgate.Gateway("other", projects={}, port=0, data=other) as gateway:
        (one / "url").write_text(gateway.url)
        (one / "local-token").write_text("00" * 32)
        document("user", "add", "bob", "--no-password", "--data", str(one))
    assert (user_names(one), user_names(other)) == (["ada", "bob"], [])
