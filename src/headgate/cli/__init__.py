"""
The command line: ``headgate --help``.

- `app`       the commands with their arguments
- `access`    the options of commands that call a gateway: which one, and how to log in there
- `options`   the options of commands that administer one
- `ends`      exit codes, and how a command ends with an error
- `output`    what machines and people get to read
- `call`      request, message and handlers: a client's calls
- `ps`        what runs on a gateway
- `run`       a gateway as a process
- `process`   what that asks of the system
- `log`       what it writes to stderr
- `config`    show, check, schema: settings
- `audit`     what a gateway has recorded
- `projects`  init and check: projects without a gateway
- `cert`      the certificates of a gateway
- `users`     users, their tokens and certificates
- `permission` the rules of who may what
- `allowed`   check --user: which rule decides
- `administer` asks a gateway to change something, or changes its folder while it does not run
- `demo`      the manual page's requests, as they happen

Only the module of the command that runs is imported: ``headgate --help`` needs no server and no
client.
"""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the process ends with one of the exit codes of `headgate.cli.ends`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character must not end a command.
            stream.reconfigure(errors="backslashreplace")
    from headgate.cli.app import app

    app(prog_name="headgate")
