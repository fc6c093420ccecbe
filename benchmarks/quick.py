"""
A few rows that must not fall under their floors, for every change.

    python -m benchmarks.quick              table; exit code 1 if a floor is missed
    python -m benchmarks.quick --pairs 15   number of pairs

A floor is lower than what must be reached, and is held against the better quartile, since noise
can only make a run slower. A row that misses it is measured anew, up to three times, and each
measurement counts alone: what else the machine does may last for one of them, a slow Headgate
misses all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from benchmarks.load import Load
from benchmarks.pairs import Comparison, compare
from benchmarks.report import figures, verdict
from benchmarks.rows import ROWS, Bar, Row
from benchmarks.table import Table

LOAD = Load(seconds=0.3)
PAIRS = 7
RETRIES = 3


def main() -> int:
    """Print the rows, and which floors are missed."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    pairs = parser.parse_args().pairs
    table, missed = Table(sys.stdout), 0
    with tempfile.TemporaryDirectory() as home:
        os.environ["HEADGATE_HOME"] = home
        for row in ROWS.values():
            if row.floor is not None:
                found = measured(row, row.floor, pairs=pairs)
                best = found.judged.best(row.floor)
                table.add([*figures(row, found), *verdict(row.floor, best)])
                missed += not row.floor.reached(best)
    return 1 if missed else 0


def measured(row: Row, floor: Bar, *, pairs: int) -> Comparison:
    """Measure a row, and anew while it misses its floor; return the last measurement."""
    found = compare(row, LOAD, pairs=pairs)
    for _ in range(RETRIES):
        if floor.reached(found.judged.best(floor)):
            break
        found = compare(row, LOAD, pairs=pairs)
    return found


if __name__ == "__main__":
    sys.exit(main())
