"""
From the folders of projects to their handlers.

A project is read into a `ProjectSource`, which says what stands where, and loaded from it; a
project of another layout is read by another function into the same. Reading runs nothing. Loading
runs the project's scripts and its library, each project on a thread of its own, because what
blocks there must hold up nobody else.
"""

from __future__ import annotations

import ctypes
import dataclasses
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from headgate.errors import ConfigurationError
from headgate.handler import HandlerSettings, check_signature, known_names
from headgate.projects.library import Library
from headgate.projects.project import Handler, Problem, Project, Projects
from headgate.projects.script import Script, load_function, read_script
from headgate.projects.source import ProjectSource, digest, read_plain_project

__all__ = [
    "LOAD_SECONDS",
    "changed_since",
    "lineage_key",
    "load",
    "load_projects",
    "read_sources",
    "settings_of",
]

LOAD_SECONDS = 30.0
"""Seconds that a project may take to be loaded."""

PATIENCE_SECONDS = 1.0
"""Seconds after which the next project is begun although the one before it is not loaded yet."""

Read = Callable[[str, Path], ProjectSource]
System = Callable[[str], object]


def load_projects(
    folders: Mapping[str, Path],
    *,
    system: System,
    read: Read = read_plain_project,
    seconds: float = LOAD_SECONDS,
) -> Projects:
    """
    Load a generation of projects.

    What cannot be loaded becomes a `Problem`; everything else serves.

    Args:
        folders: The projects' folders by name.
        system: Gives the ``system`` that the scripts of a project see.
        read: Knows the layout of a project's folder.
        seconds: How long a project may take; one that takes longer is given up.
    """
    sources, problems = read_sources(folders, read=read)
    return Projects(load(sources, sources, system=system, seconds=seconds), problems)


def read_sources(
    folders: Mapping[str, Path],
    *,
    read: Read = read_plain_project,
    known: Mapping[str, ProjectSource] | None = None,
) -> tuple[dict[str, ProjectSource], list[Problem]]:
    """
    Read projects, without running anything of them.

    Args:
        folders: The projects' folders by name.
        read: Knows the layout of a project's folder.
        known: Sources that are not read again, by name.

    Returns:
        The sources by name, and what is wrong with those that are no projects at all.
    """
    problems, sources = [], {}
    for name, folder in folders.items():
        if known and name in known and known[name].path == folder.absolute():
            sources[name] = known[name]
        elif error := _name_error(name, folder):
            problems.append(Problem.of(error, project=name))
        else:
            sources[name] = _read(name, folder.absolute(), read)
    return sources, problems


def lineage_key(name: str, sources: Mapping[str, ProjectSource]) -> tuple[tuple[str, bytes], ...]:
    """Return what changes when something changes that the project or an ancestor is made of."""
    lineage, _ = _lineage(sources[name], sources)
    parents = [(source.name, source.digest) for source in lineage]
    parent = lineage[-1].parent
    # The last one's parent is missing, broken, or one of the lineage.
    return (*parents, (parent, sources[parent].digest if parent in sources else b""))


def changed_since(sources: Mapping[str, ProjectSource], names: Iterable[str]) -> set[str]:
    """Return the projects whose files changed since they were read, of some and their ancestors."""
    lineages = [_lineage(sources[name], sources)[0] for name in names]
    read = {source.name: source for lineage in lineages for source in lineage}
    return {name for name, source in read.items() if digest(source.path) != source.digest}


def load(
    names: Collection[str],
    sources: Mapping[str, ProjectSource],
    *,
    system: System,
    seconds: float = LOAD_SECONDS,
) -> dict[str, Project]:
    """
    Load some of the projects, one after the other unless one of them takes long.

    Args:
        names: The projects to load.
        sources: All projects, for those who inherit.
        system: Gives the ``system`` that the scripts of a project see.
        seconds: How long a project may take; one that takes longer is given up.
    """
    begun = []
    for name in names:
        loader = _Loader(sources[name], sources, system)
        loader.start()
        loader.join(PATIENCE_SECONDS)
        begun.append(loader)
    return {loader.source.name: loader.project(seconds) for loader in begun}


def settings_of(
    project: str, handler: str, sources: Mapping[str, ProjectSource]
) -> HandlerSettings | None:
    """
    Return the settings of a handler without running anything; None if there is no such handler.

    Raises:
        ConfigurationError: They are wrong, or its script cannot be read.
    """
    if project not in sources or sources[project].broken or not sources[project].enabled:
        return None
    lineage, _ = _lineage(sources[project], sources)
    depth = next((n for n, source in enumerate(lineage) if handler in source.scripts), None)
    if depth is None:
        return None
    script = read_script(lineage[depth].scripts[handler])
    return _settings(handler, script, lineage[: depth + 1])


