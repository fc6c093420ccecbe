"""The commands for users, their API tokens and their client certificates."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from headgate.cli.ends import reporting
from headgate.cli.options import WHERE_OR_URL, Json, Place, placed
from headgate.cli.output import complain, print_document, print_table
from headgate.errors import ConfigurationError

__all__ = ["certificate", "token", "user"]

TOKEN_LIFE = "365d"
"""How long a token is good for if nobody says."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

CODES = "The exit code is 6 if there is no such user, token or certificate."

user = typer.Typer(
    name="user",
    no_args_is_help=True,
    help="Users: who may log in, and their roles.",
    epilog=f"{WHERE_OR_URL} {CODES}",
)
token = typer.Typer(
    name="token",
    no_args_is_help=True,
    help="API tokens: how programs log in.",
    epilog=f"{WHERE_OR_URL} {CODES}",
)
certificate = typer.Typer(
    name="certificate",
    no_args_is_help=True,
    help="Whose a client certificate is.",
    epilog=f"{WHERE_OR_URL} {CODES}",
)

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name of the user; its case makes no difference."),
]
Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="ROLE",
        help="A role; owner may do everything. Repeatable.",
        show_default=False,
    ),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="PATTERN",
        help="A host name, such as 'panel-*', that is verified when it is claimed. Repeatable.",
        show_default=False,
    ),
]
OfUser = Annotated[str | None, typer.Option("--user", metavar="NAME", help="Only those of a user.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Its first line is the password.", show_default=False),
]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="The first line of stdin is the password.")
]
NoPassword = Annotated[
    bool, typer.Option("--no-password", help="None: it logs in with tokens or certificates only.")
]


# --- users ---------------------------------------------------------------------------------------


@user.command("add")
@placed(url=True)
def user_add(
    name: Name,
    role: Roles = None,
    host: Hosts = None,
    password_file: PasswordFile = None,
    password_stdin: PasswordStdin = False,
    no_password: NoPassword = False,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Add a user; the password is asked for, twice, or read from a file or stdin.

    It has 8 characters at least and is not the user's name.

    --json prints {"name", "roles", "hosts"}.
    """
    act = _actor(place, as_json=as_json)
    with reporting(as_json=as_json):
        password = _password(password_file, stdin=password_stdin, none=no_password)
        payload = {"name": name, "roles": role or [], "hosts": host or [], "password": password}
    done = act("user_add", payload)
    text = (
        f"Added the user {done['name']!r} with {_listed('role', done['roles'])}. What it may do:\n"
        f"  headgate check --user {shlex.quote(done['name'])} PROJECT/HANDLER"
    )
    _tell(done, text, as_json)


@user.command("list")
@placed(url=True)
def user_list(
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    List the users.

    --json prints {"users": [{"name", "roles", "hosts", "password", "created_at",
    "created_by", "changed_at"}]}; the password is true or false.
    """
    done = _actor(place, as_json=as_json)("user_list", {})
    _print_rows(done, "users", ("name", "roles", "hosts", "password", "created_at"), as_json)


@user.command("remove")
@placed(url=True)
def user_remove(
    name: Name,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Remove a user with its tokens and certificates; its sessions end at once.

    --json prints {"name"}.
    """
    done = _actor(place, as_json=as_json)("user_remove", {"name": name})
    _tell(done, f"Removed the user {done['name']!r}.", as_json)


@user.command("passwd")
@placed(url=True)
def user_passwd(
    name: Name,
    password_file: PasswordFile = None,
    password_stdin: PasswordStdin = False,
    no_password: NoPassword = False,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Give a user another password; its sessions and tickets end at once.

    --json prints {"name"}.
    """
    act = _actor(place, as_json=as_json)
    with reporting(as_json=as_json):
        password = _password(password_file, stdin=password_stdin, none=no_password)
    done = act("user_passwd", {"name": name, "password": password})
    _tell(done, f"The user {done['name']!r} has another password.", as_json)


@user.command("roles")
@placed(url=True)
def user_roles(
    name: Name,
    role: Roles = None,
    add: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="One more.", show_default=False)
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="One less.", show_default=False)
    ] = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Change a user's roles; its sessions go on, and their next request has the new ones.

    --role gives it these and no others, --add and --remove leave the others.

    --json prints {"name", "roles"}.
    """
    with reporting(as_json=as_json):
        if bool(role) == bool(add or remove):
            raise ConfigurationError(
                "It is not said which roles", cure="Give --role, or --add and --remove"
            )
    payload = {"name": name, "roles": role or None, "add": add or [], "remove": remove or []}
    done = _actor(place, as_json=as_json)("user_roles", payload)
    _tell(done, f"The user {done['name']!r} has {_listed('role', done['roles'])}.", as_json)


@user.command("hosts")
@placed(url=True)
def user_hosts(
    name: Name,
    host: Hosts = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Set the host names that are verified when a session of the user claims them.

    Without --host there are none any more.

    --json prints {"name", "hosts"}.
    """
    payload = {"name": name, "hosts": host or []}
    done = _actor(place, as_json=as_json)("user_hosts", payload)
    _tell(done, f"The user {done['name']!r} has {_listed('host', done['hosts'])}.", as_json)


