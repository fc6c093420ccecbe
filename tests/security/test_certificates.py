"""The gateway's certificates: what they stand for, and that nobody else can read their keys."""

from __future__ import annotations

import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import ConfigurationError
from headgate.security.certificates import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    Certificate,
    Folder,
    copy_certificate,
    names_of_this_machine,
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder with an authority and a server certificate."""
    folder = Folder(tmp_path / "tls")
    folder.init(["hub.plant.example", "10.1.2.3"])
    return folder


def contents(folder: Folder) -> dict[str, bytes]:
    """What stands in a folder."""
    return {
        str(file.relative_to(folder.path)): file.read_bytes()
        for file in folder.path.rglob("*")
        if file.is_file()
    }


def test_the_names_come_first_and_loopback_is_added(folder: Folder) -> None:
    """A server certificate stands for what was given, in that order, and for loopback."""
    names = Certificate.of_file(folder.server).names
    assert names == ("hub.plant.example", "10.1.2.3", "localhost", "127.0.0.1", "::1")


def test_how_long_they_are_valid(folder: Folder) -> None:
    """The server for 397 days, which all clients take, the authority for ten years."""
    for file, days in ((folder.server, SERVER_DAYS), (folder.authority, AUTHORITY_DAYS)):
        certificate = Certificate.of_file(file)
        assert certificate.ends - certificate.begins == timedelta(days=days)
        assert certificate.begins < datetime.now(UTC)
        assert certificate.days_left() == days - 1
        assert certificate.days_left(certificate.ends + timedelta(seconds=1)) == -1
    assert SERVER_DAYS <= 398


def test_the_authority_signs_no_authorities(folder: Folder) -> None:
    """Whoever gets hold of a server's key can sign nothing with it."""
    authority = x509.load_pem_x509_certificate(folder.authority.read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert constraints.critical
    assert not Certificate.of_file(folder.server).is_authority
    server = x509.load_pem_x509_certificate(folder.server.read_bytes())
    server.verify_directly_issued_by(authority)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_the_owner_can_read_keys(tmp_path: Path) -> None:
    """Keys have mode 0600 and their folder 0700, whatever the umask says; no draft is left."""
    before = os.umask(0)
    try:
        folder = Folder(tmp_path / "tls")
        folder.init([])
        folder.renew()
        folder.client(folder.path / "clients" / "ann.pem", user="ann")
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((folder.path / name).stat().st_mode) for name in contents(folder)}
    assert modes == {
        "ca.pem": 0o644,
        "ca-key.pem": 0o600,
        "server.pem": 0o644,
        "server-key.pem": 0o600,
        "clients/ann.pem": 0o600,
    }
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_nothing_is_overwritten(folder: Folder) -> None:
    """A second init, and a second certificate of a client, leave all files as they are."""
    file = folder.path / "clients" / "ann.pem"
    folder.client(file, user="ann")
    before = contents(folder)
    with pytest.raises(ConfigurationError, match="headgate cert renew"):
        folder.init([])
    with pytest.raises(ConfigurationError, match="never overwritten"):
        folder.client(file, user="ann")
    assert contents(folder) == before


def test_a_server_key_alone_is_not_overwritten(folder: Folder) -> None:
    """A key whose certificate was removed stays, too."""
    folder.server.unlink()
    before = contents(folder)
    with pytest.raises(ConfigurationError, match="already"):
        folder.init([])
    assert contents(folder) == before


def test_renewal_keeps_the_authority_and_the_names(folder: Folder) -> None:
    """A renewed server has a new key, the same names, and clients need no new ca.pem."""
    before, old = contents(folder), Certificate.of_file(folder.server)
    folder.renew()
    after, new = contents(folder), Certificate.of_file(folder.server)
    assert {name for name in before if before[name] != after[name]} == {
        "server.pem",
        "server-key.pem",
    }
    assert new.names == old.names
    assert new.spki != old.spki
    folder.renew(["other.example"])
    assert Certificate.of_file(folder.server).names[:2] == ("other.example", "localhost")


