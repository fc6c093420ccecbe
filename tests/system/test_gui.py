"""`system.gui` where there is no GUI."""

from __future__ import annotations

import logging

import pytest

import headgate
from headgate.system.gui import Gui

BOXES = [
    ("messageBox", logging.INFO, "Information"),
    ("errorBox", logging.ERROR, "Error"),
    ("warningBox", logging.WARNING, "Warning"),
]


@pytest.mark.parametrize(("name", "level", "title"), BOXES)
def test_boxes(caplog: pytest.LogCaptureFixture, name: str, level: int, title: str) -> None:
    """A box is one log line with its title, at the level of its kind."""
    caplog.set_level(logging.INFO, logger="headgate.gui")
    box = getattr(Gui(), name)
    assert box("Successfully finished: 100 %s\n  twice") is None
    box("Full", "Tank 3")
    shown = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert shown == [
        ("headgate.gui", level, f"{title}: Successfully finished: 100 %s twice"),
        ("headgate.gui", level, "Tank 3: Full"),
    ]


class Silent:
    """An object whose text cannot be made."""

    def __str__(self) -> str:
        raise OSError("no")


@pytest.mark.parametrize("name", [name for name, _, _ in BOXES])
def test_boxes_never_raise(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A message of any type is shown as far as that goes."""
    caplog.set_level(logging.INFO, logger="headgate.gui")
    for message in (None, 5, b"x", {"a": 1}, Silent()):
        getattr(Gui(), name)(message, title=message)
    assert len(caplog.records) == 5
    assert "Silent" in caplog.text


def test_callback_of_the_manual(client: headgate.Client, caplog: pytest.LogCaptureFixture) -> None:
    """The manual's callback, which shows a box, works without a GUI."""
    caplog.set_level(logging.INFO, logger="headgate.gui")
    system = client.system

    def successFunc(message: object) -> None:  # noqa: N802
        system.gui.messageBox("Successfully finished: %s" % message)  # noqa: UP031

    handle = system.util.sendRequestAsync("ACME", "count")
    handle.onSuccess(successFunc)
    handle.get()
    client.close()
    assert caplog.messages[-1] == "Information: Successfully finished: 1"
