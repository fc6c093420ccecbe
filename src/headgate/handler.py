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
    "OnDisconnect",
    "OnTimeout",
    "PoolSettings",
    "RuntimeName",
    "Signature",
    "Threading",
    "check_setting",
    "check_settings",
    "check_signature",
    "handler",
    "known_names",
]

Threading = Literal["Shared", "Dedicated"]
RuntimeName = Literal["thread", "process"]
OnTimeout = Literal["abandon", "interrupt", "kill"]
OnDisconnect = Literal["cancel", "finish"]

MOST_THREADS = 10_000
"""Threads that a project may have: more is a slip of the pen."""

MOST_WORKERS = 256
"""Worker processes likewise; they are made ahead of need."""

Function = TypeVar("Function", bound=Callable[..., Any])


class HandlerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the gateway runs a message handler."""

    threading: Threading = "Shared"
    """Shared: on the project's pool. Dedicated: on a thread of its own, strictly in order."""

    runtime: RuntimeName = "thread"
    """
    thread: in the gateway's own process, an ``async def`` handler as a task. process: in a worker
    process of the project, which the gateway can kill; the gateway never imports the script.
    """

    concurrency: int | None = None
    """
    Calls that may run at once; None for as many as the project's pool has threads, or for a
    ``process`` handler all workers but one, which is left to the project's other handlers.
    """

    queue: int = 10_000
    """Calls that may wait; one more is answered with `Overloaded`."""

    timeout: float | None = None
    """Seconds that a call may take at most, whatever its caller allows; None for no such cap."""

    on_timeout: OnTimeout | None = None
    """
    What a cancellation or a timeout does to the running handler. abandon: `Context.cancelled` is
    set, and the handler goes on until it returns. interrupt: its task is cancelled, or
    KeyboardInterrupt is raised in its worker. kill: its worker is killed. None for what its runtime
    does best: ``abandon`` in a thread, ``interrupt`` for ``async def``, ``kill`` in a process.
    """

    on_disconnect: OnDisconnect = "cancel"
    """What the end of its caller's connection does to a call: cancel it, or let it finish."""

    memory: int | None = None
    """MiB that the worker of a ``process`` handler may hold before it is killed; None for any."""

    order_by: str | None = None
    """
    The key of the payload by whose value calls are kept in order: those with equal values run one
    after the other in the order of their arrival, others beside them. None for no such order.
    """

    warn_after: float | None = None
    """
    Seconds after which a run that still goes on is named in the log, once; None for what the
    gateway's settings say of all handlers.
    """

    roles: tuple[str, ...] = ()
    """
    Roles of which a caller must have one, ``role@gateway`` for those of other gateways; empty for
    any. It narrows what the gateway's rules allow, for everybody: the owner's role is ``owner``.
    """

    zones: tuple[str, ...] = ()
    """Zones of the gateway of which a caller must be in one; empty for any. It narrows, too."""

    @staticmethod
    def merge(
        explicit: Mapping[str, Any],
        defaults: Mapping[str, Any],
        *,
        where: Callable[[str], tuple[str, int | None]] = lambda name: ("", None),
    ) -> HandlerSettings:
        """
        Put the settings that were given together.

        Args:
            explicit: What is said about this handler.
            defaults: What is said about all handlers of its project.
            where: Gives the file and the line, if that is known, of a setting, for the error.

        Raises:
            ConfigurationError: The settings contradict each other.
        """
        _check_dedicated(explicit, where=where)
        merged = {**defaults, **explicit}
        if merged.get("threading") == "Dedicated":
            merged["concurrency"] = 1
        _check_together(merged, where=where)
        for name in ("roles", "zones"):
            merged[name] = tuple(merged.get(name, ()))
        return HandlerSettings(**merged)


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The threads and worker processes that the handlers of one project share."""

    threads: int = 8
    """Threads that run its Shared handlers at once."""

    max_threads: int = 64
    """The same with those that wait for a request of their handler."""

    workers: int = 2
    """Worker processes that run its ``process`` handlers, each one at a time."""

    worker_age: float | None = 3600.0
    """Seconds after which a worker is replaced when it is idle; None for never."""

    worker_memory: int | None = None
    """MiB above which a worker is replaced when its run is over; None for any."""

    worker_environment: tuple[str, ...] = ()
    """Names of the gateway's environment variables that the workers may see."""

    @staticmethod
    def of(stated: Mapping[str, Any]) -> PoolSettings:
        """
        Put together what is stated, setting by setting checked before.

        Raises:
            ConfigurationError: The settings contradict each other.
        """
        pools = PoolSettings(
            **{
                **stated,
                "worker_environment": tuple(stated.get("worker_environment", ())),
                "worker_age": _finite(stated.get("worker_age", 3600.0)),
            }
        )
        if pools.threads > pools.max_threads:
            raise ConfigurationError(
                f"threads={pools.threads} is more than max_threads={pools.max_threads}",
                cure="Raise max_threads too, or write fewer threads",
            )
        return pools


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """How the function of a handler is called, and what it gives."""

    takes_context: bool = False
    """Whether it is called with payload and context, not with the payload alone."""

    is_async: bool = False
    """Whether it is an ``async def`` function, one that yields included."""

    streams: bool = False
    """Whether it is a generator function, so that its values are the answer."""

    check: Callable[[Any], Any] | None = None
    """Turns a payload into what is annotated; raises PayloadError. None without an annotation."""

    check_result: Callable[[Any], None] | None = None
    """
    Looks whether a result, or a value of a generator, is what is annotated; raises PayloadError
    whose place begins with ``result``. None without an annotation.
    """

    schema: Mapping[str, Any] | None = None
    """The JSON Schemas of ``payload`` and ``result``, as far as they are annotated."""


