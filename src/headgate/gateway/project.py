"""
Projects: their message handlers with settings, and what is wrong with those that do not serve.

A project is read into a `ProjectSource`, which says what stands where, and loaded from it; a
project of another layout is read by another function into the same. Every load makes a generation
that is independent of those before it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from headgate.errors import ConfigurationError
from headgate.gateway.library import Library
from headgate.gateway.script import Script, entry_function, read_script, takes_context
from headgate.gateway.source import ProjectSource, read_plain_project
from headgate.handler import HandlerSettings, known_names

__all__ = [
    "Handler",
    "Problem",
    "Project",
    "Projects",
    "load_projects",
]


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

    def __str__(self) -> str:
        subject = f"Project {self.project!r}"
        if self.handler:
            subject += f", handler {self.handler!r}"
        error = ConfigurationError(self.what, cure=self.cure, file=self.file, line=self.line)
        return f"{subject}: {error}"


class Handler(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A message handler that serves."""

    project: str
    """The project it runs in: for an inherited handler the child."""
    name: str
    settings: HandlerSettings
    function: Callable[..., Any]
    takes_context: bool
    """Whether the function is called with payload and context, not with the payload alone."""
    is_async: bool
    file: Path


@dataclasses.dataclass(frozen=True, eq=False)
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
    _library: Library | None = None

    def close(self) -> None:
        """Forget the project's modules; to be called when none of its handlers runs any more."""
        if self._library is not None:
            self._library.close()


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


def load_projects(
    folders: Mapping[str, Path],
    *,
    system: Callable[[str], object],
    read: Callable[[str, Path], ProjectSource] = read_plain_project,
) -> Projects:
    """
    Load a generation of projects.

    What cannot be loaded becomes a `Problem`; everything else serves.

    Args:
        folders: The projects' folders by name.
        system: Gives the ``system`` that the scripts of a project see.
        read: Knows the layout of a project's folder.
    """
    problems, sources = [], {}
    for name, folder in folders.items():
        if error := _name_error(name, folder):
            problems.append(Problem.of(error, project=name))
        else:
            sources[name] = _read(name, folder.absolute(), read)
    projects = {name: _load(source, sources, system) for name, source in sources.items()}
    return Projects(projects, problems)


def _name_error(name: str, folder: Path) -> ConfigurationError | None:
    if name.startswith("@"):
        problem = f"The name {name!r} begins with '@', which is reserved"
    elif not name or "/" in name or "\\" in name:
        problem = f"{name!r} is no name of a project: it is empty or has a path separator"
    else:
        return None
    return ConfigurationError(problem, cure="Give the project another name", file=str(folder))


def _read(name: str, folder: Path, read: Callable[[str, Path], ProjectSource]) -> ProjectSource:
    try:
        return read(name, folder)
    except ConfigurationError as error:
        broken = error
    except OSError as error:
        broken = _unreadable(error, folder)
    return ProjectSource(
        name=name, path=folder, library=folder / "library", file=folder, broken=broken
    )


def _unreadable(error: OSError, folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"The project cannot be read: {error.strerror or error}",
        cure="Let the gateway's user read its folders and files",
        file=str(error.filename or folder),
    )


def _load(
    source: ProjectSource, sources: Mapping[str, ProjectSource], system: Callable[[str], object]
) -> Project:
    if source.broken:
        return _project(source, problems=[Problem.of(source.broken, project=source.name)])
    if not source.enabled:
        return _project(source)
    lineage, error = _lineage(source, sources)
    errors = [error] if error else []
    try:
        folders = [ancestor.library for ancestor in lineage]
        library = Library(source.name, folders, system=system(source.name))
    except OSError as unreadable:
        errors.append(_unreadable(unreadable, source.path))
        return _project(source, problems=[Problem.of(e, project=source.name) for e in errors])
    errors += library.load()
    handlers, problems = _load_handlers(lineage, library)
    problems += [Problem.of(error, project=source.name) for error in errors]
    return _project(source, handlers=handlers, problems=problems, library=library)


