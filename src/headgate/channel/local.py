"""
Where the owner's local token is found.

A gateway keeps the token in its data folder, in a file that only its owner can read, and leaves a
pointer to that file under the number of its port. A client of the same user on the same machine
follows the pointer. The token itself is never sent (see `headgate.wire.handshake`).

Where the port speaks TLS the pointer leads to the certificate that it shows, too.
"""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from headgate.errors import ConfigurationError
from headgate.files import write_whole

__all__ = [
    "SETTINGS_FILE",
    "certificate_of_port",
    "data_folder",
    "forget_port",
    "forget_url",
    "home_folder",
    "is_loopback",
    "publish_port",
    "publish_url",
    "read_or_make_token",
    "running_at",
    "token_of_port",
]

TOKEN_BYTES = 32

_URL = "url"
"""The file of a data folder that has the URL of its gateway while that runs."""

SETTINGS_FILE = "headgate.toml"
"""The usual name of a gateway's settings, which are looked for in the working folder."""


def home_folder() -> Path:
    """
    Return the folder for this user's Headgate data.

    The environment variable ``HEADGATE_HOME`` overrides the platform's own place.
    """
    chosen = os.environ.get("HEADGATE_HOME")
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("headgate", False))


def data_folder(gateway: str) -> Path:
    """Return the default data folder of a gateway of this name."""
    return home_folder() / "gateways" / gateway


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine's loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name such as 127.example.org leads anywhere


def read_or_make_token(data: Path) -> bytes:
    """
    Return the token in a gateway's data folder; the first call makes it.

    Raises:
        ConfigurationError: Others can read the file.
    """
    file = data / "local-token"
    if not file.exists():
        _write_private(file, secrets.token_hex(TOKEN_BYTES))
    return _read_private(file)


def publish_port(port: int, data: Path, *, certificate: Path | None = None) -> None:
    """
    Leave a pointer from a port to the token in a data folder.

    Args:
        port: The port's number.
        data: The gateway's data folder.
        certificate: The file with the certificate that the port shows, None if it has no TLS.
    """
    text = str((data / "local-token").resolve())
    _write_private(_pointer(port), f"{text}{_AND}{certificate.resolve()}" if certificate else text)


def forget_port(port: int, data: Path) -> None:
    """Remove the pointer, if it still leads to this data folder."""
    pointer = _pointer(port)
    try:
        token, _ = _read_pointer(port)
        if token == str((data / "local-token").resolve()):
            pointer.unlink()
    except (FileNotFoundError, ConfigurationError):
        pass


def publish_url(url: str, data: Path) -> None:
    """Leave the URL of a gateway in its data folder, for commands that name the folder."""
    _write_private(data / _URL, url)


def forget_url(data: Path) -> None:
    """Remove it."""
    (data / _URL).unlink(missing_ok=True)


def running_at(data: Path) -> str | None:
    """Return the URL of the gateway that runs on a data folder; None if none seems to."""
    try:
        url = (data / _URL).read_text(encoding="utf-8")
        token = bytes.fromhex((data / "local-token").read_text("ascii"))
        # Another gateway may have the port by now.
        return url if token_of_port(urlsplit(url).port or 0) == token else None
    except (OSError, ValueError, ConfigurationError):
        return None


def token_of_port(port: int) -> bytes | None:
    """
    Return the token of this user's gateway on a port, None if there is none.

    Raises:
        ConfigurationError: Others can read the token or change the pointer.
    """
    try:
        file, _ = _read_pointer(port)
        return _read_private(Path(file)) if file else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def certificate_of_port(port: int) -> Path | None:
    """
    Return the certificate that this user's gateway on a port shows, None if it has no TLS.

    Where the pointer cannot be read there is none either: who needs the token is told why.

    Raises:
        ConfigurationError: Others can change the pointer.
    """
    try:
        _, certificate = _read_pointer(port)
    except (OSError, ValueError):
        return None
    return Path(certificate) if certificate else None


_AND = "\0"
"""Between the two paths of a pointer: the only character that no path can hold."""


def _read_pointer(port: int) -> tuple[str, str]:
    """Return the places of token and certificate; a pointer of an earlier release has only one."""
    pointer = _pointer(port)
    if _is_open(pointer, 0o022):
        raise ConfigurationError(
            f"The pointer of port {port} can be changed by others, so it proves nothing",
            cure="Delete the file and start the gateway again: it makes a new one",
            file=str(pointer),
        )
    token, _, certificate = pointer.read_text("utf-8").partition(_AND)
    return token, certificate


def _pointer(port: int) -> Path:
    return home_folder() / "ports" / str(port)


def _write_private(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(file, text.encode())


def _is_open(file: Path, bits: int) -> bool:
    """Whether a file is another user's, or others have one of these rights; POSIX alone knows."""
    if not hasattr(os, "getuid"):
        return False
    status = file.stat()
    return status.st_uid != os.getuid() or bool(status.st_mode & bits)


def _read_private(file: Path) -> bytes:
    if _is_open(file, 0o077):
        raise ConfigurationError(
            "The owner's local token can be read by others, so it proves nothing",
            cure="Delete the file and start the gateway again: it makes a new one",
            file=str(file),
        )
    try:
        token = bytes.fromhex(file.read_text("ascii"))
    except ValueError:
        token = b""
    if len(token) != TOKEN_BYTES:
        raise ConfigurationError(
            "The owner's local token is damaged",
            cure="Delete the file and start the gateway again: it makes a new one",
            file=str(file),
        )
    return token
