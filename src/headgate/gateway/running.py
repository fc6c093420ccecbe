"""What runs on a gateway: the table of ``headgate ps``, stacks, and the watchdog over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from time import monotonic
from typing import Any, Protocol

from headgate.errors import HandlerNotFound, PayloadError
from headgate.invocation import HIGH, LOW, NORMAL, Invocation
from headgate.runtimes.gate import Gate
from headgate.runtimes.project import ProjectRuntime
from headgate.runtimes.running import HandlerThread, Run
from headgate.runtimes.watchdog import Watchdog
from headgate.scope import GATEWAY_PROJECT

__all__ = ["Running", "find", "wanted_id"]

MOST_NAMED = 8
"""Ids that an error names, where several begin alike."""

MOST_QUEUED = 1000
"""Requests that wait to begin of which the table has a row."""

PRIORITIES = {LOW: "low", NORMAL: "normal", HIGH: "high"}
"""The priorities as people write them."""


class Hosted(Protocol):
    """A project that the gateway hosts."""

    @property
    def runtime(self) -> ProjectRuntime:
        """What runs its handlers."""


class Running:
    """
    The runs of all handlers of a gateway.

    Args:
        gateway: Name of the gateway.
        hosted: Gives the projects by name.
        requests: Gives the open requests, the oldest first.
    """

    def __init__(
        self,
        gateway: str,
        hosted: Callable[[], Mapping[str, Hosted]],
        requests: Callable[[], Iterable[Invocation]] = tuple,
    ) -> None:
        self._hosted = hosted
        self._requests = requests
        self.draining = False
        """Whether the gateway takes nothing new."""
        self.watchdog = Watchdog(f"headgate-{gateway}-watchdog", self._threads)
        """Names handlers that hold the interpreter."""

    def table(self) -> dict[str, Any]:
        """
        Return what runs, the oldest first, and how many calls wait to begin.

        ``running`` has a dictionary for each run, ``queued`` one for each handler that has
        callers waiting, ``workers`` one for each worker process. ``draining`` is whether the
        gateway takes nothing new.
        """
        now = monotonic()
        runs = sorted(self.runs(), key=lambda run: run.invocation.started_at)
        hosted = sorted(self._hosted().items())
        return {
            "running": [self._row(run, now) for run in runs],
            "queued": [
                {"project": project, "handler": handler, "queued": number}
                for project, each in hosted
                for handler, number in each.runtime.queued().items()
            ],
            "workers": [
                {"project": project, **worker._asdict()}
                for project, each in hosted
                for worker in each.runtime.workers
            ],
            "draining": self.draining,
        }

    def queue(self, is_shown: Callable[[Invocation], bool]) -> list[dict[str, Any]]:
        """
        Return a row for each request that waits to begin, the oldest first, 1,000 at most.

        Args:
            is_shown: Whether there is to be a row for it.
        """
        now = monotonic()
        waiting = (i for i in self._requests() if not i.started_at and isinstance(i.place, Gate))
        return [
            {
                **_request_row(invocation),
                "priority": PRIORITIES.get(invocation.priority, ""),
                "seconds": max(0.0, now - invocation.arrived),
            }
            for invocation in islice(filter(is_shown, waiting), MOST_QUEUED)
        ]

    async def stack(self, payload: Any) -> dict[str, Any]:
        """
        Return the Python stack of a run.

        Args:
            payload: ``{"id": …}``: the run's id or its request's, or how only one of them begins.

        Raises:
            HandlerNotFound: No run has this id, or several begin with it.
            PayloadError: There is no id in the payload.
        """
        runs = {run.invocation: run for run in self.runs()}
        run = runs[find(wanted_id(payload), runs, "Nothing runs here")]
        lines = await run.stack()
        return {**self._row(run, monotonic()), "stack": lines}

    def under_way(self) -> list[Invocation]:
        """Return what is not over: open requests, and runs whose requests are over."""
        found = {i: i for i in self._requests() if i.project != GATEWAY_PROJECT}
        found.update((run.invocation, run.invocation) for run in self.runs())
        return list(found)

    def runs(self) -> Iterable[Run]:
        """Return what runs, and is known to have begun."""
        for hosted in list(self._hosted().values()):
            # A thread that has just taken something may not have begun it.
            yield from (run for run in hosted.runtime.runs if run.invocation.started_at)

    def _row(self, run: Run, now: float) -> dict[str, Any]:
        invocation, nested = run.invocation, run.invocation.waits_for
        cpu_seconds = run.cpu_seconds()
        if cpu_seconds is None:
            cpu_seconds = self.watchdog.processor_time(invocation)
        return {
            **_request_row(invocation),
            "priority": PRIORITIES.get(invocation.priority, ""),
            "place": run.place,
            "pid": run.pid,
            "async": run.is_async,
            "state": run.state,
            "waits_for": nested.target if nested is not None else None,
            "seconds": max(0.0, now - invocation.started_at),
            "cpu_seconds": cpu_seconds,
            "memory": run.memory(),
        }

    def _threads(self) -> Iterable[HandlerThread]:
        return [
            thread for hosted in list(self._hosted().values()) for thread in hosted.runtime.threads
        ]


def wanted_id(payload: Any) -> str:
    """Return the id that a payload names; raises PayloadError if there is none."""
    wanted = payload.get("id") if isinstance(payload, dict) else None
    if not isinstance(wanted, str) or not wanted:
        raise PayloadError(
            'It takes {"id": …} with the id that `headgate ps` shows', place="payload['id']"
        )
    return wanted


def find(wanted: str, among: Iterable[Invocation], nothing: str) -> Invocation:
    """
    Return the one request that is meant.

    Args:
        wanted: Its id, the short one or in full, or how only one of them begins.
        among: Those that may be meant.
        nothing: How the error's text begins if it is none of them.

    Raises:
        HandlerNotFound: None of them has this id, or several begin with it.
    """
    ids = {invocation: (short_id(invocation), invocation.request_id) for invocation in among}
    found = [each for each, names in ids.items() if wanted in names]
    found = found or [
        each for each, names in ids.items() if any(name.startswith(wanted) for name in names)
    ]
    if not found:
        raise HandlerNotFound(
            f"{nothing} that has the id {wanted!r}. See: headgate ps", started=False
        )
    if len(found) > 1:
        named = ", ".join(each.request_id for each in found[:MOST_NAMED])
        raise HandlerNotFound(
            f"The ids of {len(found)} runs begin with {wanted!r}: {named}. Write one in full",
            started=False,
        )
    return found[0]


def _request_row(invocation: Invocation) -> dict[str, Any]:
    caller = invocation.caller
    return {
        "id": short_id(invocation),
        "request_id": invocation.request_id,
        "project": invocation.project,
        "handler": invocation.handler,
        "user": caller.user,
        "host": caller.host,
        "session": caller.session,
        "gateway": list(caller.gateway),
    }


def short_id(invocation: Invocation) -> str:
    """
    Return what is short to type: the session's number, and the request's in it.

    Session 0 is the gateway's own: what its handlers ask for.
    """
    return f"{int(invocation.origin[14:] or '0', 16)}-{invocation.sequence}"