def _project(
    source: ProjectSource,
    *,
    handlers: Mapping[str, Handler] | None = None,
    problems: Sequence[Problem] = (),
    library: Library | None = None,
) -> Project:
    return Project(
        name=source.name,
        title=source.title or source.name,
        parent=source.parent,
        enabled=source.enabled,
        path=source.path,
        handlers=handlers or {},
        problems=tuple(problems),
        _library=library,
    )


def _lineage(
    source: ProjectSource, sources: Mapping[str, ProjectSource]
) -> tuple[list[ProjectSource], ConfigurationError | None]:
    """A project and its ancestors, nearest first; the project alone if they form a circle."""
    lineage = [source]
    while parent := lineage[-1].parent:
        names = [ancestor.name for ancestor in lineage]
        if parent in names:
            circle = " → ".join([*names, parent])
            cure = "Take the parent out of one of them"
            return [source], source.error(
                f"The parents form a circle: {circle}", "parent", cure=cure
            )
        if parent not in sources or sources[parent].broken:
            # A missing ancestor is listed once: by the project that names it.
            return lineage, _parent_error(source, sources) if len(lineage) == 1 else None
        lineage.append(sources[parent])
    return lineage, None


def _parent_error(
    source: ProjectSource, sources: Mapping[str, ProjectSource]
) -> ConfigurationError:
    if source.parent in sources:
        problem, cure = "cannot be read", "Correct that project's settings"
    else:
        others = sorted(set(sources) - {source.name})
        problem, cure = "does not exist", known_names(source.parent, others)
    return source.error(f"The parent {source.parent!r} {problem}", "parent", cure=cure)


def _load_handlers(
    lineage: Sequence[ProjectSource], library: Library
) -> tuple[dict[str, Handler], list[Problem]]:
    project = lineage[0]
    handlers, problems = {}, []
    names = {name for source in lineage for name in source.scripts}
    for name in sorted(names):
        try:
            handlers[name] = _load_handler(name, lineage, library)
        except ConfigurationError as error:
            problems.append(Problem.of(error, project=project.name, handler=name))
    for name in sorted(project.handlers.keys() - names):
        unknown = _unknown_handler(project, name, names)
        problems.append(Problem.of(unknown, project=project.name, handler=name))
    return handlers, problems


def _unknown_handler(project: ProjectSource, name: str, known: set[str]) -> ConfigurationError:
    return project.error(
        f"There are settings for {name!r}, but no such handler",
        "handlers",
        name,
        cure=known_names(name, sorted(known)),
    )


def _load_handler(name: str, lineage: Sequence[ProjectSource], library: Library) -> Handler:
    depth = next(depth for depth, source in enumerate(lineage) if name in source.scripts)
    file = lineage[depth].scripts[name]
    script = read_script(file)
    settings = _settings(name, script, lineage[: depth + 1])
    function, with_context = _run(script, name, library)
    return Handler(
        project=lineage[0].name,
        name=name,
        settings=settings,
        function=function,
        takes_context=with_context,
        is_async=inspect.iscoroutinefunction(function),
        file=file,
    )


def _run(script: Script, name: str, library: Library) -> tuple[Callable[..., Any], bool]:
    """The function that a script defines, and whether it takes a context."""
    try:
        module = library.run(script.code, name=name, file=script.file)
        function = entry_function(module, file=script.file)
        return function, takes_context(function, file=script.file)
    except ConfigurationError:
        raise
    except BaseException as error:
        # SystemExit and CancelledError too: one script must not keep the others from loading.
        raise library.explain(error, file=script.file) from error


def _settings(name: str, script: Script, lineage: Sequence[ProjectSource]) -> HandlerSettings:
    """Put the settings of a script together; a project's speak of what it has or inherits."""
    defaults: dict[str, Any] = {}
    stated: dict[str, Any] = {}
    for source in reversed(lineage):
        defaults |= source.defaults
        stated |= source.settings_of(name)
    return HandlerSettings.merge({**script.settings, **stated}, defaults, file=str(script.file))
