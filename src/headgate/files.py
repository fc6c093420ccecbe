"""Files that are there as a whole, or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["sync_folder", "write_whole"]


def write_whole(file: Path, data: bytes, *, mode: int = 0o600) -> None:
    """
    Write a file so that nobody ever sees half of it, nor anything that `mode` does not let him see.

    When this returns it is on the disk.

    Args:
        file: Where; the folder must be there.
        data: What is to be in it.
        mode: Its permissions, for those who may see it. Default: this user alone.

    Raises:
        OSError: It cannot be written; what was there before is there still.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Have the names of files in a folder on the disk; Windows does that by itself."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
