"""The manual's `system.net`: names of hosts and gateways."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from headgate.system.namespace import Namespace

__all__ = ["Net", "getHostName", "getRemoteServers"]


class Net(Namespace):
    """Names of hosts and gateways."""

    _module = "net"

    def getHostName(self) -> str:
        """Return the host name of the machine that this runs on."""
        return socket.gethostname()

    def getRemoteServers(self, runningOnly: bool = False) -> list[str]:
        """
        Return the names of the other gateways of the Gateway Network.

        Args:
            runningOnly: Only those that can be reached; as yet they are the only ones known.

        Raises:
            RequestError: The gateway could not be asked.
            RuntimeError: An event loop runs on this thread, and a gateway would have to be asked.
        """
        return self._scope.remote_servers()


_here = Net()
getHostName = _here.getHostName
getRemoteServers = _here.getRemoteServers

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return getattr(_here, name)
