"""
From the folders of projects to their handlers.

A project is read into a `ProjectSource`, which says what stands where, and loaded from it; a
project of another layout is read by another function into the same. Reading runs nothing. Loading
runs the project's scripts and its library, each project on a thread of its own, because what
blocks there must hold up nobody else.

The scripts of ``process`` handlers run in a worker process and never here. The library runs in
both, as far as each has handlers that may want it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from headgate.errors import ConfigurationError
from headgate.gateway.crew import Crew, FirstWorker, Workers, lowest_log_level
from headgate.handler import HandlerSettings, PoolSettings, Signature, check_signature
from headgate.projects.library import Library
from headgate.projects.lineage import HandlerSource, Lineage
from headgate.projects.project import Handler, Problem, Project, Projects, in_worker
from headgate.projects.script import load_function
from headgate.projects.source import ProjectSource, digest, read_plain_project
from headgate.runtimes.forkserver import ForkServer, why_unsupported
from headgate.runtimes.link import WorkerCode

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

WORKER_SECONDS = 5.0
"""Seconds that a worker which took too long has to be ended in."""

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
    Load a generation of projects, without a gateway.

    What cannot be loaded becomes a `Problem`; everything else could serve. ``process`` handlers
    are loaded by workers, which end before this returns, never in this process.

    Args:
        folders: The projects' folders by name.
        system: Gives the ``system`` that the scripts of a project see.
        read: Knows the layout of a project's folder.
        seconds: How long a project may take; one that takes longer is given up.
    """
    sources, problems = read_sources(folders, read=read)
    with _temporary_workers() as workers:
        loaded = load(sources, sources, system=system, workers=workers, seconds=seconds)
        for project in loaded.values():
            project.end_worker()
    return Projects(loaded, problems)


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
    lineage = Lineage(sources[name], sources).members
    parents = [(source.name, source.digest) for source in lineage]
    parent = lineage[-1].parent
    # The last one's parent is missing, broken, or one of the lineage.
    return (*parents, (parent, sources[parent].digest if parent in sources else b""))


def changed_since(sources: Mapping[str, ProjectSource], names: Iterable[str]) -> set[str]:
    """Return the projects whose files changed since they were read, of some and their ancestors."""
    lineages = [Lineage(sources[name], sources).members for name in names]
    read = {source.name: source for lineage in lineages for source in lineage}
    return {name for name, source in read.items() if digest(source.path) != source.digest}


def load(
    names: Collection[str],
    sources: Mapping[str, ProjectSource],
    *,
    system: System,
    workers: Workers,
    seconds: float = LOAD_SECONDS,
) -> dict[str, Project]:
    """
    Load some of the projects, one after the other unless one of them takes long.

    Args:
        names: The projects to load.
        sources: All projects, for those who inherit.
        system: Gives the ``system`` that the scripts of a project see.
        workers: Where the workers come from that load ``process`` handlers.
        seconds: How long a project may take; one that takes longer is given up.
    """
    begun = []
    for name in names:
        loader = _Loader(sources[name], sources, system=system, workers=workers, seconds=seconds)
        loader.start()
        loader.join(PATIENCE_SECONDS)
        begun.append(loader)
    return {loader.source.name: loader.project() for loader in begun}


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
    lineage = Lineage(sources[project], sources)
    return lineage.read(handler).settings if handler in lineage.scripts else None


