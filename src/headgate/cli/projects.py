"""init and check: projects without a gateway."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headgate.channel.local import data_folder, is_loopback
from headgate.cli.ends import ExitCode, reporting, server_parts
from headgate.cli.output import print_document, print_problems, print_table
from headgate.errors import ConfigurationError

if TYPE_CHECKING:
    from headgate.projects.project import Problem, Projects
    from headgate.projects.source import ProjectFolders

__all__ = ["check", "chosen_projects", "init"]


def chosen_projects(folder: Path | None, named: Mapping[str, Path]) -> ProjectFolders:
    """
    Return where the projects are that the arguments mean.

    Args:
        folder: Holds projects, or is one. Default: ``projects``, if none is named.
        named: Further ones by name.

    Raises:
        ConfigurationError: A folder is missing or is no project, or there is none.
    """
    with server_parts():
        from headgate.projects.source import ProjectFolders, find_projects
    if folder is None and named:
        return ProjectFolders(named=find_projects(None, named))
    folder = folder or Path("projects")
    found = find_projects(folder, named)
    if found.keys() - named.keys():
        return ProjectFolders(folder, named)
    return ProjectFolders(named={**_single(folder.resolve()), **found})


def check(
    folder: Path | None, named: Mapping[str, Path], *, config: Path | None, as_json: bool
) -> None:
    """Load projects as a gateway would, and list their handlers and what is wrong with them."""
    with reporting(as_json=as_json):
        with server_parts():
            from headgate.cli.config import load
            from headgate.projects.project import zone_problems
        configuration = load(config)
        zones = None if configuration.file is None else configuration.settings.zones
        if folder is None and not named:
            folder, named = configuration.folder_of_projects(), configuration.named_projects()
        loaded = _load(chosen_projects(folder, named).find())
        found = loaded.problems
        for project in loaded.values():
            found += zone_problems(project, zones)
        handlers, problems = _handlers(loaded), [_fields(problem) for problem in found]
        loaded.close()
    if as_json:
        print_document({"handlers": handlers, "problems": problems})
    else:
        columns = ("project", "handler", "threading", "runtime", "file")
        print_table(columns, [row.values() for row in handlers])
        print_problems(problems)
    raise typer.Exit(ExitCode.HANDLER_ERROR if problems else ExitCode.FINE)


def init(folder: Path, *, project: str | None, host: str | None) -> None:
    """Make a folder with a first project in it; nothing that is there is overwritten."""
    name = project or folder.resolve().name
    gateway = folder.resolve().name.lstrip(".") or name
    with reporting():
        home = folder / "projects" / _checked(name)
        if home.exists():
            raise ConfigurationError(
                "There is a project already", cure="Give another --project", file=str(home)
            )
        texts = {
            "TITLE": _quoted(name),
            "GATEWAY": _quoted(gateway),
            "HOST": _host(host),
            "NAME": name,
        }
        for path, text in _STARTER.items():
            filled = re.sub("|".join(texts), lambda found: texts[found[0]], text)
            _write_new(folder / path.format(name=name), filled)
    beyond = host is not None and not is_loopback(host)
    print("\n".join([f"Made {home}. Next:", *_next_steps(folder, name, beyond=beyond)]))
    data = data_folder(gateway)
    if data.exists():
        print(f"\nThere was a gateway of this name: its users and certificates are in {data}")


def _next_steps(folder: Path, project: str, *, beyond: bool) -> list[str]:
    steps = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    if beyond:
        steps += ["headgate cert init NAME", "headgate user add NAME --role ROLE"]
    steps += ["headgate check", "headgate run"]
    if not beyond:
        steps.append(f'headgate request {shlex.quote(project)} hello \'{{"name": "Ada"}}\'')
    return [f"  {step}" for step in steps]


def _host(host: str | None) -> str:
    return '# host = "127.0.0.1"' if host is None else f"host = {_quoted(host)}"


def _quoted(text: str) -> str:
    """Return a text as TOML has it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _single(folder: Path) -> dict[str, Path]:
    from headgate.projects.source import find_projects

    try:
        return find_projects(None, {folder.name: folder})
    except ConfigurationError:
        nested = folder / "projects"
        cure = "Name the folder that holds a folder for each project; headgate init makes one"
        if nested.is_dir():
            cure = f"Did you mean {nested}?"
        raise ConfigurationError(f"There is no project in {folder}", cure=cure) from None


