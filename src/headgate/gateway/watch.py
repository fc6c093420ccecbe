"""
Watching files: which projects' files have changed, once they have settled, and the settings' file.
"""

from __future__ import annotations

import codecs
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from headgate.projects.source import ProjectFolders

if TYPE_CHECKING:
    from watchfiles import Change

__all__ = ["FileWatch", "Watch", "is_remote"]

logger = logging.getLogger("headgate.gateway")

SETTLE_SECONDS = 0.2
"""Seconds without another change after which a change is told."""

MOST_SECONDS = 2.0
"""Seconds after which a change is told at the latest, however many follow it."""

ECHO_SECONDS = 2.0
"""
Seconds after which what was told is told again: polling compares times in whole seconds, and what
is written into a new folder before the system watches it is not seen.
"""

LOOK_SECONDS = 1.0
"""Seconds between two looks whether the folders are still those that are watched."""

STEP_MILLISECONDS = 50
"""How often watchfiles looks at what the system told it."""

REMOTE = ("nfs", "cifs", "smb", "9p", "fuse", "vboxsf", "prl_fs", "virtiofs", "afs", "ceph", "afp")
"""Beginnings of the names of file systems that others may change without this system knowing."""

Touched = Collection[str] | None


class Watch(threading.Thread):
    """
    Tells which projects may have changed; the waiting is done in watchfiles' Rust code.

    What the system tells is used where it can be, else the folders are looked through three times
    a second: on network mounts, where the system has no watches left, or if it is asked for.

    Args:
        folders: Where the projects are, in absolute paths.
        tell: Is told the names of projects, or None if it may be any; on this thread.
        polling: Always look by oneself. ``WATCHFILES_FORCE_POLLING=1`` in the environment does too.
    """

    def __init__(
        self, folders: ProjectFolders, tell: Callable[[Touched], None], *, polling: bool = False
    ) -> None:
        super().__init__(name="headgate-watch", daemon=True)
        self._folders = folders
        self._tell = tell
        self._polling = polling
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Tell nothing any more; the thread ends within a moment."""
        self._stopped.set()

    def run(self) -> None:
        """Watch until it is stopped, anew whenever the folders are others."""
        while not self._stopped.is_set():
            try:
                self._watch()
            except FileNotFoundError:
                # It vanished while the watch began.
                self._stopped.wait(LOOK_SECONDS)
            except Exception as error:
                self._without_the_system(error)

    def _without_the_system(self, error: Exception) -> None:
        """Go on without the system's help."""
        if self._stopped.is_set():
            return
        if self._polling:
            logger.error("The projects cannot be watched: %s. Use: headgate reload", error)
            self._stopped.set()
        else:
            logger.warning("The system does not watch the projects (%s): polling them", error)
            self._polling = True

    def _watch(self) -> None:
        roots = {root: _identity(root) for root in self._folders.roots()}
        there = [root for root, identity in roots.items() if identity is not None]
        if not there:
            self._tell(None)
            self._stopped.wait(LOOK_SECONDS)
            return
        settling, echo = _Pending(), _Pending()
        # What changed before the watch began was not seen.
        settling.add(None, monotonic())
        looked = monotonic()
        for changes in self._changes(there):
            now, paths = monotonic(), [Path(path) for _, path in changes]
            if paths:
                settling.add(self._projects(paths), now)
            if settling and (not paths or now - settling.first >= MOST_SECONDS):
                touched = settling.take()
                self._tell(touched)
                echo.add(touched, now)
            elif echo and not settling and now - echo.last >= ECHO_SECONDS:
                self._tell(echo.take())
            # A watch does not follow a link, or a folder, that was put in another one's place.
            if any(path.is_symlink() for path in paths):
                return
            if now - looked >= LOOK_SECONDS:
                looked = now
                if any(_identity(root) != identity for root, identity in roots.items()):
                    return

    def _changes(self, folders: list[Path]) -> Iterator[Collection[tuple[Change, str]]]:
        """What changes, with nothing whenever it has been quiet for `SETTLE_SECONDS`."""
        # Here, on the watch's own thread: the import would delay the gateway's start.
        from watchfiles import watch

        return watch(
            *folders,
            watch_filter=_matters,
            step=STEP_MILLISECONDS,
            rust_timeout=round(SETTLE_SECONDS * 1000),
            yield_on_timeout=True,
            stop_event=self._stopped,
            raise_interrupt=False,
            # None: watchfiles decides, by the environment.
            force_polling=self._polling or _is_remote(folders) or None,
            ignore_permission_denied=True,
        )

    def _projects(self, paths: Iterable[Path]) -> Touched:
        names = {self._folders.project_of(path) for path in paths}
        return None if "" in names else names


class FileWatch(threading.Thread):
    """
    Tells that a single file is another one, once it has settled.

    It is read five times a second: so it may be a link, be replaced with its folder, or stand on a
    network mount.

    Args:
        file: The file.
        tell: Is called on this thread.
        known: The file's text as it was read last.
    """

    def __init__(self, file: Path, tell: Callable[[], None], *, known: str) -> None:
        super().__init__(name="headgate-watch-file", daemon=True)
        self._file = file
        self._tell = tell
        self._told: bytes | None = known.encode()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Tell nothing any more; the thread ends at once."""
        self._stopped.set()

    def run(self) -> None:
        """Watch until it is stopped."""
        seen = self._told
        while not self._stopped.wait(SETTLE_SECONDS):
            now = self._read()
            if now == seen and now != self._told:
                self._told = now
                self._tell()
            seen = now

    def _read(self) -> bytes | None:
        try:
            return self._file.read_bytes().removeprefix(codecs.BOM_UTF8)
        except OSError:
            return None


class _Pending:
    """Projects that may have changed and are yet to be told of."""

    def __init__(self) -> None:
        self.first = 0.0
        """When the first of them was added."""
        self.last = 0.0
        """When the last of them was added."""
        self._names: set[str] | None = set()

    def __bool__(self) -> bool:
        return self._names is None or bool(self._names)

    def add(self, touched: Touched, now: float) -> None:
        """Add some projects, None for any."""
        self.first, self.last = self.first if self else now, now
        if touched is None or self._names is None:
            self._names = None
        else:
            self._names.update(touched)

    def take(self) -> Touched:
        """Return them all, None if it may be any, and begin anew."""
        touched, self._names = self._names, set()
        return touched


DELETED = 3
"""The value of `watchfiles.Change.deleted`."""


def _matters(change: Change, path: str) -> bool:
    """Leave out what no project is made of, such as the files of a handler that writes some."""
    if f"{os.sep}__pycache__" in path:
        return False
    # A folder that was moved here is told as one change, and so is one that is gone.
    return path.endswith((".py", ".toml")) or change == DELETED or os.path.isdir(path)


def _identity(root: Path) -> tuple[int, int] | None:
    """Return what differs if another folder stands in a folder's place; None if there is none."""
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_remote(roots: Iterable[Path]) -> bool:
    try:
        text = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return False
    return any(is_remote(root.resolve(), text) for root in roots)


def is_remote(path: Path, mountinfo: str) -> bool:
    """
    Whether a file or folder is on a file system that other machines may change.

    Args:
        path: The path, without links.
        mountinfo: What Linux tells of the mounts, as in ``proc(5)``.
    """
    kinds = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        # A later mount hides an earlier one in the same place.
        kinds[Path(before.split()[4].replace("\\040", " "))] = after.split()[0]
    place = next((place for place in (path, *path.parents) if place in kinds), None)
    return place is not None and kinds[place].startswith(REMOTE)
