"""What all tests share: a home of their own, so that none touches the user's data."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def headgate_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a folder of its own for Headgate's data."""
    home = tmp_path / "headgate-home"
    monkeypatch.setenv("HEADGATE_HOME", str(home))
    return home