def test_there_must_be_something_to_renew(tmp_path: Path) -> None:
    """Without an authority neither renewal nor clients: the error names the file and the cure."""
    folder = Folder(tmp_path / "tls")
    with pytest.raises(ConfigurationError, match=r"server\.pem.*headgate cert init"):
        folder.renew()
    with pytest.raises(ConfigurationError, match=r"ca\.pem.*headgate cert init"):
        folder.client(tmp_path / "ann.pem", user="ann")
    assert not (tmp_path / "ann.pem").exists()


def test_the_authoritys_key_must_fit(folder: Folder, tmp_path: Path) -> None:
    """With the key of another authority nothing is signed, nor with what is no key."""
    other = Folder(tmp_path / "other")
    other.init([])
    file = folder.path / "ca-key.pem"
    file.write_bytes((other.path / "ca-key.pem").read_bytes())
    with pytest.raises(ConfigurationError, match="does not belong"):
        folder.renew()
    secret = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    file.write_text(secret)
    with pytest.raises(ConfigurationError, match=r"ca-key\.pem.*restore") as caught:
        folder.renew()
    assert "c2VjcmV0" not in str(caught.value)


def test_users_and_hosts_are_never_mistaken_for_each_other(folder: Folder, tmp_path: Path) -> None:
    """A user whose name looks like a host's is no host, and the subject decides nothing."""
    folder.client(tmp_path / "user.pem", user="panel-3")
    folder.client(tmp_path / "host.pem", hosts=["panel-3", "10.1.2.3"])
    user, host = (Certificate.of_file(tmp_path / f"{name}.pem") for name in ("user", "host"))
    assert (user.users, user.names) == (("panel-3",), ())
    assert (host.users, host.names) == ((), ("panel-3", "10.1.2.3"))
    assert user.subject == host.subject


@settings(max_examples=40, deadline=None)
@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=80))
def test_any_user_name_comes_back(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A user's name is read from a certificate as it was written, whatever characters it has."""
    folder = Folder(tmp_path_factory.getbasetemp() / "users")
    if not folder.authority.exists():
        folder.init([])
    file = folder.path / "clients" / "any.pem"
    file.unlink(missing_ok=True)
    folder.client(file, user=name)
    der = ssl.PEM_cert_to_DER_cert(file.read_text().partition("-----END PRIVATE KEY-----\n")[2])
    assert Certificate.of_der(der).users == (name,)
    assert Certificate.of_der(der) == Certificate.of_file(file)


@pytest.mark.parametrize(
    "name", ["", "wss://hub", "hub:8188", "a b", "-hub", "hub/", "hub\n", "*", "a..b", "x" * 64]
)
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    """Neither URL nor port: the error says what to write, and nothing is made."""
    folder = Folder(tmp_path / "tls")
    with pytest.raises(ConfigurationError, match="without scheme and port"):
        folder.init([name])
    assert not folder.path.exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HUB.Example.", "hub.example"),
        ("*.plant.example", "*.plant.example"),
        ("[::1]", "::1"),
        ("FD00:0:0::2", "fd00::2"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_how_names_are_written(tmp_path: Path, name: str, expected: str) -> None:
    """Names stand in a certificate as clients compare them."""
    folder = Folder(tmp_path / "tls")
    folder.init([name])
    assert Certificate.of_file(folder.server).names[0] == expected


def test_a_copy_holds_the_certificate_and_no_key(folder: Folder, tmp_path: Path) -> None:
    """Of a file with a key only the certificate is copied."""
    folder.client(tmp_path / "ann.pem", user="ann")
    copy_certificate(tmp_path / "ann.pem", tmp_path / "copy.pem")
    assert "KEY" not in (tmp_path / "copy.pem").read_text()
    assert Certificate.of_file(tmp_path / "copy.pem") == Certificate.of_file(tmp_path / "ann.pem")


def test_this_machine_has_names_that_others_can_use() -> None:
    """Loopback is none of them, and none comes twice."""
    names = names_of_this_machine()
    assert len(names) == len(set(names))
    assert not {"localhost", "127.0.0.1", "::1"} & set(names)


@pytest.mark.skipif(os.name != "posix", reason="no modes")
def test_the_gateways_folder_is_its_owners(tmp_path: Path) -> None:
    """Certificates may be made before the gateway's folder: it is for its owner alone, too."""
    before = os.umask(0o002)
    try:
        Folder(tmp_path / "data" / "tls").init([])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
