"""Worker processes that run the handlers of a project, each one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from headgate.handler import PoolSettings
from headgate.invocation import Caller, Invocation
from headgate.runtimes.forkserver import ForkServer, WorkerProcess
from headgate.runtimes.gate import Finished
from headgate.runtimes.link import Load
from headgate.threads import Mailbox

__all__ = ["Host", "ProcessLane", "WorkerCode"]


class WorkerCode(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers of one generation of a project load."""

    gateway: str
    """Name of the gateway."""
    project: str
    library: list[str]
    """The project's library folder, then those of its parents; they need not exist."""
    scripts: dict[str, str]
    """The scripts of its process handlers, by the handlers' names."""
    log_level: int
    """The lowest level that the gateway logs, as in `logging`."""
    files: dict[str, bytes] = {}
    """What stood in the scripts and library modules, by path, when the generation was loaded."""
    environment: tuple[str, ...] = ()
    """Names of the gateway's environment variables that the workers may see."""

    def frame(self) -> Load:
        """Return what a worker is told to load."""
        return Load(
            self.gateway, self.project, self.library, self.scripts, self.log_level, self.files
        )


class Host(Protocol):
    """What workers need of the gateway for the requests of their handlers."""

    origin: str
    caller: Caller

    def ask(self, invocation: Invocation) -> None:
        """Have an invocation of this process answered."""

    def tell(self, invocation: Invocation, scope: str, filters: dict[str, str]) -> None:
        """Have a message of this process delivered."""

    def cancel(self, invocation: Invocation) -> None:
        """Stop an invocation of this process."""

    def next_sequence(self) -> int:
        """Return the next number of a request of the gateway's own scripts."""


class ProcessLane:
    """
    The lane of a project's process handlers.

    Args:
        project: Name of the project.
        ends: Takes ends and progress to the gateway's event loop.
        loop: The gateway's event loop.
        on_wait: Told which request of its own a handler now waits for.
        forkserver: Gives the gateway's fork server; another one when that has died.
        host: Answers the requests of handlers.
    """

    def __init__(
        self,
        project: str,
        *,
        ends: Mailbox[Finished],
        loop: asyncio.AbstractEventLoop,
        on_wait: Callable[[Invocation], None],
        forkserver: Callable[[], ForkServer],
        host: Host,
    ) -> None:
        raise NotImplementedError

    def exchange(
        self, code: WorkerCode | None, first: WorkerProcess | None, pools: PoolSettings
    ) -> None:
        """
        Run the handlers of a newer generation from now on; what runs ends on its old worker.

        Args:
            code: What workers load; None if there are no process handlers any more.
            first: A worker that has loaded it already.
            pools: How many there are, and for how long.
        """
        raise NotImplementedError
