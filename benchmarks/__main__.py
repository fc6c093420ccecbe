"""
Measure Headgate beside bare prototypes and peers, in one run.

    python -m benchmarks                              all rows, as a table
    python -m benchmarks --rows sync p50 --pairs 3    some of them
    python -m benchmarks --write docs/benchmarks      results.json, page and chart
    python -m benchmarks --page docs/benchmarks       page and chart anew from results.json
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.load import Load
from benchmarks.pairs import Comparison, compare
from benchmarks.rows import ROWS
from benchmarks.table import Table

PAIRS = 11


def main() -> int:
    """Measure and report; the exit code is 1 if a row could not be measured."""
    options = _parser().parse_args()
    if options.page:
        report.write(report.read(options.page), options.page)
        return 0
    load = Load(seconds=options.seconds, sessions=options.sessions)
    table = Table(sys.stderr if options.json else sys.stdout)
    rows = _measured(options.rows or list(ROWS), load, table, pairs=options.pairs)
    results = report.Results.of(rows, load, pairs=options.pairs)
    if options.json:
        print(results.json())
    if options.write:
        report.write(results, options.write)
    return 1 if any(found.problem for found in rows) else 0


def _measured(keys: list[str], load: Load, table: Table, *, pairs: int) -> list[Comparison]:
    rows = []
    with tempfile.TemporaryDirectory() as home:
        # The gateways' pointers to their tokens do not belong among the user's own.
        os.environ["HEADGATE_HOME"] = home
        for key in keys:
            try:
                found = compare(ROWS[key], load, pairs=pairs)
            except Exception as error:
                # One that is missing does not take the others with it.
                found = Comparison(key, problem=str(error).strip().splitlines()[-1])
            rows.append(found)
            table.add(report.cells(ROWS[key], found))
    return rows


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--pairs", type=int, default=PAIRS, help="measurements of both sides")
    parser.add_argument("--seconds", type=float, default=Load.seconds, help="of each measurement")
    parser.add_argument("--sessions", type=int, default=Load.sessions, help="that are idle")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write JSON, page and chart")
    parser.add_argument("--page", type=Path, metavar="FOLDER", help="only page and chart, anew")
    return parser


if __name__ == "__main__":
    sys.exit(main())
