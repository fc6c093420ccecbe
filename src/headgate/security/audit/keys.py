"""The Ed25519 key that signs the audit log, and its public half."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from headgate.errors import ConfigurationError
from headgate.files import write_whole

__all__ = [
    "fingerprint",
    "is_signed",
    "public_bytes",
    "read_key",
    "read_public_key",
    "write_key",
    "write_public_key",
]


def write_key(file: Path, key: Ed25519PrivateKey) -> None:
    """Write a key as PEM that only this user can read."""
    write_whole(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_public_key(file: Path, key: Ed25519PrivateKey) -> None:
    """Write the public half of a key as PEM."""
    write_whole(file, _pem(key.public_key()))


def read_key(file: Path) -> Ed25519PrivateKey:
    """
    Return the key in a file.

    Raises:
        ConfigurationError: Others can read it, or it is damaged.
        FileNotFoundError: There is none.
    """
    if hasattr(os, "getuid") and file.stat().st_mode & 0o077:
        raise ConfigurationError(
            "The audit's key can be read by others, so its signatures prove nothing",
            cure="Find out who has it, then: chmod 600, or move the whole log away for a new one",
            file=str(file),
        )
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            "The audit's key is damaged", cure="Put it back from a backup", file=str(file)
        )
    return key


def read_public_key(file: Path) -> bytes | None:
    """Return the 32 bytes of a public key, None if the file holds none."""
    try:
        data = file.read_bytes()
        key = load_pem_public_key(data)
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, Ed25519PublicKey):
        return None
    # Nothing but what `make_key` writes: PEM readers pass over much that stands around it.
    return public_bytes(key) if data == _pem(key) else None


def public_bytes(key: Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def fingerprint(public: bytes) -> str:
    """Return a public key's fingerprint, as people compare it: ``SHA256:…``, Base64."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")


def is_signed(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether this is the key's signature of the data."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