# --- tokens --------------------------------------------------------------------------------------


@token.command("create")
@placed(url=True)
def token_create(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user that it logs in as.")],
    label: Annotated[
        str, typer.Option("--label", help="What it is for, in lists.", show_default=False)
    ] = "",
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE",
            help="Of the user's roles, only this one. Repeatable.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Only these handlers, such as 'ACME/*'. Repeatable.",
            show_default=False,
        ),
    ] = None,
    host: Hosts = None,
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="Good for so long: 90d, 12h, 30m; or never.")
    ] = TOKEN_LIFE,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Make an API token and print it: now, and never again.

    Its roles are those of the user at each moment, or what --role leaves of them.

    --json prints {"token", "id", "user", "label", "roles", "only", "hosts",
    "expires_at"}.
    """
    with reporting(as_json=as_json):
        payload = {
            "user": user,
            "label": label,
            "roles": role or [],
            "only": only or [],
            "hosts": host or [],
            "seconds": _seconds(expires),
        }
    done = _actor(place, as_json=as_json)("token_create", payload)
    if as_json:
        print_document(done)
        return
    until = done["expires_at"].isoformat(timespec="seconds") if done["expires_at"] else "revoked"
    print(done["token"])
    print(
        f"The token {done['id']} of {done['user']!r} is good until {until}. It is not shown again.",
        file=sys.stderr,
    )


@token.command("list")
@placed(url=True)
def token_list(
    user: OfUser = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    List the API tokens, without what is secret of them.

    --json prints {"tokens": [{"id", "user", "label", "roles", "only", "hosts",
    "created_at", "created_by", "expires_at", "used_at", "revoked_at", "state"}]};
    the state is good, expired or revoked.
    """
    done = _actor(place, as_json=as_json)("token_list", {"user": user})
    now = datetime.now(UTC)
    for row in done["tokens"]:
        row["state"] = _state(row, now)
    names = ("id", "user", "label", "roles", "only", "state", "expires_at", "used_at")
    _print_rows(done, "tokens", names, as_json)


@token.command("revoke")
@placed(url=True)
def token_revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as the list shows it.")],
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Revoke an API token; the sessions that it opened end at once.

    --json prints {"id", "user"}.
    """
    done = _actor(place, as_json=as_json)("token_revoke", {"id": id})
    _tell(done, f"Revoked the token {done['id']} of {done['user']!r}.", as_json)


# --- certificates --------------------------------------------------------------------------------


@certificate.command("add")
@placed(url=True)
def certificate_add(
    user: Annotated[str, typer.Argument(metavar="USER", help="Whose it is.")],
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The certificate, PEM or DER.", show_default=False),
    ] = None,
    spki: Annotated[
        str | None,
        typer.Option(
            metavar="HEX",
            help="The SHA-256 of its public key (SubjectPublicKeyInfo).",
            show_default=False,
        ),
    ] = None,
    san: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A name in it: dns:…, email:… or uri:….", show_default=False
        ),
    ] = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Say whose a client certificate is: by its public key or by a name in it.

    Give one of --file, --spki and --san. A renewed certificate with the same key or
    the same name is the same user's.

    --json prints {"id", "user", "spki", "san"}.
    """
    with reporting(as_json=as_json):
        der = None if file is None else _certificate(file)
    payload = {"user": user, "certificate": der, "spki": spki, "san": san}
    done = _actor(place, as_json=as_json)("certificate_add", payload)
    mark = done["san"] or f"SPKI {done['spki']}"
    _tell(done, f"Certificates with {mark} are those of {done['user']!r}.", as_json)


