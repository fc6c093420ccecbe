"""Each side of a row has processes of its own: its server on one core, its client on another."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks.load import Load

__all__ = ["Announce", "Contender", "Measure", "Served", "child", "server_core", "staged"]

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""
The cores of this machine. The first is the servers' and the last the clients'.

Two processes that take turns are quickest on one core and two that work at the same time on two;
where the system decides, it decides anew in each run, and the figures of one candidate differ by
a factor of two.
"""

Announce = Callable[[Any], None]
"""Tells whoever started a process that it is ready, and where."""

Measure = Callable[[], float]

Contender = Callable[[Load], AbstractContextManager[Measure]]
"""One side of a row: sets up what it needs, and measures as often as it is asked to."""


class Served(NamedTuple):
    """A server that runs."""

    address: str
    pid: int
    data: str = ""
    """The server's own folder, if it has one."""


@contextlib.contextmanager
def server_core() -> Iterator[None]:
    """Processes that are started in here run on the servers' core."""
    if not CORES:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@contextlib.contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, int]]:
    """
    Run ``target(announce, *arguments)`` in a process of its own, on the core of its parent.

    Gives what it announced and its process id, and ends it afterwards.
    """
    here, there = _spawning.Pipe()
    process = _spawning.Process(target=_announcing, args=(there, target, arguments), daemon=True)
    process.start()
    there.close()
    try:
        yield _received(here), process.pid or 0
    finally:
        process.terminate()
        process.join()
        here.close()


@contextlib.contextmanager
def staged(contender: Contender, load: Load) -> Iterator[Measure]:
    """
    Set a contender up in a process of its own, on the clients' core.

    So nothing that one side leaves in its interpreter is there when another one is measured.
    """
    here, there = _spawning.Pipe()
    process = _spawning.Process(target=_measuring, args=(there, contender, load))
    process.start()
    there.close()
    try:
        _received(here)

        def measure() -> float:
            here.send("again")
            return float(_received(here))

        yield measure
    finally:
        here.close()
        process.join()


_spawning = multiprocessing.get_context("spawn")


def _announcing(there: Connection, target: Callable[..., None], arguments: Any) -> None:
    """Runs in a child."""
    try:
        target(there.send, *arguments)
    except Exception:
        there.send(RuntimeError(traceback.format_exc()))


def _measuring(there: Connection, contender: Contender, load: Load) -> None:
    """Runs in a contender's process, until the other end of the pipe is closed."""
    if CORES:
        os.sched_setaffinity(0, CORES[-1:])
    try:
        with contender(load) as measure:
            there.send("ready")
            with contextlib.suppress(EOFError):
                while there.recv():
                    there.send(measure())
    except Exception:
        there.send(RuntimeError(traceback.format_exc()))


def _received(here: Connection) -> Any:
    """What the other process sent; an error of its own is raised here."""
    try:
        answer = here.recv()
    except EOFError:
        raise RuntimeError("the process of a contender ended without a word") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
