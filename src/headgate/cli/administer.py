"""Administration: asked of the gateway while it runs, else done to its folder."""

from __future__ import annotations

import asyncio
import platform
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate.channel.address import Address
from headgate.channel.local import data_folder, is_loopback, token_of_port
from headgate.cli.access import Access
from headgate.cli.projects import server_parts
from headgate.errors import (
    ConfigurationError,
    GatewayUnreachable,
    HeadgateError,
    PayloadError,
)

__all__ = ["Place", "administer"]

CONFIGURATION = Path("headgate.toml")
"""The gateway's configuration, if it stands in the working folder."""

SECONDS = 30.0
"""Seconds that a running gateway has for an answer."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which gateway is meant; one of them is enough."""

    url: str | None = None
    """Where it runs; what names its folder is stronger."""
    data: Path | None = None
    """Its own folder."""
    name: str | None = None
    """Its name, which its folder has by default."""
    config: Path | None = None
    """Its configuration. Default: ``headgate.toml`` in the working folder, if it is there."""

    def folder(self) -> Path | None:
        """
        Return the gateway's own folder; None if only its URL is known.

        Raises:
            ConfigurationError: The configuration cannot be read.
        """
        if self.data is not None:
            return self.data
        if self.name is None and self.config is None and self.url is not None:
            return None
        data, name = _configured(self.config)
        if self.name is not None or data is None:
            return data_folder(self.name or name or "gateway")
        return data


def administer(place: Place, action: str, payload: dict[str, Any]) -> Any:
    """
    Have an administrator's action done.

    While the gateway runs, it is asked for it, as its owner; else the action is done to the
    database in its folder.

    Args:
        place: Which gateway is meant.
        action: The name of the action, as `headgate.security.administration` has it.
        payload: What the action takes.

    Raises:
        ConfigurationError: Something about the payload or the place is wrong.
        RequestError: The gateway refused, failed, or has no such user, token or certificate.
    """
    folder = place.folder()
    url = place.url if folder is None else _running_at(folder)
    try:
        if url is not None:
            try:
                # Its owner does not need what the environment logs in with elsewhere.
                access = Access(url=url) if folder else Access.from_environment(url)
                return _ask(access, action, payload)
            except GatewayUnreachable:
                if folder is None:
                    raise
                # It was killed and left its URL behind, or has just stopped: its folder tells.
        assert folder is not None
        return _do(folder, action, payload)
    except PayloadError as error:
        raise ConfigurationError(error.message) from None


def _configured(file: Path | None) -> tuple[Path | None, str | None]:
    """Return the folder and the name that a configuration gives."""
    if file is None and not CONFIGURATION.exists():
        return None, None
    file = file or CONFIGURATION
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"The configuration cannot be read: {error.strerror or error}",
            cure="Give another one with --config, or the gateway's folder with --data",
            file=str(file),
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"This is no TOML: {error}", file=str(file)) from None
    data, name = settings.get("data"), settings.get("name")
    return (file.parent / data if isinstance(data, str) else None), (
        name if isinstance(name, str) else None
    )


def _running_at(folder: Path) -> str | None:
    """Return the URL of the gateway that runs on a folder; None if none seems to."""
    try:
        url = (folder / "url").read_text(encoding="utf-8")
        token = bytes.fromhex((folder / "local-token").read_text("ascii"))
        # Another gateway may have the port by now.
        return url if token_of_port(Address(url).port) == token else None
    except (OSError, ValueError, HeadgateError):
        return None


def _ask(access: Access, action: str, payload: dict[str, Any]) -> Any:
    from headgate.cli.call import Target, connected

    address = Address(access.url)
    if not address.secure and not is_loopback(address.host):
        raise ConfigurationError(
            f"{access.url} would carry passwords in the clear to another machine",
            cure="Use a wss:// URL, or run the command on the gateway's own machine",
        )
    target = Target(access=access)
    with connected(target) as client:
        return client.request(target.project, action, payload, timeout=SECONDS).get()


def _do(folder: Path, action: str, payload: dict[str, Any]) -> Any:
    with server_parts():
        from headgate.security.administration import Administration
        from headgate.security.audit import LogRecorder
        from headgate.security.identities import Identities
        from headgate.security.identity import owner
        from headgate.store import Store

    async def act() -> Any:
        administration = Administration(identities, LogRecorder())
        by = owner(host=platform.node(), session="")
        return await administration.administer(action, payload, by)

    with Store(folder) as store:
        identities = Identities(store)
        try:
            identities.load()
            return asyncio.run(act())
        finally:
            identities.close()
