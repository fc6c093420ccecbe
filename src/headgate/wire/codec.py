"""
What a payload can hold, as bytes: MessagePack, and extension types for the rest of Python.

Everybody else in Headgate needs `encode` and `decode` alone (and `keys`, which reads one key of a
payload). Behind them stand::

    conversion   what arrives when a value is sent
    packing      values as MessagePack
    writing      large values, encoded so that other threads go on
    unpacking    MessagePack as values
    limits       how large and how deep a payload may be
    members      how many members it has, counted before anything is made of them
    slices       large payloads, decoded so that other threads go on
    reading      a decoder that refuses keys made to collide
    extensions   the extension types
    tables       a Dataset as bytes
    dataframes   tables of pandas, Polars and Arrow as a Dataset
    arrays       NumPy's arrays as bytes
    moments      dates and times as text
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgpack import Packer
from ormsgpack import packb

from headgate.errors import PayloadError
from headgate.wire.conversion import Conversion
from headgate.wire.limits import DEFAULT, Limits, is_shallow
from headgate.wire.members import count_members
from headgate.wire.packing import OPTIONS, default, pack
from headgate.wire.reading import Reading
from headgate.wire.slices import SLICE, read_sliced
from headgate.wire.unpacking import reader
from headgate.wire.writing import is_large, write_sliced

__all__ = ["DEFAULT", "Limits", "convert", "decode", "encode", "joined"]

_CERTAINLY_FINE: Final = DEFAULT.max_depth
"""Bytes up to which an encoding is neither too large nor too deep: each level takes one."""

_CERTAINLY_QUICK: Final = 4 * 1024
"""Bytes that decode in a few milliseconds even if every key collides with every other."""

_read_short: Final = reader(_CERTAINLY_FINE, DEFAULT.max_depth)


def encode(value: Any, *, root: str = "payload", limits: Limits = DEFAULT) -> bytes:
    """
    Encode a value.

    Args:
        value: Anything that is carried or converted.
        root: What errors call the value.
        limits: How large and how deep it may be.

    Raises:
        PayloadError: The value cannot be sent; the error names what and where.
    """
    if is_large(value):
        sliced = write_sliced(value, limits)
        if sliced is not None:
            return _within_limits(sliced, root, limits)
    try:
        data = packb(value, default, OPTIONS)
        if len(data) <= _CERTAINLY_FINE and limits is DEFAULT:
            return data
    except Exception:
        # Something in it is not for ormsgpack: a key that is no str, a lone surrogate, a mistake.
        data = b""
    if not data:
        data = pack(convert(value, root=root, limits=limits))
    # Each level takes a byte at least, so few bytes cannot be too deep.
    elif len(data) > limits.max_depth and not is_shallow(value, data, limits.max_depth):
        convert(value, root=root, limits=limits)
    return _within_limits(data, root, limits)


def joined(parts: Sequence[bytes]) -> bytes:
    """Return the encoding of a list whose members are encoded already."""
    return b"".join([Packer().pack_array_header(len(parts)), *parts])


def _within_limits(data: bytes, root: str, limits: Limits) -> bytes:
    if len(data) > limits.max_bytes:
        raise PayloadError(
            f"{root} has at least {len(data):,} bytes when encoded, more than the "
            f"{limits.max_bytes:,} that may be sent. Send it in parts.",
            place=root,
            started=False,
        )
    # A member takes a byte at least, so few bytes cannot be too many.
    if len(data) > limits.max_members:
        members = count_members(data, limits.max_members)
        if members > limits.max_members:
            raise PayloadError(
                f"{root} has more than {limits.max_members:,} members, those of all lists, tuples, "
                "sets and dictionaries in it added up. Send it in parts.",
                place=root,
                started=False,
            )
    return data


def decode(data: bytes | memoryview, *, limits: Limits = DEFAULT) -> Any:
    """
    Decode what `encode` made, here or in another program.

    Lists, dictionaries and sets are new and the receiver's own.

    Raises:
        PayloadError: The bytes are not one value, or exceed the limits.
    """
    if len(data) <= _CERTAINLY_FINE and limits is DEFAULT:
        try:
            return _read_short(data)
        except PayloadError:
            raise
        except Exception as error:
            raise PayloadError(f"What arrived is not a payload: {error}") from error
    if len(data) > limits.max_bytes:
        raise PayloadError(
            f"A payload of {len(data):,} bytes arrived; {limits.max_bytes:,} are allowed."
        )
    # A member takes a byte at least, so few bytes cannot be too many.
    if len(data) > limits.max_members:
        _check_members(data, limits)
    try:
        if len(data) > SLICE:
            return read_sliced(data, limits)
        if len(data) > _CERTAINLY_QUICK:
            value = Reading(limits.max_depth).read(data)
        else:
            value = reader(len(data), limits.max_depth)(data)
    except PayloadError:
        raise
    except Exception as error:
        raise PayloadError(f"What arrived is not a payload: {error}") from error
    if len(data) > limits.max_depth and not is_shallow(value, data, limits.max_depth):
        try:
            convert(value, limits=limits)
        except PayloadError as error:
            error.started = None  # it may be a result that arrived
            raise
    return value


def _check_members(data: bytes | memoryview, limits: Limits) -> None:
    members = count_members(data, limits.max_members)
    if members > limits.max_members:
        raise PayloadError(
            f"A payload with {members:,} members or more arrived; {limits.max_members:,} are "
            "allowed."
        )


def convert(value: Any, *, root: str = "payload", limits: Limits = DEFAULT) -> Any:
    """
    Give what arrives when the value is sent: ``decode(encode(value)) == convert(value)``.

    An Enum becomes its value; a dataclass, an attrs, msgspec or pydantic object a dictionary of
    its fields; a table of pandas, Polars or Arrow a `Dataset`; a NumPy scalar one of Python's;
    bytearray and memoryview become bytes; an instance of a subclass one of the carried type; a
    time zone that is no `ZoneInfo` with a key becomes its offset.

    Args:
        value: Anything that is carried or converted.
        root: What errors call the value.
        limits: How deep it may be.

    Raises:
        PayloadError: The value cannot be sent; the error names what and where.
    """
    try:
        return Conversion(root, limits.max_depth).of(value)
    except RecursionError as error:
        raise PayloadError(
            f"{root} cannot be sent from here: the calling code has used up Python's recursion "
            "limit. Send it from a function that is called less deeply.",
            place=root,
            started=False,
        ) from error
