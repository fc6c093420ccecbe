"""What runs at this moment: the runs of handlers, their threads, and their stacks."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple, Protocol

from headgate.invocation import Invocation
from headgate.runtimes.execute import execute, execute_async, stream, stream_async

__all__ = ["HandlerThread", "Run", "Turn"]

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


class Run(NamedTuple):
    """One run of a handler, and where it runs."""

    invocation: Invocation
    thread: HandlerThread
    task: asyncio.Task[Any] | None = None
    """The task, for an ``async def`` handler."""

    @property
    def state(self) -> str:
        """``abandoned`` (its request is over), ``waiting`` (for its own request) or ``running``."""
        if self.invocation.outcome is not None:
            return "abandoned"
        return "running" if self.invocation.waits_for is None else "waiting"

    def stack(self) -> list[str]:
        """
        Return the handler's stack as lines of a traceback, the innermost last.

        It is empty if the handler has just returned.
        """
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
