"""Prints rows to a terminal, each as soon as it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from benchmarks.report import COLUMNS

__all__ = ["Table"]

WIDTHS = (49, 10, 20, 10, 21, 10, 8)


class Table:
    """A table of fixed columns; the heading is printed at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.add(COLUMNS)

    def add(self, cells: Sequence[str]) -> None:
        """Print one row."""
        plain = [cell.replace("`", "") for cell in cells]
        padded = [cell.ljust(width) for cell, width in zip(plain, WIDTHS, strict=True)]
        print(" ".join(padded).rstrip(), file=self._stream, flush=True)
