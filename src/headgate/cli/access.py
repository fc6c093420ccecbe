"""The options of the commands that call a gateway: which one, and how they log in there."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headgate.channel.address import DEFAULT_PORT, DEFAULT_URL, OWN_HOST, url_of
from headgate.channel.local import SETTINGS_FILE, data_folder, is_loopback, running_at
from headgate.cli.options import options_of, spread
from headgate.cli.output import complain
from headgate.errors import ConfigurationError

if TYPE_CHECKING:
    from headgate.client import Client

__all__ = ["Access", "calls"]

MAX_FILE = 64 * 1024
"""Bytes of a file with a password or token, at most: a larger one is none."""


def _file(help: str, variable: str) -> Any:
    return typer.Option(metavar="FILE", envvar=variable, help=help, show_default=False)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Which gateway is called, and who calls; without anything else, its owner on this machine."""

    url: Annotated[
        str,
        typer.Option(
            envvar="HEADGATE_URL",
            help="The gateway to call. Default: that of headgate.toml in the working folder, else "
            f"{DEFAULT_URL}.",
            show_default=False,
        ),
    ] = ""
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="HEADGATE_USER",
            help="Log in as this user; on a terminal the password is asked for.",
            show_default=False,
        ),
    ] = None
    password_file: Annotated[
        Path | None, _file("Its first line is the password.", "HEADGATE_PASSWORD_FILE")
    ] = None
    token_file: Annotated[
        Path | None, _file("Its first line is an API token to log in with.", "HEADGATE_TOKEN_FILE")
    ] = None
    ca: Annotated[
        Path | None, _file("Authority of the gateway's certificate, for wss://.", "HEADGATE_CA")
    ] = None
    certificate: Annotated[
        Path | None, _file("A client certificate to show, PEM.", "HEADGATE_CERTIFICATE")
    ] = None
    key: Annotated[
        Path | None, _file("Its key, if that has a file of its own.", "HEADGATE_KEY")
    ] = None
    token: str | None = field(default=None, repr=False)
    """An API token; no option, since others see the arguments of a process."""

    @classmethod
    def from_environment(cls, url: str) -> Access:
        """Return the access that the environment gives, for a gateway that was chosen otherwise."""

        def path(name: str) -> Path | None:
            text = os.environ.get(f"HEADGATE_{name}")
            return Path(text) if text else None

        return cls(
            url=url,
            user=os.environ.get("HEADGATE_USER") or None,
            password_file=path("PASSWORD_FILE"),
            token_file=path("TOKEN_FILE"),
            ca=path("CA"),
            certificate=path("CERTIFICATE"),
            key=path("KEY"),
            token=os.environ.get("HEADGATE_TOKEN") or None,
        )

    def connect(self) -> Client:
        """
        Return a client of the gateway.

        Raises:
            ConfigurationError: The options do not go together, or a file cannot be read.
            RequestError: The gateway cannot be reached, or refused.
        """
        from headgate.client import connect

        if self.key is not None and self.certificate is None:
            raise ConfigurationError("--key is the key of a --certificate", cure="Give both")
        pair = (self.certificate, self.key) if self.certificate and self.key else self.certificate
        # The environment names the authority once for all gateways, those without TLS too.
        ca = self.ca if self.url.startswith("wss:") else None
        return connect(self.url, ca=ca, certificate=pair, **self._credentials())

    def _credentials(self) -> dict[str, Any]:
        if self.user is None and self.password_file is not None:
            raise ConfigurationError(
                "--password-file is the password of a --user", cure="Give both, or none"
            )
        if self.user is not None and self.token_file is not None:
            raise ConfigurationError(
                "--user and --token-file are two ways to log in", cure="Give one of them"
            )
        if self.user is not None:
            return {"username": self.user, "password": self._password(self.user)}
        if self.token_file is not None:
            return {"token": _first_line(self.token_file)}
        return {"token": self.token} if self.token else {}

    def _password(self, user: str) -> str:
        if self.password_file is not None:
            return _first_line(self.password_file)
        if not sys.stdin.isatty():
            raise ConfigurationError(
                f"There is no terminal to ask for the password of {user!r}",
                cure="Give it with --password-file, or HEADGATE_PASSWORD_FILE",
            )
        return str(typer.prompt(f"Password of {user}", hide_input=True, err=True))


def calls(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Access`, in place of its parameter ``access``."""
    names = [each.name for each in fields(Access) if each.name != "token"]

    def make(given: dict[str, Any]) -> Access:
        url = given.pop("url") or _usual_url()
        return Access(url=url, token=os.environ.get("HEADGATE_TOKEN"), **given)

    return spread(command, "access", options_of(Access), names, make)


def _usual_url() -> str:
    """
    Return where the gateway of the working folder is, if there are settings of one.

    Of the settings only what is needed is read, and not checked: a client has nothing to check
    them with, and a mistake in them must not keep anybody from `headgate reload`.
    """
    try:
        stated = tomllib.loads(Path(SETTINGS_FILE).read_text("utf-8"))
    except FileNotFoundError:
        return DEFAULT_URL
    except (OSError, ValueError) as error:
        complain(f"{SETTINGS_FILE} cannot be read: {error}\nSo {DEFAULT_URL} is called.")
        return DEFAULT_URL

    def setting(name: str, default: str) -> str:
        return os.environ.get(f"HEADGATE_{name.upper()}") or str(stated.get(name, default))

    data = setting("data", "")
    folder = Path(data) if data else data_folder(setting("name", "gateway"))
    host, port = setting("host", OWN_HOST), setting("port", "")
    number = int(port) if port.isdecimal() and 0 < int(port) < 65536 else DEFAULT_PORT
    return running_at(folder) or url_of(host if is_loopback(host) else OWN_HOST, number)


def _first_line(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            line = stream.readline(MAX_FILE).rstrip("\r\n")
    except OSError as error:
        problem = f"The file cannot be read: {error.strerror or error}"
    except UnicodeDecodeError:
        problem = "The file is no text"
    else:
        if line:
            return line
        problem = "The file's first line is empty"
    raise ConfigurationError(problem, cure="Put the secret into its first line", file=str(file))