class _Loader(threading.Thread):
    """Loads one project."""

    def __init__(
        self, source: ProjectSource, sources: Mapping[str, ProjectSource], system: System
    ) -> None:
        super().__init__(name=f"headgate-{source.name}-load", daemon=True)
        self.source = source
        self._sources = sources
        self._system = system
        self._begun = monotonic()
        self._lock = threading.Lock()
        self._given_up = False
        self._library: Library | None = None
        self._loaded: Project | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Load the project; nothing of it stays if it was given up meanwhile."""
        try:
            loaded = _load(self.source, self._sources, self._make_library)
            with self._lock:
                if not self._given_up:
                    self._loaded = loaded
                    return
        except BaseException as error:
            self._error = error
        if self._library is not None:
            self._library.close()

    def project(self, seconds: float) -> Project:
        """Return the project; if it is not loaded in time, one that says why and serves nothing."""
        self.join(max(0.0, self._begun + seconds - monotonic()))
        with self._lock:
            if self._loaded is not None:
                return self._loaded
            self._given_up = True
            if self._error is None:
                # The thread must pass this lock before it ends, so it is the right one.
                error = self._too_slow(seconds)
                self._end()
            else:
                error = ConfigurationError(f"It cannot be loaded: {self._error!r}")
        return _project(self.source, problems=[Problem.of(error, project=self.source.name)])

    def _make_library(self, project: str, folders: list[Path]) -> Library:
        self._library = Library(project, folders, system=self._system(project))
        return self._library

    def _too_slow(self, seconds: float) -> ConfigurationError:
        frame = sys._current_frames().get(self.ident or 0)
        stack = traceback.extract_stack(frame) if frame is not None else []
        lineage, _ = _lineage(self.source, self._sources)
        own = [f for f in stack if any(Path(f.filename).is_relative_to(s.path) for s in lineage)]
        return ConfigurationError(
            f"It was not loaded within {seconds:g} s, and was given up"
            + (f" while {own[-1].line!r} ran" if own and own[-1].line else ""),
            cure="Scripts must not wait or compute when they are loaded: let a handler do it",
            file=own[-1].filename if own else str(self.source.path),
            line=own[-1].lineno if own else None,
        )

    def _end(self) -> None:
        """End the thread as far as that goes: one that spins would slow the gateway for ever."""
        if self._library is not None:
            self._library.close()
        if self.ident is not None:
            interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
            interrupt(ctypes.c_ulong(self.ident), ctypes.py_object(SystemExit))


def _name_error(name: str, folder: Path) -> ConfigurationError | None:
    if name.startswith("@"):
        problem = f"The name {name!r} begins with '@', which is reserved"
    elif not name or "/" in name or "\\" in name:
        problem = f"{name!r} is no name of a project: it is empty or has a path separator"
    else:
        return None
    return ConfigurationError(problem, cure="Give the project another name", file=str(folder))


def _read(name: str, folder: Path, read: Read) -> ProjectSource:
    # First: what changes after it makes another digest, and so the next generation.
    before = digest(folder)
    try:
        return dataclasses.replace(read(name, folder), digest=before)
    except ConfigurationError as error:
        broken = error
    except OSError as error:
        broken = _unreadable(error, folder)
    return ProjectSource(
        name=name,
        path=folder,
        library=folder / "library",
        file=folder,
        broken=broken,
        digest=before,
    )


def _unreadable(error: OSError, folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"The project cannot be read: {error.strerror or error}",
        cure="Let the gateway's user read its folders and files",
        file=str(error.filename or folder),
    )


def _load(
    source: ProjectSource,
    sources: Mapping[str, ProjectSource],
    make_library: Callable[[str, list[Path]], Library],
) -> Project:
    if source.broken:
        return _project(source, problems=[Problem.of(source.broken, project=source.name)])
    if not source.enabled:
        return _project(source)
    lineage, error = _lineage(source, sources)
    errors = [error] if error else []
    try:
        library = make_library(source.name, [ancestor.library for ancestor in lineage])
    except OSError as unreadable:
        errors.append(_unreadable(unreadable, source.path))
        return _project(source, problems=[Problem.of(e, project=source.name) for e in errors])
    errors += library.load()
    handlers, problems = _load_handlers(lineage, library)
    problems += [Problem.of(error, project=source.name) for error in errors]
    scripts = {name for ancestor in lineage for name in ancestor.scripts}
    return _project(source, handlers=handlers, problems=problems, scripts=scripts, library=library)


def _project(
    source: ProjectSource,
    *,
    handlers: Mapping[str, Handler] | None = None,
    problems: Sequence[Problem] = (),
    scripts: Collection[str] = (),
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
        scripts=frozenset(scripts),
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
    function, signature = load_function(script, name, library)
    check_signature(settings, signature, file=str(file))
    return Handler(
        project=lineage[0].name,
        name=name,
        settings=settings,
        function=function,
        signature=signature,
        file=file,
    )


def _settings(name: str, script: Script, lineage: Sequence[ProjectSource]) -> HandlerSettings:
    """Put the settings of a script together; a project's speak of what it has or inherits."""
    defaults: dict[str, Any] = {}
    stated: dict[str, Any] = {}
    for source in reversed(lineage):
        defaults |= source.defaults
        stated |= source.settings_of(name)
    return HandlerSettings.merge({**script.settings, **stated}, defaults, file=str(script.file))
