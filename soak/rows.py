"""The rows of a ledger: what each request came to, as its caller saw it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from soak.plan import KINDS, Kind

__all__ = ["CODES", "FATES", "ROW", "STARTED", "Row", "read"]

CODES = (
    *("ok", "timeout", "cancelled", "project_not_found", "handler_not_found", "client_not_found"),
    *("denied", "unreachable", "connection_lost", "overloaded", "deadlock", "payload", "killed"),
    *("handler_error", "error", "never"),
)
"""How a request can end; ``never`` if it did not."""

STARTED = (False, True, None)

FATES = ("not started", "stopped", "still running", "finished", "unknown")

ROW = struct.Struct("<IBBBB16sddd")


class Row(NamedTuple):
    """A booked request."""

    process: int
    number: int
    kind: Kind
    code: str
    started: bool | None
    fate: str
    request_id: str
    """32 hex digits, all of them 0 if it was never sent."""
    made: float
    ended: float
    deadline: float

    @property
    def name(self) -> str:
        """What a problem calls it."""
        return f"request {self.process}/{self.number} ({self.kind.name}, {self.code})"


def read(folder: Path) -> Iterator[Row]:
    """Read the ledgers of all processes."""
    for file in sorted(folder.glob("ledger-*")):
        process = int(file.name.partition("-")[2])
        for number, kind, code, started, fate, identity, *times in ROW.iter_unpack(
            file.read_bytes()
        ):
            yield Row(
                process,
                number,
                KINDS[kind],
                CODES[code],
                STARTED[started],
                FATES[fate],
                identity.hex(),
                *times,
            )
