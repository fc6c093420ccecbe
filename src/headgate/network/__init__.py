"""
The Gateway Network: gateways that reach each other.

- `memory`  gateways of one process, and no network at all
"""

from headgate.network.memory import MemoryNetwork, NoNetwork

__all__ = ["MemoryNetwork", "NoNetwork"]
