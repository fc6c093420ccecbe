"""What the tests of worker processes share: a fork server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_ends import Nursery


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """A fork server for all tests."""
    server = Nursery(tmp_path_factory.mktemp("nursery"))
    yield server
    server.close()


@pytest.fixture
def nursery(server: Nursery, tmp_path: Path) -> Iterator[Nursery]:
    """The fork server, with the workers of one test."""
    server.folder = tmp_path
    yield server
    server.clear()
