"""
The gateway: hosts projects, knows sessions, routes, authorises, records.

- `gateway`   its life, its parts and how they are put together
- `dispatch`  routing: which endpoint answers, and may the caller ask it
- `requests`  the open requests: deadlines, ends, nested requests
- `deadlock`  requests that wait for what their own callers hold
- `running`   what runs: the table of `headgate ps`, stacks, the watchdog
- `sessions`  the connected clients
- `scope`     calls made on the gateway itself
- `project`   projects and their handlers; `source`, `script`, `library` and `toml` read them
"""

from headgate.gateway.gateway import Gateway

__all__ = ["Gateway"]
