"""One process to a data folder."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from headgate.errors import ConfigurationError

__all__ = ["FolderLock"]

FILE_NAME = "headgate.lock"

# Far behind the text: a locked byte cannot be read by others on Windows.
_LOCKED_BYTE = 1 << 30


class FolderLock:
    """
    Holds a data folder for this process.

    The system releases the lock when the process dies, however it dies. The file stays where it
    is: only its lock says that the folder is in use, its text says by whom.

    Args:
        folder: The data folder; it must exist.

    Raises:
        ConfigurationError: Another process, or this one, holds the folder already.
        OSError: The lock file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        with ExitStack() as stack:
            self._file = stack.enter_context(os.fdopen(descriptor, "r+", encoding="utf-8"))
            try:
                _lock(self._file)
            except (BlockingIOError, PermissionError):
                raise _in_use(folder, self._file.read().strip()) from None
            stack.pop_all()
        self._write(_this_process())

    def release(self) -> None:
        """Let others have the folder."""
        self._write("")
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()


def _in_use(folder: Path, holder: str) -> ConfigurationError:
    if holder == _this_process():
        holder = "this process"
    return ConfigurationError(
        f"The data folder is in use by {holder or 'another process'}",
        cure="Stop that gateway, or give this one another name and another port: --name, --port 0",
        file=str(folder),
    )


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


if sys.platform == "win32":

    def _lock(file: IO[str]) -> None:
        import msvcrt

        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        finally:
            file.seek(0)

else:

    def _lock(file: IO[str]) -> None:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
