"""
What stands where in a project's folder, before anything of it runs.

The layout of plain projects is known to this module alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headgate.errors import ConfigurationError
from headgate.gateway.toml import line_of, parse_toml, read_text
from headgate.handler import check_setting, check_settings, known_names

__all__ = ["ProjectSource", "find_projects", "read_plain_project"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectSource:
    """What stands where in a project's folder: nothing of it has run."""

    name: str
    path: Path
    title: str = ""
    parent: str = ""
    enabled: bool = True
    library: Path
    """The folder of its library; it need not exist."""
    scripts: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """The scripts of its message handlers, by the handlers' names."""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of all its handlers; checked."""
    handlers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings by handler, as they were written."""
    file: Path
    """The file that states the settings, for messages; it need not exist."""
    text: str = ""
    """That file's text, for line numbers."""
    broken: ConfigurationError | None = None
    """Why nothing of it can serve, if so."""

    def error(self, problem: str, *key: str, cure: str) -> ConfigurationError:
        """An error in the settings, at the line of a key."""
        line = line_of(self.text, *key)
        return ConfigurationError(problem, cure=cure, file=str(self.file), line=line)

    def settings_of(self, handler: str) -> dict[str, Any]:
        """
        The settings of one handler.

        Raises:
            ConfigurationError: They are wrong.
        """
        settings = self.handlers.get(handler, {})
        if not isinstance(settings, dict):
            cure = f'Write [handlers."{handler}"] and the settings below it'
            raise self.error("This is no table of settings", "handlers", handler, cure=cure)
        self.check(settings, "handlers", handler)
        return settings

    def check(self, settings: Mapping[str, Any], *table: str) -> None:
        """
        Check a table of handler settings.

        Raises:
            ConfigurationError: A setting is wrong; with its line.
        """
        file = str(self.file)
        for name, value in settings.items():
            check_setting(name, value, file=file, line=line_of(self.text, *table, name))
        check_settings(settings, file=file, line=line_of(self.text, *table))


def find_projects(folder: Path | None, named: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """
    Find the folders of plain projects.

    Args:
        folder: Holds a folder for each project. Folders whose name begins with a dot or an
            underscore, and those with nothing of a project in them, are none. None for no folder.
        named: Further projects by name, wherever they stand; they win over those of the folder.

    Raises:
        ConfigurationError: A folder is missing, or a named one is no project.
    """
    within = [] if folder is None else sorted(_folders(folder))
    found = {path.name: path for path in within if _is_plain_project(path)}
    for name, path in (named or {}).items():
        if not _is_plain_project(path):
            raise ConfigurationError(
                f"Project {name!r} is not in {path}",
                cure=f"A project's folder holds one of {', '.join(_PLAIN)}",
            )
        found[name] = path
    return found


_PLAIN = ("project.toml", "messages", "library")


def _folders(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))]
    except OSError as error:
        raise ConfigurationError(
            f"The projects folder {folder} cannot be read: {error.strerror or error}",
            cure="Name the folder that holds a folder for each project",
        ) from None


def _is_plain_project(folder: Path) -> bool:
    return any((folder / name).exists() for name in _PLAIN)


def read_plain_project(name: str, folder: Path) -> ProjectSource:
    """
    Read a plain project: ``project.toml``, ``messages`` and ``library``.

    Raises:
        ConfigurationError: Its ``project.toml`` is wrong.
    """
    file = folder / "project.toml"
    text = read_text(file) if file.exists() else ""
    table = parse_toml(text, file=file)
    source = ProjectSource(
        name=name,
        path=folder,
        library=folder / "library",
        scripts=_plain_scripts(folder / "messages"),
        file=file,
        text=text,
    )
    for key, value in table.items():
        _check_key(source, key, value)
    source.check(table.get("defaults", {}), "defaults")
    return dataclasses.replace(source, **table)


_KEYS = {
    "title": (str, "a text in quotes"),
    "parent": (str, "the name of a project in quotes"),
    "enabled": (bool, "true or false"),
    "defaults": (dict, "[defaults] and settings below it"),
    "handlers": (dict, "[handlers.NAME] and settings below it"),
}


def _check_key(source: ProjectSource, key: str, value: object) -> None:
    if key not in _KEYS:
        cure = known_names(key, _KEYS)
        raise source.error(f"{key!r} is no setting of a project", key, cure=cure)
    kind, wanted = _KEYS[key]
    if not isinstance(value, kind):
        raise source.error(f"{key} cannot be {value!r}", key, cure=f"Write {wanted}")


def _plain_scripts(folder: Path) -> dict[str, Path]:
    """The scripts below ``messages``, by handler; subfolders are part of the name."""
    scripts = {}
    for file in sorted(folder.rglob("*.py")):
        path = file.relative_to(folder)
        if file.is_file() and not any(part.startswith((".", "_")) for part in path.parts):
            scripts[path.with_suffix("").as_posix()] = file
    return scripts
