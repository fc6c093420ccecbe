"""
The certificates of a gateway: its own authority, what that signs, and what a certificate says.

A gateway's folder for them, ``tls`` in its data folder, holds::

    ca.pem  ca-key.pem              the private authority: ca.pem is what clients are given
    server.pem  server-key.pem      what the port shows
    clients/                        certificates of clients with their keys, if nobody says where

Keys are for elliptic curves (P-256), in files that only their owner can read.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headgate.errors import ConfigurationError
from headgate.files import write_whole

__all__ = ["Certificate", "Folder", "copy_certificate", "names_of_this_machine", "uri_of"]

AUTHORITY_DAYS = 3650
"""Days for which the authority is valid."""

SERVER_DAYS = 397
"""
Days for which a server's certificate is valid.

Apple's systems take none of more than 398 days from authorities that they ship, and of more than
825 days from no authority at all; a margin of one day is what they advise.
"""

CLIENT_DAYS = 397
"""Days for which a client's certificate is valid."""

CLOCK_SLACK = timedelta(hours=1)
"""How long before now a certificate begins to be valid, for clients whose clocks are behind."""

USER_URI = "headgate:user:"
"""How a user's name begins in a certificate: as a URI, so that it can be no host's."""

_HOST_NAME = re.compile(
    r"(\*\.)?(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.I
)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a certificate says."""

    subject: str
    """Its subject's name, for people: nothing is ever decided by it."""

    issuer: str
    """The name of who signed it."""

    names: tuple[str, ...]
    """Host names and IP addresses that it stands for, in its own order."""

    users: tuple[str, ...]
    """Users that it stands for."""

    begins: datetime
    ends: datetime

    spki: str
    """SHA-256 of its public key (SubjectPublicKeyInfo), as hex digits: the same after a renewal
    that keeps the key."""

    fingerprint: str
    """SHA-256 of the whole certificate, as hex digits."""

    is_authority: bool
    """Whether it may sign others."""

    @classmethod
    def of_der(cls, data: bytes) -> Certificate:
        """
        Read a certificate as it travels in a handshake.

        Raises:
            ValueError: It is none.
        """
        return cls._of(x509.load_der_x509_certificate(data))

    @classmethod
    def of_file(cls, file: Path) -> Certificate:
        """
        Read the first certificate of a PEM file.

        Raises:
            ConfigurationError: The file cannot be read or holds none.
        """
        return cls._of(_read_certificate(file))

    @classmethod
    def _of(cls, certificate: x509.Certificate) -> Certificate:
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names, users = _alternative_names(certificate)
        return cls(
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            names=names,
            users=users,
            begins=certificate.not_valid_before_utc,
            ends=certificate.not_valid_after_utc,
            spki=sha256(key).hexdigest(),
            fingerprint=sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
            is_authority=_is_authority(certificate),
        )

    def days_left(self, now: datetime | None = None) -> int:
        """Return for how many whole days it is still valid; negative once it has expired."""
        return (self.ends - (now or datetime.now(UTC))).days