def _load(folders: Mapping[str, Path]) -> Projects:
    with server_parts():
        from headgate.gateway import Gateway
        from headgate.gateway.loading import load_projects
    # Never started: what a script asks of it while it is loaded ends with an error.
    gateway = Gateway("check", projects=folders)
    return load_projects(folders, system=lambda name: gateway.scope(name).system)


def _handlers(loaded: Projects) -> list[dict[str, str]]:
    return [
        {
            "project": name,
            "handler": handler.name,
            "threading": "async" if handler.signature.is_async else handler.settings.threading,
            "runtime": handler.settings.runtime,
            "file": str(handler.file),
        }
        for name, project in sorted(loaded.items())
        for _, handler in sorted(project.handlers.items())
    ]


def _fields(problem: Problem) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(problem)


def _checked(name: str) -> str:
    if name.startswith(("@", ".", "_")) or not name or {"/", "\\"} & set(name):
        raise ConfigurationError(
            f"{name!r} is no name for a project", cure="Give another one with --project"
        )
    return name


def _write_new(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        print(f"Kept {file}: it was there.")


_STARTER = {
    "README.md": """\
# The projects of NAME

    # What is there, and what is wrong:
    headgate check
    # A gateway with the settings of headgate.toml; leave it running:
    headgate run
    # In another terminal:
    headgate request NAME hello '{"name": "Ada"}'
    headgate handlers

Save an edit while the gateway runs, and the next request gets it. `headgate reload` tells what is
wrong, `headgate ps` what runs.

`projects/NAME/messages/hello.py` is the message handler `hello` of the project `NAME`; each file
there is one.
""",
    "headgate.toml": """\
# The settings of the gateway that `headgate run` starts in this folder. `headgate config example`
# shows all that there are, `headgate config check` what is wrong here.
projects = "projects"

# Its name, which its own folder has, and where it listens.
name = GATEWAY
HOST
# port = 8188

# [log]
# level = "debug"            # else "info", "warning", "error"

# Parts of the network, and who may do what; the first rule that matches decides.
# [zones.plant]
# addresses = ["10.1.0.0/16"]

# [[permission]]
# roles = ["operator"]
# zones = ["plant"]
# handlers = ["NAME/*"]
# allow = true
""",
    "projects/{name}/project.toml": """\
title = TITLE

# The handlers and the library of another project are there too, unless this one has its own:
# parent = "common"

# false: its handlers cannot be called.
# enabled = true

# Settings of all handlers.
[defaults]
# timeout = 30              # seconds that a call may take at most, whatever its caller allows
# queue = 10000             # calls that may wait; one more is answered with "overloaded"
# runtime = "process"       # in worker processes, which are killed if a call takes too long

# What its handlers share.
[pool]
# threads = 8
# workers = 2               # processes for handlers with runtime = "process"

# Settings of one handler; they can also stand on its function: @headgate.handler(concurrency=2)
# [handlers.hello]
# threading = "Dedicated"   # one thread of its own, strictly in order; else "Shared"
# concurrency = 2           # calls that run at once
# roles = ["operator"]      # who may call it, of those whom the gateway's rules allow
""",
    "projects/{name}/messages/hello.py": '''\
"""Greets whoever is named."""


def handleMessage(payload, context):
    system.util.getLogger("hello").info("asked by %s" % context.caller.user)
    return {"greeting": greetings.greet(payload.get("name", "world"))}
''',
    "projects/{name}/library/greetings.py": '''\
"""Library code: all scripts of this project see it as `greetings`."""


def greet(name):
    return "Hello, %s!" % name
''',
}
