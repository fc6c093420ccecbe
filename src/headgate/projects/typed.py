"""
The annotations of a handler's function: what they check, and their JSON Schemas.

``def handleMessage(payload: Order) -> Receipt`` gets an ``Order``, and what it returns must be a
``Receipt`` when it arrives. Annotations that say nothing, and `Any`, cost nothing.

msgspec makes the objects: of its Structs, dataclasses, TypedDicts, NamedTuples, attrs' classes and
the types that a payload carries. Where an annotation is of pydantic, pydantic does, by its own
rules; nobody else imports it.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Protocol

import msgspec
import msgspec.inspect

from headgate.dataset import Dataset
from headgate.errors import ConfigurationError, PayloadError
from headgate.projects.places import refusal_by_location, refusal_by_path
from headgate.scalars import SCALARS
from headgate.wire.arrays import is_array
from headgate.wire.codec import convert

__all__ = ["Checks", "read_annotations"]

MAX_TEXT: Final = 2_000
"""Characters of a refusal's text that are told: a wrong payload may hold any text."""

MAX_MISTAKES: Final = 10
"""Mistakes that are told of one payload, where pydantic finds several."""

_CURE = (
    "Annotate it with what a payload holds, a dataclass, a TypedDict, a msgspec Struct or a "
    "pydantic model, or leave the annotation out: then nothing is checked"
)

_STREAMS = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """What the annotations of a handler come to; None for what is not annotated."""

    payload: Callable[[Any], Any] | None = None
    """Turns a payload into what is annotated; raises PayloadError."""

    result: Callable[[Any], None] | None = None
    """Looks at a result, or at each value of a generator; raises PayloadError."""

    schema: Mapping[str, Any] | None = None
    """The JSON Schemas of ``payload`` and ``result``, as far as they are annotated."""


def read_annotations(function: Callable[..., Any], *, streams: bool, file: Path) -> Checks:
    """
    Make the checks that a handler's annotations ask for.

    Args:
        function: The handler's function.
        streams: Whether it is a generator function: then each value is checked.
        file: Its script, for the error.

    Raises:
        ConfigurationError: An annotation cannot be resolved or checked.
    """
    found = _annotations(function)
    try:
        kinds = _resolved(function, found)
        if streams and "result" in kinds:
            kinds["result"] = _value_of_stream(kinds["result"])
        models = {
            root: _model(kind, root)
            for root, kind in kinds.items()
            if kind is not Any and kind is not object
        }
    except _UnusableError as error:
        code = getattr(inspect.unwrap(function), "__code__", None)
        line = code.co_firstlineno if code else None
        raise ConfigurationError(str(error), cure=error.cure, file=str(file), line=line) from error
    return Checks(
        payload=_payload_check(models["payload"]) if "payload" in models else None,
        result=_result_check(models["result"]) if "result" in models else None,
        schema={root: _schema_of(model) for root, model in models.items()} or None,
    )


class _UnusableError(Exception):
    """An annotation cannot be resolved or checked."""

    def __init__(self, problem: str, cure: str = _CURE) -> None:
        super().__init__(problem)
        self.cure = cure


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """What is annotated, as it stands there: ``payload``, whatever its name is, and ``result``."""
    signature = inspect.signature(function)
    found = {}
    for parameter in list(signature.parameters.values())[:1]:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            found["payload"] = parameter.annotation
    found["result"] = signature.return_annotation
    return {root: kind for root, kind in found.items() if kind is not signature.empty}


def _resolved(function: Callable[..., Any], found: Mapping[str, Any]) -> dict[str, Any]:
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    kinds = {}
    for root, kind in found.items():
        alone = SimpleNamespace(__annotations__={root: kind})
        try:
            hints = typing.get_type_hints(alone, globalns=scope, include_extras=True)
        except Exception as error:
            raise _UnusableError(
                f"The annotation {_shown(kind)} of the {root} cannot be resolved: {error}",
                "Import or define the name where the script runs, not below `if TYPE_CHECKING`, "
                "or leave the annotation out: then nothing is checked",
            ) from error
        kinds[root] = hints[root]
    return kinds


def _value_of_stream(kind: Any) -> Any:
    if (typing.get_origin(kind) or kind) in _STREAMS:
        return (*typing.get_args(kind), Any)[0]
    if kind is Any or kind is object:
        return Any
    raise _UnusableError(
        f"{_shown(kind)} is not what a function that yields returns",
        "Write Iterator[…] of what it yields, AsyncIterator[…] for `async def`",
    )


# --- what makes and describes values -------------------------------------------------------------


