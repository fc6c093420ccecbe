"""
The manual's functions: `system.util.sendRequestAsync` and its neighbours.

::

    system.util     sendRequest sendRequestAsync sendMessage getProjectName getLogger
                    invokeAsynchronous jsonEncode jsonDecode getGlobals globals
    system.gui      messageBox errorBox warningBox
    system.net      getHostName getRemoteServers
    system.project  getProjectName
    system.dataset  toDataSet toPyDataSet getColumnHeaders

They are there in three ways, all the same functions:

- In a script of a project `system` stands without an import. An editor that is to complete it
  wants one: ``from headgate import system``, which does no harm on the gateway.
- ``client.system`` and ``gateway.system`` are bound to that client or gateway.
- ``headgate.system``, this package, calls from wherever it stands: in a handler from the
  handler's project, else from the only open client of the process.

A function of Ignition that is not here raises NotImplementedError when it is called.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from headgate.system import dataset, gui, net, project, util
from headgate.system.absent import absent
from headgate.system.system import System

__all__ = ["System", "dataset", "gui", "net", "project", "util"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return absent("", name, of=sys.modules[__name__])
