"""
The projects that a gateway hosts: loaded, watched over, and exchanged for newer generations.

A reload reads all projects that may have changed, and loads those whose files or ancestors' files
are others than they were; on a thread, while everything goes on. Then, in one turn of the event
loop, the new generations take the places of the old ones. A generation that has lost something to
a mistake never comes to serve.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from headgate.gateway.crew import Workers
from headgate.gateway.hosted import Hosted
from headgate.gateway.plan import Key, Plan, make_plan
from headgate.gateway.requests import Requests
from headgate.gateway.watch import Watch
from headgate.projects.project import Problem, Project, zone_problems
from headgate.projects.source import ProjectFolders, ProjectSource
from headgate.runtimes.project import ProjectRuntime

__all__ = ["Hosting", "Reloaded"]

logger = logging.getLogger("headgate.gateway")

TIDY_SECONDS = 0.05
"""Seconds between two looks at what a reload left behind, while there is something."""


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload came to: names of projects, and what is wrong now."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Projects that serve as they were before, because of a mistake."""
    problems: tuple[Problem, ...] = ()


class Hosting:
    """
    The projects of a gateway; it belongs to the gateway's event loop.

    Args:
        folders: Where the projects are.
        system: Gives the ``system`` that the scripts of a project see.
        workers: Where the workers come from that load ``process`` handlers.
        runtime: Makes the runtime of a project.
        requests: The open requests.
        zones: Gives the names of the zones that handlers may name; None if nobody knows them.
    """

    def __init__(
        self,
        folders: ProjectFolders,
        *,
        system: Callable[[str], object],
        workers: Workers,
        runtime: Callable[[str], ProjectRuntime],
        requests: Requests,
        zones: Callable[[], Collection[str] | None],
    ) -> None:
        self.hosted: dict[str, Hosted] = {}
        """The projects by name."""
        self._folders = folders
        self._system = system
        self._workers = workers
        self._make_runtime = runtime
        self._requests = requests
        self._zones = zones
        self._sources: Mapping[str, ProjectSource] = {}
        self._problems: tuple[Problem, ...] = ()
        self._gone: dict[str, Hosted] = {}
        self._untidy: set[Hosted] = set()
        self._tidying = False
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loading: set[asyncio.Future[Plan]] = set()
        self._watch: Watch | None = None
        self._opened = False
        self._closed = False

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with what stands in the projects' files, whatever serves meanwhile."""
        hosted, zones = list(self.hosted.values()), self._zones()
        found = [*self._problems]
        for each in hosted:
            found += each.problems
            found += zone_problems(each.project, zones)
        return found

    @property
    def projects(self) -> dict[str, Project]:
        """The projects as they serve, by name."""
        return {name: hosted.project for name, hosted in list(self.hosted.items())}

    @property
    def all(self) -> dict[str, Hosted]:
        """The projects by name, also those that were removed and still run something."""
        return {**self._gone, **self.hosted}

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables."""
        everything = [*list(self.hosted.values()), *list(self._gone.values())]
        sizes = {"generations_left": sum(hosted.left for hosted in everything) + len(self._gone)}
        for hosted in everything:
            for name, size in hosted.runtime.stats().items():
                sizes[f"handlers_{name}"] = sizes.get(f"handlers_{name}", 0) + size
        return sizes

    # --- on the event loop -----------------------------------------------------------------------

    async def open(self) -> None:
        """
        Load everything.

        Raises:
            ConfigurationError: The projects' folder cannot be read.
        """
        self._folders.find()
        await self.reload()
        self._opened = True

    def watch(self, *, polling: bool = False) -> None:
        """Reload by itself from now on, whatever changes."""
        loop = asyncio.get_running_loop()

        def tell(touched: Collection[str] | None) -> None:
            loop.call_soon_threadsafe(self.reload_soon, touched)

        self._watch = Watch(self._folders, tell, polling=polling)
        self._watch.start()

    async def reload(
        self, *, everything: bool = False, touched: Collection[str] | None = None
    ) -> Reloaded:
        """
        Let what changed in the projects' files serve.

        Args:
            everything: Load all projects anew, changed or not.
            touched: Names of projects; the others are known to be as they were. Default: nothing
                is known, and what has a problem is tried again.
        """
        async with self._turn:
            if self._closed:
                raise RuntimeError("The gateway does not run any more")
            retry = touched is None
            plan = await self._planned(
                self._known(touched),
                lambda name, key: everything or self._is_wanted(name, key, retry=retry),
            )
            return self._take_over(plan)

    def reload_soon(self, touched: Collection[str] | None = None) -> None:
        """Begin a reload of what may have changed, None for anything."""
        if not self._closed:
            work = self._reload_logged(self._sources if touched is None else touched)
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reload_logged(self, touched: Collection[str]) -> None:
        try:
            await self.reload(touched=touched)
        except Exception:
            logger.exception("The projects could not be reloaded")

    def close(self) -> list[Callable[[], None]]:
        """
        Host nothing any more.

        Returns:
            What is to be called to end it all; some of it may take seconds.
        """
        self._closed = True
        for waiting in (*self._tasks, *self._loading):
            waiting.cancel()
        ends: list[Callable[[], None]] = []
        if self._watch is not None:
            self._watch.stop()
            ends.append(self._watch.join)
        for hosted in (*self.hosted.values(), *self._gone.values()):
            ends += hosted.ends()
        self.hosted.clear()
        self._gone.clear()
        self._sources, self._problems = {}, ()
        return ends

    def _known(self, touched: Collection[str] | None) -> dict[str, ProjectSource]:
        """What need not be read again."""
        if touched is None:
            return {}
        return {name: source for name, source in self._sources.items() if name not in touched}

    def _is_wanted(self, name: str, key: Key, *, retry: bool) -> bool:
        """Whether a project is another one than what serves, and than what may not serve."""
        hosted = self.hosted.get(name)
        if hosted is None:
            return True
        if key == hosted.key:
            return retry and bool(hosted.project.problems)
        return retry or hosted.refused is None or key != hosted.refused[0]

    def _take_over(self, plan: Plan) -> Reloaded:
        """Exchange the generations, in one turn of the event loop."""
        before = self.problems
        added, changed, removed, kept = [], [], [], []
        for name, project in plan.loaded.items():
            hosted = self.hosted.get(name)
            if hosted is None:
                added.append(name)
                self._add(project, plan.keys[name])
            elif project.breaks(hosted.project):
                kept.append(name)
                hosted.refuse(project, plan.keys[name])
            else:
                changed.append(name)
                hosted.serve(project, plan.keys[name])
                self._untidy.add(hosted)
        if plan.found:
            removed = [name for name in self.hosted if name not in plan.sources]
            self._sources = plan.sources
            self._restore(plan.keys)
        for name in removed:
            self._gone[name] = self.hosted.pop(name)
            self._gone[name].leave()
        self._problems = plan.problems
        self._log(before, added=added, changed=changed, removed=removed)
        self._tidy()
        return Reloaded(
            added=tuple(added),
            changed=tuple(changed),
            removed=tuple(removed),
            kept=tuple(kept),
            problems=tuple(self.problems),
        )

    def _restore(self, keys: Mapping[str, Key]) -> None:
        """Forget mistakes that were taken back: the files are again what serves."""
        for name, hosted in self.hosted.items():
            if hosted.refused is not None and keys.get(name) == hosted.key:
                hosted.refused = None

    def _add(self, project: Project, key: Key) -> None:
        name = project.name
        back = self._gone.pop(name, None)
        if back is not None:
            # Calls of it still run: their order and number count.
            back.serve(project, key)
            self._untidy.add(back)
        self.hosted[name] = back or Hosted(self._make_runtime(name), self._requests, project, key)

    def _tidy(self) -> None:
        """Close what was left behind and is not needed any more."""
        over = [each for each in self._gone.values() if each.tidy() and each.runtime.is_idle]
        for hosted in over:
            del self._gone[hosted.project.name]
            hosted.end()
        self._untidy = {hosted for hosted in self._untidy if not hosted.tidy()}
        if (self._gone or self._untidy) and not self._tidying and not self._closed:
            self._tidying = True
            asyncio.get_running_loop().call_later(TIDY_SECONDS, self._tidy_again)

    def _tidy_again(self) -> None:
        self._tidying = False
        self._tidy()

    def _log(
        self,
        before: Iterable[Problem],
        *,
        added: Iterable[str],
        changed: Iterable[str],
        removed: Iterable[str],
    ) -> None:
        for name in (*added, *changed) if self._opened else ():
            count = len(self.hosted[name].endpoints)
            what = "loaded" if name in added else "reloaded"
            logger.info("project %r: %s; handlers: %d", name, what, count)
        for name in removed:
            logger.info("project %r: removed", name)
        was, now = _mistakes(before), _mistakes(self.problems)
        for mistake, problem in now.items():
            if mistake not in was:
                logger.error("%s", problem)
        for mistake, problem in was.items():
            # Another mistake in the same file is told above.
            if mistake not in now and not any(p.file == problem.file for p in now.values()):
                logger.info("corrected: %s in %s", problem.what, problem.file)

    async def _planned(
        self, known: Mapping[str, ProjectSource], is_wanted: Callable[[str, Key], bool]
    ) -> Plan:
        """Make a plan, on a thread that nobody has to wait for when the gateway stops."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Plan] = loop.create_future()

        def deliver(plan: Plan | Exception) -> None:
            if isinstance(plan, Exception):
                if not done.done():
                    done.set_exception(plan)
            elif done.done():
                plan.discard()
            else:
                done.set_result(plan)

        def run() -> None:
            plan: Plan | Exception
            try:
                plan = make_plan(
                    self._folders,
                    known=known,
                    is_wanted=is_wanted,
                    system=self._system,
                    workers=self._workers,
                )
            except Exception as error:
                plan = error
            try:
                loop.call_soon_threadsafe(deliver, plan)
            except RuntimeError:
                if isinstance(plan, Plan):
                    plan.discard()

        self._loading.add(done)
        try:
            threading.Thread(target=run, name="headgate-load", daemon=True).start()
            return await done
        finally:
            self._loading.discard(done)


def _mistakes(problems: Iterable[Problem]) -> dict[tuple[str, int | None, str], Problem]:
    """Problems by what is wrong in a file: heirs of a project have the same mistake."""
    found: dict[tuple[str, int | None, str], Problem] = {}
    for problem in problems:
        found.setdefault((problem.file, problem.line, problem.what), problem)
    return found
