"""TLS at both ends of a channel: contexts, and what an error of it means."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from headgate.errors import ConfigurationError

__all__ = ["ClientTls", "explain_failure", "is_wrong_name", "server_context"]

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""What TLS 1.2 may use: only what stays secret if a key is stolen later, as all of TLS 1.3 does."""


def server_context(
    certificate: Path, key: Path, *, client_ca: Path | None = None
) -> ssl.SSLContext:
    """
    Return what a gateway's port speaks TLS with.

    Args:
        certificate: The server's certificate and its chain, PEM.
        key: Its private key, PEM, not encrypted.
        client_ca: Authorities whose client certificates are taken, PEM. Default: none.

    Raises:
        ConfigurationError: A file cannot be read, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # No session is resumed with TLS 1.3. With 1.2 OpenSSL remembers some itself, by their ids.
    context.num_tickets = 0
    _load_chain(context, certificate, key)
    if client_ca is not None:
        _load_authorities(context, client_ca)
        # Who has none is told so in words, and only where one is required.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """
    What a client trusts, and what it shows.

    Raises:
        ConfigurationError: From `context`: a file cannot be read.
    """

    ca: Path | None = None
    """Authorities, PEM. Default: those of the system."""

    certificate: Path | None = None
    """The client's own certificate, PEM. Default: none."""

    key: Path | None = None
    """Its key. Default: it stands in the same file."""

    pinned: Path | None = None
    """The gateway's certificate itself: then nothing else is taken, whatever its names."""

    def context(self) -> ssl.SSLContext:
        """Return what a connection is made with; the files are read anew."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _harden(context)
        if self.pinned is not None:
            _load_authorities(context, self.pinned)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.check_hostname = False
        elif self.ca is not None:
            _load_authorities(context, self.ca)
        else:
            context.load_default_certs()
        if self.certificate is not None:
            _load_chain(context, self.certificate, self.key)
        return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except OSError as error:
        text = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no certificate"
        raise ConfigurationError(
            f"The authorities' certificates cannot be read: {text}",
            cure="Name a PEM file, such as the ca.pem that `headgate cert init` wrote",
            file=str(file),
        ) from None


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    for file in (certificate, key):
        if file is not None:
            _require_readable(file)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        raise ConfigurationError(
            "The key does not belong to the certificate"
            if mismatch
            else "Certificate or key is no PEM file that TLS can use",
            cure=f"Give the certificate {certificate} and its own key, both PEM",
            file=str(key or certificate),
        ) from None
    except _EncryptedKeyError:
        raise ConfigurationError(
            "The key is encrypted, and nobody is there to type its password",
            cure="Decrypt it into a file that only its owner can read, mode 0600",
            file=str(key or certificate),
        ) from None


class _EncryptedKeyError(Exception):
    """The key asks for a password."""


def _no_password() -> str:
    raise _EncryptedKeyError


def _require_readable(file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"The file for TLS cannot be read: {error.strerror}",
            cure="Make certificates with `headgate cert init`, or name the files that there are",
            file=str(file),
        ) from None


# --- what went wrong in a client's handshake ------------------------------------------------------

_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21, 27}
"""OpenSSL's codes for a chain that leads to nobody who is trusted (x509_vfy.h)."""

_EXPIRED, _NOT_YET = {10}, {9}
_WRONG_NAME = {62, 63, 64}


def is_wrong_name(error: ssl.SSLError) -> bool:
    """Whether a certificate was refused because it is for another name."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _WRONG_NAME


def explain_failure(error: BaseException, *, host: str = "", tls: ClientTls = ClientTls()) -> str:
    """
    Say what the failure of a client's TLS means, and what to do about it.

    Args:
        error: The failure.
        host: The name by which the gateway was called.
        tls: What it was called with.

    Returns:
        A text, empty if it is no failure of TLS.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, host=host, tls=tls)
    if not isinstance(error, ssl.SSLError):
        return ""
    reason = error.reason or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return "what listens there speaks no TLS. If it is a gateway without TLS, write ws://"
    if "CERTIFICATE_REQUIRED" in reason or reason == "SSLV3_ALERT_HANDSHAKE_FAILURE":
        return (
            "it wants a client certificate: give certificate= (PEM), made by `headgate cert client`"
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return (
            "it does not take this client's certificate "
            f"({reason.rpartition('ALERT_')[2].replace('_', ' ').lower()}): it must be signed by "
            "an authority that the gateway trusts, and be valid now"
        )
    if "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return "the two speak no common version of TLS: 1.2 is the least"
    return f"TLS failed: {reason.replace('_', ' ').lower() or error}"


def _explain_certificate(error: ssl.SSLCertVerificationError, *, host: str, tls: ClientTls) -> str:
    code = error.verify_code
    if code in _UNKNOWN_AUTHORITY and tls.pinned is not None:
        return "it does not show the certificate of this user's gateway on that port"
    if code in _UNKNOWN_AUTHORITY:
        trusted = f"{tls.ca} does not know" if tls.ca else "this machine does not trust"
        return (
            f"{trusted} the authority of its certificate. Give the gateway's ca.pem, which "
            "`headgate cert init` wrote to the folder tls of the gateway's data: "
            "connect(url, ca=PATH), or HEADGATE_CA=PATH for the command line"
        )
    if code in _WRONG_NAME:
        return f"its certificate is not for {host!r}"
    if code in _EXPIRED:
        return "its certificate has expired. On the gateway: headgate cert renew"
    if code in _NOT_YET:
        return "its certificate is not valid yet: is the clock of one of the two machines wrong?"
    return f"its certificate is refused: {error.verify_message}"
