"""The command that shows a gateway's numbers: stats."""

from __future__ import annotations

from headgate.cli.call import Target, connected
from headgate.cli.ends import reporting
from headgate.cli.output import print_document, print_table

__all__ = ["stats"]


def stats(target: Target) -> None:
    """Show the sizes of the tables, and how often each limit was exceeded."""
    with reporting(as_json=target.as_json), connected(target) as client:
        found: dict[str, dict[str, int]] = {
            name: client.request(target.project, name).get() for name in ("stats", "counters")
        }
    if target.as_json:
        print_document(found)
        return
    for title, name in (("now", "stats"), ("refused by limit", "counters")):
        print_table((title, "number"), ((key, str(n)) for key, n in sorted(found[name].items())))
