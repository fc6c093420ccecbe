"""Pairs: both sides of a row in turn, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("uvloop")

from benchmarks import quick
from benchmarks.load import Load
from benchmarks.pairs import Comparison, Spread, compare
from benchmarks.processes import CORES, Measure, staged
from benchmarks.rows import PER_SECOND, Bar, Row

LOAD = Load(seconds=0.01)


@contextlib.contextmanager
def steady(figure: float, load: Load, notes: Path | None = None) -> Iterator[Measure]:
    """A side that always measures the same, and notes each measurement in a file."""

    def measure() -> float:
        if notes is not None:
            with notes.open("a") as file:
                file.write(f"{figure:g} ")
        return figure

    yield measure


@contextlib.contextmanager
def process(load: Load) -> Iterator[Measure]:
    """A side whose figure is the id of its process."""
    yield lambda: float(os.getpid())


@contextlib.contextmanager
def cores(load: Load) -> Iterator[Measure]:
    """A side whose figure is the number of its core."""
    yield lambda: float(*os.sched_getaffinity(0))


@contextlib.contextmanager
def broken(load: Load) -> Iterator[Measure]:
    """A side that cannot be set up."""
    raise FileNotFoundError("no broker is installed")
    yield


def row(ours: float, beside: float, notes: Path | None = None) -> Row:
    """A row of two steady sides."""
    one, other = partial(steady, ours, notes=notes), partial(steady, beside, notes=notes)
    return Row("steady", "steady", PER_SECOND, one, other)


def test_sides_take_turns(tmp_path: Path) -> None:
    """Both sides are measured in each pair, and they take turns in going first."""
    notes = tmp_path / "notes"
    found = compare(row(3, 2, notes), LOAD, pairs=3)
    assert notes.read_text().split() == ["3", "2", "2", "3", "3", "2"]
    assert found.ours == [3, 3, 3]
    assert found.beside == [2, 2, 2]
    assert found.ratios == [1.5, 1.5, 1.5]


def test_row_that_stands_alone() -> None:
    """Without another side our own figure is judged, and as often as the row says at most."""
    alone = Row("alone", "alone", PER_SECOND, partial(steady, 4), most_pairs=2)
    found = compare(alone, LOAD, pairs=7)
    assert found.ours == [4, 4]
    assert found.judged == Spread(4, 4, 4)


def test_side_has_a_process() -> None:
    """A side keeps its process from one measurement to the next, and it is not this one."""
    with staged(process, LOAD) as measure:
        assert measure() == measure() != os.getpid()


@pytest.mark.skipif(not CORES, reason="this system does not let processes choose their core")
def test_side_has_a_core() -> None:
    """A side runs on the clients' core, and this process stays where it was."""
    before = os.sched_getaffinity(0)
    with staged(cores, LOAD) as measure:
        assert measure() == CORES[-1]
    assert os.sched_getaffinity(0) == before


def test_problem_of_a_side() -> None:
    """What goes wrong in a side's process is told here."""
    with pytest.raises(RuntimeError, match="no broker is installed"), staged(broken, LOAD):
        pass


def test_spread() -> None:
    """A spread is a median between quartiles, and noise is taken to spoil figures only."""
    spread = Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spread == Spread(2.0, 3.0, 4.0)
    assert spread.best(Bar(1, at_least=True)) == 4.0
    assert spread.best(Bar(1, at_least=False)) == 2.0
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_floor_that_is_missed_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row under its floor is measured up to four times, and the last measurement counts."""

    def measured(*figures: float) -> float:
        left = list(figures)
        monkeypatch.setattr(
            quick,
            "compare",
            lambda *_, pairs: Comparison("x", [left.pop(0)] * pairs, [1.0] * pairs),
        )
        found = quick.measured(row(1, 2), Bar(0.5, at_least=True), pairs=2)
        assert left == []
        assert len(found.ours) == 2
        return found.judged.median

    assert measured(0.5) == 0.5
    assert measured(0.3, 0.4, 0.6) == 0.6
    assert measured(0.1, 0.2, 0.3, 0.4) == 0.4


def test_floor_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command fails when a floor is missed, and prints which one."""

    def ended(ratio: float) -> int:
        fake = Row("x", "work", PER_SECOND, broken, broken, floor=Bar(0.5, at_least=True))
        monkeypatch.setattr(quick, "ROWS", {"x": fake})
        monkeypatch.setattr(quick, "compare", lambda *_, pairs: Comparison("x", [ratio], [1.0]))
        monkeypatch.setattr("sys.argv", ["quick"])
        return quick.main()

    assert ended(0.6) == 0
    assert "reached" in capsys.readouterr().out
    assert ended(0.4) == 1
    assert "missed" in capsys.readouterr().out
