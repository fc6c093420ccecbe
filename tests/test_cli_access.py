"""How commands log in: with a user, a token, or as the gateway's owner on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from headgate.cli.access import Access
from headgate.cli.app import app

if TYPE_CHECKING:
    import headgate
    from conftest import Rig

PASSWORD = "correct horse battery"
WHO = "def handleMessage(payload, context):\n    return context.caller.user\n"


@pytest.fixture
def hub(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> headgate.Gateway:
    """A gateway that commands in this process call."""
    hub = rig.gateway({"ACME/who": WHO})
    monkeypatch.setenv("HEADGATE_URL", hub.url)
    return hub


@pytest.fixture
def secrets(rig: Rig, hub: headgate.Gateway, tmp_path: Path) -> Path:
    """Files with the password and the token of a user of the gateway."""
    owner = rig.client(hub)
    user = {"name": "ada", "password": PASSWORD, "roles": ["owner"]}
    owner.request("@gateway", "user_add", user, timeout=10).get()
    token = owner.request("@gateway", "token_create", {"user": "ada"}, timeout=10).get()
    (tmp_path / "password").write_text(f"{PASSWORD}\nnot this\n")
    (tmp_path / "wrong").write_text("wrong horse battery\n")
    (tmp_path / "token").write_text(f"{token['token']}\r\n")
    (tmp_path / "empty").write_text("\n")
    return tmp_path


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def who(*options: str) -> Any:
    return invoke("request", "ACME", "who", *options)


def test_a_user_with_a_password(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By options or by the environment: the first line of the file is the password."""
    file = str(secrets / "password")
    result = who("--user", "ada", "--password-file", file)
    assert (result.exit_code, result.stdout) == (0, '"ada"\n'), result.output
    monkeypatch.setenv("HEADGATE_USER", "ada")
    monkeypatch.setenv("HEADGATE_PASSWORD_FILE", file)
    assert who().stdout == '"ada"\n'
    for command in ("handlers", "ps", "reload"):
        assert invoke(command).exit_code == 0


def test_a_token(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file or from the environment; a user that is named wins over the environment."""
    assert who("--token-file", str(secrets / "token")).stdout == '"ada"\n'
    with monkeypatch.context() as patch:
        patch.setenv("HEADGATE_TOKEN_FILE", str(secrets / "token"))
        assert who().stdout == '"ada"\n'
    monkeypatch.setenv("HEADGATE_TOKEN", "hg_wrong")
    assert who().exit_code == 5
    named = who("--user", "ada", "--password-file", str(secrets / "password"))
    assert named.stdout == '"ada"\n'
    monkeypatch.setenv("HEADGATE_TOKEN", (secrets / "token").read_text().strip())
    assert who().stdout == '"ada"\n'


def test_a_wrong_password_is_denied_and_not_shown(secrets: Path) -> None:
    """The exit code says so, for machines too; the password stands nowhere."""
    for as_json in ([], ["--json"]):
        options = ["--user", "ada", "--password-file", str(secrets / "wrong"), *as_json]
        result = who(*options)
        assert result.exit_code == 5
        assert "user or password is wrong" in result.output
        assert "wrong horse" not in result.output


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--password-file", "password"], "--password-file is the password of a --user"),
        (["--user", "ada", "--token-file", "token"], "two ways to log in"),
        (["--user", "ada"], "no terminal to ask for the password of 'ada'"),
        (["--user", "ada", "--password-file", "missing"], "cannot be read"),
        (["--user", "ada", "--password-file", "empty"], "first line is empty"),
        (["--key", "key.pem"], "--key is the key of a --certificate"),
    ],
)
def test_what_does_not_go_together(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], text: str
) -> None:
    """A mistake in the options is one of use, with what to do."""
    monkeypatch.chdir(secrets)
    result = who(*options)
    assert result.exit_code == 2
    assert text in " ".join(result.output.split())


def test_no_password_leaves_for_another_machine(secrets: Path) -> None:
    """Without TLS it is refused before anything is sent, with the cure."""
    options = ["--user", "ada", "--password-file", str(secrets / "password")]
    result = who("--url", "ws://192.0.2.1", *options)
    assert result.exit_code == 5
    assert "wss://192.0.2.1:8188" in result.output


def test_the_environment_is_the_same_for_administration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is chosen by its URL alone is logged in to with the environment."""
    for name in ("USER", "PASSWORD_FILE", "CA", "CERTIFICATE", "KEY", "TOKEN"):
        monkeypatch.setenv(f"HEADGATE_{name}", name.lower())
    access = Access.from_environment("wss://hub")
    assert (access.url, access.user, access.token) == ("wss://hub", "user", "token")
    assert (access.password_file, access.ca) == (Path("password_file"), Path("ca"))
    assert (access.certificate, access.key) == (Path("certificate"), Path("key"))
    assert access.token_file is None
    assert "'token'" not in repr(access)


def test_on_a_terminal_the_password_is_asked_for(rig: Rig, secrets: Path) -> None:
    """What is typed does not appear."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "headgate", "request", "ACME", "who", "--user", "ada"]
    with subprocess.Popen(
        command, stdin=slave, stdout=subprocess.PIPE, stderr=slave, start_new_session=True
    ) as process:
        os.close(slave)
        shown = b""
        while b"Password of ada" not in shown:
            shown += os.read(master, 4096)
        # What is typed before the terminal's echo is off is thrown away.
        rig.until(lambda: not termios.tcgetattr(master)[3] & termios.ECHO)
        os.write(master, f"{PASSWORD}\n".encode())
        assert process.stdout is not None
        assert process.stdout.read() == b'"ada"\n'
    os.close(master)
    assert PASSWORD.encode() not in shown
