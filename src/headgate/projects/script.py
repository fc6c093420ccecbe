"""
The script of a message handler: its text, the settings that stand on it, and its function.

The settings are read from the text with `ast`, without running it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from headgate.errors import ConfigurationError
from headgate.handler import Signature, check_setting, check_settings
from headgate.projects.library import Library

__all__ = ["ENTRY", "Script", "load_function", "read_script"]

ENTRY = "handleMessage"
"""Name of the function that a message handler's script defines."""

_FORMS = f"Write def {ENTRY}(payload): or def {ENTRY}(payload, context):"

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Script:
    """A message handler's script, compiled but not run."""

    file: Path
    """Where it stands."""

    code: CodeType
    """The compiled text."""

    settings: dict[str, Any]
    """What `headgate.handler` on its function says."""


def read_script(file: Path, text: bytes | None = None) -> Script:
    """
    Read and compile a script, and the settings on its function.

    Args:
        file: Where it stands.
        text: What it holds, if that is known.

    Raises:
        ConfigurationError: It cannot be read or compiled, or its settings are wrong.
    """
    tree, code = _compile(file, text)
    return Script(file, code, _settings(tree, file=file))


def load_function(
    script: Script, name: str, library: Library
) -> tuple[Callable[..., Any], Signature]:
    """
    Run a script, and return the function that answers requests.

    Args:
        script: The script.
        name: The handler's name.
        library: Where it runs.

    Raises:
        ConfigurationError: It cannot be run, or defines no such function.
    """
    try:
        module = library.run(script.code, name=name, file=script.file)
        function = _entry_function(module, file=script.file)
        return function, _signature(function, file=script.file)
    except ConfigurationError:
        raise
    except BaseException as error:
        # SystemExit and CancelledError too: one script must not keep the others from loading.
        raise library.explain(error, file=script.file) from error


def _entry_function(module: ModuleType, *, file: Path) -> Callable[..., Any]:
    function = vars(module).get(ENTRY)
    if function is None:
        raise ConfigurationError(
            f"{file.name} does not define {ENTRY}", cure=_FORMS, file=str(file)
        )
    if not callable(function):
        raise ConfigurationError(f"{ENTRY} is not a function", cure=_FORMS, file=str(file))
    answer: Callable[..., Any] = function
    return answer


def _signature(function: Callable[..., Any], *, file: Path) -> Signature:
    is_stream = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    return Signature(
        takes_context=_takes_context(function, file=file),
        is_async=inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
        streams=is_stream,
    )


def _takes_context(function: Callable[..., Any], *, file: Path) -> bool:
    # It does if its second parameter has no default, or is named `context`.
    parameters = inspect.signature(function).parameters.values()
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    variable = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    needed = [parameter.name for parameter in positional if parameter.name in required]
    if len(needed) > 2 or needed != required or not (positional or variable):
        raise ConfigurationError(
            f"{ENTRY}({', '.join(required)}) takes {len(required)} required parameters",
            cure=_FORMS,
            file=str(file),
            line=_line(function),
        )
    return len(needed) == 2 or [p.name for p in positional[1:2]] == ["context"]


def _line(function: Callable[..., Any]) -> int | None:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_firstlineno if code else None


def _compile(file: Path, text: bytes | None) -> tuple[ast.Module, CodeType]:
    try:
        tree = ast.parse(file.read_bytes() if text is None else text, str(file))
        return tree, compile(tree, str(file), "exec", dont_inherit=True)
    except OSError as error:
        raise ConfigurationError(
            f"The script cannot be read: {error.strerror or error}",
            cure="Let the gateway's user read it",
            file=str(file),
        ) from None
    except SyntaxError as error:
        raise ConfigurationError(
            f"{type(error).__name__}: {str(error.msg).rstrip('.')}",
            cure="Correct the script; it is Python 3, saved as UTF-8",
            file=str(file),
            line=error.lineno,
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"The script cannot be compiled: {error}",
            cure="Save it as Python 3 text in UTF-8",
            file=str(file),
        ) from None


def _settings(tree: ast.Module, *, file: Path) -> dict[str, Any]:
    """The settings on the last `handleMessage`; those of an outer decorator win."""
    definitions = list(_definitions(tree))
    spellings = set(_spellings(tree))
    settings: dict[str, Any] = {}
    for decorator in reversed(definitions[-1].decorator_list if definitions else []):
        if ast.unparse(decorator) in spellings:
            raise ConfigurationError(
                f"@{ast.unparse(decorator)} lacks its parentheses",
                cure=f"Write @{ast.unparse(decorator)}(), or leave it out",
                file=str(file),
                line=decorator.lineno,
            )
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in spellings:
            settings |= _arguments(decorator, file=file)
    return settings


def _definitions(node: ast.AST) -> Iterator[Definition]:
    """The definitions of `handleMessage` at module level, also below `if` and `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition) and child.name == ENTRY:
            yield child
        elif not isinstance(child, (Definition, ast.ClassDef, ast.expr)):
            yield from _definitions(child)


def _spellings(tree: ast.Module) -> Iterator[str]:
    """What `headgate.handler` is called in a script, by its imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name == "headgate":
                    yield f"{name.asname or name.name}.handler"
        elif isinstance(node, ast.ImportFrom) and node.module in ("headgate", "headgate.handler"):
            for name in node.names:
                if name.name == "handler":
                    yield name.asname or name.name


def _arguments(call: ast.Call, *, file: Path) -> dict[str, Any]:
    if call.args:
        raise ConfigurationError(
            f"{ast.unparse(call.args[0])} has no setting's name",
            cure='Write each setting as name=value, such as threading="Dedicated"',
            file=str(file),
            line=call.args[0].lineno,
        )
    arguments = {}
    for keyword in call.keywords:
        name, value = _argument(keyword, file=file)
        check_setting(name, value, file=str(file), line=keyword.value.lineno)
        arguments[name] = value
    check_settings(arguments, file=str(file), line=call.lineno)
    return arguments


def _argument(keyword: ast.keyword, *, file: Path) -> tuple[str, Any]:
    try:
        if keyword.arg is not None:
            return keyword.arg, ast.literal_eval(keyword.value)
    except ValueError:
        pass
    given = f"{keyword.arg}=" if keyword.arg else "**"
    raise ConfigurationError(
        f"{given}{ast.unparse(keyword.value)} is not a literal",
        cure="Write the value itself: settings are read without running the script",
        file=str(file),
        line=keyword.value.lineno,
    )
