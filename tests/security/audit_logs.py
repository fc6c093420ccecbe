"""Audit logs for tests: made with rows, and changed behind the gateway's back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headgate.security.audit import AuditLog, AuditSettings, Record
from headgate.security.audit.journal import Places
from headgate.security.audit.verify import Anchor, Report, verify


def failed(number: int, **fields: Any) -> Record:
    """A record that can be told from others."""
    return Record(
        "failed", user="anna", target=f"ACME/handler{number}", outcome="timeout", **fields
    )


def make_log(data: Path, rows: int, **settings: Any) -> Places:
    """Make a log that is closed in order, with these rows and a checkpoint."""
    data.mkdir(exist_ok=True)
    with AuditLog(data, AuditSettings(**settings)) as log:
        for number in range(rows):
            log.record(failed(number))
    return Places(data)


def make_segments(data: Path, segments: int) -> Places:
    """Make a log of segments with three rows each, and the last of their checkpoints."""
    data.mkdir(exist_ok=True)
    for _ in range(segments):
        # Closed each time, so that each opening finds the segment full.
        make_log(data, 3, segment_bytes=600)
    return Places(data)


def rows(places: Places) -> list[dict[str, Any]]:
    """Return all rows."""
    files = sorted(places.segments.iterdir())
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def lines(file: Path) -> list[bytes]:
    """Return the lines of a segment."""
    return file.read_bytes().splitlines(keepends=True)


def write_lines(file: Path, content: list[bytes]) -> None:
    """Write a segment anew."""
    file.write_bytes(b"".join(content))


def found(data: Path, anchor: Anchor | None = None) -> list[str]:
    """Return the problems that are found, as they are printed."""
    return [str(problem) for problem in verify(data, anchor).problems]


def check(data: Path) -> Report:
    """Verify a log in which nothing may be wrong."""
    report = verify(data)
    assert report.problems == []
    return report


def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds; for what nobody announces."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "It did not come to pass"
        time.sleep(0.002)
