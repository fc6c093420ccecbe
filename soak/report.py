"""Prints what came of a soak."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from soak.controller import Result
from soak.flat import BYTES, MIB, Figure
from soak.plan import KINDS

__all__ = ["show"]

ALWAYS = ("rss", "heap", "blocks", "fds", "threads")
"""Figures that are always shown; of live objects only those that grow are."""


def show(result: Result, console: Console) -> None:
    """Print the tables and the verdict."""
    console.print(_ends(result))
    _sums(result, console)
    console.print(_slopes(result))
    for problem in result.problems:
        console.print(f"[red]problem[/red] {problem}", highlight=False, markup=True)
    verdict = "failed" if result.problems else "passed"
    console.print(
        f"soak {verdict}: {result.booked} requests accounted for, {len(result.problems)} problems, "
        f"seed {result.options.seed}"
    )


def _ends(result: Result) -> Table:
    codes = sorted({code for _, code in result.counts}, key=lambda code: (code != "ok", code))
    table = Table("requests", *codes, "all", title="How requests ended")
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in KINDS:
        row = [result.counts[kind.name, code] for code in codes]
        table.add_row(kind.name, *(str(n or "") for n in row), str(sum(row)))
    sums = [sum(n for (_, c), n in result.counts.items() if c == code) for code in codes]
    table.add_section()
    table.add_row("all", *map(str, sums), str(sum(sums)))
    return table


def _sums(result: Result, console: Console) -> None:
    loaded = result.loaded or 1.0
    lines = {
        "time": f"{result.minutes:.1f} minutes, {result.loaded / 60:.1f} of them under load",
        "requests": f"{result.made} made, of which slow peers {result.made - result.booked}; "
        f"{result.booked / loaded:.0f} a second under load; handlers ran {result.runs} times",
        "cuts": f"{result.cuts} connections, {result.cuts / loaded:.1f} a second under load",
        "restarts": _counted(result.restarts),
        "edits": f"{result.edits} of handlers' files; {result.generations} generations answered",
        "failed requests, .started": _counted(result.started),
        "cancelled or late, fate": _counted(result.fates),
        "lost connections": _counted(_short(result.reasons)),
        "slow peers": _counted(result.slow),
    }
    for name, line in lines.items():
        console.print(f"{name + ':':<27} {line}", highlight=False, markup=False)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"


def _short(reasons: Counter[str]) -> Counter[str]:
    return Counter({reason[:70]: count for reason, count in reasons.items()})


def _slopes(result: Result) -> Table:
    table = Table(
        *("process", "figure", "level", "slope a minute", "± error", "bound", "points", ""),
        title="At rest",
    )
    for column in table.columns[2:7]:
        column.justify = "right"
    for figure in sorted(result.figures, key=lambda f: (f.process != "gateway", f.process)):
        if figure.name in ALWAYS or figure.grows:
            table.add_row(figure.process, figure.name, *_cells(figure), _verdict(figure))
    return table


def _cells(figure: Figure) -> tuple[str, ...]:
    is_memory = figure.name in BYTES
    unit, end = (MIB, " MiB") if is_memory else (1, "")
    values = (figure.level, figure.slope, figure.error, figure.bound)
    digits = (1 if end else 0, 2, 2, 2)
    shown = [f"{value / unit:.{n}f}{end}" for value, n in zip(values, digits, strict=True)]
    return (*shown, str(figure.points))


def _verdict(figure: Figure) -> str:
    if not figure.judged:
        return "too short to judge"
    return "[red]grows[/red]" if figure.grows else "flat"
