"""What the tests of security share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headgate.store import Store
from tests.security.accounts import Desk


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as it is when nobody is known yet: a copy is there sooner than a new one."""
    folder = tmp_path_factory.mktemp("database") / "data"
    with Store(folder):
        pass
    return folder


@pytest.fixture
def desk(tmp_path: Path, new_database: Path) -> Iterator[Desk]:
    """A gateway's identities; there is nobody yet."""
    shutil.copytree(new_database, tmp_path / "data")
    with closing(Desk(tmp_path / "data")) as desk:
        yield desk
