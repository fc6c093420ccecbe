"""
What a project's scripts see: `system`, and the packages of the project's library.

Each load of a project has a private package such as ``_headgate_projects.p7_ACME``. The library's
modules live below it, so two projects may have a module ``util``, and so may two generations of
one project. The scripts run with builtins of their own: in them stand ``system``, the library's
names, and an ``__import__`` that looks into the private package first. `sys.path` and what others
have in `sys.modules` are never touched.

All of the library is loaded with the project, so that a generation is of one moment; a module
whose name begins with an underscore is loaded when something first imports it. Bytecode is
neither read nor written: a reload sees an edit of the same second.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import keyword
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from headgate.errors import ConfigurationError
from headgate.projects.files import Disk, Files

__all__ = ["Library"]

_PACKAGE = "_headgate_projects"
_RESERVED = ("headgate", "system")


class Library:
    """
    The library of one load of one project, and the place where its scripts run.

    Imports may come from any thread.

    Args:
        project: The project's name.
        folders: Its library folder, then those of its parents; they need not exist.
        system: What its scripts see as ``system``.
        files: Where its modules are read. Default: on the disk.
    """

    package: str
    """Name of the private package."""

    on_load: Callable[[str], None] | None = None
    """Is told the script or module that is being loaded, whenever that is another one."""

    def __init__(
        self,
        project: str,
        folders: Iterable[Path],
        *,
        system: object,
        files: Files | None = None,
    ) -> None:
        self.package = f"{_PACKAGE}.p{next(_numbers)}_{re.sub(r'[^0-9A-Za-z]', '_', project)}"
        self._project = project
        self._folders = [str(folder) for folder in folders]
        self._system = system
        self.files = files or Disk()
        """Where its modules are read."""
        self._closed = False
        self._loading = ""
        self._names = self._module_names(self._folders) - set(_RESERVED)
        self._builtins: dict[str, Any] = {**vars(builtins), "__import__": self._import}
        self._builtins.update({name: _Unloaded(self, name) for name in self._names})
        self._builtins["system"] = system
        _FINDER.add(self, _package(self.package, self._folders))

    def load(self) -> list[ConfigurationError]:
        """Load every module of the library; return what is wrong with those that failed."""
        return [*self._reserved(), *self._load_below(self.package, self._folders)]

    def run(self, code: CodeType, *, name: str, file: Path) -> ModuleType:
        """
        Run a script as a module of its own, which nothing can import.

        Args:
            code: The compiled script.
            name: The handler's name.
            file: Where the script stands.

        Raises:
            BaseException: Whatever the script raises.
        """
        if self._closed:
            raise ImportError(f"Project {self._project!r} was unloaded")
        module = ModuleType(f"{self.package}.messages/{name}")
        vars(module).update(__builtins__=self._builtins, __file__=str(file), __package__="")
        # dataclasses, typing and pickle look a class's module up in sys.modules.
        sys.modules[module.__name__] = module
        with self.loading(str(file)):
            exec(code, vars(module))
        return module

    @contextlib.contextmanager
    def loading(self, file: str) -> Iterator[None]:
        """Tell that a file is loaded, and then again what it was loaded for."""
        before = self._loading
        self._tell(file)
        try:
            yield
        finally:
            self._tell(before)

    def _tell(self, file: str) -> None:
        self._loading = file
        if self.on_load is not None:
            self.on_load(file)

    def close(self) -> None:
        """Forget every module; what still runs keeps those it has, but can import no more."""
        self._closed = True
        _FINDER.remove(self)
        for name in list(sys.modules):
            if name == self.package or name.startswith(f"{self.package}."):
                sys.modules.pop(name, None)

    def explain(self, error: BaseException, *, file: Path) -> ConfigurationError:
        """
        Say why a file could not be imported: the exception, the line, and where it came from.

        Args:
            error: What the import raised.
            file: The script or library module that was to be imported.
        """
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == str(file)), None)
        origin, origin_line = self._origin(error, frames)
        text = error.msg if isinstance(error, SyntaxError) else self._public(str(error))
        problem = f"{type(error).__name__}: {text}".rstrip(": .")
        if origin == str(file):
            line = origin_line
        elif origin:
            problem += f", raised at {origin}:{origin_line}"
        return ConfigurationError(problem, cure=_cure(error), file=str(file), line=line)

    def module(self, name: str) -> ModuleType:
        """Import one of the library's modules by its name in scripts."""
        module: ModuleType = self._import(name, fromlist=("__name__",))
        return module

    def find_spec(
        self, fullname: str, folders: Iterable[str]
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module of the private package in its parent package's folders."""
        name = fullname.rpartition(".")[2]
        portions = []
        for folder in map(Path, folders):
            if self.files.is_file(file := folder / name / "__init__.py"):
                return self._spec(fullname, file, packages=[str(file.parent)])
            if self.files.is_file(file := folder / f"{name}.py"):
                return self._spec(fullname, file, packages=None)
            if self.files.is_folder(folder / name):
                portions.append(str(folder / name))
        if not portions:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, _FolderLoader(self), is_package=True)
        spec.submodule_search_locations = portions
        return spec

    def new_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Make a module that sees what the project's scripts see."""
        module = ModuleType(spec.name)
        vars(module)["__builtins__"] = self._builtins
        if spec.submodule_search_locations is not None:
            vars(module)["__getattr__"] = functools.partial(self._submodule, spec.name)
        return module

    def _spec(
        self, fullname: str, file: Path, *, packages: list[str] | None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=_SourceLoader(self, fullname, str(file)),
            submodule_search_locations=packages,
        )

    def _reserved(self) -> Iterator[ConfigurationError]:
        for name in sorted(self._module_names(self._folders).intersection(_RESERVED)):
            spec = self.find_spec(name, self._folders)
            yield ConfigurationError(
                f"The library's {name!r} is not seen: the name is Headgate's own",
                cure="Give the module another name",
                file=(spec.origin or self._folders[0]) if spec else "",
            )

    def _module_names(self, folders: Iterable[str]) -> set[str]:
        """The modules and packages that stand directly in some folders."""
        entries = (entry for folder in folders for entry in self.files.entries(Path(folder)))
        names = {entry.name.removesuffix(".py") for entry in entries} - {"__init__", "__main__"}
        return {name for name in names if name.isidentifier() and not keyword.iskeyword(name)}

    def _load_below(self, package: str, folders: Sequence[str]) -> Iterator[ConfigurationError]:
        for name in sorted(self._module_names(folders)):
            skipped = package == self.package and name not in self._names
            if skipped or name.startswith("_"):
                continue
            fullname = f"{package}.{name}"
            try:
                module = self.module(self._public(fullname))
            except BaseException as error:
                spec = self.find_spec(fullname, folders)
                file = spec.origin if spec and spec.origin else folders[0]
                yield self.explain(error, file=Path(file))
            else:
                if package == self.package:
                    self._builtins[name] = module
                yield from self._load_below(fullname, list(getattr(module, "__path__", ())))

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        top = name.partition(".")[0]
        try:
            if level or (top not in self._names and top != "system"):
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            if top == "system":
                return self._import_system(name, whole=not fromlist)
            return self._import_own(name, fromlist or ())
        except ImportError as error:
            if error.name and error.name.startswith(self.package):
                error.name = self._public(error.name)
                error.msg = self._public(str(error))
                error.args = (error.msg,)
            raise

    def _import_own(self, name: str, fromlist: Sequence[str]) -> ModuleType:
        if self.package not in sys.modules:
            raise ImportError(
                f"{name!r} cannot be imported any more: project {self._project!r} was unloaded",
                name=name,
            )
        module = builtins.__import__(f"{self.package}.{name}", None, None, fromlist, 0)
        # Without a list of names, `import a.b` is to give `a`, not the outermost package.
        return module if fromlist else sys.modules[f"{self.package}.{name.partition('.')[0]}"]

    def _import_system(self, name: str, *, whole: bool) -> object:
        part = self._system
        for attribute in name.split(".")[1:]:
            try:
                part = getattr(part, attribute)
            except AttributeError:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name) from None
        return self._system if whole else part

    def _submodule(self, package: str, name: str) -> ModuleType:
        # `plant.lines.speed()` works without an import, as in Ignition.
        fullname = f"{package}.{name}"
        folders = getattr(sys.modules.get(package), "__path__", ())
        if name.startswith("__") or self.find_spec(fullname, folders) is None:
            raise AttributeError(f"module {self._public(package)!r} has no attribute {name!r}")
        return self.module(self._public(fullname))

    def _public(self, text: str) -> str:
        return text.replace(f"{self.package}.", "")

    def _origin(
        self, error: BaseException, frames: traceback.StackSummary
    ) -> tuple[str, int | None]:
        """The library's innermost file and line that an exception names or passed."""
        if isinstance(error, SyntaxError) and error.filename:
            return error.filename, error.lineno
        for frame in reversed(frames):
            if any(Path(frame.filename).is_relative_to(folder) for folder in self._folders):
                return frame.filename, frame.lineno
        return "", None