class _Loader(threading.Thread):
    """Loads one project."""

    def __init__(
        self,
        source: ProjectSource,
        sources: Mapping[str, ProjectSource],
        *,
        system: System,
        workers: Workers,
        seconds: float,
    ) -> None:
        super().__init__(name=f"headgate-{source.name}-load", daemon=True)
        self.source = source
        self._sources = sources
        self._system = system
        self._workers = workers
        self._seconds = seconds
        self._deadline = monotonic() + seconds
        self._lock = threading.Lock()
        self._given_up = False
        self._library: Library | None = None
        self._worker: FirstWorker | None = None
        self._loaded: Project | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Load the project; nothing of it stays if it was given up meanwhile."""
        loaded = None
        try:
            loaded = _load(self.source, self._sources, self.make_library, self.load_in_worker)
            with self._lock:
                if not self._given_up:
                    self._loaded = loaded
                    return
        except BaseException as error:
            self._error = error
        if loaded is not None:
            loaded.close()
        elif self._library is not None:
            self._library.close()

    def project(self) -> Project:
        """Return the project; if it is not loaded in time, one that says why and serves nothing."""
        self.join(max(0.0, self._deadline - monotonic()))
        if self._worker is not None:
            # It ends by itself at the same moment, and tells better than we what it was about.
            self.join(WORKER_SECONDS)
        with self._lock:
            if self._loaded is not None:
                return self._loaded
            self._given_up = True
            if self._error is None:
                # The thread must pass this lock before it ends, so it is the right one.
                error = self._too_slow()
                self._end()
            else:
                error = ConfigurationError(f"It cannot be loaded: {self._error!r}")
        return _project(self.source, problems=[Problem.of(error, project=self.source.name)])

    def make_library(self, folders: list[Path]) -> Library:
        """Make the library of the project, for the handlers that run in this process."""
        project = self.source.name
        self._library = Library(project, folders, system=self._system(project))
        return self._library

    def load_in_worker(self, code: WorkerCode) -> Crew:
        """Load the handlers that never run in this process."""
        code = msgspec.structs.replace(code, gateway=self._workers.gateway)
        worker = self._worker = FirstWorker(code, self._workers, deadline=self._deadline)
        return worker.load()

    def _too_slow(self) -> ConfigurationError:
        frame = sys._current_frames().get(self.ident or 0)
        stack = traceback.extract_stack(frame) if frame is not None else []
        lineage = Lineage(self.source, self._sources).members
        own = [f for f in stack if any(Path(f.filename).is_relative_to(s.path) for s in lineage)]
        return ConfigurationError(
            f"It was not loaded within {self._seconds:g} s, and was given up"
            + (f" while {own[-1].line!r} ran" if own and own[-1].line else ""),
            cure="Scripts must not wait or compute when they are loaded: let a handler do it",
            file=own[-1].filename if own else str(self.source.path),
            line=own[-1].lineno if own else None,
        )

    def _end(self) -> None:
        """End the thread as far as that goes: one that spins would slow the gateway for ever."""
        if self._worker is not None:
            self._worker.give_up()
        if self._library is not None:
            self._library.close()
        if self.ident is not None:
            interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
            interrupt(ctypes.c_ulong(self.ident), ctypes.py_object(SystemExit))


@contextmanager
def _temporary_workers() -> Iterator[Workers]:
    """Give workers to whoever hosts nothing; they end with the block."""
    started: list[ForkServer] = []
    lock = threading.Lock()

    def forkserver() -> ForkServer:
        with lock:
            if not started:
                started.append(ForkServer("check"))
            return started[0]

    try:
        yield Workers("check", forkserver)
    finally:
        for each in started:
            each.close()


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
    make_library: Callable[[list[Path]], Library],
    load_in_worker: Callable[[WorkerCode], Crew],
) -> Project:
    if source.broken:
        return _project(source, problems=[Problem.of(source.broken, project=source.name)])
    if not source.enabled:
        return _project(source)
    loading = _Loading(Lineage(source, sources), make_library, load_in_worker)
    try:
        loading.load()
    except ConfigurationError as error:
        loading.tell(error)
    except OSError as error:
        loading.tell(_unreadable(error, source.path))
    return loading.project()


class _Loading:
    """What is loaded of a project."""

    def __init__(
        self,
        lineage: Lineage,
        make_library: Callable[[list[Path]], Library],
        load_in_worker: Callable[[WorkerCode], Crew],
    ) -> None:
        self._lineage = lineage
        self._source = lineage.members[0]
        self._make_library = make_library
        self._load_in_worker = load_in_worker
        self._library: Library | None = None
        self._pools = PoolSettings()
        self._crew = Crew()
        self._handlers: dict[str, Handler] = {}
        self._problems: list[Problem] = []

    def tell(self, error: ConfigurationError, handler: str = "") -> None:
        """Keep in mind what is wrong, with one handler or with all."""
        self._problems.append(Problem.of(error, project=self._source.name, handler=handler))

    def load(self) -> None:
        """
        Load what can be loaded.

        Raises:
            ConfigurationError, OSError: Nothing more can.
        """
        if self._lineage.error is not None:
            self.tell(self._lineage.error)
        self._pools = self._lineage.pools()
        here, apart = self._read()
        # A library without handlers is looked at for its heirs' sake, if it is for this process.
        for_heirs = not self._lineage.scripts and self._lineage.default_runtime() == "thread"
        if here or for_heirs:
            self._load_here(here)
        if apart:
            self._load_apart(apart)
        for handler in self._lineage.unknown:
            self.tell(self._lineage.unknown_error(handler), handler)

    def project(self) -> Project:
        """Return the generation that came of it."""
        return _project(
            self._source,
            handlers=dict(sorted(self._handlers.items())),
            problems=sorted(self._problems, key=lambda each: (not each.handler, each.handler)),
            scripts=self._lineage.scripts,
            pools=self._pools,
            crew=self._crew,
            library=self._library,
        )

    def _read(self) -> tuple[list[HandlerSource], list[HandlerSource]]:
        """Read the handlers that run in this process, and those that do not."""
        found = []
        for handler in sorted(self._lineage.scripts):
            try:
                found.append(self._lineage.read(handler))
            except ConfigurationError as error:
                self.tell(error, handler)
        here = [each for each in found if each.settings.runtime == "thread"]
        return here, [each for each in found if each.settings.runtime == "process"]

    def _load_here(self, found: Iterable[HandlerSource]) -> None:
        library = self._library = self._make_library(self._lineage.libraries)
        for error in library.load():
            self.tell(error)
        for each in found:
            try:
                function, signature = load_function(each.script, each.name, library)
                check_signature(each.settings, signature, file=str(each.file))
            except ConfigurationError as error:
                self.tell(error, each.name)
            else:
                self._add(each, function, signature)

    def _load_apart(self, found: Sequence[HandlerSource]) -> None:
        if lacking := why_unsupported():
            for each in found:
                cure = "Run the gateway on Linux, or write runtime='thread'"
                error = ConfigurationError(lacking, cure=cure, file=str(each.file))
                self.tell(error, each.name)
            return
        crew = self._crew = self._load_in_worker(self._code(found))
        known = {(problem.file, problem.line, problem.what) for problem in self._problems}
        for problem in crew.problems:
            # The library's mistakes may have been found in this process, too.
            if (problem.file, problem.line, problem.what) not in known:
                self._problems.append(problem)
        for each in found:
            if each.name in crew.signatures:
                self._add(each, in_worker, crew.signatures[each.name])

    def _code(self, found: Sequence[HandlerSource]) -> WorkerCode:
        return WorkerCode(
            gateway="",
            project=self._source.name,
            library=[str(folder) for folder in self._lineage.libraries],
            scripts={each.name: str(each.file) for each in found},
            log_level=lowest_log_level(),
            files=self._lineage.texts(each.file for each in found),
            environment=self._pools.worker_environment,
        )

    def _add(
        self, found: HandlerSource, function: Callable[..., Any], signature: Signature
    ) -> None:
        self._handlers[found.name] = Handler(
            project=self._source.name,
            name=found.name,
            settings=found.settings,
            function=function,
            signature=signature,
            file=found.file,
        )


def _project(
    source: ProjectSource,
    *,
    handlers: Mapping[str, Handler] | None = None,
    problems: Sequence[Problem] = (),
    scripts: Collection[str] = (),
    pools: PoolSettings | None = None,
    crew: Crew | None = None,
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
        pools=pools or PoolSettings(),
        workers=crew.code if crew else None,
        first_worker=crew.first if crew else None,
        _library=library,
    )
