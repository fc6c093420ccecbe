"""
The files of a project's library: as they stand on the disk, or as they were at one moment.

The worker processes of a generation may begin long after it was loaded, and when its files have
changed. All of them see those of that moment: a mistake that was saved since then takes nothing
away, and no two workers of a generation run different code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

__all__ = ["Disk", "Files", "Snapshot"]


class Files(Protocol):
    """Where the modules of a library are looked for."""

    def is_file(self, path: Path) -> bool:
        """Whether this module is there."""

    def is_folder(self, path: Path) -> bool:
        """Whether this folder, which may hold modules, is there."""

    def entries(self, folder: Path) -> Iterator[Path]:
        """Give the modules and the folders with modules that stand directly in a folder."""

    def read(self, path: str) -> bytes:
        """
        Return what a file holds.

        Raises:
            OSError: It cannot be read.
        """


class Disk:
    """What stands on the disk now."""

    def is_file(self, path: Path) -> bool:
        """Whether this module is there."""
        return path.is_file()

    def is_folder(self, path: Path) -> bool:
        """Whether this folder is there."""
        return path.is_dir()

    def entries(self, folder: Path) -> Iterator[Path]:
        """Give the modules and the folders with modules that stand directly in a folder."""
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.suffix == ".py" or (entry.is_dir() and any(entry.rglob("*.py"))):
                yield entry

    def read(self, path: str) -> bytes:
        """Return what a file holds."""
        return Path(path).read_bytes()


class Snapshot:
    """
    What stood on the disk at one moment.

    Args:
        texts: The modules by their paths. Files that are no modules are read from the disk.
    """

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self._texts = texts
        self._folders: dict[Path, set[Path]] = {}
        for path in map(Path, texts):
            for entry, folder in zip((path, *path.parents), path.parents, strict=False):
                self._folders.setdefault(folder, set()).add(entry)

    def is_file(self, path: Path) -> bool:
        """Whether this module was there."""
        return str(path) in self._texts

    def is_folder(self, path: Path) -> bool:
        """Whether this folder was there, and held modules."""
        return path in self._folders

    def entries(self, folder: Path) -> Iterator[Path]:
        """Give the modules and the folders with modules that stood directly in a folder."""
        return iter(self._folders.get(folder, ()))

    def read(self, path: str) -> bytes:
        """Return what a file held."""
        text = self._texts.get(path)
        return Path(path).read_bytes() if text is None else text
