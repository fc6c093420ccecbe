"""
MessagePack as values: msgspec reads, and asks a hook for each extension type.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from sys import getrecursionlimit
from typing import Any, Final

import ormsgpack
from msgspec.msgpack import Decoder

from headgate.wire.arrays import read_array
from headgate.wire.extensions import ARRAY, CODES, DATASET, READERS, Reader
from headgate.wire.tables import read_dataset

__all__ = ["SAFE_LEVELS", "guard", "is_guarded", "leaf_readers", "reader"]

_Hook = Callable[[int, memoryview], Any]

SAFE_LEVELS: Final = 3000
"""
Levels that msgspec may go down on the C stack, 300 bytes each.

Up to Python 3.11 it stops at Python's recursion limit. Where a program has raised that, the
bytes are scanned first by ormsgpack, which stops at 253 levels (and takes half as long again).
"""


def guard(read: Reader) -> Reader:
    """
    Let ormsgpack scan the bytes before they are read.
    """

    def read_scanned(data: bytes | memoryview) -> Any:
        ormsgpack.Fragment(bytes(data))
        return read(data)

    return read_scanned


def leaf_readers(guarded: bool) -> dict[int, Reader]:
    """
    Give what reads the extension types that have no values of any type in them.
    """
    return {**READERS, ARRAY: read_array, DATASET: guard(read_dataset) if guarded else read_dataset}


def _nested_hook(inner: _Hook | None, guarded: bool) -> _Hook:
    """Build a hook that reads the members of tuples and sets with the inner hook."""
    readers = leaf_readers(guarded)
    if inner is not None:
        for kind, code in CODES.items():
            read: Reader = Decoder(kind, ext_hook=inner).decode
            readers[code] = guard(read) if guarded else read

    def hook(code: int, body: memoryview) -> Any:
        read = readers.get(code)
        if read is None:
            problem = "nested too deeply" if code in CODES.values() else "unknown to this release"
            raise ValueError(f"extension type {code} is {problem}")
        return read(body)

    return hook


def reader(size: int, max_depth: int) -> Reader:
    """
    Give what decodes a value of so many bytes, and of at most so many levels of extension types.
    """
    return _reader(max_depth, size > SAFE_LEVELS and is_guarded())


def is_guarded() -> bool:
    """
    Tell whether a program has raised Python's recursion limit, so that bytes are scanned first.
    """
    return getrecursionlimit() > SAFE_LEVELS


@cache
def _reader(max_depth: int, guarded: bool) -> Reader:
    # A hook for each level: more cannot use up the stack.
    hook = _nested_hook(None, guarded)
    for _ in range(max_depth):
        hook = _nested_hook(hook, guarded)
    read: Reader = Decoder(ext_hook=hook).decode
    return guard(read) if guarded else read
