"""A gateway that is attacked: a process with TLS and users, and both ends of logins by hand."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

import headgate
from headgate.cli.app import app
from headgate.wire.frames import Frame, Refuse, decode_greeting
from headgate.wire.handshake import (
    NONCE_BYTES,
    OVER_TLS,
    Claim,
    ClientHandshake,
    Ticket,
)
from headgate.wire.session import Session

PASSWORD = "correct horse battery"

LOGIN_SECONDS = 2.0
"""The gateway's own ``login_seconds``."""

SETTINGS = f"""
    name = "hub"
    data = "data"
    host = "0.0.0.0"
    port = 0

    [limits]
    login_seconds = {LOGIN_SECONDS}
    LIMITS

    [[permission]]
    handlers = ["ACME/guarded"]
    roles = ["operator", "owner"]
    allow = true

    [[permission]]
    handlers = ["ACME/guarded"]
    allow = false
    """

SCRIPTS = {
    "echo": "def handleMessage(payload):\n    return payload\n",
    "guarded": "def handleMessage(payload):\n    return payload\n",
    "who": "def handleMessage(payload, context):\n    return context.caller.user\n",
    "hold": """
        import asyncio
        async def handleMessage(payload, context):
            context.progress("begun")
            await asyncio.sleep(60)
        """,
}


def cli(*arguments: str | Path, code: int = 0) -> str:
    """Run a command in this process, and return what it printed."""
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    return done.stdout


def outside() -> str:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            # Nothing is sent: the system only chooses where it would be sent from.
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address beyond loopback")
        address: str = sock.getsockname()[0]
        return address


