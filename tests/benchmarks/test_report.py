"""Results become a document, a page and a chart."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("uvloop")

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.chart import chart
from benchmarks.load import Load
from benchmarks.pairs import Comparison
from benchmarks.rows import BYTES, ROWS, UNMEASURED, Bar


@pytest.fixture
def results() -> report.Results:
    """Results of all rows, one of them without figures."""
    rows = [Comparison("grpc", problem="No module named 'grpc'")]
    for key, row in ROWS.items():
        if key not in ("grpc", "sync"):
            rows.append(Comparison(key, [1.0, 1.0], [2.0, 2.0] if row.beside else []))
    rows.append(Comparison("sync", [120e3, 130e3, 140e3], [200e3, 200e3, 200e3]))
    return report.Results.of(rows, Load(), pairs=3)


def test_document_is_read_again(results: report.Results, tmp_path: Path) -> None:
    """What is written can be read, and it gives the same page and chart."""
    report.write(results, tmp_path)
    assert report.read(tmp_path) == results
    before = [file.read_text() for file in sorted(tmp_path.iterdir())]
    report.write(report.read(tmp_path), tmp_path)
    assert [file.read_text() for file in sorted(tmp_path.iterdir())] == before
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "chart.svg", "results.json"}


def test_page_has_every_row(results: report.Results) -> None:
    """The page has the medians, the quartiles, what must be and whether it is."""
    lines = report.page(results).splitlines()
    sync = "| sync handler, 256 in flight | 130.0 k/s | bare echo | 200.0 k/s | 0.65 (0.62 to 0.68)"
    assert any(line.startswith(f"{sync} | ≥ 0.6 | reached |") for line in lines)
    for row in ROWS.values():
        assert any(row.work in line and row.beside_name in line for line in lines), row.key
    for work, _ in UNMEASURED:
        assert any(work in line for line in lines)


def test_page_tells_what_is_missing(results: report.Results) -> None:
    """A row that could not be measured says why, and claims nothing."""
    lines = report.page(results).splitlines()
    (line,) = [line for line in lines if "No module named 'grpc'" in line]
    assert "not measured" in line
    assert "reached" not in line


def test_reason_names_no_port(results: report.Results) -> None:
    """Of a gateway that did not answer, neither the error's module nor a port is told."""
    problem = (
        "headgate.errors.GatewayUnreachable: No gateway answers on ws://127.0.0.1:42835: no answer"
    )
    found = Comparison("grpc", problem=problem)
    assert report.cells(ROWS["grpc"], found)[4] == "No gateway answers: no answer"


def test_results_name_no_machine(results: report.Results) -> None:
    """Versions and processor stand in the document, no host name and no path."""
    document = results.json()
    assert platform.python_version() in document
    assert platform.node() not in document
    assert str(Path.cwd()) not in document


@pytest.mark.parametrize(
    ("bar", "value", "cells"),
    [
        (Bar(0.6, at_least=True), 0.6, ["≥ 0.6", "reached"]),
        (Bar(0.6, at_least=True), 0.59, ["≥ 0.6", "missed"]),
        (Bar(2, at_least=False), 2.1, ["≤ 2", "missed"]),
        (Bar(20_000, at_least=False, unit=BYTES), 12_000, ["≤ 20.0 KB", "reached"]),
        (None, 1.0, ["", ""]),
    ],
)
def test_verdict(bar: Bar | None, value: float, cells: list[str]) -> None:
    """A bar is reached from the right side."""
    assert report.verdict(bar, value) == cells


def test_chart_shows_who_is_measured(results: report.Results) -> None:
    """The chart is XML with a bar for each side, as long as its median."""
    texts = [node.text for node in drawn(results.rows, "text")]
    assert {"bare echo", "Headgate", "nats-py request", "130.0 k/s", "200.0 k/s"} <= {*texts}
    widths = {node.get("class"): float(node.get("width", 0)) for node in panel(results)}
    assert widths["ours"] / widths["bare"] == pytest.approx(130 / 200, rel=0.01)


def test_chart_without_rows() -> None:
    """With nothing to show it is still a picture."""
    assert drawn([], "rect")


def panel(results: report.Results) -> list[ElementTree.Element]:
    """The bars of a chart that has one row alone."""
    sync = [row for row in results.rows if row.key == "sync"]
    return [node for node in drawn(sync, "rect") if node.get("class") in ("ours", "bare")]


def drawn(rows: list[Comparison], tag: str) -> list[ElementTree.Element]:
    """The elements of a chart that have a tag."""
    return ElementTree.fromstring(chart(rows)).findall(f".//{{http://www.w3.org/2000/svg}}{tag}")


def test_row_that_fails_stands_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row that cannot be measured does not take the others with it; the command fails."""

    def compare(row: object, load: Load, *, pairs: int) -> Comparison:
        if row is ROWS["nats"]:
            raise RuntimeError("Traceback:\n  ...\nModuleNotFoundError: No module named 'nats'")
        return Comparison("sync", [3.0] * pairs, [4.0] * pairs)

    monkeypatch.setattr(command, "compare", compare)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--rows", "nats", "sync", "--pairs", "2"])
    assert command.main() == 1
    out = capsys.readouterr().out
    assert "No module named 'nats'" in out
    assert "0.75 (0.75 to 0.75)" in out


def test_chart_turns_what_must_be_small() -> None:
    """In the chart more is better everywhere: half of what may be is drawn as 2."""
    texts = [node.text for node in drawn([Comparison("p50", [1.0], [1.0])], "text")]
    assert "2.00" in texts