class _Model(Protocol):
    """An annotation that can be used."""

    def make(self, value: Any) -> Any:
        """Turn a value into what is annotated, or raise anything."""

    def refusal(self, error: BaseException, value: Any) -> PayloadError:
        """Return what `make` raised for a value that has arrived as what is told of it."""

    def schema(self) -> dict[str, Any]:
        """Return its JSON Schema."""


def _model(kind: Any, root: str) -> _Model:
    try:
        if _is_of_pydantic(kind, set()):
            return _Pydantic(kind, root)
        return _Msgspec(kind, root)
    except _UnusableError:
        raise
    except Exception as error:
        text = f"{error}".partition("\n")[0]
        raise _UnusableError(
            f"The annotation {_shown(kind)} of the {root} cannot be checked: {text}"
        ) from error


def _schema_of(model: _Model) -> dict[str, Any]:
    try:
        return model.schema()
    except Exception as error:
        # Such as a default that JSON has no form for. The check is no worse for that.
        return {"$comment": f"There is no schema of this annotation: {error}"}


def _payload_check(model: _Model) -> Callable[[Any], Any]:
    def check(payload: Any) -> Any:
        try:
            return model.make(payload)
        except BaseException as error:
            # Classes of the script may raise anything, and no thread of a pool survives SystemExit.
            refusal = model.refusal(error, payload)
        raise refusal

    return check


def _result_check(model: _Model) -> Callable[[Any], None]:
    def check(result: Any) -> None:
        try:
            model.make(result)
        except BaseException:
            # What is converted when it is sent, such as a number of NumPy, may fit as it arrives.
            check_arrived(convert(result, root="result"))

    check_arrived = _payload_check(model)
    return check


class _Msgspec:
    """An annotation by which msgspec makes values."""

    def __init__(self, kind: Any, root: str) -> None:
        self._kind = kind
        self._root = root
        # From here on msgspec needs nothing of the script's modules, which a reload takes away.
        for custom in _customs(msgspec.inspect.type_info(kind), set()):
            _check_custom(custom, root)
        # msgspec keeps what it knows of a Struct, but reads a `list[Order]` anew each time.
        self._frame = msgspec.defstruct("Frame", [("value", kind)], array_like=True)

    def make(self, value: Any) -> Any:
        return self._convert((value,)).value

    def refusal(self, error: BaseException, value: Any) -> PayloadError:
        if not isinstance(error, msgspec.ValidationError):
            return _payload_error(self._root, f"{type(error).__name__}: {_text(error)}")
        found = refusal_by_path(_text(error), value, root=self._root, convert=self.make)
        if _has_errors(error.__cause__):
            return _told_by_pydantic(error.__cause__, found.value, found.place)
        return _payload_error(found.place, found.text)

    def schema(self) -> dict[str, Any]:
        return _hoisted(msgspec.json.schema(self._kind, schema_hook=_schema_of_custom))

    def _convert(self, values: Any) -> Any:
        return msgspec.convert(values, self._frame, builtin_types=_NO_TEXT, dec_hook=_custom)


_NO_TEXT: Final = (bytes,)
"""
What text does not become: bytes are carried as such, and Base64 is text like any other. For dates,
UUIDs and Decimals, callers who have nothing but JSON may send the text that the schemas ask for.
"""


class _Pydantic:
    """An annotation by which pydantic makes values."""

    def __init__(self, kind: Any, root: str) -> None:
        self._adapter = importlib.import_module("pydantic").TypeAdapter(kind)
        self._adapter.rebuild(raise_errors=True)  # now, if a name was not known before
        self._root = root

    def make(self, value: Any) -> Any:
        return self._adapter.validate_python(value)

    def refusal(self, error: BaseException, value: Any) -> PayloadError:
        if _has_errors(error):
            return _told_by_pydantic(error, value, self._root)
        return _payload_error(self._root, f"{type(error).__name__}: {_text(error)}")

    def schema(self) -> dict[str, Any]:
        if self._root == "payload":
            schema: dict[str, Any] = self._adapter.json_schema()
        else:
            # It arrives as `model_dump()` gives it, without aliases.
            schema = self._adapter.json_schema(by_alias=False, mode="serialization")
        return schema


def _is_of_pydantic(kind: Any, seen: set[int]) -> bool:
    """Whether an annotation, a part or a field of a dataclass in it, is for pydantic to check."""
    if id(kind) in seen:
        return False
    seen.add(id(kind))
    if _is_model(kind):
        return True
    parts = [*typing.get_args(kind), *_fields(kind)]
    if typing.get_origin(kind) is typing.Annotated:
        for extra in kind.__metadata__:
            if type(extra).__module__.partition(".")[0] in ("pydantic", "annotated_types"):
                return True
        parts = [kind.__origin__]
    return any(_is_of_pydantic(part, seen) for part in parts)


