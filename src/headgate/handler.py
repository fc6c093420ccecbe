"""
The settings of a message handler, and the decorator with which its script states them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar, Unpack

import msgspec

from headgate.errors import ConfigurationError

__all__ = [
    "HandlerOptions",
    "HandlerSettings",
    "Threading",
    "check_setting",
    "check_settings",
    "handler",
    "known_names",
]

Threading = Literal["Shared", "Dedicated"]

Function = TypeVar("Function", bound=Callable[..., Any])


class HandlerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the gateway runs a message handler."""

    threading: Threading = "Shared"
    """Shared: on the project's pool. Dedicated: on a thread of its own, strictly in order."""

    concurrency: int | None = None
    """Calls that may run at once; None for as many as the project's pool has threads."""

    queue: int = 10_000
    """Calls that may wait; one more is answered with `Overloaded`."""

    timeout: float | None = None
    """Seconds that a call may take at most, whatever its caller allows; None for no such cap."""

    roles: tuple[str, ...] = ()
    """
    Roles of which a caller must have one, ``role@gateway`` for those of other gateways; empty for
    any. It narrows what the gateway's rules allow, for everybody: the owner's role is ``owner``.
    """

    zones: tuple[str, ...] = ()
    """Zones of the gateway of which a caller must be in one; empty for any. It narrows, too."""

    @staticmethod
    def merge(
        explicit: Mapping[str, Any], defaults: Mapping[str, Any], *, file: str = ""
    ) -> HandlerSettings:
        """
        Put the settings that were given together.

        Args:
            explicit: What is said about this handler.
            defaults: What is said about all handlers of its project.
            file: The handler's script, for the error.

        Raises:
            ConfigurationError: The explicit settings contradict each other.
        """
        check_settings(explicit, file=file)
        merged = {**defaults, **explicit}
        if merged.get("threading") == "Dedicated":
            merged["concurrency"] = 1
        for name in ("roles", "zones"):
            merged[name] = tuple(merged.get(name, ()))
        return HandlerSettings(**merged)


class HandlerOptions(TypedDict, total=False):
    """The keywords of `handler`: those left out keep their default."""

    threading: Threading
    concurrency: int | None
    queue: int
    timeout: float | None
    roles: Sequence[str]
    zones: Sequence[str]


def handler(**settings: Unpack[HandlerOptions]) -> Callable[[Function], Function]:
    """
    State the settings of a message handler on its function.

    ::

        @headgate.handler(threading="Dedicated", timeout=5)
        def handleMessage(payload): ...

    The function stays as it is. The gateway reads the settings from the script's text, so they
    are literals.

    Args:
        settings: `threading`, `concurrency`, `queue`, `timeout`, `roles` and `zones`, as in
            `HandlerSettings`; the last two are lists.

    Raises:
        TypeError: There is no such setting.
        ValueError: A setting has a value that it cannot have.
    """
    try:
        check_settings(settings)
    except ConfigurationError as error:
        kind = ValueError if settings.keys() <= _RULES.keys() else TypeError
        raise kind(str(error)) from None
    return _unchanged


def _unchanged(function: Function) -> Function:
    return function


def check_settings(
    settings: Mapping[str, object], *, file: str = "", line: int | None = None
) -> None:
    """
    Check settings of one handler that stand together in one place.

    Args:
        settings: The settings by name.
        file: Where they stand, for the error.
        line: The line in the file.

    Raises:
        ConfigurationError: A setting is unknown, has a wrong value or contradicts another.
    """
    for name, value in settings.items():
        check_setting(name, value, file=file, line=line)
    if settings.get("threading") == "Dedicated" and settings.get("concurrency") not in (None, 1):
        raise ConfigurationError(
            f"concurrency={settings['concurrency']} contradicts threading='Dedicated', "
            "which is one thread",
            cure="Leave concurrency out, or write threading='Shared'",
            file=file,
            line=line,
        )


def check_setting(name: str, value: object, *, file: str = "", line: int | None = None) -> None:
    """
    Check one setting of a handler.

    Args:
        name: The setting.
        value: What it is to be.
        file: Where it stands, for the error.
        line: The line in the file.

    Raises:
        ConfigurationError: The setting is unknown, or cannot have this value.
    """
    if name not in _RULES:
        problem, cure = f"{name!r} is no setting of a handler", known_names(name, _RULES)
    elif not _RULES[name].fits(value):
        problem, cure = f"{name} cannot be {value!r}", _RULES[name].cure
    else:
        return
    raise ConfigurationError(problem, cure=cure, file=file, line=line)


def known_names(name: str, known: Iterable[str]) -> str:
    """The cure for an unknown name: the nearest known one, if one is near, and all of them."""
    names = list(known)
    if not names:
        return "There are none"
    near = difflib.get_close_matches(name, names, n=1)
    question = f"Did you mean {near[0]!r}? " if near else ""
    return f"{question}Known: {', '.join(names)}"


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf


def _names(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(name, str) and name for name in value)


class _Rule(NamedTuple):
    fits: Callable[[object], bool]
    cure: str


_RULES = {
    "threading": _Rule(
        lambda value: value in ("Shared", "Dedicated"),
        "Write 'Shared' (the project's pool) or 'Dedicated' (one thread, in order)",
    ),
    "concurrency": _Rule(
        lambda value: value is None or _whole(value, 1),
        "Write a whole number from 1, or leave it out for as many as the pool has",
    ),
    "queue": _Rule(
        lambda value: _whole(value, 0),
        "Write how many calls may wait: a whole number from 0",
    ),
    "timeout": _Rule(
        lambda value: value is None or _seconds(value),
        "Write seconds, more than 0, or leave it out for no cap",
    ),
    "roles": _Rule(_names, "Write a list of names of roles, or leave it out for any"),
    "zones": _Rule(_names, "Write a list of names of zones, or leave it out for any"),
}
