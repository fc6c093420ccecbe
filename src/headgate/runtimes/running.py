"""What runs at this moment: the runs of handlers, where they run, and their stacks."""

from __future__ import annotations

import asyncio
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

from headgate.invocation import Invocation
from headgate.runtimes.execute import execute, execute_async, stream, stream_async

__all__ = [
    "HandlerThread",
    "Run",
    "ThreadRun",
    "Turn",
    "WorkerRow",
    "cpu_seconds_of",
    "memory_of",
    "stack_in_dump",
    "state_of",
]

BELOW = {runs.__code__ for runs in (execute, execute_async, stream, stream_async)}
"""What calls a handler, and what lies below that, is no concern of its stack."""


class Turn:
    """
    What a thread executes without a pause that it would take by itself.

    A run on a thread of its own is one turn. A task has a turn between one ``await`` and the next.

    Args:
        invocation: What runs.
        since: When it began, on the monotonic clock; None if nobody knows.
        task: The task, for an ``async def`` handler.
    """

    __slots__ = ("blocked", "cpu", "held", "invocation", "over", "since", "task")

    def __init__(
        self,
        invocation: Invocation,
        *,
        since: float | None = None,
        task: asyncio.Task[Any] | None = None,
    ) -> None:
        self.invocation = invocation
        self.since = since
        self.task = task
        self.over = False
        """Whether the task has paused since."""
        self.cpu = 0.0
        """Seconds of processor time that it has certainly used, up to the watchdog's last look."""
        self.held = 0.0
        """Seconds of processor time that it has used since the interpreter was last found free."""
        self.blocked = 0.0
        """Seconds for which it has kept its event loop and used no processor time."""

    def end(self) -> None:
        """Take note that the task has paused; on its event loop."""
        self.over = True


class HandlerThread(Protocol):
    """A thread that runs handlers, one after the other or as the tasks of an event loop."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def ident(self) -> int | None:
        """Its identifier, once it runs."""

    @property
    def clock(self) -> int | None:
        """Its `headgate.threads.cpu_clock`."""

    def turn(self, before: Turn | None) -> Turn | None:
        """Return what it executes; `before` if that has not changed since."""


class Run(Protocol):
    """One run of a handler, and where it runs; it belongs to the gateway's event loop."""

    @property
    def invocation(self) -> Invocation:
        """What runs."""

    @property
    def place(self) -> str:
        """The name of its thread, or its worker process: ``worker 4711``."""

    @property
    def pid(self) -> int:
        """The process that it runs in: the gateway's own, or a worker's."""

    @property
    def is_async(self) -> bool:
        """Whether it is a task of an ``async def`` handler."""

    @property
    def state(self) -> str:
        """One of those of `state_of`."""

    def memory(self) -> int | None:
        """Return the bytes of memory that its process holds; None if it shares the gateway's."""

    def cpu_seconds(self) -> float | None:
        """Return the seconds of processor time that it has used; None if nobody here knows."""

    async def stack(self) -> list[str]:
        """
        Return the handler's stack as lines of a traceback, the innermost last.

        It is empty if the handler has just returned, or does not tell in time.
        """


class WorkerRow(NamedTuple):
    """A worker process of a project, as ``headgate ps`` shows it."""

    pid: int
    state: str
    """``loading``, ``idle``, ``busy`` or ``stopping``."""
    age: float
    """Seconds since it was started."""
    memory: int | None
    """Bytes of memory that it holds; None if it is gone."""


def state_of(invocation: Invocation, *, stops: bool) -> str:
    """
    Return in which state a run is.

    Args:
        invocation: What runs.
        stops: Whether what runs it was told to stop, and does, if nothing holds it up.

    Returns:
        ``running``, ``waiting`` (for a request of its own) or, where its request is over,
        ``stopping`` or ``abandoned``: it goes on until it returns.
    """
    if invocation.outcome is not None:
        return "stopping" if stops else "abandoned"
    return "running" if invocation.waits_for is None else "waiting"


