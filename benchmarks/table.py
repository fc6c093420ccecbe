"""Prints rows to a terminal, each as soon as it is measured."""

from __future__ import annotations

import re
from typing import TextIO

from benchmarks.pairs import Comparison
from benchmarks.report import cells, heading
from benchmarks.rows import Row

__all__ = ["Table"]

WIDTHS = (50, 10, 22, 10, 24, 9, 8)


class Table:
    """A table of fixed columns; its heading stands over the first row."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = False

    def add(self, row: Row, found: Comparison) -> None:
        """Print one row."""
        if not self._begun:
            self._print(heading())
            self._begun = True
        self._print(cells(row, found))

    def _print(self, texts: list[str] | tuple[str, ...]) -> None:
        padded = (
            re.sub("`", "", text).ljust(width) for text, width in zip(texts, WIDTHS, strict=True)
        )
        print(" ".join(padded).rstrip(), file=self._stream, flush=True)
