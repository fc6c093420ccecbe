"""
The gateway: hosts projects, knows sessions, routes, authorises, records.

- `gateway`   its life, its parts and how they are put together
- `dispatch`  routing: which endpoint answers, and may the caller ask it
- `requests`  the open requests: deadlines, ends, nested requests
- `deadlock`  requests that wait for what their own callers hold
- `running`   what runs: the table of `headgate ps`, stacks, the watchdog
- `sessions`  the connected clients
- `scope`     calls made on the gateway itself
- `builtins`  the gateway's own handlers
- `hosting`   the projects that serve, and their reload; `hosted` is one, through its generations
- `plan`      what a reload finds and loads; `watch` says when
- `loading`   from the folders of projects to generations that can serve
- `config`    the settings and what is wrong with them; `layers` reads file, environment and flags
- `live`      settings that change while it runs; `document` describes all of them
"""

from headgate.gateway.gateway import Gateway

__all__ = ["Gateway"]
