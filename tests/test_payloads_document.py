"""docs/payloads.md says what the tests send, and its program prints what the page shows."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

from headgate.scalars import SCALARS

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "payloads.md").read_text("utf-8")


def test_tables() -> None:
    """The tables are those of the tests: docs/payload_tables.py --write."""
    assert runpy.run_path(str(DOCS / "payload_tables.py"))["with_section"](TEXT) == TEXT


def test_program() -> None:
    """The example of a Dataset prints what stands below it."""
    program, output = re.search(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL
    ).groups()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == output


def test_types_of_columns() -> None:
    """The page and docs/protocol.md name every type that a column can have."""
    protocol = (DOCS / "protocol.md").read_text("utf-8")
    for name in SCALARS:
        assert f"`{name}`" in protocol
        assert f"`{name}`" in TEXT or name == "null"
