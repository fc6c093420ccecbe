"""
The log's bytes: rows that are chained by their hashes, signed rows, and the head.

A row is one line of JSON. Its hash is SHA-256 over the hash of the row before it and over the
line's own bytes up to the hash, as they stand: nothing is encoded again to verify it. A signed row
has an Ed25519 signature of its hash too, and so vouches for every row before it. The head says
which row is the last one, and is kept outside of the segments.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headgate.security.audit.keys import is_signed, public_bytes
from headgate.security.audit.record import Record
from headgate.security.audit.redaction import payload_json

__all__ = ["OWN_EVENTS", "Head", "Line", "Row", "first_hash", "make_row", "parse_line", "sign_row"]

OWN_EVENTS: Final = frozenset({"checkpoint", "removed", "recovered", "damaged", "lost"})
"""Events of the log itself; their rows are signed."""

_ROW_DOMAIN: Final = b"headgate audit row\n"
_HEAD_DOMAIN: Final = b"headgate audit head\n"

_START = re.compile(rb'\{"seq":([1-9][0-9]{0,17}),"time":"')
_END = re.compile(rb',"hash":"([0-9a-f]{64})"(?:,"signature":"([0-9a-f]{128})")?\}\n')
_HEAD_END = re.compile(rb',"signature":"([0-9a-f]{128})"\}\n')
_PLAIN_END: Final = len(',"hash":""}\n') + 64
_SIGNED_END: Final = _PLAIN_END + len(',"signature":""') + 128
_HEAD_END_LENGTH: Final = len(',"signature":""}\n') + 128


class Row(msgspec.Struct, frozen=True):
    """A new row, not yet written."""

    line: bytes
    hash: bytes
    """The 32 bytes of its hash."""


class Line(msgspec.Struct, frozen=True):
    """A line of a segment, taken apart; nothing of it is verified yet."""

    sequence: int
    body: bytes
    """What the hash is over, beside the hash of the row before it."""
    hash: bytes
    signature: bytes | None

    def follows(self, previous: bytes) -> bool:
        """Whether its hash is that of a row after the one with the hash `previous`."""
        return _hash(previous, self.body) == self.hash

    def hash_after(self, previous: bytes) -> bytes:
        """Return the hash that it should have."""
        return _hash(previous, self.body)

    def is_signed_by(self, public: bytes) -> bool:
        """Whether it has this key's signature."""
        data = _ROW_DOMAIN + self.hash
        return self.signature is not None and is_signed(public, self.signature, data)

    def fields(self) -> dict[str, Any]:
        """
        Return the row's fields.

        Raises:
            ValueError: It is no JSON object with an event.
        """
        try:
            fields = json.loads(self.body + b"}")
        except RecursionError:
            raise ValueError("too deep") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
            raise ValueError("not the object of a row")
        fields["hash"] = self.hash.hex()
        return fields


class Head(msgspec.Struct, frozen=True):
    """What stood last in the log at some time, signed."""

    sequence: int
    hash: str
    time: str
    segment: str
    """File name of the segment that held the row."""
    clean: bool
    """Whether the log was closed then, so that nothing may stand behind the row."""
    key: str
    """The public key that it is signed with, in hex digits."""

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """Return the head's line with its signature."""
        body = msgspec.json.encode(self)[:-1]
        signature = key.sign(_HEAD_DOMAIN + body).hex()
        return body + b',"signature":"%s"}\n' % signature.encode()

    @classmethod
    def read(cls, data: bytes) -> Head | None:
        """Return the head that a line holds, if its signature is that of the key it names."""
        end = _HEAD_END.fullmatch(data[-_HEAD_END_LENGTH:])
        if end is None:
            return None
        body = data[:-_HEAD_END_LENGTH]
        try:
            head = msgspec.json.decode(body + b"}", type=cls)
            signed = is_signed(
                bytes.fromhex(head.key), bytes.fromhex(end[1].decode()), _HEAD_DOMAIN + body
            )
        except (msgspec.DecodeError, ValueError):
            return None
        return head if signed else None


def first_hash(public: bytes) -> bytes:
    """Return what stands in place of the hash before the first row: it names the log's key."""
    return hashlib.sha256(b"headgate audit log 1\n" + public).digest()


def make_row(
    sequence: int, at: int, record: Record, *, previous: bytes, redact: Sequence[str] = ()
) -> Row:
    """
    Return the row of a record.

    Args:
        sequence: Its number, from 1.
        at: When it happened, in nanoseconds since 1970 in UTC.
        record: What happened.
        previous: Hash of the row before it.
        redact: Patterns of keys whose values the payload is written without.
    """
    return _row(_body(sequence, at, record, redact), previous)


def sign_row(
    sequence: int,
    at: int,
    record: Record,
    *,
    previous: bytes,
    key: Ed25519PrivateKey,
    **fields: Any,
) -> Row:
    """Return the signed row of a record of the log itself, with further fields."""
    public = public_bytes(key.public_key()).hex()
    extra = json.dumps({**fields, "key": public}, separators=(",", ":"))
    body = _body(sequence, at, record, ()) + b"," + extra[1:-1].encode()
    plain = _row(body, previous)
    signature = key.sign(_ROW_DOMAIN + plain.hash).hex().encode()
    return Row(plain.line[:-2] + b',"signature":"%s"}\n' % signature, plain.hash)


def parse_line(line: bytes) -> Line | None:
    """Take a whole line of a segment apart; None if it is no row of a log."""
    length = _PLAIN_END
    end = _END.fullmatch(line[-length:])
    if end is None:
        length = _SIGNED_END
        end = _END.fullmatch(line[-length:])
    start = _START.match(line)
    if start is None or end is None:
        return None
    signature = None if end[2] is None else bytes.fromhex(end[2].decode())
    return Line(int(start[1]), line[:-length], bytes.fromhex(end[1].decode()), signature)


def moment(at: int) -> str:
    """Return a time in nanoseconds since 1970 as RFC 3339 in UTC, to the microsecond."""
    seconds, rest = divmod(at, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06}Z"


@lru_cache(64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _body(sequence: int, at: int, record: Record, redact: Sequence[str]) -> bytes:
    payload, rest = b"", record
    if record.payload:
        payload = b',"payload":' + payload_json(record.payload, redact)
        rest = msgspec.structs.replace(record, payload=b"")
    start = b'{"seq":%d,"time":"%s",' % (sequence, moment(at).encode())
    return start + _ascii_json(rest)[1:-1] + payload


def _ascii_json(record: Record) -> bytes:
    """Encode a record; whatever stands in it, no byte can be taken for the end of a line."""
    try:
        data = msgspec.json.encode(record)
        if data.isascii():
            return data
    except UnicodeEncodeError:
        pass  # a lone surrogate
    return json.dumps(msgspec.to_builtins(record), separators=(",", ":")).encode()


def _row(body: bytes, previous: bytes) -> Row:
    digest = _hash(previous, body)
    return Row(body + b',"hash":"%s"}\n' % digest.hex().encode(), digest)


def _hash(previous: bytes, body: bytes) -> bytes:
    return hashlib.sha256(previous + body).digest()
