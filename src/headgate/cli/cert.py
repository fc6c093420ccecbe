"""The certificates of a gateway: cert init, renew, client and show."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.channel.address import DEFAULT_PORT, url_of
from headgate.channel.local import data_folder, is_loopback
from headgate.cli.ends import reporting
from headgate.cli.output import print_document
from headgate.cli.projects import server_parts
from headgate.errors import ConfigurationError

if TYPE_CHECKING:
    from headgate.security.certificates import Certificate, Folder

__all__ = ["client", "init", "renew", "show"]


def init(names: Sequence[str], *, name: str, data: Path | None, as_json: bool) -> None:
    """Make an authority and a server certificate, and say what to do with them."""
    with reporting(as_json=as_json):
        folder = _folder(name, data)
        folder.init([*names, *_names_of_this_machine()])
        _tell(folder, name=name, data=data, as_json=as_json)


def renew(names: Sequence[str], *, name: str, data: Path | None, as_json: bool) -> None:
    """Make a new server certificate; a gateway that runs takes it by itself."""
    with reporting(as_json=as_json):
        folder = _folder(name, data)
        folder.renew(names)
        if as_json:
            _show_json(folder)
            return
        certificate = _read(folder.server)
        print(f"Renewed {folder.server}, until {certificate.ends.date()}, for:")
        print(f"  {', '.join(certificate.names)}")
        print("A gateway that runs takes it within seconds; its sessions go on.")


def client(
    user: str, hosts: Sequence[str], *, output: Path | None, name: str, data: Path | None
) -> None:
    """Make a client's certificate."""
    with reporting():
        folder = _folder(name, data)
        whose = user or (hosts[0] if hosts else "")
        file = output or folder.path / "clients" / f"{_as_file_name(whose)}.pem"
        folder.client(file, user=user, hosts=hosts)
        certificate = _read(file)
        print(f"Made {file} with its key, until {certificate.ends.date()}. It is a secret.")
        print(f"SHA-256 of its public key: {certificate.spki}")
        print("Connect with:")
        print(f"  headgate.connect(URL, ca={str(folder.authority)!r}, certificate={str(file)!r})")


def show(*, name: str, data: Path | None, as_json: bool) -> None:
    """Show the certificates that there are."""
    with reporting(as_json=as_json):
        folder = _folder(name, data)
        if as_json:
            _show_json(folder)
            return
        for file in _files(folder):
            for line in _described(file, _read(file)):
                print(line)


def _folder(name: str, data: Path | None) -> Folder:
    with server_parts():
        from headgate.security.certificates import Folder

    return Folder((data or data_folder(name)) / "tls")


def _names_of_this_machine() -> list[str]:
    from headgate.security.certificates import names_of_this_machine

    return names_of_this_machine()


def _read(file: Path) -> Certificate:
    from headgate.security.certificates import Certificate

    return Certificate.of_file(file)


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


def _tell(folder: Folder, *, name: str, data: Path | None, as_json: bool) -> None:
    if as_json:
        _show_json(folder)
        return
    certificate = _read(folder.server)
    usable = [each for each in certificate.names if not is_loopback(each) and "*" not in each]
    url = url_of((usable or ["localhost"])[0], DEFAULT_PORT, secure=True)
    options = f"--data {shlex.quote(str(data))}" if data else f"--name {shlex.quote(name)}"
    print(f"Made an authority and a server certificate, until {certificate.ends.date()}, for:")
    print(f"  {', '.join(certificate.names)}")
    print(f"Copy {folder.authority} to the clients. The keys beside it stay here.")
    print("The gateway, once it has a user, and a client:")
    print(f"  headgate run {options} --host 0.0.0.0")
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