def _fields(kind: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind) or hasattr(kind, "_fields"):
        yield from typing.get_type_hints(kind, include_extras=True).values()


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


# --- classes that msgspec does not know ----------------------------------------------------------


def _customs(info: Any, seen: set[int]) -> Iterator[type]:
    """The classes in an annotation that msgspec leaves to others, or should."""
    if isinstance(info, tuple):
        for member in info:
            yield from _customs(member, seen)
    elif isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(info) not in seen:
        seen.add(id(info))
        kind = getattr(info, "cls", None)
        if kind and (isinstance(info, msgspec.inspect.CustomType) or _is_model(kind)):
            yield kind
        for name in info.__struct_fields__:
            yield from _customs(getattr(info, name), seen)


def _check_custom(kind: type, root: str) -> None:
    """
    Raise an error if nothing that arrives could be an instance of a class.

    A result may be of any class; whether it can be sent is told when it is.
    """
    if kind in (Dataset, object) or is_array(kind):
        return
    if hasattr(kind, "model_rebuild"):
        kind.model_rebuild()
        return
    if _is_model(kind):
        raise _UnusableError(
            f"{kind.__qualname__} is a dataclass of pydantic inside a msgspec Struct, which would "
            "make one without a check",
            "Make it a BaseModel, or let the outer class be one of pydantic",
        )
    try:
        isinstance(None, kind)
    except TypeError as error:
        raise _UnusableError(f"{kind.__qualname__} cannot be checked: {error}") from error
    if root == "payload":
        raise _UnusableError(f"No payload arrives as {kind.__module__}.{kind.__qualname__}")


def _custom(kind: Any, value: Any) -> Any:
    """Take an instance of a class that msgspec does not know; it names the place of the error."""
    kind = typing.get_origin(kind) or kind
    if isinstance(value, kind):
        return value
    if _is_model(kind):
        return kind.model_validate(value)
    raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def _schema_of_custom(kind: Any) -> dict[str, Any]:
    kind = typing.get_origin(kind) or kind
    if kind is Dataset:
        return _DATASET
    if _is_model(kind):
        schema: dict[str, Any] = kind.model_json_schema()
        return schema
    # msgspec asks for some schema: an empty one is none.
    name = "anything" if kind is object else f"{kind.__module__}.{kind.__qualname__}"
    return {"description": name}


_DATASET: Final[dict[str, Any]] = {
    "title": "Dataset",
    "description": "A table: its columns' names and types, and rows of as many values.",
    "type": "object",
    "properties": {
        "columns": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "type": {"enum": list(SCALARS)}},
            },
        },
        "rows": {"type": "array", "items": {"type": "array"}},
    },
}


def _hoisted(schema: dict[str, Any]) -> dict[str, Any]:
    """Bring the definitions of schemas inside a schema to its top, where references look."""
    found: dict[str, Any] = {}

    def without(part: Any) -> Any:
        if isinstance(part, list):
            return [without(member) for member in part]
        if not isinstance(part, dict):
            return part
        rest = {name: without(member) for name, member in part.items() if name != "$defs"}
        found.update({name: without(each) for name, each in part.get("$defs", {}).items()})
        return rest

    return {**without(schema), **({"$defs": found} if found else {})}


# --- refusals ------------------------------------------------------------------------------------


def _has_errors(error: BaseException | None) -> bool:
    """Whether it is a ValidationError of pydantic, which may not be imported here."""
    return isinstance(error, ValueError) and hasattr(error, "error_count")


def _told_by_pydantic(error: Any, value: Any, root: str) -> PayloadError:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first, *others = (
        refusal_by_location(each["msg"], each["loc"], value, root=root)
        for each in errors[:MAX_MISTAKES]
    )
    told = [first.text, *(f"{other.place}: {other.text}" for other in others)]
    if len(errors) > MAX_MISTAKES:
        told.append(f"and {len(errors) - MAX_MISTAKES} more")
    return _payload_error(first.place, "; ".join(told))


def _payload_error(place: str, text: str) -> PayloadError:
    text = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    return PayloadError(
        f"{place}: {text.encode('utf-8', 'backslashreplace').decode()}", place=place
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:
        return f"(its text cannot be made: {type(problem).__name__})"


def _shown(kind: Any) -> str:
    if isinstance(kind, str):
        return repr(kind)
    return kind.__qualname__ if isinstance(kind, type) else str(kind).replace("typing.", "")
