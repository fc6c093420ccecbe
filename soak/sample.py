"""What a process holds at a quiet moment: memory, descriptors, threads and live objects."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import Counter
from typing import Any

__all__ = ["of_this_process"]

_libc = ctypes.CDLL(None)

PAGE = os.sysconf("SC_PAGE_SIZE")


def of_this_process() -> dict[str, Any]:
    """
    Count what is alive in this process, after a collection of garbage.

    ``blocks`` is the number of pieces of memory that Python has given out: an entry that is left in
    any table, known or not, is at least one of them. ``heap`` is the bytes that the C library has
    given out, to Python for what is large and to extensions for everything. ``objects`` counts the
    objects of Headgate's own types by name.
    """
    gc.collect()
    found = Counter(_name(kind) for kind in map(type, gc.get_objects()) if _is_ours(kind))
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * PAGE
    return {
        "rss": resident,
        "heap": _heap(),
        "blocks": sys.getallocatedblocks(),
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "objects": dict(found),
    }


def _heap() -> int:
    """Return the bytes that were taken from the C library's allocator and not given back."""
    mallinfo = getattr(_libc, "mallinfo2", None)
    if mallinfo is None:
        return 0  # another C library, or an old one
    mallinfo.restype = _MallInfo
    figures = mallinfo()
    return int(figures.uordblks + figures.hblkhd)


class _MallInfo(ctypes.Structure):
    """What `mallinfo2` returns, in glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _is_ours(kind: type) -> bool:
    module = getattr(kind, "__module__", None)
    return isinstance(module, str) and module.startswith(("headgate.", "websockets."))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
