"""The command that shows what runs: ps."""

from __future__ import annotations

from typing import Any

from headgate.cli.call import Target, connected
from headgate.cli.ends import reporting
from headgate.cli.output import print_document, print_table

__all__ = ["ps", "stack"]


def ps(target: Target) -> None:
    """Show what runs, and how many calls wait to begin."""
    with reporting(as_json=target.as_json), connected(target) as client:
        found: dict[str, Any] = client.request(target.project, "ps").get()
    if target.as_json:
        print_document(found)
        return
    if found["running"]:
        print_table(
            ("id", "project", "handler", "state", "for", "cpu", "place", "caller"),
            map(_row, found["running"]),
        )
    else:
        print("Nothing runs.")
    for row in found["queued"]:
        print(f"{row['project']}/{row['handler']}: {row['queued']} waiting to begin.")
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


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    state = row["state"]
    if row["waits_for"]:
        state += f" for {row['waits_for']}"
    user = row["user"] or "another user"
    caller = f"{user} at {row['host']}" if row["host"] else user
    return (
        row["id"],
        row["project"],
        row["handler"],
        state,
        duration(row["seconds"]),
        "" if row["cpu_seconds"] is None else duration(row["cpu_seconds"]),
        row["place"],
        " via ".join([caller, *reversed(row["gateway"])]),
    )


def duration(seconds: float) -> str:
    """Return a time as people read it: ``0.25 s``, ``12 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
