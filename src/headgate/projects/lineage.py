"""A project with its ancestors: the scripts, settings and modules that it has or inherits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from headgate.errors import ConfigurationError
from headgate.handler import HandlerSettings, PoolSettings, known_names
from headgate.projects.script import Script, read_script
from headgate.projects.source import ProjectSource, module_texts
from headgate.projects.toml import line_of

__all__ = ["HandlerSource", "Lineage"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HandlerSource:
    """A message handler whose script was read: nothing of it has run."""

    name: str
    file: Path
    script: Script
    settings: HandlerSettings


class Lineage:
    """
    A project and its ancestors; what the nearer one says counts.

    Args:
        source: The project.
        sources: All projects by name.
    """

    def __init__(self, source: ProjectSource, sources: Mapping[str, ProjectSource]) -> None:
        self.members, self.error = _lineage(source, sources)
        """The project, then its ancestors; the project alone if they form a circle."""

    @property
    def libraries(self) -> list[Path]:
        """The folders of their libraries, the nearest first; they need not exist."""
        return [member.library for member in self.members]

    @cached_property
    def scripts(self) -> dict[str, Path]:
        """The scripts by the handlers' names, inherited ones too."""
        return {
            name: file for member in reversed(self.members) for name, file in member.scripts.items()
        }

    @property
    def unknown(self) -> list[str]:
        """The names that the project states settings for without having such a handler."""
        return sorted(self.members[0].handlers.keys() - self.scripts.keys())

    def unknown_error(self, handler: str) -> ConfigurationError:
        """Say that the project states settings for a handler that is not there."""
        return self.members[0].error(
            f"There are settings for {handler!r}, but no such handler",
            "handlers",
            handler,
            cure=known_names(handler, sorted(self.scripts)),
        )

    def read(self, handler: str) -> HandlerSource:
        """
        Read the script of a handler, and put its settings together.

        Raises:
            ConfigurationError: The script cannot be compiled, or settings are wrong.
        """
        script = read_script(self.scripts[handler])
        # A project's settings speak of what it has or inherits, not of what an heir has.
        depth = next(n for n, member in enumerate(self.members) if handler in member.scripts)
        members = self.members[: depth + 1]
        stated: dict[str, Any] = {}
        for member in reversed(members):
            stated |= member.settings_of(handler)

        def where(name: str) -> tuple[str, int | None]:
            if name in stated:
                key: tuple[str, ...] = ("handlers", handler, name)
                found = next(each for each in members if name in each.settings_of(handler))
            elif name not in script.settings:
                key = ("defaults", name)
                found = next(each for each in members if name in each.defaults)
            else:
                return str(script.file), None
            return str(found.file), line_of(found.text, *key)

        settings = HandlerSettings.merge(
            {**script.settings, **stated}, _merged(members, "defaults"), where=where
        )
        return HandlerSource(name=handler, file=script.file, script=script, settings=settings)

    def default_runtime(self) -> str:
        """Where the project's own handlers run that say nothing else."""
        runtime: str = self.members[0].defaults.get("runtime", "thread")
        return runtime

    def pools(self) -> PoolSettings:
        """
        Put together what the project and its ancestors say of threads and workers.

        Raises:
            ConfigurationError: The settings contradict each other.
        """
        try:
            return PoolSettings.of(_merged(self.members, "pool"))
        except ConfigurationError as error:
            raise self.members[0].error(error.problem, "pool", cure=error.cure) from None

    def texts(self, scripts: Iterable[Path]) -> dict[str, bytes]:
        """
        Return some scripts, and all modules of the libraries, as they are at this moment.

        Raises:
            OSError: One of them cannot be read.
        """
        texts = {str(script): script.read_bytes() for script in scripts}
        for library in self.libraries:
            texts |= module_texts(library)
        return texts


def _merged(members: Sequence[ProjectSource], table: Literal["defaults", "pool"]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for member in reversed(members):
        merged |= getattr(member, table)
    return merged


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