class Attacked:
    """
    The process of a gateway with the users ``ada`` and ``bob``.

    Args:
        folder: Where it has everything: settings, projects, its own data, the home of its user.
        options: Further arguments of ``headgate run``.
        limits: A further line of its section ``[limits]``.
    """

    def __init__(self, folder: Path, *options: str, limits: str = "") -> None:
        self.folder = folder
        self._limits = limits
        self.home = folder / "home"
        self.config = folder / "headgate.toml"
        self.data = folder / "data"
        self.authority = self.data / "tls" / "ca.pem"
        self._password = folder / "password"
        self._options = options
        self._seen = 0
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def prepare(self, *, tls: bool = True) -> None:
        """Make everything that it needs, with the commands that a person would use."""
        self.config.write_text(dedent(SETTINGS).replace("LIMITS", self._limits), "utf-8")
        messages = self.folder / "projects" / "ACME" / "messages"
        messages.mkdir(parents=True)
        for name, text in SCRIPTS.items():
            (messages / f"{name}.py").write_text(dedent(text), "utf-8")
        self._password.write_text(f"{PASSWORD}\n", "utf-8")
        if tls:
            cli("cert", "init", "--config", self.config)
        for name in ("ada", "bob"):
            self.add_user(name)

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        command = [sys.executable, "-m", "headgate", "run", "--config", self.config]
        log = open(self.folder / "log", "w")  # noqa: SIM115
        with log:
            self._process = subprocess.Popen(
                [*map(str, command), "--json", *self._options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready, self.log
        self.port = int((self.data / "url").read_text().rpartition(":")[2])

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=20)

    @property
    def log(self) -> str:
        """What it logged so far."""
        return (self.folder / "log").read_text("utf-8")

    # --- its people ------------------------------------------------------------------------------

    def cli(self, *arguments: str | Path, code: int = 0) -> Any:
        """Run a command for this gateway, and return its document."""
        printed = cli(*arguments, "--config", self.config, "--json", code=code)
        return json.loads(printed) if printed else None

    def add_user(self, name: str, *roles: str) -> None:
        """Add a user whose password is `PASSWORD`."""
        given = [each for role in roles for each in ("--role", role)]
        self.cli("user", "add", name, *given, "--password-file", self._password)

    def url(self, host: str = "127.0.0.1", scheme: str = "wss") -> str:
        """Return where it listens."""
        return f"{scheme}://{host}:{self.port}"

    def client(self, name: str = "ada", **credentials: Any) -> headgate.Client:
        """Connect a client over TLS: as a user with its password, or with other credentials."""
        given = credentials or {"username": name, "password": PASSWORD}
        return headgate.connect(self.url(), ca=self.authority, **given)

    # --- what it recorded ------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows of its audit that came since the last call of `forget`."""
        printed = cli("audit", "list", "--data", self.data, "--json", "--limit", "1000000")
        return [row for row in json.loads(printed)["rows"] if row["seq"] > self._seen]

    def forget(self) -> None:
        """Leave the rows that there are now out of what comes."""
        self._seen = max((row["seq"] for row in self.rows()), default=self._seen)

    def told(self, event: str, text: str, **fields: Any) -> dict[str, Any]:
        """Wait for a row whose detail, or outcome, has this text, and return it."""
        end = time.monotonic() + 20
        while True:
            rows = self.rows()
            for row in rows:
                said = f"{row.get('outcome', '')} {row.get('detail', '')}"
                if row["event"] == event and text in said and fields.items() <= row.items():
                    return row
            assert time.monotonic() < end, f"not recorded: {event} {text!r} {fields}; but {rows}"
            time.sleep(0.02)

    # --- logins by hand --------------------------------------------------------------------------

    @property
    def token(self) -> bytes:
        """The owner's local token."""
        return bytes.fromhex((self.data / "local-token").read_text("ascii"))

    def context(self) -> ssl.SSLContext:
        """What a client speaks TLS with."""
        return ssl.create_default_context(cafile=self.authority)

    @contextmanager
    def by_hand(
        self, source: str = "127.0.0.1", host: str = "127.0.0.1", **options: Any
    ) -> Iterator[ClientConnection]:
        """Open a WebSocket to it from an address of this machine, for a login by hand."""
        secure = {"ssl": self.context()} if options.pop("tls", True) else {}
        url = f"{self.url(host, 'wss' if secure else 'ws')}/channel"
        with open_socket(
            url, compression=None, source_address=(source, 0), **secure, **options
        ) as peer:
            yield peer

    def log_in(self, peer: ClientConnection, claim: Claim, *, secure: bool = True) -> Login:
        """Play a login to its end."""
        endpoint = OVER_TLS if secure else f"127.0.0.1:{self.port}"
        handshake = ClientHandshake(claim, address=endpoint, nonce=os.urandom(NONCE_BYTES))
        login = Login()
        login.sent.append(handshake.hello())
        while True:
            peer.send(login.sent[-1])
            answer = peer.recv(timeout=20)
            assert isinstance(answer, bytes)
            login.answers.append(answer)
            if isinstance(login.last, Refuse):
                return login
            received = handshake.receive(answer, time.monotonic())
            if isinstance(received, Session):
                login.ticket = handshake.ticket
                return login
            login.sent.append(received)

    def refused(self, claim: Claim, source: str = "127.0.0.1", **options: Any) -> bytes:
        """Play a login that is refused, and return the message that says so."""
        with self.by_hand(source, **options) as peer:
            login = self.log_in(peer, claim)
            assert isinstance(login.last, Refuse), login.last
            assert login.last.code == "denied"
            with pytest.raises(ConnectionClosed):
                peer.recv(timeout=20)
            return login.answers[-1]


class Login:
    """What passed over the wire at one login."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.answers: list[bytes] = []
        self.ticket: Ticket | None = None

    @property
    def last(self) -> Frame:
        """The gateway's last frame."""
        return decode_greeting(self.answers[-1])


def password_of(user: str, password: str) -> Claim:
    """Return the claim of a user with a password, who trusts the certificate."""
    return Claim("password", None, user, password.encode())


def token_of(token: str) -> Claim:
    """Return the claim of an API token."""
    return Claim("token", secret=token.encode())


def seconds_until(condition: Callable[[], Any], limit: float = 20.0) -> float:
    """Wait until a condition holds, and return for how long."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + limit, "It did not come to pass"
        time.sleep(0.002)
    return time.monotonic() - begun
