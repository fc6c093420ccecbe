"""The commands for the rules of who may what."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headgate.cli.ends import reporting
from headgate.cli.options import WHERE_OR_URL, Json, Place, placed
from headgate.cli.output import print_document, print_table

__all__ = ["permission"]

permission = typer.Typer(
    name="permission",
    no_args_is_help=True,
    help="Rules: who may call what, from where.",
    epilog=WHERE_OR_URL,
)

Patterns = list[str] | None


def _several(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=f"{help} Repeatable.", show_default=False)


@permission.command("list")
@placed(url=True)
def permission_list(
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Show all rules in the order in which they are looked at, the built-in ones too.

    --json prints {"rules": [{"where", "allow", "users", …}]}.
    """
    found = _ask("list", {}, place, as_json=as_json)
    if as_json:
        print_document(found)
        return
    print("The first rule that matches decides.\n")
    print_table(
        ("rule", "", *_CONDITIONS),
        ((rule["where"], _verb(rule), *_conditions(rule)) for rule in found["rules"]),
    )


@permission.command("add")
@placed(url=True)
def permission_add(
    allow: Annotated[
        bool, typer.Option("--allow/--refuse", help="May those whom it matches, or may they not?")
    ],
    user: Annotated[Patterns, _several("PATTERN", "Users' names.")] = None,
    role: Annotated[Patterns, _several("ROLE", "A role of the user.")] = None,
    zone: Annotated[Patterns, _several("ZONE", "A zone that the user is in.")] = None,
    gateway: Annotated[
        Patterns, _several("PATTERN", "Names of other gateways; without it only local users.")
    ] = None,
    handler: Annotated[Patterns, _several("PATTERN", "Handlers, such as 'ACME/*'.")] = None,
    action: Annotated[
        Patterns, _several("ACTION", "request, message, see, administer or host.")
    ] = None,
    before: Annotated[
        int | None,
        typer.Option(metavar="RULE", help="Before this rule of the database. Default: at the end."),
    ] = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Add a rule to the database; it takes effect at once, for those who are connected, too.

    What is left out matches all, but --action administer is allowed by its name only. Rules of the
    configuration come before it.

    --json prints {"change": {"number", "rule", "text", …}}.
    """
    payload = {
        "allow": allow,
        "users": user or [],
        "roles": role or [],
        "zones": zone or [],
        "gateways": gateway or [],
        "handlers": handler or [],
        "actions": action or [],
        "before": before,
    }
    _tell(_ask("add", payload, place, as_json=as_json), as_json)


@permission.command("remove")
@placed(url=True)
def permission_remove(
    rule: Annotated[int, typer.Argument(metavar="RULE", help="Its number in the list.")],
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Remove a rule from the database, at once.

    --json prints {"change": {"number", "rule", "text", …}}.
    """
    payload = {"rule": rule}
    _tell(_ask("remove", payload, place, as_json=as_json), as_json)


@permission.command("undo")
@placed(url=True)
def permission_undo(
    change: Annotated[
        int | None,
        typer.Argument(
            metavar="CHANGE",
            help="The change's number. Default: the last one that was not undone.",
            show_default=False,
        ),
    ] = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Undo a change: an added rule goes, a removed one comes back to its place.

    --json prints {"change": {"number", "rule", "text", "undoes", …}}.
    """
    payload = {"change": change}
    _tell(_ask("undo", payload, place, as_json=as_json), as_json)


@permission.command("history")
@placed(url=True)
def permission_history(
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Show who changed which rule, and when; the last change first.

    --json prints {"changes": [{"number", "at", "user", "kind", "rule", "text", …}]}.
    """
    found = _ask("history", {}, place, as_json=as_json)
    if as_json:
        print_document(found)
    elif found["changes"]:
        print_table(("change", "at", "by", "", "rule", "", "undoes"), map(_row, found["changes"]))
    else:
        print("The rules in the database were never changed.")


_CONDITIONS = ("users", "roles", "zones", "gateways", "handlers", "actions")


def _ask(
    action: str,
    payload: dict[str, Any],
    place: Place,
    *,
    as_json: bool,
) -> Any:
    from headgate.cli.administer import administer

    with reporting(as_json=as_json):
        return administer(place, f"permission_{action}", payload)


def _tell(change: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_document({"change": change})
        return
    undone = f", which undoes change {change['undoes']}" if change["undoes"] else ""
    print(
        f"Rule {change['rule']} {change['kind']}: {change['text']}\n"
        f"This is change {change['number']}{undone}."
    )


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
