"""
Projects: their message handlers with settings, and what is wrong with those that do not serve.

Every load of a project makes a generation that is independent of those before it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from headgate.errors import ConfigurationError
from headgate.handler import HandlerSettings, PoolSettings, Signature, known_names
from headgate.projects.library import Library

if TYPE_CHECKING:
    from headgate.runtimes.forkserver import WorkerProcess
    from headgate.runtimes.link import WorkerCode

__all__ = ["Handler", "Problem", "Project", "Projects", "in_worker", "zone_problems"]


_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\\/\s'\"]+[\\/])+")
"""The folders of a path that is absolute, in a text."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something of a project that does not serve, and what to do about it."""

    project: str
    handler: str = ""
    """The handler that does not serve; empty if it is not about one handler."""
    file: str = ""
    line: int | None = None
    what: str
    """What is wrong."""
    cure: str = ""
    """What to write or do instead."""
    kept: bool = False
    """Whether the project serves all the same, as it was before the change with this problem."""

    @staticmethod
    def of(error: ConfigurationError, *, project: str, handler: str = "") -> Problem:
        """What an error says, for a project and perhaps one of its handlers."""
        return Problem(
            project=project,
            handler=handler,
            file=error.file,
            line=error.line,
            what=error.problem,
            cure=error.cure,
        )

    def without_folders(self) -> Problem:
        """Return what may be told to whoever has no business with the gateway's files."""
        file = PurePath(self.file)
        folder = "" if file.parent == file else str(file.parent)

        def told(text: str) -> str:
            # The known folder first: its name may have spaces.
            for separator in "/\\":
                text = text.replace(folder + separator, "") if folder else text
            return _FOLDERS.sub("", text)

        return msgspec.structs.replace(
            self, file=file.name, what=told(self.what), cure=told(self.cure)
        )

    def __str__(self) -> str:
        subject = f"Project {self.project!r}" if self.project else "The projects"
        if self.handler:
            subject += f", handler {self.handler!r}"
        error = ConfigurationError(self.what, cure=self.cure, file=self.file, line=self.line)
        kept = ". Until then everything serves as it was before the change" if self.kept else ""
        return f"{subject}: {error}{kept}"


class Handler(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A message handler that serves."""

    project: str
    """The project it runs in: for an inherited handler the child."""
    name: str
    settings: HandlerSettings
    function: Callable[..., Any]
    """What is called. A ``process`` handler has it in its workers; here it is `in_worker`."""
    signature: Signature
    """How it is called; of a ``process`` handler, as its first worker found it."""
    file: Path


def in_worker(*_: Any) -> Any:
    """
    Stand for the function of a handler that runs in worker processes alone.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError("This handler runs in worker processes: it was never loaded in this one")


@dataclasses.dataclass(eq=False)
class Project:
    """One generation of a project."""

    name: str
    title: str
    parent: str
    enabled: bool
    path: Path
    handlers: Mapping[str, Handler]
    """The handlers that serve, inherited ones too, by name."""
    problems: Sequence[Problem]
    scripts: frozenset[str] = frozenset()
    """Names of the handlers that it has scripts for, whether or not they serve."""
    pools: PoolSettings = dataclasses.field(default_factory=PoolSettings)
    """The threads and workers that its handlers share."""
    workers: WorkerCode | None = None
    """What its worker processes load; None if it has no ``process`` handlers that serve."""
    first_worker: WorkerProcess | None = None
    """The worker that has loaded it already, until somebody takes it."""
    _library: Library | None = None

    def take_worker(self) -> WorkerProcess | None:
        """Return the worker that has loaded it, once: whoever takes it ends it."""
        worker, self.first_worker = self.first_worker, None
        return worker

    def end_worker(self) -> None:
        """End the worker that nobody took."""
        if (worker := self.take_worker()) is not None:
            worker.close()

    def close(self) -> None:
        """
        Forget the project's modules, and end the worker that nobody took.

        To be called when none of its handlers runs any more.
        """
        if self._library is not None:
            self._library.close()
        self.end_worker()

    def breaks(self, before: Project) -> bool:
        """
        Whether this generation has lost something to a mistake that the one before it has.

        A handler or a project that was taken away is no mistake, and what did not serve before
        cannot be lost.
        """
        known = {problem.file for problem in before.problems if not problem.handler}
        return bool(before.handlers) and any(
            problem.handler in before.handlers and problem.handler in self.scripts
            if problem.handler
            else problem.file not in known
            for problem in self.problems
        )


def zone_problems(project: Project, zones: Collection[str] | None) -> list[Problem]:
    """
    Return what is wrong with the zones that a project's handlers name: nobody is in one that is
    not there, so the handler refuses all, or those that are in none of its other zones.

    Args:
        project: The project.
        zones: The names of the gateway's zones; None if nobody knows them.
    """
    if zones is None:
        return []
    return [
        Problem(
            project=project.name,
            handler=handler.name,
            file=str(handler.file),
            what=f"It is for callers in the zone {zone!r}, and the gateway has no such zone",
            cure=f"{known_names(zone, zones)}. Zones stand in [zones] of the gateway's settings",
        )
        for handler in project.handlers.values()
        for zone in handler.settings.zones
        if zone not in zones
    ]


class Projects(Mapping[str, Project]):
    """
    One generation of all projects, by name.

    Args:
        projects: The projects.
        problems: What is wrong with those that are no projects at all.
    """

    def __init__(self, projects: Mapping[str, Project], problems: Sequence[Problem] = ()) -> None:
        self._projects = dict(projects)
        self._problems = tuple(problems)

    def __getitem__(self, name: str) -> Project:
        return self._projects[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._projects)

    def __len__(self) -> int:
        return len(self._projects)

    @property
    def problems(self) -> list[Problem]:
        """Everything that does not serve, in all projects."""
        return [*self._problems, *(p for project in self.values() for p in project.problems)]

    def close(self) -> None:
        """Close every project."""
        for project in self.values():
            project.close()
