"""The commands that show what runs, and stop it: ps, cancel and drain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import typer

from headgate.cli.call import Target, connected
from headgate.cli.ends import ExitCode, reporting
from headgate.cli.output import complain, print_document, print_table, waiting
from headgate.client import Client
from headgate.invocation import Fate

__all__ = ["cancel", "drain", "ps", "stack"]

LOOK_SECONDS = 0.2
"""Seconds between two looks whether anything is still under way."""

RUN = ("id", "project", "handler", "state", "for", "cpu", "memory", "pid", "place", "caller")
QUEUED = ("id", "project", "handler", "priority", "waits", "caller")
"""The columns of the tables."""


def ps(target: Target, *, queue: bool) -> None:
    """Show what runs, and how many calls wait to begin or, with `queue`, which."""
    with reporting(as_json=target.as_json), connected(target) as client:
        found: dict[str, Any] = client.request(target.project, "ps", {"queue": queue}).get()
    if target.as_json:
        print_document(found)
        return
    if found["draining"]:
        print("The gateway is draining: it takes nothing new.")
    if found["running"]:
        print_table(RUN, map(_row, found["running"]))
    else:
        print("Nothing runs.")
    if found.get("queue"):
        print()
        print_table(QUEUED, map(_queue_row, found["queue"]))
    for row in found["queued"]:
        print(f"{row['project']}/{row['handler']}: {row['queued']} waiting to begin.")
    for line in _workers(found["workers"]):
        print(line)
    abandoned = sum(row["state"] == "abandoned" for row in found["running"])
    if abandoned:
        print(f"{abandoned} abandoned: the request is over, the handler has not returned.")


def stack(target: Target, run_id: str) -> None:
    """Show the Python stack of one run."""
    with reporting(as_json=target.as_json), connected(target) as client:
        found: dict[str, Any] = client.request(target.project, "stack", {"id": run_id}).get()
    if target.as_json:
        print_document(found)
        return
    row = dict(zip(("id", "project", "handler", "state", "time"), _row(found), strict=False))
    print(f"{row['project']}/{row['handler']}, {row['state']}, for {row['time']}:")
    print("\n".join(found["stack"]) or "It has just returned.")


def cancel(target: Target, request_id: str) -> None:
    """Cancel one request, and tell what became of its handler."""
    with reporting(as_json=target.as_json), connected(target) as client:
        found: dict[str, Any] = client.request(
            target.project, target.handler, {"id": request_id}
        ).get()
    if target.as_json:
        print_document(found)
    else:
        was = "was cancelled" if found["cancelled"] else "was over already"
        print(f"{found['project']}/{found['handler']}, request {found['id']}, {was}.")
        print(f"The handler: {found['fate']}.")
    raise typer.Exit(ExitCode.FINE if found["fate"] in Fate.FINAL else ExitCode.HANDLER_ERROR)


def drain(target: Target, *, off: bool, timeout: float | None) -> None:
    """Let a gateway finish what is under way and take nothing new, and wait until it has."""
    with reporting(as_json=target.as_json), connected(target) as client:
        found = _drain(client, target, {"on": not off})
        if not off:
            found = _wait_for(client, target, found, timeout)
    is_over = off or (found["draining"] and not found["under_way"])
    if target.as_json:
        print_document(found)
    elif off:
        print("The gateway takes up service again.")
    elif is_over:
        print("Nothing is under way. The gateway takes nothing new until: headgate drain --off")
    elif found["draining"]:
        complain(f"The time is up: {_under_way(found)} The gateway goes on draining.")
    else:
        complain("Somebody let the gateway take up service again.")
    if not is_over:
        raise typer.Exit(ExitCode.TIMEOUT if found["draining"] else ExitCode.HANDLER_ERROR)


def _drain(client: Client, target: Target, payload: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.request(target.project, target.handler, payload).get()
    return found


def _wait_for(
    client: Client, target: Target, found: dict[str, Any], timeout: float | None
) -> dict[str, Any]:
    end = None if timeout is None else time.monotonic() + timeout
    shown = ""
    with waiting("draining", line_of=_under_way) as show:
        while found["draining"] and found["under_way"]:
            if end is not None and time.monotonic() >= end:
                break
            if not target.as_json and shown != (shown := _under_way(found)):
                show(found)
            time.sleep(LOOK_SECONDS)
            found = _drain(client, target, {})
    return found


def _under_way(found: dict[str, Any]) -> str:
    abandoned = f", {found['abandoned']} of them abandoned" if found["abandoned"] else ""
    return f"{found['under_way']} under way{abandoned}."


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    state = row["state"]
    if row["waits_for"]:
        state += f" for {row['waits_for']}"
    return (
        row["id"],
        row["project"],
        row["handler"],
        state,
        duration(row["seconds"]),
        "" if row["cpu_seconds"] is None else duration(row["cpu_seconds"]),
        _size(row["memory"]),
        str(row["pid"]),
        row["place"].removesuffix(f" {row['pid']}"),
        _caller(row),
    )


def _queue_row(row: dict[str, Any]) -> tuple[str, ...]:
    waits = duration(row["seconds"])
    return (row["id"], row["project"], row["handler"], row["priority"], waits, _caller(row))


def _caller(row: dict[str, Any]) -> str:
    user = row["user"] or "another user"
    caller = f"{user} at {row['host']}" if row["host"] else user
    return " via ".join([caller, *reversed(row["gateway"])])


def _workers(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Give a line for each project that has worker processes."""
    projects: dict[str, list[str]] = {}
    for row in rows:
        parts = [f"pid {row['pid']} {row['state']}", f"{duration(row['age'])} old"]
        parts += [_size(row["memory"])] if row["memory"] is not None else []
        projects.setdefault(row["project"], []).append(", ".join(parts))
    for project, workers in projects.items():
        number = f"{len(workers)} worker{'s' if len(workers) != 1 else ''}"
        yield f"{project}: {number} ({'; '.join(workers)})."


def _size(size: int | None) -> str:
    return "" if size is None else f"{round(size / (1 << 20))} MiB"


def duration(seconds: float) -> str:
    """Return a time as people read it: ``0.25 s``, ``12 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
