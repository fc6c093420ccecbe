"""The global `system` of scripts, and of a client or gateway: the manual's functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.scope import Scope
from headgate.system.absent import absent
from headgate.system.dataset import DatasetFunctions
from headgate.system.gui import Gui
from headgate.system.net import Net
from headgate.system.project import Project
from headgate.system.util import Util

if TYPE_CHECKING:
    from headgate.system.absent import AbsentFunction, AbsentModule

__all__ = ["System"]


class System:
    """
    The manual's functions, bound to one scope.

    Args:
        scope: Where the calls are made from: a client, or a project of a gateway.
    """

    util: Util
    """Requests and messages, logs, JSON, threads."""

    gui: Gui
    """Boxes that tell something."""

    net: Net
    """Names of hosts and gateways."""

    project: Project
    """The project that the scope belongs to."""

    dataset: DatasetFunctions
    """Tables."""

    def __init__(self, scope: Scope) -> None:
        self.util = Util(scope)
        self.gui = Gui(scope)
        self.net = Net(scope)
        self.project = Project(scope)
        self.dataset = DatasetFunctions(scope)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> AbsentFunction | AbsentModule:
            return absent("", name, of=self)
