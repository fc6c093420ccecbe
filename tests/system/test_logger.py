"""The logger of `system.util.getLogger`."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from headgate.system.logger import TRACE, Logger

LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}


@pytest.fixture
def target() -> Iterator[logging.Logger]:
    """Python's logger of the name that the tests use, at the lowest level."""
    target = logging.getLogger("plant.press")
    target.setLevel(1)
    yield target
    target.setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", LEVELS)
def test_levels(target: logging.Logger, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """Each method logs under the logger's name at its level, and a message is never a format."""
    logger = Logger("plant.press")
    getattr(logger, name)("100 %s full")
    getattr(logger, f"{name}f")("%d %s full", 90, "%")
    getattr(logger, f"{name}f")("100 %s full")
    levels = [(record.name, record.levelno, record.filename) for record in caplog.records]
    assert levels == [("plant.press", LEVELS[name], "test_logger.py")] * 3
    assert caplog.messages == ["100 %s full", "90 % full", "100 %s full"]


@pytest.mark.parametrize("name", LEVELS)
def test_throwable(target: logging.Logger, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """The second argument is an exception, logged with its traceback, also after it was caught."""
    try:
        raise OSError("stuck")
    except OSError as error:
        caught = error
    getattr(Logger("plant.press"), name)("The valve", caught)
    assert caplog.records[0].levelno == LEVELS[name]
    assert "The valve" in caplog.text
    assert "in test_throwable" in caplog.text
    assert "OSError: stuck" in caplog.text


@pytest.mark.parametrize("name", LEVELS)
def test_second_argument(target: logging.Logger, name: str) -> None:
    """A second argument that is no exception is a TypeError that names the printf forms."""
    with pytest.raises(TypeError, match="infof"):
        getattr(Logger("plant.press"), name)("%s", "value")


@pytest.mark.parametrize("name", LEVELS)
def test_is_enabled(target: logging.Logger, name: str) -> None:
    """is…Enabled tells whether the level is logged."""
    is_enabled = getattr(Logger("plant.press"), f"is{name.title()}Enabled")
    target.setLevel(LEVELS[name])
    assert is_enabled() is True
    target.setLevel(LEVELS[name] + 1)
    assert is_enabled() is False


def test_any_message(target: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    """A message may be any object."""
    Logger("plant.press").info({"a": 1})
    assert caplog.messages == ["{'a': 1}"]


def test_trace_has_a_name() -> None:
    """Level 5 is shown as TRACE."""
    assert logging.getLevelName(5) == "TRACE"
