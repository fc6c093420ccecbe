"""What runs on a gateway: the table of ``headgate ps``, stacks, and the watchdog over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Protocol

from headgate.errors import HandlerNotFound, PayloadError
from headgate.invocation import Invocation
from headgate.runtimes.project import ProjectRuntime
from headgate.runtimes.running import HandlerThread, Run
from headgate.runtimes.watchdog import Watchdog

__all__ = ["Running"]

MOST_NAMED = 8
"""Ids that an error names, where several begin alike."""


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
    """

    def __init__(self, gateway: str, hosted: Callable[[], Mapping[str, Hosted]]) -> None:
        self._hosted = hosted
        self.watchdog = Watchdog(f"headgate-{gateway}-watchdog", self._threads)
        """Names handlers that hold the interpreter."""

    def table(self) -> dict[str, Any]:
        """
        Return what runs, the oldest first, and how many calls wait to begin.

        ``running`` has a dictionary for each run, ``queued`` one for each handler that has
        callers waiting.
        """
        now = monotonic()
        runs = sorted(self._runs(), key=lambda run: run.invocation.started_at)
        return {
            "running": [self._row(run, now) for run in runs],
            "queued": [
                {"project": project, "handler": handler, "queued": number}
                for project, hosted in sorted(self._hosted().items())
                for handler, number in hosted.runtime.queued().items()
            ],
        }

    async def stack(self, payload: Any) -> dict[str, Any]:
        """
        Return the Python stack of a run.

        Args:
            payload: ``{"id": …}``: the run's id or its request's, or how only one of them begins.

        Raises:
            HandlerNotFound: No run has this id, or several begin with it.
            PayloadError: There is no id in the payload.
        """
        wanted = payload.get("id") if isinstance(payload, dict) else None
        if not isinstance(wanted, str) or not wanted:
            raise PayloadError(
                'It takes {"id": …} with the id that `headgate ps` shows', place="payload['id']"
            )
        run = self._find(wanted)
        lines = await run.stack()
        return {**self._row(run, monotonic()), "stack": lines}

    def _find(self, wanted: str) -> Run:
        runs = list(self._runs())
        found = [run for run in runs if wanted in _ids(run)]
        found = found or [run for run in runs if any(i.startswith(wanted) for i in _ids(run))]
        if not found:
            raise HandlerNotFound(
                f"Nothing runs here that has the id {wanted!r}. See: headgate ps", started=False
            )
        if len(found) > 1:
            ids = ", ".join(run.invocation.request_id for run in found[:MOST_NAMED])
            raise HandlerNotFound(
                f"The ids of {len(found)} runs begin with {wanted!r}: {ids}. Write one in full",
                started=False,
            )
        return found[0]

    def _row(self, run: Run, now: float) -> dict[str, Any]:
        invocation, caller = run.invocation, run.invocation.caller
        nested = invocation.waits_for
        cpu_seconds = run.cpu_seconds()
        if cpu_seconds is None:
            cpu_seconds = self.watchdog.processor_time(invocation)
        return {
            "id": short_id(invocation),
            "request_id": invocation.request_id,
            "project": invocation.project,
            "handler": invocation.handler,
            "place": run.place,
            "pid": run.pid,
            "async": run.is_async,
            "state": run.state,
            "waits_for": nested.target if nested is not None else None,
            "seconds": max(0.0, now - invocation.started_at),
            "cpu_seconds": cpu_seconds,
            "memory": run.memory(),
            "user": caller.user,
            "host": caller.host,
            "session": caller.session,
            "gateway": list(caller.gateway),
        }

    def _runs(self) -> Iterable[Run]:
        for hosted in list(self._hosted().values()):
            # A thread that has just taken something may not have begun it.
            yield from (run for run in hosted.runtime.runs if run.invocation.started_at)

    def _threads(self) -> Iterable[HandlerThread]:
        return [
            thread for hosted in list(self._hosted().values()) for thread in hosted.runtime.threads
        ]


def _ids(run: Run) -> tuple[str, str]:
    return short_id(run.invocation), run.invocation.request_id


def short_id(invocation: Invocation) -> str:
    """
    Return what is short to type: the session's number, and the request's in it.

    Session 0 is the gateway's own: what its handlers ask for.
    """
    return f"{int(invocation.origin[14:] or '0', 16)}-{invocation.sequence}"
