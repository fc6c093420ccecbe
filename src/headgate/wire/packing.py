"""
Values as MessagePack.

ormsgpack writes what MessagePack has a type for, and asks a *default* for everything else. What it
cannot write, such as keys of extension types and text with lone surrogates, is put together here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Final

import ormsgpack
from ormsgpack import Ext, packb

from headgate.dataset import Dataset
from headgate.wire.arrays import is_array, write_array
from headgate.wire.conversion import base
from headgate.wire.extensions import CODES, LEAVES, TUPLE, WRITERS, write_text
from headgate.wire.tables import write_dataset

__all__ = ["OPTIONS", "default", "head", "pack"]

OPTIONS: Final = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)

_Default = Callable[[Any], Any]


def _nested_default(inner: _Default | None) -> _Default:
    """Build a default that packs the members of tuples and sets with the inner default."""

    def default(value: Any) -> Any:
        """
        Give what ormsgpack shall write for a value that it does not know.
        """
        kind = type(value)
        write = WRITERS.get(kind)
        if write is not None:
            return write(value)
        code = CODES.get(kind)
        if code is None:
            return _write_whole(value, kind)
        if inner is None or (code != TUPLE and not _stay_hashable(value)):
            raise TypeError
        return Ext(code, packb(list(value), inner, OPTIONS))

    return default


def _write_whole(value: Any, kind: type) -> Any:
    if kind is Dataset:
        return write_dataset(value)
    return write_array(value) if is_array(kind) else base(value)


def _default_of(levels: int) -> _Default:
    default = _nested_default(None)
    for _ in range(levels):
        default = _nested_default(default)
    return default


# ormsgpack may go 255 levels down on the C stack for each of these: eight of them fit the
# smallest stack that a thread has (512 KiB). What is nested deeper goes through convert().
default: Final = _default_of(8)


def _stay_hashable(members: Iterable[Any]) -> bool:
    """Whether members of a set surely stay hashable; False says that nobody looked."""
    return LEAVES.issuperset(map(type, members)) or all(
        type(member) in LEAVES or (type(member) is tuple and LEAVES.issuperset(map(type, member)))
        for member in members
    )


_KEYS: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Types that ormsgpack writes unchanged as keys; of others it makes text or arrays."""


def pack(value: Any) -> bytes:
    """
    Pack what convert() returned: ormsgpack takes all that it can, the rest is written here.
    """
    try:
        return packb(value, default, OPTIONS)
    except Exception:
        kind = type(value)
    if kind is str:
        return packb(write_text(value))
    if kind is dict:
        if _KEYS.issuperset(map(type, value)) and LEAVES.issuperset(map(type, value.values())):
            try:
                return packb(value, default, OPTIONS | ormsgpack.OPT_NON_STR_KEYS)
            except Exception:
                pass
        return head(0x80, 0xDE, len(value)) + b"".join(map(pack, chain(*value.items())))
    data = head(0x90, 0xDC, len(value)) + b"".join(map(pack, value))
    return data if kind is list else packb(Ext(CODES[kind], data))


def head(short: int, long: int, members: int) -> bytes:
    """
    Give the first bytes of a MessagePack array or map.
    """
    if members < 16:
        return bytes((short | members,))
    if members < 1 << 16:
        return bytes((long,)) + members.to_bytes(2, "big")
    return bytes((long + 1,)) + members.to_bytes(4, "big")
