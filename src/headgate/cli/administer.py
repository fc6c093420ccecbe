"""Administration: asked of the gateway while it runs, else done to its folder."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.channel.address import Address
from headgate.channel.local import data_folder, is_loopback, running_at
from headgate.cli.access import Access
from headgate.cli.config import load
from headgate.cli.ends import server_parts
from headgate.cli.options import Place
from headgate.errors import (
    ConfigurationError,
    GatewayUnreachable,
    PayloadError,
)

if TYPE_CHECKING:
    from headgate.gateway.config import Settings
    from headgate.invocation import Caller
    from headgate.security.audit import Recorder
    from headgate.store import Store

__all__ = ["administer", "chosen_folder", "folder_of"]

SECONDS = 30.0
"""Seconds that a running gateway has for an answer."""


def folder_of(place: Place) -> Path | None:
    """
    Return the own folder of the gateway that is meant; None if only its URL is known.

    Raises:
        ConfigurationError: The configuration cannot be read.
    """
    if place.url and place == Place(url=place.url):
        return None
    return chosen_folder(place)


def chosen_folder(place: Place) -> Path:
    """
    Return the own folder of the gateway that is meant, whatever its URL.

    Raises:
        ConfigurationError: The configuration cannot be read.
    """
    if place.data is not None:
        return place.data
    settings = load(place.config).settings
    if place.name is not None or settings.data is None:
        return data_folder(place.name or settings.name)
    return settings.data


def administer(place: Place, action: str, payload: dict[str, Any]) -> Any:
    """
    Have an administrator's action done.

    While the gateway runs, it is asked for it, as its owner; else the action is done to the
    database in its folder.

    Args:
        place: Which gateway is meant.
        action: The name of the action, as `headgate.security.administration` and
            `headgate.security.rules` have it.
        payload: What the action takes.

    Raises:
        ConfigurationError: Something about the payload or the place is wrong.
        RequestError: The gateway refused, failed, or has no such user, token or certificate.
    """
    folder = folder_of(place)
    url = place.url if folder is None else running_at(folder)
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
        return _do(place, folder, action, payload)
    except PayloadError as error:
        raise ConfigurationError(error.message) from None


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


def _do(place: Place, folder: Path, action: str, payload: dict[str, Any]) -> Any:
    with server_parts():
        from headgate.security.audit import AuditLog, LogRecorder, Recorders
        from headgate.security.identity import owner
        from headgate.store import Store
    settings = load(place.config).settings
    by = owner(host=platform.node(), session="")
    with Store(folder) as store, AuditLog(folder, settings.audit) as log:
        recorder = Recorders((LogRecorder(), log))
        if action.startswith("permission_"):
            return _do_to_rules(store, recorder, settings, action, payload, by)
        return _do_to_identities(store, recorder, action, payload, by)


def _do_to_rules(
    store: Store,
    recorder: Recorder,
    settings: Settings,
    action: str,
    payload: dict[str, Any],
    by: Caller,
) -> Any:
    import asyncio

    from headgate.security.policy import RulePolicy
    from headgate.security.rules import Rules, operations

    policy = RulePolicy()
    policy.configure(settings.permission, settings.zones)
    rules = Rules(store, policy, recorder)
    if action == "permission_list":
        # The others work with a rule whose zone is gone, too: one of them is the cure.
        rules.load()

    async def act() -> Any:
        return await operations(rules)[action](payload, by)

    return asyncio.run(act())


def _do_to_identities(
    store: Store, recorder: Recorder, action: str, payload: dict[str, Any], by: Caller
) -> Any:
    import asyncio

    from headgate.security.administration import Administration
    from headgate.security.identities import Identities

    async def act() -> Any:
        return await Administration(identities, recorder).administer(action, payload, by)

    identities = Identities(store)
    try:
        identities.load()
        return asyncio.run(act())
    finally:
        identities.close()
