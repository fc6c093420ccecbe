"""The certificates of a gateway: cert init, renew, client and show."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headgate.channel.address import DEFAULT_PORT, url_of
from headgate.channel.local import is_loopback
from headgate.cli.config import load
from headgate.cli.ends import reporting, server_parts
from headgate.cli.options import WHERE, Json, Place, placed
from headgate.cli.output import print_document
from headgate.errors import ConfigurationError

if TYPE_CHECKING:
    from headgate.gateway.config import Settings
    from headgate.security.certificates import Certificate, Folder

__all__ = ["cert"]

cert = typer.Typer(
    name="cert",
    no_args_is_help=True,
    help="The certificates of a gateway, for TLS.",
    epilog=WHERE,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME_OR_ADDRESS",
        help="Names of the gateway, the best first.",
        show_default=False,
    ),
]


@cert.command("init")
@placed(url=False)
def init(
    names: Names = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Make a private authority and a server certificate, so that the port speaks TLS.

    The certificate is for the names that you give, this machine's name and
    addresses, and localhost. It is valid for 397 days, the authority for 10 years.

    --json prints {"certificates": […]}, as `cert show` does.
    """
    with reporting(as_json=as_json):
        folder = _folder(place)
        folder.init([*(names or []), *_names_of_this_machine()])
        if as_json:
            _show_json(folder)
        else:
            options = {"--data": place.data, "--name": place.name, "--config": place.config}
            named = [f"{part}" for pair in options.items() if pair[1] for part in pair]
            _tell(folder, named, load(place.config).settings)


@cert.command("renew")
@placed(url=False)
def renew(
    names: Names = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Make a new server certificate, with a new key; the authority stays.

    It is for the names of the one before, or for those that you give and
    localhost. A gateway that runs takes it by itself, and its sessions go on.

    --json prints {"certificates": […]}, as `cert show` does.
    """
    with reporting(as_json=as_json):
        folder = _folder(place)
        folder.renew(names or [])
        if as_json:
            _show_json(folder)
            return
        certificate = _read(folder.server)
        print(f"Renewed {folder.server}, until {certificate.ends.date()}, for:")
        print(f"  {', '.join(certificate.names)}")
        print("A gateway that runs takes it within seconds; its sessions go on.")


@cert.command("client")
@placed(url=False)
def client(
    user: Annotated[
        str, typer.Argument(help="The user that it stands for.", metavar="USER", show_default=False)
    ] = "",
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A machine that it stands for. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Default: in the folder tls/clients of its data.",
            show_default=False,
        ),
    ] = None,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Make a client certificate with its key, for a user, a machine, or both.

    --json prints {"certificates": […]}, as `cert show` does, of this one.
    """
    with reporting(as_json=as_json):
        folder = _folder(place)
        whose = user or (host[0] if host else "")
        file = output or folder.path / "clients" / f"{_as_file_name(whose)}.pem"
        folder.client(file, user=user, hosts=host or [])
        certificate = _read(file)
        if as_json:
            print_document({"certificates": [_fields(file, certificate)]})
            return
        print(f"Made {file} with its key, until {certificate.ends.date()}. It is a secret.")
        mark = ["--san", _uri(user)] if user else ["--spki", certificate.spki]
        print("Say whose it is, and connect with it:")
        print(f"  headgate certificate add {shlex.join([user or 'USER', *mark])}")
        print(f"  headgate.connect(URL, ca={str(folder.authority)!r}, certificate={str(file)!r})")


@cert.command("show")
@placed(url=False)
def show(
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Show what the certificates are for, when they end, and their fingerprints.

    --json prints {"certificates": […]}.
    """
    with reporting(as_json=as_json):
        folder = _folder(place)
        if as_json:
            _show_json(folder)
            return
        for file in _files(folder):
            for line in _described(file, _read(file)):
                print(line)


def _folder(place: Place) -> Folder:
    from headgate.cli.administer import chosen_folder

    with server_parts():
        from headgate.security.certificates import Folder
    return Folder(chosen_folder(place) / "tls")


def _names_of_this_machine() -> list[str]:
    from headgate.security.certificates import names_of_this_machine

    return names_of_this_machine()


def _read(file: Path) -> Certificate:
    from headgate.security.certificates import Certificate

    return Certificate.of_file(file)


def _uri(user: str) -> str:
    from headgate.security.certificates import uri_of

    return f"uri:{uri_of(user)}"


def _as_file_name(text: str) -> str:
    kept = "".join(char if char.isalnum() or char in "-_.@" else "_" for char in text)
    return kept.lstrip(".") or "client"


def _files(folder: Folder) -> list[Path]:
    found = [folder.authority, folder.server, *sorted(folder.path.glob("clients/*.pem"))]
    files = [file for file in found if file.exists()]
    if not files:
        raise ConfigurationError(
            "There are no certificates",
            cure="Make them with `headgate cert init`, or choose the gateway with --name or --data",
            file=str(folder.path),
        )
    return files


def _tell(folder: Folder, options: list[str], settings: Settings) -> None:
    """Say what was made, and what comes next for the gateway that these options name."""
    certificate = _read(folder.server)
    usable = [each for each in certificate.names if not is_loopback(each) and "*" not in each]
    url = url_of((usable or ["localhost"])[0], settings.port or DEFAULT_PORT, secure=True)
    beyond = [] if not is_loopback(settings.host) else ["--host", "0.0.0.0"]
    print(f"Made an authority and a server certificate, until {certificate.ends.date()}, for:")
    print(f"  {', '.join(certificate.names)}")
    print(f"Copy {folder.authority} to the clients. The keys beside it stay here.")
    print("Next: a user, unless there is one, and the gateway:")
    print(f"  {shlex.join(['headgate', 'user', 'add', 'NAME', *options])}")
    print(f"  {shlex.join(['headgate', 'run', *options, *beyond])}")
    print("And a client, on another machine:")
    print(f"  headgate handlers --url {url} --ca ca.pem --user NAME")
    print(f"  headgate.connect({url!r}, ca='ca.pem', username=…, password=…)")


def _show_json(folder: Folder) -> None:
    print_document({"certificates": [_fields(file, _read(file)) for file in _files(folder)]})


def _fields(file: Path, certificate: Certificate) -> dict[str, Any]:
    return {
        "file": str(file),
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "names": certificate.names,
        "users": certificate.users,
        "authority": certificate.is_authority,
        "begins": certificate.begins,
        "ends": certificate.ends,
        "days_left": certificate.days_left(),
        "spki": certificate.spki,
        "fingerprint": certificate.fingerprint,
    }


def _described(file: Path, certificate: Certificate) -> list[str]:
    days = certificate.days_left()
    lines = [
        str(file),
        f"  subject      {certificate.subject}",
        f"  issuer       {certificate.issuer}",
        f"  ends         {certificate.ends.date()}, "
        + (f"in {days} days" if days >= 0 else "it has EXPIRED"),
        f"  public key   SHA-256 {certificate.spki}",
        f"  certificate  SHA-256 {certificate.fingerprint}",
    ]
    if certificate.names:
        lines.insert(2, f"  names        {', '.join(certificate.names)}")
    if certificate.users:
        lines.insert(2, f"  users        {', '.join(certificate.users)}")
    return lines
