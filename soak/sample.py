"""What a process holds at a quiet moment: memory, descriptors, threads and live objects."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections import Counter
from typing import Any

__all__ = ["Sample", "of_process", "of_this_process"]

Sample = dict[str, float]
"""Figures by name; those of live objects have the name of their type."""

_libc = ctypes.CDLL(None)

PAGE = os.sysconf("SC_PAGE_SIZE")


def of_this_process() -> dict[str, Any]:
    """
    Count what is alive in this process, after a collection of garbage.

    ``blocks`` is the number of pieces of memory that Python has given out: an entry that is left in
    any table, known or not, is at least one of them. ``objects`` counts the objects of Headgate's
    own types by name.
    """
    gc.collect()
    found = Counter(_name(kind) for kind in map(type, gc.get_objects()) if _is_ours(kind))
    figures: dict[str, Any] = {
        **of_process(os.getpid()),
        "blocks": sys.getallocatedblocks(),
        "threads": threading.active_count(),
        "objects": dict(found),
    }
    # What the allocator keeps for later goes back to the system; what is left is in use.
    _libc.malloc_trim(0)
    return figures | {"trimmed": of_process(os.getpid())["rss"]}


def of_process(pid: int) -> Sample:
    """Return what the system says of a process."""
    with open(f"/proc/{pid}/statm") as file:
        resident = int(file.read().split()[1]) * PAGE
    return {
        "rss": float(resident),
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
        "tasks": len(os.listdir(f"/proc/{pid}/task")),
    }


def _is_ours(kind: type) -> bool:
    module = getattr(kind, "__module__", None)
    return isinstance(module, str) and module.startswith(("headgate.", "websockets."))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
