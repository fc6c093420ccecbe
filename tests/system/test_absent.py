"""What Ignition has and Headgate has not."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import headgate
from headgate.system.absent import AbsentFunction
from headgate.system.names import FUNCTIONS
from headgate.system.namespace import Namespace

ABSENT = [
    "system.tag.readBlocking",
    "system.tag.read",
    "system.db.runPrepUpdate",
    "system.date.now",
    "system.gui.confirm",
    "system.gui.inputBox",
    "system.util.invokeLater",
    "system.util.getSessionInfo",
    "system.net.httpGet",
    "system.project.getProjectNames",
    "system.perspective.workstation.exit",
    "system.vision.showMessage",
]


def found(root: object, name: str) -> object:
    """Look a dotted name up, `system` being the root."""
    for part in name.split(".")[1:]:
        root = getattr(root, part)
    return root


@pytest.mark.parametrize("name", ABSENT)
def test_call_names_the_function(client: headgate.Client, name: str) -> None:
    """The call, not the look-up, raises NotImplementedError that names the function in full."""
    for root in (client.system, headgate.system):
        function = found(root, name)
        assert callable(function)
        with pytest.raises(NotImplementedError, match=rf"^{re.escape(name)} is a function of Ign"):
            function("anything", at="all")


@pytest.mark.parametrize(
    "name",
    [
        "system.tagg",
        "system.tag.readBlockingly",
        "system.util.sendRequestAsynch",
        "system.gui.messagebox",
        "system.net.hostName",
        "system.project.name",
        "system.perspective.workstation.quit",
        "system.util.__wrapped__",
    ],
)
def test_unknown_name(client: headgate.Client, name: str) -> None:
    """What Ignition does not have either is an AttributeError, at the look-up."""
    place, _, last = name.rpartition(".")
    for root in (client.system, headgate.system):
        with pytest.raises(AttributeError, match=rf"^{re.escape(place)} has no '{last}'"):
            found(root, name)


def test_scripts_import_absent_functions(
    plant: Callable[..., headgate.Gateway],
) -> None:
    """A script may import what it never calls; the caller of one that does gets the name."""
    hub = plant(
        fine="""
            import system.tag
            from system.tag import readBlocking
            from system.util import sendRequest as send, getProjectName
            def handleMessage(payload):
                if payload:
                    return readBlocking(["[default]a"])
                return getProjectName()
            """,
    )
    assert hub.system.util.sendRequest("ACME", "fine") == "ACME"
    with pytest.raises(headgate.HandlerError, match=r"system\.tag\.readBlocking") as caught:
        hub.system.util.sendRequest("ACME", "fine", {"a": 1})
    assert caught.value.remote_type == "NotImplementedError"


def test_nothing_is_both_there_and_absent() -> None:
    """Headgate's functions are all Ignition's too, and none hides behind a stand-in."""
    for kind in Namespace.__subclasses__():
        own = {name for name in dir(kind) if not name.startswith("_")} - {"globals"}
        assert own
        assert own <= FUNCTIONS[kind._module]
        namespace = kind()
        assert not any(isinstance(getattr(namespace, name), AbsentFunction) for name in own)


def test_names() -> None:
    """The table has Ignition's modules, their names, and nothing that is no name."""
    assert {"alarm", "dataset", "date", "db", "tag", "user", "vision"} <= set(FUNCTIONS)
    assert all(name.isidentifier() for names in FUNCTIONS.values() for name in names)
    assert sum(map(len, FUNCTIONS.values())) > 500