class _Unloaded:
    """A library module's name until the module is loaded, or where it cannot be."""

    def __init__(self, library: Library, name: str) -> None:
        self._library = library
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._library.module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<module {self._name!r}, not loaded>"


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Loads a library module, always from its source."""

    def __init__(self, library: Library, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._library = library

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self._library.new_module(spec)

    def get_data(self, path: str) -> bytes:
        return self._library.files.read(path)

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        with self._library.loading(self.path):
            super().exec_module(module)


class _FolderLoader(importlib.abc.Loader):
    """Loads a library package that has no ``__init__.py``."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self._library.new_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of the projects' private packages, and no others."""

    def __init__(self) -> None:
        self._libraries: dict[str, Library] = {}
        self._lock = threading.Lock()

    def add(self, library: Library, package: ModuleType) -> None:
        with self._lock:
            sys.modules.setdefault(_PACKAGE, _package(_PACKAGE, []))
            sys.modules[library.package] = package
            self._libraries[library.package] = library
            # First: Python's own finder would find the files too, and write bytecode.
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)

    def remove(self, library: Library) -> None:
        with self._lock:
            self._libraries.pop(library.package, None)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None or not fullname.startswith(f"{_PACKAGE}."):
            return None
        library = self._libraries.get(".".join(fullname.split(".")[:2]))
        return library.find_spec(fullname, path) if library else None


_FINDER = _Finder()
_numbers = itertools.count(1)


def _package(name: str, folders: list[str]) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = folders
    return module


def _cure(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"Install {error.name!r} beside Headgate, or put it into the project's library"
    return "Correct it: nothing of this file is used until it can be imported"
