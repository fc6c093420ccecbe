"""What a reload finds in the projects' files and loads of it, before anything of it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from headgate.errors import ConfigurationError
from headgate.gateway.crew import Workers
from headgate.gateway.loading import LOAD_SECONDS, changed_since, lineage_key, load, read_sources
from headgate.projects.project import Problem, Project
from headgate.projects.source import ProjectFolders, ProjectSource

__all__ = ["Key", "Plan", "make_plan"]

MOST_TRIES = 3
"""How often what changes while it is loaded is loaded anew; after that the watch sees to it."""

Key = tuple[tuple[str, bytes], ...]
"""What a generation was made of: the digests of a project and its ancestors."""


@dataclass(frozen=True)
class Plan:
    """Generations that are loaded, to be taken over in one turn of the event loop."""

    sources: Mapping[str, ProjectSource] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    """What is wrong with those that are no projects at all."""
    loaded: Mapping[str, Project] = field(default_factory=dict)
    """The new generations by name."""
    found: bool = True
    """False if the projects' folder could not be read; then everything stays."""

    def discard(self) -> None:
        """Close what nobody will take over."""
        for project in self.loaded.values():
            project.close()


def make_plan(
    folders: ProjectFolders,
    *,
    known: Mapping[str, ProjectSource],
    is_wanted: Callable[[str, Key], bool],
    system: Callable[[str], object],
    workers: Workers,
) -> Plan:
    """
    Read projects and load those that are wanted; anew if their files change meanwhile.

    Args:
        folders: Where the projects are.
        known: What need not be read again, by name.
        is_wanted: Whether a project that is made of this is to be loaded.
        system: Gives the ``system`` that the scripts of a project see.
        workers: Where the workers come from that load ``process`` handlers.
    """
    for _ in range(MOST_TRIES - 1):
        plan = _load(folders, known, is_wanted, system, workers)
        changed = changed_since(plan.sources, plan.loaded)
        if not changed:
            return plan
        known = {name: source for name, source in plan.sources.items() if name not in changed}
        plan.discard()
    return _load(folders, known, is_wanted, system, workers)


def _load(
    folders: ProjectFolders,
    known: Mapping[str, ProjectSource],
    is_wanted: Callable[[str, Key], bool],
    system: Callable[[str], object],
    workers: Workers,
) -> Plan:
    try:
        found = folders.find()
    except ConfigurationError as error:
        problem = msgspec.structs.replace(Problem.of(error, project=""), kept=True)
        return Plan(problems=(problem,), found=False)
    sources, problems = read_sources(found, known=known)
    keys = {name: lineage_key(name, sources) for name in sources}
    names = [name for name, key in keys.items() if is_wanted(name, key)]
    loaded = load(names, sources, system=system, workers=workers, seconds=LOAD_SECONDS)
    return Plan(sources, keys, tuple(problems), loaded)