class HandlerOptions(TypedDict, total=False):
    """The keywords of `handler`: those left out keep their default."""

    threading: Threading
    runtime: RuntimeName
    concurrency: int | None
    queue: int
    timeout: float | None
    on_timeout: OnTimeout | None
    on_disconnect: OnDisconnect
    memory: int | None
    order_by: str | None
    warn_after: float | None
    roles: Sequence[str]
    zones: Sequence[str]


def handler(**settings: Unpack[HandlerOptions]) -> Callable[[Function], Function]:
    """
    State the settings of a message handler on its function.

    ::

        @headgate.handler(threading="Dedicated", timeout=5)
        def handleMessage(payload): ...

    The function stays as it is. The gateway reads the settings from the script's text, so they
    are literals. Those in ``project.toml`` win over them.

    Args:
        settings: By their names:

            ``runtime``: ``"thread"``, or ``"process"`` for a worker process, which can be killed.
            ``memory``: MiB that the worker of a process handler may hold.
            ``threading``: ``"Shared"``, or ``"Dedicated"``: one call at a time, in order.
            ``concurrency``: calls that run at once.
            ``queue``: calls that may wait, 10000 if left out.
            ``order_by``: the key of the payload by whose value calls are kept in order.
            ``timeout``: seconds that a call may take, whatever its caller allows.
            ``on_timeout``: what a cancellation or a timeout does to it: ``"abandon"``,
            ``"interrupt"`` or ``"kill"``.
            ``on_disconnect``: what the end of its caller's connection does to it: ``"cancel"`` or
            ``"finish"``.
            ``warn_after``: seconds after which a run that still goes on is named in the log.
            ``roles``, ``zones``: lists of who may call it, and from where.

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
    _check_dedicated(settings, where=lambda name: (file, line))


def _check_dedicated(
    settings: Mapping[str, object], *, where: Callable[[str], tuple[str, int | None]]
) -> None:
    if settings.get("threading") == "Dedicated" and settings.get("concurrency") not in (None, 1):
        file, line = where("concurrency")
        raise ConfigurationError(
            f"concurrency={settings['concurrency']} contradicts threading='Dedicated', "
            "which is one thread",
            cure="Leave concurrency out, or write threading='Shared'",
            file=file,
            line=line,
        )


def _check_together(
    settings: Mapping[str, Any], *, where: Callable[[str], tuple[str, int | None]]
) -> None:
    """Check what only all settings of a handler together can tell, defaults included."""
    in_process = settings.get("runtime") == "process"
    if settings.get("memory") is not None and not in_process:
        name, problem = "memory", "memory= is a limit of a worker process"
    elif settings.get("on_timeout") == "kill" and not in_process:
        name = "on_timeout"
        problem = "on_timeout='kill' needs a worker process to kill: a thread cannot be stopped"
    else:
        return
    file, line = where(name)
    raise ConfigurationError(problem, cure="Write runtime='process', too", file=file, line=line)


def check_signature(settings: HandlerSettings, signature: Signature, *, file: str = "") -> None:
    """
    Check that settings fit the function that they are of.

    Args:
        settings: The handler's settings.
        signature: What its function is.
        file: The handler's script, for the error.

    Raises:
        ConfigurationError: They do not.
    """
    in_thread = settings.runtime == "thread" and not signature.is_async
    if in_thread and settings.on_timeout == "interrupt":
        raise ConfigurationError(
            "on_timeout='interrupt' needs something to interrupt: a thread cannot be stopped",
            cure="Write an `async def` function or runtime='process', or leave on_timeout out",
            file=file,
        )


def check_setting(
    name: str, value: object, *, pool: bool = False, file: str = "", line: int | None = None
) -> None:
    """
    Check one setting of a handler, or of a pool.

    Args:
        name: The setting.
        value: What it is to be.
        pool: Whether it is one of a project's threads and workers, as `project.toml` has it.
        file: Where it stands, for the error.
        line: The line in the file.

    Raises:
        ConfigurationError: The setting is unknown, or cannot have this value.
    """
    whose, rules = ("a pool", _POOL_RULES) if pool else ("a handler", _RULES)
    if name not in rules:
        problem, cure = f"{name!r} is no setting of {whose}", known_names(name, rules)
    elif not rules[name].fits(value):
        problem, cure = f"{name} cannot be {value!r}", rules[name].cure
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


def _whole(value: object, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf


def _names(value: object, *, least: int = 1) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) < least:
        return False
    return all(isinstance(name, str) and name for name in value)


def _finite(seconds: float) -> float | None:
    # TOML has no None; it has inf.
    return None if seconds == math.inf else seconds


class _Rule(NamedTuple):
    fits: Callable[[object], bool]
    cure: str


_RULES = {
    "threading": _Rule(
        lambda value: value in ("Shared", "Dedicated"),
        "Write 'Shared' (the project's pool) or 'Dedicated' (one thread, in order)",
    ),
    "runtime": _Rule(
        lambda value: value in ("thread", "process"),
        "Write 'thread' (in the gateway's process) or 'process' (in one that can be killed)",
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
    "on_timeout": _Rule(
        lambda value: value in (None, "abandon", "interrupt", "kill"),
        "Write 'abandon', 'interrupt' or 'kill', or leave it out for what its runtime does best",
    ),
    "on_disconnect": _Rule(
        lambda value: value in ("cancel", "finish"),
        "Write 'cancel' or 'finish'",
    ),
    "memory": _Rule(
        lambda value: value is None or _whole(value, 1),
        "Write a whole number of MiB from 1, or leave it out for no limit",
    ),
    "order_by": _Rule(
        lambda value: value is None or (isinstance(value, str) and value != ""),
        "Write the name of a key of the payload, or leave it out for no order",
    ),
    "warn_after": _Rule(
        lambda value: value is None or _seconds(value),
        "Write seconds, more than 0, or leave it out for no warning",
    ),
    "roles": _Rule(_names, "Write a list of names of roles, or leave it out for any"),
    "zones": _Rule(_names, "Write a list of names of zones, or leave it out for any"),
}

_POOL_RULES = {
    "threads": _Rule(
        lambda value: _whole(value, 1, MOST_THREADS),
        f"Write how many threads: a whole number from 1 to {MOST_THREADS}",
    ),
    "max_threads": _Rule(
        lambda value: _whole(value, 1, MOST_THREADS),
        f"Write how many threads at most: a whole number from 1 to {MOST_THREADS}",
    ),
    "workers": _Rule(
        lambda value: _whole(value, 1, MOST_WORKERS),
        f"Write how many processes: a whole number from 1 to {MOST_WORKERS}",
    ),
    "worker_age": _Rule(
        lambda value: value == math.inf or _seconds(value),
        "Write seconds, more than 0, or inf for never",
    ),
    "worker_memory": _Rule(
        lambda value: _whole(value, 1),
        "Write a whole number of MiB from 1, or leave it out for no limit",
    ),
    "worker_environment": _Rule(
        lambda value: _names(value, least=0), "Write a list of names of environment variables"
    ),
}