class Folder:
    """
    The certificates of one gateway.

    Args:
        path: Its folder ``tls``; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority = path / "ca.pem"
        self.server = path / "server.pem"
        self.server_key = path / "server-key.pem"
        self._authority_key = path / "ca-key.pem"

    def init(self, names: Sequence[str]) -> None:
        """
        Make an authority and a server certificate that it signs.

        An authority that is there already stays.

        Args:
            names: Host names and IP addresses of the gateway; those of this machine's loopback
                are added.

        Raises:
            ConfigurationError: There is a server certificate already, or a name is none.
        """
        for file in (self.server, self.server_key):
            if file.exists():
                raise ConfigurationError(
                    "There is a server certificate already",
                    cure="`headgate cert renew` makes a new one; for other names give them to it",
                    file=str(file),
                )
        alternatives = _server_names(names)
        if not self.authority.exists() and not self._authority_key.exists():
            self._make_authority()
        self._make_server(alternatives)

    def renew(self, names: Sequence[str] = ()) -> None:
        """
        Make a new key and certificate for the server; the authority stays.

        Args:
            names: Host names and IP addresses. Default: those of the certificate so far.

        Raises:
            ConfigurationError: There is no authority, or no certificate to renew.
        """
        self._make_server(_server_names(names or Certificate.of_file(self.server).names))

    def client(self, file: Path, *, user: str = "", hosts: Sequence[str] = ()) -> None:
        """
        Make a certificate for a client, and its key, in one file that only its owner can read.

        Args:
            file: The file; it must not exist.
            user: The user that it stands for; empty for a machine's.
            hosts: Host names and IP addresses that it stands for.

        Raises:
            ConfigurationError: There is no authority, the file exists, or a name is none.
        """
        if file.exists():
            raise ConfigurationError(
                "The file exists already, and keys are never overwritten",
                cure="Remove it, or choose another one with -o",
                file=str(file),
            )
        alternatives = [_general_name(name) for name in hosts]
        if user:
            alternatives.append(x509.UniformResourceIdentifier(uri_of(user)))
        if not alternatives:
            raise ConfigurationError("Whose certificate is it?", cure="Name a user or a --host")
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        signed = self._sign(key, user or hosts[0], alternatives, usage=usage, days=CLIENT_DAYS)
        _write(file, _key_pem(key) + signed.public_bytes(Encoding.PEM), private=True)

    def _make_authority(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        number = secrets.token_hex(4)
        name = _common_name(f"Headgate authority {number} of {socket.gethostname()}")
        usage = _key_usage(sign_certificates=True)
        builder = _builder(key.public_key(), subject=name, issuer=name, days=AUTHORITY_DAYS)
        # It signs servers and clients, and no other authorities.
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        _write(self._authority_key, _key_pem(key), private=True)
        _write(self.authority, builder.sign(key, SHA256()).public_bytes(Encoding.PEM))

    def _make_server(self, alternatives: Sequence[x509.GeneralName]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        name = str(alternatives[0].value)
        signed = self._sign(key, name, alternatives, usage=usage, days=SERVER_DAYS)
        # The key first: a gateway that looks in between sees a certificate that does not fit, and
        # waits for the one that does.
        _write(self.server_key, _key_pem(key), private=True)
        _write(self.server, signed.public_bytes(Encoding.PEM))

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: str,
        alternatives: Iterable[x509.GeneralName],
        *,
        usage: x509.ObjectIdentifier,
        days: int,
    ) -> x509.Certificate:
        authority, signer = self._read_authority()
        builder = _builder(
            key.public_key(), subject=_common_name(subject), issuer=authority.subject, days=days
        )
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        for extension, critical in (
            (x509.BasicConstraints(False, None), True),
            (_key_usage(sign_certificates=False), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (x509.SubjectAlternativeName(alternatives), False),
            (identifier, False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(signer, SHA256())

    def _read_authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        certificate = _read_certificate(self.authority)
        try:
            key = load_pem_private_key(self._authority_key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"The authority's key cannot be read: {_reason(error)}",
                cure="Without it nothing can be signed: restore it, or remove the folder and begin "
                "anew with `headgate cert init`; clients then need the new ca.pem",
                file=str(self._authority_key),
            ) from None
        fits = isinstance(key, ec.EllipticCurvePrivateKey) and (
            key.public_key() == certificate.public_key()
        )
        if not fits:
            raise ConfigurationError(
                "The authority's key does not belong to its certificate ca.pem",
                cure="Restore the pair that belongs together",
                file=str(self._authority_key),
            )
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return certificate, key


def uri_of(user: str) -> str:
    """Return how a user stands among the names of a certificate."""
    return USER_URI + quote(user, safe="")


def copy_certificate(source: Path, target: Path) -> None:
    """Put the first certificate of a PEM file into a file of its own, without any key."""
    _write(target, _read_certificate(source).public_bytes(Encoding.PEM))


def names_of_this_machine() -> list[str]:
    """Return this machine's host name and the addresses that others reach it by, best first."""
    host = socket.gethostname()
    found = [host] if _HOST_NAME.fullmatch(host) else []
    with suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Nothing is sent: the system only chooses the address that it would send from.
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))
            found.append(probe.getsockname()[0])
    return [name for name in dict.fromkeys(found) if not _is_of_no_use(name)]


def _is_of_no_use(name: str) -> bool:
    """Whether an address leads to no machine, or only to the one that asks."""
    try:
        address = ip_address(name)
    except ValueError:
        return "%" in name
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _server_names(names: Sequence[str]) -> list[x509.GeneralName]:
    every = dict.fromkeys([*names, "localhost", "127.0.0.1", "::1"])
    return [_general_name(name) for name in every]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name.strip("[]")))
    except ValueError:
        pass
    try:
        ascii_name = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        ascii_name = ""
    if not _HOST_NAME.fullmatch(ascii_name):
        raise ConfigurationError(
            f"{name!r} is no host name and no IP address",
            cure="Write a name such as hub.plant.example or an address such as 10.1.2.3, "
            "without scheme and port",
        )
    return x509.DNSName(ascii_name.lower().rstrip("."))


def _alternative_names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the hosts and the users in a certificate."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return (), ()
    hosts = [str(n.value) for n in found if isinstance(n, x509.DNSName | x509.IPAddress)]
    uris = found.get_values_for_type(x509.UniformResourceIdentifier)
    users = [unquote(uri.removeprefix(USER_URI)) for uri in uris if uri.startswith(USER_URI)]
    return tuple(hosts), tuple(users)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _common_name(text: str) -> x509.Name:
    # A common name is short (X.520), and for people only.
    short = text.encode("utf-8", "replace")[:64].decode("utf-8", "ignore")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, short)])


def _builder(
    key: ec.EllipticCurvePublicKey, *, subject: x509.Name, issuer: x509.Name, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now - CLOCK_SLACK + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The certificate cannot be read: {_reason(error)}",
            cure="Make one with `headgate cert init`, or name a PEM file",
            file=str(file),
        ) from None


def _reason(error: Exception) -> str:
    """Say why a file could not be read; the library's own words may hold what stands in it."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is encrypted" if isinstance(error, TypeError) else "it is no PEM file of that kind"


def _write(file: Path, data: bytes, *, private: bool = False) -> None:
    # The folder above may be the gateway's own, and not be there yet.
    for folder in (file.parent.parent, file.parent):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(file, data, mode=0o600 if private else 0o644)
