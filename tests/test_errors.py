"""The tree of errors: what they are, how they travel, what they say."""

from __future__ import annotations

import concurrent.futures
import copy
import importlib
import pickle
import re
from typing import Any

import pytest

from headgate import errors
from headgate.errors import (
    CancellationException,
    ConfigurationError,
    HandlerError,
    HeadgateError,
    Overloaded,
    PayloadError,
    RequestError,
    RequestTimeout,
)

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RequestError) and kind is not RequestError
]

EXAMPLES: list[RequestError] = [
    *(kind("what happened") for kind in KINDS),
    RequestError("of a later release"),
    Overloaded("full", retry_after=1.5, started=False),
    PayloadError("no", place="payload['a'][3]", started=False),
    HandlerError(
        remote_type="ValueError",
        remote_message="no number",
        remote_traceback="Traceback …",
        request_id="ab" * 16,
    ),
]

TREE = re.compile(
    r"(?P<indent>[│ ]*[├└]── )(?P<names>\w+(?: \| \w+)*)"
    r"(?: +\((?P<parent>[\w.]+)\))?.*?(?: (?P<code>[a-z_]+))?$"
)


def named(dotted: str) -> type:
    """Return a builtin, or what else stands in the tree as a parent."""
    module, _, name = dotted.rpartition(".")
    parent = getattr(importlib.import_module(module or "builtins"), name)
    assert isinstance(parent, type)
    return parent


def documented() -> list[tuple[int, type, str | None, str | None]]:
    """Read the tree in the module's docstring: depth, class, builtin parent, code."""
    lines = []
    for line in (errors.__doc__ or "").splitlines():
        match = TREE.match(line.strip())
        if match:
            depth = len(match["indent"]) // 4
            lines.append((depth, getattr(errors, match["names"]), match["parent"], match["code"]))
    return lines


def same(left: RequestError, right: RequestError) -> None:
    assert type(left) is type(right)
    assert str(left) == str(right)
    assert left.message == right.message
    assert left.details() == right.details()
    assert vars(left) == vars(right)


def test_the_tree_is_as_documented() -> None:
    """Every class stands in the docstring's tree under its parent, with its builtin and code."""
    lines = documented()
    path: list[type] = [HeadgateError]
    for depth, kind, parent, code in lines:
        del path[depth:]
        assert kind.__bases__[0] is path[-1], kind
        assert [base.__name__ for base in kind.__bases__[1:]] == (
            [named(parent).__name__] if parent else []
        )
        if parent:
            assert issubclass(kind, named(parent))
        if issubclass(kind, RequestError) and kind is not RequestError:
            assert kind.code == code
        path.append(kind)
    public = {getattr(errors, name) for name in errors.__all__}
    assert public == {kind for _, kind, _, _ in lines} | {HeadgateError}


def test_codes_are_unique() -> None:
    """No two errors share a code on the wire."""
    assert len({kind.code for kind in [RequestError, *KINDS]}) == len(KINDS) + 1


@pytest.mark.parametrize(
    "error",
    [error for error in EXAMPLES if type(error) is not RequestError],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("started", [None, False, True])
def test_an_error_survives_the_wire(error: RequestError, started: bool | None) -> None:
    """Code, text and details make the same error again on the other side."""
    arrived = RequestError.from_wire(
        error.code, error.message, error.details(), started=started, request_id="12" * 16
    )
    assert (arrived.started, arrived.request_id) == (started, "12" * 16)
    arrived.started, arrived.request_id = error.started, error.request_id
    same(arrived, error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: RequestError) -> None:
    """Pickling and copying keep everything that an error says."""
    error.request_id = "cd" * 16
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        same(pickle.loads(pickle.dumps(error, protocol)), error)
    same(copy.copy(error), error)
    same(copy.deepcopy(error), error)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_its_text(kind: type[RequestError]) -> None:
    """str() is the text alone, whatever the builtin parent makes of its arguments."""
    error = kind("what happened", started=False, request_id="00" * 16)
    assert str(error) == error.message == "what happened"
    assert repr(error) == f"{kind.__name__}('what happened')"
    assert error.args == ("what happened",)
    assert (error.started, error.request_id) == (False, "00" * 16)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_without_text(kind: type[RequestError]) -> None:
    """An error that says nothing is still one that can be shown and caught."""
    error = kind()
    assert str(error) == error.message == ""
    assert isinstance(error, kind)
    with pytest.raises(RequestError):
        raise error


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_of_the_start(kind: type[RequestError]) -> None:
    """An error says that nobody knows whether the handler started, unless it is its own."""
    assert kind().started is (True if kind is HandlerError else None)


def test_an_unknown_code_is_an_error_that_names_it() -> None:
    """What a later release sends arrives as a RequestError with text and code."""
    error = RequestError.from_wire("volcano", "it erupted", {"x": 1}, started=False)
    assert type(error) is RequestError
    assert str(error) == "it erupted (error code 'volcano')"
    assert error.started is False
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "details", [None, {}, {"retry_after": "soon"}, {"place": 5}, {"type": [], "message": {}}]
)
def test_details_of_another_type_do_not_hurt(
    kind: type[RequestError], details: dict[str, Any] | None
) -> None:
    """Whatever a peer sends as details, an error of the right class comes out."""
    error = RequestError.from_wire(kind.code, "text", details)
    assert type(error) is kind
    assert isinstance(error.details(), dict)
    assert str(error) == "text"


def test_a_handlers_error_builds_its_text() -> None:
    """A HandlerError without a text of its own names type and message."""
    assert str(HandlerError(remote_type="KeyError", remote_message="'a'")) == "KeyError: 'a'"
    assert str(HandlerError(remote_type="KeyError")) == "KeyError"
    assert str(HandlerError("all of it", remote_type="KeyError")) == "all of it"


def test_builtin_parents_catch_their_errors() -> None:
    """Who catches the builtin catches Headgate's error."""
    with pytest.raises(TimeoutError):
        raise RequestTimeout("late")
    with pytest.raises(concurrent.futures.CancelledError):
        raise CancellationException("stopped")
    with pytest.raises(ValueError, match="place"):
        raise PayloadError("place")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "it is wrong"),
        ({"cure": "Write it so"}, "it is wrong. Write it so"),
        ({"file": "a.toml"}, "a.toml: it is wrong"),
        ({"file": "a.toml", "line": 3, "cure": "Cure"}, "a.toml:3: it is wrong. Cure"),
    ],
)
def test_a_configuration_error_names_place_and_cure(fields: dict[str, Any], text: str) -> None:
    """A ConfigurationError says where, what is wrong and what to write instead; pickled too."""
    error = ConfigurationError("it is wrong", **fields)
    assert str(error) == text
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ConfigurationError
    assert vars(again) == vars(error)