@certificate.command("list")
@placed(url=True)
def certificate_list(
    user: OfUser = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    List whose certificates are.

    --json prints {"certificates": [{"id", "user", "spki", "san", "created_at",
    "created_by"}]}.
    """
    done = _actor(place, as_json=as_json)("certificate_list", {"user": user})
    _print_rows(done, "certificates", ("id", "user", "spki", "san", "created_at"), as_json)


@certificate.command("remove")
@placed(url=True)
def certificate_remove(
    id: Annotated[int, typer.Argument(metavar="NUMBER", help="The number that the list shows.")],
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Let a client certificate be nobody's; the sessions that it opened end at once.

    --json prints {"id", "user"}.
    """
    done = _actor(place, as_json=as_json)("certificate_remove", {"id": id})
    _tell(done, f"Removed the certificate {done['id']} of {done['user']!r}.", as_json)


# --- what they share -----------------------------------------------------------------------------


def _actor(place: Place, *, as_json: bool) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Return what has an action done at the gateway that the options mean."""
    from headgate.cli.administer import administer

    def act(action: str, payload: dict[str, Any]) -> dict[str, Any]:
        with reporting(as_json=as_json):
            done: dict[str, Any] = administer(place, action, payload)
            return done

    return act


def _password(file: Path | None, *, stdin: bool, none: bool) -> str | None:
    if (file is not None) + stdin + none > 1:
        raise ConfigurationError(
            "The password is given twice",
            cure="Use one of --password-file, --password-stdin and --no-password",
        )
    if none:
        return None
    if file is not None:
        try:
            return _first_line(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigurationError(
                f"The password's file cannot be read: {reason}", file=str(file)
            ) from None
    if stdin:
        return _first_line(sys.stdin.readline())
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "There is nobody to ask for the password",
            cure="Use --password-stdin, --password-file or --no-password",
        )
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password


def _first_line(text: str) -> str:
    return text.partition("\n")[0].removesuffix("\r")


def _seconds(text: str) -> float | None:
    if text == "never":
        return None
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if found is None:
        raise ConfigurationError(f"{text!r} is no time", cure="Write --expires 90d, 12h or never")
    return int(found[1]) * _UNITS[found[2]]


def _certificate(file: Path) -> bytes:
    """Return a certificate as DER; of several in a file, the first one."""
    import ssl

    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The certificate cannot be read: {error.strerror or error}", file=str(file)
        ) from None
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    if begin not in content:
        return content
    first = begin + content.partition(begin)[2].partition(end)[0] + end
    try:
        return ssl.PEM_cert_to_DER_cert(first.decode("ascii"))
    except ValueError:
        raise ConfigurationError("This is no certificate in PEM", file=str(file)) from None


def _state(row: dict[str, Any], now: datetime) -> str:
    if row["revoked_at"] is not None:
        return "revoked"
    return "expired" if row["expires_at"] is not None and row["expires_at"] <= now else "good"


def _tell(done: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_document(done)
    else:
        print(text)


def _listed(what: str, names: Iterable[str]) -> str:
    found = sorted(names)
    plural = "" if len(found) == 1 else "s"
    return f"the {what}{plural} {', '.join(found)}" if found else f"no {what}s"


def _print_rows(done: dict[str, Any], what: str, names: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print_document(done)
    elif done[what]:
        print_table(names, [[_cell(row[name]) for name in names] for row in done[what]])
    else:
        complain(f"There are no {what}.")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="minutes")
    return ", ".join(value) if isinstance(value, list) else str(value)
