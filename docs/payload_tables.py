"""
The tables of payloads.md, made of what the tests send.

    python docs/payload_tables.py            prints the section
    python docs/payload_tables.py --write    puts it into payloads.md

The values stand in tests/wire/conversions.py; tests/wire/test_conversions.py sends each of them.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).with_name("payloads.md")
VALUES = Path(__file__).parents[1] / "tests" / "wire" / "conversions.py"
BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"


def section() -> str:
    """Return the section: what is carried, what is converted, and the classes of the examples."""
    values = runpy.run_path(str(VALUES))
    return "\n".join(
        [
            "### Carried: equal and of the same type",
            "",
            *_table(("type", "for example", ""), map(_carried, values["CARRIED"])),
            "",
            "### Converted when sent",
            "",
            *_table(("what", "sent", "arrives as", ""), map(_converted, values["CONVERTED"])),
            "",
            "The classes of these examples:",
            "",
            "```py",
            values["DEFINITIONS"],
            "```",
            "",
        ]
    )


def _carried(row: Any) -> tuple[str, ...]:
    return row.what, _code(row.sent), row.note


def _converted(row: Any) -> tuple[str, ...]:
    return row.what, _code(row.sent), _code(row.arrives), row.note


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def with_section(document: str) -> str:
    """Return the text of payloads.md with the section as it should be."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section()}\n{END}{after}"


def main() -> None:
    """Print the section, or write it."""
    if sys.argv[1:] == ["--write"]:
        DOCUMENT.write_text(with_section(DOCUMENT.read_text("utf-8")), "utf-8")
    else:
        print(section())


if __name__ == "__main__":
    main()
