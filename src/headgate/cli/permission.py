"""permission: the rules of who may what."""

from __future__ import annotations

from typing import Any

from headgate.cli.administer import Place, administer
from headgate.cli.ends import reporting
from headgate.cli.output import print_document, print_table

__all__ = ["change", "history", "rules"]

_CONDITIONS = ("users", "roles", "zones", "gateways", "handlers", "actions")


def rules(place: Place, *, as_json: bool) -> None:
    """Show all rules in the order in which they are looked at."""
    with reporting(as_json=as_json):
        found = administer(place, "permission_list", {})
    if as_json:
        print_document(found)
        return
    print("The first rule that matches decides.\n")
    print_table(
        ("rule", "", *_CONDITIONS),
        ((rule["where"], _verb(rule), *_conditions(rule)) for rule in found["rules"]),
    )


def change(place: Place, action: str, payload: dict[str, Any], *, as_json: bool) -> None:
    """Add or remove a rule, or undo that, and show what was done."""
    with reporting(as_json=as_json):
        done = administer(place, action, payload)
    if as_json:
        print_document({"change": done})
        return
    undone = f", which undoes change {done['undoes']}" if done["undoes"] else ""
    print(
        f"Rule {done['rule']} {done['kind']}: {done['text']}\n"
        f"This is change {done['number']}{undone}."
    )


def history(place: Place, *, as_json: bool) -> None:
    """Show who changed what, the last change first."""
    with reporting(as_json=as_json):
        found = administer(place, "permission_history", {})
    if as_json:
        print_document(found)
    elif found["changes"]:
        print_table(("change", "at", "by", "", "rule", "", "undoes"), map(_row, found["changes"]))
    else:
        print("The rules in the database were never changed.")


def _verb(rule: dict[str, Any]) -> str:
    return "allow" if rule["allow"] else "refuse"


def _conditions(rule: dict[str, Any]) -> list[str]:
    return [", ".join(rule[name]) for name in _CONDITIONS]


def _row(change: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(change["number"]),
        change["at"][:19].replace("T", " ") + " UTC",
        change["user"],
        change["kind"],
        str(change["rule"]),
        change["text"],
        str(change["undoes"] or ""),
    )
