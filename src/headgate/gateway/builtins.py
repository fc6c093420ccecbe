"""The gateway's own handlers: what clients may ask of it, and with which right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

import msgspec

from headgate.gateway.cancelling import CANCEL, Cancelling
from headgate.gateway.config import Settings
from headgate.gateway.draining import Draining
from headgate.gateway.hosting import Hosting
from headgate.gateway.layers import dotted, is_secret
from headgate.gateway.live import Applied
from headgate.gateway.running import Running
from headgate.gateway.turns import Turns
from headgate.invocation import Caller
from headgate.projects.project import Problem
from headgate.scope import GATEWAY_PROJECT
from headgate.security.identity import is_own
from headgate.security.policy import Action, Policy, allows
from headgate.security.rules import Operation

__all__ = ["Builtin", "builtins"]


@dataclass(frozen=True)
class Builtin:
    """A handler that the gateway has itself."""

    answer: Callable[..., Any]
    """Gets the payload and returns the result, or what is awaited for it; on the event loop."""
    action: Action = "see"
    """What the caller must be allowed to do."""
    for_caller: bool = False
    """Whether `answer` also gets the caller, and records itself what it did."""
    else_action: Action | None = None
    """What suffices for what is the caller's own; None if nothing does."""


class Told(Protocol):
    """What the handlers tell of their gateway."""

    def remote_servers(self) -> list[str]:
        """Return the names of the other gateways that can be reached."""

    def stats(self) -> dict[str, int]:
        """Return the size of every table."""

    def counters(self) -> dict[str, int]:
        """Return how often each limit was exceeded."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    @property
    def draining(self) -> Draining:
        """Whether it takes anything new."""

    async def reload_settings(self) -> Applied:
        """Read the settings again, and let what can change take effect."""


def builtins(
    gateway: Told,
    hosting: Hosting,
    running: Running,
    cancelling: Cancelling,
    operations: Mapping[str, Operation],
    policy: Policy,
    turns: Turns,
) -> dict[str, Builtin]:
    """
    Return the handlers of a gateway by name.

    Args:
        gateway: The gateway.
        hosting: Its projects.
        running: What runs.
        cancelling: Cancels it.
        operations: What administers it, by name.
        policy: Whoever asks is told of those handlers alone that it lets them ``see``; of folders,
            and of who else is at work, if it lets them ``administer`` what they ask.
        turns: Those in which tables are made.
    """

    def administers(caller: Caller, name: str) -> bool:
        return allows(policy, caller, "administer", GATEWAY_PROJECT, name)

    def visible(rows: Iterable[Mapping[str, Any]], caller: Caller) -> list[Mapping[str, Any]]:
        return [
            row for row in rows if allows(policy, caller, "see", row["project"], row["handler"])
        ]

    def handlers(payload: Any, caller: Caller) -> Any:
        asked = payload if isinstance(payload, Mapping) else {}
        rows = visible(_handlers(hosting, with_schema=asked.get("schema") is True), caller)
        rows = [row for row in rows if all(asked.get(k, row[k]) == row[k] for k in _NARROWING)]
        if administers(caller, "handlers"):
            return rows
        return [{**row, "file": PurePath(row["file"]).name} for row in rows]

    def problems(payload: Any, caller: Caller) -> Any:
        found: Iterable[Problem] = hosting.problems
        if not administers(caller, "problems"):
            found = (problem.without_folders() for problem in found)
        return visible(map(msgspec.structs.asdict, found), caller)

    def running_table(payload: Any, caller: Caller) -> Any:
        found = running.table()
        rows = {name: visible(found[name], caller) for name in ("running", "queued")}
        if isinstance(payload, Mapping) and payload.get("queue"):
            rows["queue"] = [
                *running.queue(lambda i: allows(policy, caller, "see", i.project, i.handler))
            ]
        if not administers(caller, "ps"):
            found["workers"] = []
            for name in rows.keys() & {"running", "queue"}:
                rows[name] = [_without_names(row, caller) for row in rows[name]]
        return {**found, **rows}

    def in_turn(table: Callable[[Any, Caller], Any]) -> Callable[[Any, Caller], Any]:
        async def answer(payload: Any, caller: Caller) -> Any:
            async with turns.turn(caller):
                return table(payload, caller)

        return answer

    async def reload(payload: Any) -> Any:
        everything = isinstance(payload, Mapping) and bool(payload.get("everything"))
        settings = await gateway.reload_settings()
        reloaded = await hosting.reload(everything=everything)
        return {**msgspec.structs.asdict(reloaded), "settings": settings}

    return {
        CANCEL: Builtin(
            cancelling.cancel, action="administer", for_caller=True, else_action="request"
        ),
        "counters": Builtin(lambda _: gateway.counters()),
        "drain": Builtin(gateway.draining.answer, action="administer", for_caller=True),
        "handlers": Builtin(in_turn(handlers), for_caller=True),
        "problems": Builtin(in_turn(problems), for_caller=True),
        "ps": Builtin(in_turn(running_table), for_caller=True),
        "reload": Builtin(reload, action="administer"),
        "remote_servers": Builtin(lambda _: gateway.remote_servers()),
        "settings": Builtin(lambda _: _settings(gateway), action="administer"),
        "stack": Builtin(running.stack, action="administer"),
        "stats": Builtin(lambda _: gateway.stats()),
        **{
            name: Builtin(operation, action="administer", for_caller=True)
            for name, operation in operations.items()
        },
    }


_NARROWING = ("project", "handler")
"""What of `handlers`' rows the payload may name, to get fewer of them."""

_NOBODY: dict[str, Any] = {
    # The ids begin with the session.
    **dict.fromkeys(("id", "request_id", "user", "host", "session"), ""),
    "gateway": [],
}
"""What is shown of other people's requests in place of what tells who they are."""


def _without_names(row: Mapping[str, Any], caller: Caller) -> Mapping[str, Any]:
    """Return what somebody is shown of a request who is no administrator."""
    made = Caller(row["user"], gateway=tuple(row["gateway"]), session=row["session"])
    if is_own(made, caller):
        return row
    return {**row, **_NOBODY, **({"waits_for": None} if "waits_for" in row else {})}


def _settings(gateway: Told) -> dict[str, Any]:
    return {
        dotted(place): "…" if is_secret(place) else value
        for place, value in gateway.settings.flat().items()
    }


def _handlers(hosting: Hosting, *, with_schema: bool) -> list[dict[str, Any]]:
    return [
        {
            "project": name,
            "handler": handler.name,
            "threading": handler.settings.threading,
            "runtime": handler.settings.runtime,
            "async": handler.signature.is_async,
            "file": str(handler.file),
            **({"schema": handler.signature.schema} if with_schema else {}),
        }
        for name, project in sorted(hosting.projects.items())
        for _, handler in sorted(project.handlers.items())
    ]
