"""The certificate that the gateway's port shows: found, checked, and renewed while it serves."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import NamedTuple

from headgate.channel.tls import server_context
from headgate.errors import ConfigurationError
from headgate.gateway.config import Tls
from headgate.security.certificates import Certificate, Folder, copy_certificate

__all__ = ["ServerTls"]

logger = logging.getLogger("headgate.tls")

EXPIRY_DAYS = 30
"""Days before its end from which on a certificate is warned of."""


class _Files(NamedTuple):
    """The files of one server; the key may stand in the certificate's."""

    certificate: Path
    key: Path
    client_ca: Path | None


class ServerTls:
    """
    What a gateway's port speaks TLS with.

    Args:
        settings: The section ``[tls]``; the folder's files stand in for what it leaves out.
        folder: The certificates that ``headgate cert`` made.
        shown: Where the certificate in use is left for clients of the same user.

    Raises:
        ConfigurationError: A file is missing or damaged, or does not fit to the others.
    """

    def __init__(self, settings: Tls, folder: Folder, *, shown: Path) -> None:
        self.shown = shown
        """The file with the certificate in use."""
        if settings.certificate is not None:
            key = settings.key or settings.certificate
            certificate = settings.certificate
        else:
            certificate, key = folder.server, folder.server_key
        authority = folder.authority if folder.authority.exists() else None
        self._files = _Files(certificate, key, settings.client_ca or authority)
        if settings.require_client_certificate and self._files.client_ca is None:
            raise ConfigurationError(
                "Client certificates are required, but no authority for them is named",
                cure="Set client_ca in [tls], or make an authority with `headgate cert init`",
            )
        self._taken = self._state()
        self._doubtful: object = None
        self._told: object = None
        self.context, self.certificate = self._load()

    context: ssl.SSLContext
    """What new connections are made with."""

    certificate: Certificate
    """What the certificate in use says."""

    def look(self) -> bool:
        """
        Take the files if they have changed and are good; else all stays as it is.

        What is no good is told once, and not at the first look: it may be half of a change.

        Returns:
            Whether there is a new certificate or authority now.
        """
        state = self._state()
        if state == self._taken:
            return False
        try:
            self.context, self.certificate = self._load()
        except ConfigurationError as error:
            if state == self._doubtful and state != self._told:
                self._told = state
                logger.error("The certificate stays as it was, the new one is no good: %s", error)
            self._doubtful = state
            return False
        self._taken, self._doubtful, self._told = state, None, None
        logger.info(
            "New connections get the certificate that ends on %s, SHA-256 %s",
            self.certificate.ends.date(),
            self.certificate.fingerprint,
        )
        self.warn()
        return True

    def warn(self) -> None:
        """Log that the certificate ends soon, if it does."""
        days = self.certificate.days_left()
        if days >= EXPIRY_DAYS:
            return
        when = f"ends in {days} days" if days >= 0 else "has ended: clients refuse it"
        logger.warning(
            "The certificate %s %s (%s). Renew it with `headgate cert renew`, or replace the "
            "files: the gateway takes them while it runs",
            self._files.certificate,
            when,
            self.certificate.ends.date(),
        )

    def _load(self) -> tuple[ssl.SSLContext, Certificate]:
        files = self._files
        context = server_context(
            files.certificate,
            files.key,
            client_ca=files.client_ca,
        )
        certificate = Certificate.of_file(files.certificate)
        if os.name == "posix" and files.key.stat().st_mode & 0o004:
            logger.warning("Everybody on this machine can read the key %s: chmod 600", files.key)
        copy_certificate(files.certificate, self.shown)
        return context, certificate

    def _state(self) -> tuple[object, ...]:
        """Return what changes when a file does."""
        return tuple(_stamp(file) for file in self._files if file is not None)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