class ThreadRun(NamedTuple):
    """A run on a thread of the gateway, or as a task of one."""

    invocation: Invocation
    thread: HandlerThread
    task: asyncio.Task[Any] | None = None
    """The task, for an ``async def`` handler."""

    @property
    def place(self) -> str:
        """The thread's name."""
        return self.thread.name

    @property
    def pid(self) -> int:
        """The gateway's own process."""
        return os.getpid()

    @property
    def is_async(self) -> bool:
        """Whether it is a task."""
        return self.task is not None

    @property
    def state(self) -> str:
        """``stopping`` is a task that was cancelled; a thread cannot be stopped."""
        stops = self.task is not None and self.task.cancelling() > 0
        return state_of(self.invocation, stops=stops)

    def memory(self) -> int | None:
        """Return None: threads share the gateway's memory."""
        return None

    def cpu_seconds(self) -> float | None:
        """Return None: the watchdog reads the clocks of threads."""
        return None

    async def stack(self) -> list[str]:
        """Return the stack of the thread, or of what the task awaits."""
        turn = self.thread.turn(None)
        if turn is not None and turn.invocation is self.invocation:
            return stack_of(self.thread.ident)
        return _formatted(_awaited(self.task)) if self.task is not None else []


def stack_of(ident: int | None) -> list[str]:
    """Return the stack of the handler that a thread executes, as lines of a traceback."""
    frame = sys._current_frames().get(ident) if ident is not None else None
    frames: list[tuple[FrameType, int]] = []
    for inner, line in traceback.walk_stack(frame) if frame is not None else ():
        if inner.f_code in BELOW:
            return _formatted(iter(reversed(frames)))
        frames.append((inner, line))
    # The thread is between two handlers.
    return []


def _awaited(task: asyncio.Task[Any]) -> Iterator[tuple[FrameType, int]]:
    """Return the frames of a task that waits, from the handler to what it waits in."""
    awaitable: Any = task.get_coro()
    inside = False
    while awaitable is not None:
        frame = _first(awaitable, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None and inside:
            yield frame, frame.f_lineno
        inside = inside or (frame is not None and frame.f_code in BELOW)
        awaitable = _first(awaitable, "cr_await", "gi_yieldfrom", "ag_await")


def _first(thing: Any, *names: str) -> Any:
    return next((getattr(thing, name) for name in names if hasattr(thing, name)), None)


def _formatted(frames: Iterator[tuple[FrameType, int]]) -> list[str]:
    summary = traceback.StackSummary.extract(frames)
    return "".join(summary.format()).splitlines()


# --- worker processes ----------------------------------------------------------------------------


def memory_of(pid: int) -> int | None:
    """Return the bytes of memory that a process holds; None if the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds_of(pid: int) -> float | None:
    """Return the seconds of processor time that a process has used, with all its threads."""
    try:
        # Behind the program's name, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
    except (OSError, IndexError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


_DUMPED = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<name>.*)')
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_EXECUTE = {(code.co_filename, code.co_name) for code in BELOW}

_CUT = "  ..."
"""What `faulthandler` writes in place of frames, or threads, beyond its 100."""


def stack_in_dump(dump: str) -> list[str]:
    """
    Return the stack of the handler that a worker's main thread runs, as lines of a traceback.

    It is empty if that thread runs none.

    Args:
        dump: What `faulthandler` wrote, of the main thread or of all threads.
    """
    # The main thread is the oldest: the last one, or the only one.
    threads = [block.splitlines() for block in dump.split("\n\n") if _DUMPED.search(block)]
    for lines in reversed(threads):
        frames: list[traceback.FrameSummary] = []
        for line in lines:
            if line == _CUT and frames:
                return [_CUT, *_lines(frames)]
            found = _DUMPED.fullmatch(line)
            if found is None:
                continue
            file, name = _unescaped(found["file"]), _unescaped(found["name"])
            if (file, name) in _EXECUTE:
                return _lines(frames)
            number = int(found["line"]) if found["line"].isdigit() else None
            frames.append(traceback.FrameSummary(file, number, name, lookup_line=False))
    return []


def _lines(frames: list[traceback.FrameSummary]) -> list[str]:
    for file in {frame.filename for frame in frames}:
        linecache.checkcache(file)
    summary = traceback.StackSummary.from_list(reversed(frames))
    return "".join(summary.format()).splitlines()


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda escape: chr(int(escape[0][2:], 16)), text)
