"""
What stands where in a project's folder, before anything of it runs.

The layout of plain projects is known to this module alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headgate.errors import ConfigurationError
from headgate.handler import check_setting, check_settings, known_names
from headgate.projects.toml import line_of, parse_toml, read_text

__all__ = [
    "ProjectFolders",
    "ProjectSource",
    "digest",
    "find_projects",
    "module_texts",
    "read_plain_project",
]


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
    pool: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What it says of its threads and workers; checked, setting by setting."""
    file: Path
    """The file that states the settings, for messages; it need not exist."""
    text: str = ""
    """That file's text, for line numbers."""
    broken: ConfigurationError | None = None
    """Why nothing of it can serve, if so."""
    digest: bytes = b""
    """What `digest` gave for the folder, before anything of it was read."""

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


@dataclasses.dataclass(frozen=True)
class ProjectFolders:
    """Where the projects of a gateway are to be looked for, each time anew."""

    folder: Path | None = None
    """Holds a folder for each project."""
    named: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Further projects by name, wherever they stand; they win over those of the folder."""

    @staticmethod
    def of(
        projects: ProjectFolders | str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    ) -> ProjectFolders:
        """
        Return what the folder of the projects, or a mapping of names to folders, means.

        Whatever a script does to the working directory, they stay the same.
        """
        folder, named = None, {}
        if isinstance(projects, ProjectFolders):
            folder, named = projects.folder, dict(projects.named)
        elif isinstance(projects, Mapping):
            named = {name: Path(at) for name, at in projects.items()}
        else:
            folder = Path(projects)
        return ProjectFolders(
            None if folder is None else folder.absolute(),
            {name: at.absolute() for name, at in named.items()},
        )

    def find(self) -> dict[str, Path]:
        """
        Return the folders of the projects that there are now; named ones whether or not they are.

        Raises:
            ConfigurationError: The folder cannot be read.
        """
        return {**_within(self.folder), **self.named}

    def roots(self) -> list[Path]:
        """Return the folders that hold everything."""
        return [*([] if self.folder is None else [self.folder]), *self.named.values()]

    def project_of(self, path: Path) -> str:
        """Return the name of the project that a file or folder belongs to; empty for none."""
        for name, folder in self.named.items():
            if path.is_relative_to(folder):
                return name
        if self.folder is None or not path.is_relative_to(self.folder):
            return ""
        return next(iter(path.relative_to(self.folder).parts), "")


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
    found = _within(folder)
    for name, path in (named or {}).items():
        if not _is_plain_project(path):
            raise ConfigurationError(
                f"Project {name!r} is not in {path}",
                cure=f"A project's folder holds one of {', '.join(_PLAIN)}",
            )
        found[name] = path
    return found


_PLAIN = ("project.toml", "messages", "library")


def _within(folder: Path | None) -> dict[str, Path]:
    folders = [] if folder is None else sorted(_folders(folder))
    return {path.name: path for path in folders if _is_plain_project(path)}


def _folders(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))]
    except OSError as error:
        raise ConfigurationError(
            f"The projects folder {folder} cannot be read: {error.strerror or error}",
            cure="Name the folder that holds a folder for each project; headgate init makes one",
        ) from None


def _is_plain_project(folder: Path) -> bool:
    return any((folder / name).exists() for name in _PLAIN)


def read_plain_project(name: str, folder: Path) -> ProjectSource:
    """
    Read a plain project: ``project.toml``, ``messages`` and ``library``.

    Raises:
        ConfigurationError: It is not there, or its ``project.toml`` is wrong.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            "The project's folder is not there",
            cure="Put it back, or name another one",
            file=str(folder),
        )
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
    for name, value in table.get("pool", {}).items():
        check_setting(name, value, pool=True, file=str(file), line=line_of(text, "pool", name))
    return dataclasses.replace(source, **table)


_KEYS = {
    "title": (str, "a text in quotes"),
    "parent": (str, "the name of a project in quotes"),
    "enabled": (bool, "true or false"),
    "defaults": (dict, "[defaults] and settings below it"),
    "handlers": (dict, "[handlers.NAME] and settings below it"),
    "pool": (dict, "[pool] and settings below it"),
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


def digest(folder: Path) -> bytes:
    """
    Return what changes when the settings, a script or a library module of a project changes.

    The contents count, not the times: some file systems keep whole seconds, and a file that was
    only touched is no other one. Files that a project reads or writes itself are not looked at.
    """
    total = hashlib.blake2b(digest_size=16)
    for file in _source_files(folder):
        try:
            text = file.read_bytes()
        except OSError as error:
            text = str(error).encode("utf-8", "replace")
        total.update(f"{file}\0{len(text)}\0".encode("utf-8", "surrogateescape"))
        total.update(text)
    return total.digest()


def module_texts(folder: Path) -> dict[str, bytes]:
    """
    Return the modules below a folder by their paths, as they are at this moment.

    Raises:
        OSError: One of them cannot be read.
    """
    return {str(file): file.read_bytes() for file in _modules(folder)}


def _source_files(folder: Path) -> Iterator[Path]:
    yield folder / "project.toml"
    yield from _modules(folder / "messages")
    yield from _modules(folder / "library")


def _modules(folder: Path) -> Iterator[Path]:
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        # Links may lead round in a circle.
        folders[:] = [] if real in seen else sorted(f for f in folders if f != "__pycache__")
        seen.add(real)
        yield from (Path(place, name) for name in sorted(files) if name.endswith(".py"))
