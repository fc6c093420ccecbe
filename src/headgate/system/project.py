"""The manual's `system.project`: the project that a script belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.system.namespace import Namespace

__all__ = ["Project", "getProjectName"]


class Project(Namespace):
    """The project that a script belongs to."""

    _module = "project"

    def getProjectName(self) -> str:
        """Return the name of the project that the caller belongs to; empty if it has none."""
        return self._scope.project


_here = Project()
getProjectName = _here.getProjectName

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return getattr(_here, name)
