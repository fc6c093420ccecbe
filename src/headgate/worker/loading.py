"""The scripts and the library of a project, as a worker loads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headgate.errors import ConfigurationError
from headgate.handler import HandlerSettings
from headgate.projects.files import Disk, Snapshot
from headgate.projects.library import Library
from headgate.projects.project import Handler
from headgate.projects.script import Script, load_function, read_script
from headgate.runtimes.link import Load, Loaded

__all__ = ["load"]

SETTINGS = HandlerSettings()
"""Those of every handler here: the gateway keeps to the real ones."""


def load(
    order: Load, system: object, *, on_load: Callable[[str], None]
) -> tuple[Mapping[str, Handler], Loaded]:
    """
    Load the library of a project, then its scripts.

    Args:
        order: What is to be loaded.
        system: What the scripts see as ``system``.
        on_load: Is told the file that is being loaded, whenever that is another one.

    Returns:
        The handlers that can run by name, and what the gateway is told.
    """
    files = Snapshot(order.files) if order.files else Disk()
    try:
        library = Library(order.project, map(Path, order.library), system=system, files=files)
    except OSError as error:
        return {}, Loaded({}, [_problem("", _unreadable(error, order))])
    library.on_load = on_load
    problems = [_problem("", error) for error in library.load()]
    handlers = {}
    for name, file in order.scripts.items():
        try:
            script = read_script(Path(file), order.files.get(file))
            handlers[name] = _load_handler(order.project, name, script, library)
        except ConfigurationError as error:
            problems.append(_problem(name, error))
    # What is imported later is no loading any more.
    library.on_load = None
    told = {name: _told(handler) for name, handler in handlers.items()}
    return handlers, Loaded(told, problems)


def _load_handler(project: str, name: str, script: Script, library: Library) -> Handler:
    function, signature = load_function(script, name, library)
    return Handler(
        project=project,
        name=name,
        settings=SETTINGS,
        function=function,
        signature=signature,
        file=script.file,
    )


def _told(handler: Handler) -> dict[str, Any]:
    signature = handler.signature
    return {
        "is_async": signature.is_async,
        "streams": signature.streams,
        "schema": signature.schema,
    }


def _problem(handler: str, error: ConfigurationError) -> dict[str, Any]:
    return {
        "handler": handler,
        "problem": error.problem,
        "cure": error.cure,
        "file": error.file,
        "line": error.line,
    }


def _unreadable(error: OSError, order: Load) -> ConfigurationError:
    return ConfigurationError(
        f"The project cannot be read: {error.strerror or error}",
        cure="Let the gateway's user read its folders and files",
        file=str(error.filename or (order.library or [""])[0]),
    )
