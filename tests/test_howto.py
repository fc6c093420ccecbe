"""The commands of docs/howto are run as they stand there."""

from __future__ import annotations

import ipaddress
import json
import os
import pty
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, closing
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import headgate
from headgate.cli.app import app
from headgate.runtimes.forkserver import why_unsupported
from headgate.security.certificates import names_of_this_machine
from tests.test_readme import ROOT, blocks, commands, write_files

PAGE = ROOT / "docs" / "howto" / "secure-gateway.md"
HANGING = ROOT / "docs" / "howto" / "stop-hanging-handlers.md"

PASSWORDS = {"anna": "anna's secret", "ben": "ben's secret"}


def address() -> str:
    """An address of this machine that is not loopback."""
    for name in names_of_this_machine():
        try:
            if ipaddress.ip_address(name).version == 4:
                return name
        except ValueError:
            continue
    pytest.skip("this machine has no address but loopback")


class Machine:
    """A machine of the page: its working folder, and its user's data."""

    def __init__(self, folder: Path, **environment: str) -> None:
        folder.mkdir()
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADGATE_")}
        home = str(folder.parent / f"home of {folder.name}")
        self.environment = {**kept, "HEADGATE_HOME": home, **environment}

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command; returns its exit code and what it says."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    def type(self, command: str) -> tuple[int, str]:
        """Type a command of the page."""
        return self.run(*words(command))

    def answer(self, command: str, password: str) -> str:
        """Type a command on a terminal, and the password as often as it is asked for."""
        ours, theirs = pty.openpty()
        # A session of its own, or it would ask on the terminal that the tests run on.
        with subprocess.Popen(
            words(command),
            cwd=self.folder,
            env={**self.environment, "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            said, answered = b"", 0
            while data := read(ours):
                said += data
                if said.count(b": ") > answered and said.endswith(b": "):
                    answered = said.count(b": ")
                    os.write(ours, password.encode() + b"\n")
        os.close(ours)
        assert process.returncode == 0, said
        return said.decode()


def read(terminal: int) -> bytes:
    """Return what comes from a terminal; nothing when nobody is there any more."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def words(command: str) -> list[str]:
    """The process of a command of the page."""
    program, *arguments = shlex.split(command)
    assert program == "headgate"
    return [sys.executable, "-m", program, *arguments]


class Site:
    """The gateway's machine after the page's first part, and the client's."""

    def __init__(self, folder: Path) -> None:
        self.hub = Machine(folder / "mill", HEADGATE_PORT="0")
        self.client = Machine(folder / "elsewhere")
        self.steps = list(commands(PAGE))
        count = [command for command, _ in self.steps].index("headgate run")
        for command, _ in self.steps[:count]:
            self.follow(command)
        write_files(PAGE, self.hub.folder)
        self.gateway = subprocess.Popen(
            words("headgate run"),
            cwd=self.hub.folder,
            env=self.hub.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.gateway.stdout is not None
        self.ready = self.gateway.stdout.readline()
        self.port = int(self.ready.rpartition(":")[2] or 0)
        self.place = f"{address()}:{self.port}"
        self.others = self.steps[count + 1 :]
        for user, password in PASSWORDS.items():
            (self.client.folder / f"{user}.password").write_text(password)

    def follow(self, command: str) -> None:
        """Do a step of the first part."""
        if found := re.match(r"headgate user add (\w+)", command):
            said = self.hub.answer(command, PASSWORDS[found[1]])
            assert PASSWORDS[found[1]] not in said
            return
        code, said = self.hub.type(command)
        assert code == 0, said
        if authority := re.search(r"Copy (\S.*ca\.pem) ", said):
            shutil.copy(authority[1], self.client.folder)

    def here(self, text: str) -> str:
        """A text of the page for the machine and port of this test."""
        return text.replace("mill.example.org:8188", self.place)

    @property
    def ca(self) -> Path:
        """The copy of the authority."""
        return self.client.folder / "ca.pem"

    def rows(self) -> list[dict[str, object]]:
        """The rows of the audit log."""
        code, said = self.hub.type("headgate audit list --json")
        assert code == 0, said
        rows: list[dict[str, object]] = json.loads(said)["rows"]
        return rows

    def stop(self) -> None:
        """End the gateway."""
        self.gateway.terminate()
        self.gateway.wait(30)
        assert self.gateway.stdout is not None
        self.gateway.stdout.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """What the page's first part leads to, from an empty folder."""
    address()
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site
    finally:
        site.stop()


def test_six_steps_are_enough(site: Site) -> None:
    """The gateway runs after six commands at most, of which one may be a file to write."""
    first = PAGE.read_text("utf-8").partition("## On another machine")[0]
    files = [block for block in blocks(PAGE) if block.file]
    assert first.count("\n$ ") + len(files) <= 6
    assert site.ready == f"The gateway 'mill' is ready: wss://mill.example.org:{site.port}\n"


def test_the_rest_of_the_page(site: Site) -> None:
    """The other commands and programs do, from beyond loopback, what the page shows."""
    for command, shown in site.others:
        machine = site.client if "--url" in command else site.hub
        code, said = machine.type(site.here(command))
        assert said == shown or not shown
        refused = "PermissionDenied" in shown or " may not " in shown
        assert code == (5 if refused else 0), said
    (program,) = [b for b in blocks(PAGE) if b.language == "python" and not b.file]
    done = site.client.run(sys.executable, "-c", site.here(program.code))
    assert done == (0, program.output)


def test_who_may_what(site: Site) -> None:
    """A program of the operator may, one of the other user may not, and a message neither."""
    url = f"wss://{site.place}"
    line = {"line": 1}
    with headgate.connect(url, ca=site.ca, username="anna", password=PASSWORDS["anna"]) as client:
        assert client.request("mill", "start", line).get() == "line 1 started by anna"
    with headgate.connect(url, ca=site.ca, username="ben", password=PASSWORDS["ben"]) as client:
        with pytest.raises(headgate.PermissionDenied) as caught:
            client.request("mill", "start", line).get()
        assert caught.value.started is False
        assert client.request("mill", "hello", {}).get() == {"greeting": "Hello, world!"}
    refused = [row for row in site.rows() if row["event"] == "refused" and row.get("user") == "ben"]
    assert refused[-1]["target"] == "mill/start"
    assert refused[-1]["address"] == address()


def test_who_may_not_at_all(site: Site) -> None:
    """A wrong password, plain ws:// and the owner's token from beyond loopback are refused."""
    (site.client.folder / "wrong.password").write_text("a wrong one")
    called = "headgate request mill hello --user anna"
    tls = f"{called} --url wss://{site.place} --ca ca.pem"
    code, said = site.client.type(f"{tls} --password-file wrong.password")
    assert (code, "user or password is wrong" in said) == (5, True)
    code, said = site.client.type(f"{called} --url ws://{site.place} --password-file anna.password")
    assert (code, "where others can read it" in said) == (5, True)
    with pytest.raises(headgate.PermissionDenied, match="another machine"):
        headgate.connect(f"wss://{site.place}", ca=site.ca).close()
    with closing(socket.create_connection((address(), site.port), timeout=20)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: mill.example.org\r\nUpgrade: websocket\r\n\r\n")
        assert b"write wss://" in plain.recv(4096)
    refused = [row for row in site.rows() if row["event"] == "refused"]
    wrong = [row for row in refused if "the password of 'anna' is wrong" in str(row["detail"])]
    assert [row["user"] for row in wrong] == ["anna"]
    assert any("TLS" in str(row["detail"]) for row in refused)


def test_the_log_has_it_all(site: Site) -> None:
    """The audit has whoever was added and came in, and no password; and it verifies."""
    for user, password in PASSWORDS.items():
        headgate.connect(
            f"wss://{site.place}", ca=site.ca, username=user, password=password
        ).close()
    rows = site.rows()
    assert {"anna", "ben"} <= {row.get("user") for row in rows if row["event"] == "login"}
    added = [row for row in rows if row.get("target") == "@gateway/user_add"]
    assert [str(row["detail"]).split("'")[1] for row in added] == ["anna", "ben"]
    code, said = site.hub.type("headgate audit verify")
    assert (code, "No problems." in said) == (0, True)
    assert not any(secret in json.dumps(rows) for secret in PASSWORDS.values())


class Desk:
    """Somebody who follows the page on handlers that hang, beside a gateway that runs."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder / "desk", HEADGATE_PORT="0")
        with chdir(self.machine.folder):
            assert CliRunner().invoke(app, ["init", "site"]).exit_code == 0
        self.machine.folder /= "site"
        write_files(HANGING, self.machine.folder)
        self.gateway = subprocess.Popen(
            words("headgate run"),
            cwd=self.machine.folder,
            env=self.machine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.gateway.stdout is not None
        self.url = self.gateway.stdout.readline().rpartition(" ")[2].strip()
        self.hanging = ""

    def ask(self) -> None:
        """Make the request that hangs, and wait until the gateway knows all about its handler."""
        self.client.request("site", "forecast", {"hours": 24})
        runs: list[dict[str, Any]] = []
        while not runs or runs[0]["cpu_seconds"] is None:
            runs = self.client.request("@gateway", "ps").get()["running"]
        self.hanging = runs[0]["id"]

    def type(self, command: str) -> tuple[int, str]:
        """Type a command of the page; the run that hangs has another id there."""
        _, *arguments = shlex.split(command.replace("3-1", self.hanging))
        done = CliRunner(env={"HEADGATE_URL": self.url}).invoke(app, arguments)
        return done.exit_code, done.output

    def mend(self, settings: str, script: str) -> None:
        """Save what the page says, and have it taken up."""
        with (self.machine.folder / "headgate.toml").open("a") as file:
            file.write(settings)
        (self.machine.folder / "projects/site/messages/forecast.py").write_text(script)
        taken = self.client.request("@gateway", "reload").get()
        assert not taken["problems"]
        assert not taken["settings"]["mistakes"]

    @cached_property
    def client(self) -> headgate.Client:
        """A client of the owner."""
        return headgate.connect(self.url)

    def shape(self, text: str) -> str:
        """What is not by chance in what a command says: no numbers, widths, users and folders."""
        text = text.replace(str(self.machine.folder), "/srv/site")
        text = re.sub(r"(?m)\S+ at \S+ *$", "anna at panel", text)
        text = re.sub(r"(?m)^site: \d workers? .*\n", "", text)
        return re.sub(r"[\s─]+", " ", re.sub(r"\d[\d.]*", "0", text)).strip()

    def stop(self) -> None:
        """End the gateway."""
        self.client.close()
        self.gateway.terminate()
        self.gateway.wait(30)
        assert self.gateway.stdout is not None
        self.gateway.stdout.close()


def test_a_handler_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of the page, one after the other, says what the page shows."""
    if why_unsupported():
        pytest.skip(why_unsupported())
    (ask, _), *steps = commands(HANGING)
    assert ask.startswith("headgate request site forecast")
    (settings,) = [b.code for b in blocks(HANGING) if b.language == "toml"]
    mended, program = [b for b in blocks(HANGING) if b.language == "python" and not b.file]
    codes = {"cancel": 1, "request": 3, "drain --timeout": 3}
    desk = Desk(tmp_path)
    monkeypatch.setenv("HEADGATE_HOME", desk.machine.environment["HEADGATE_HOME"])
    try:
        desk.ask()
        for command, shown in steps:
            if "--timeout 1" in command and "request" in command:
                desk.mend(settings, mended.code)
            code, said = desk.type(command)
            assert desk.shape(said) == desk.shape(shown)
            assert code == next((c for words, c in codes.items() if words in command), 0)
        code_of_program = program.code.replace("connect()", f"connect({desk.url!r})")
        done = desk.machine.run(sys.executable, "-c", code_of_program)
        assert done == (0, program.output)
    finally:
        desk.stop()
