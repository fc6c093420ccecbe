"""Handlers with annotations: what they get, what is refused and where, and their schemas."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, make_dataclass
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
import numpy
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headgate
from headgate import Dataset
from headgate.errors import HandlerError, PayloadError, RequestError
from headgate.gateway.loading import load_projects
from headgate.projects.source import find_projects
from headgate.projects.typed import read_annotations
from headgate.security.policy import Permission, RulePolicy

if TYPE_CHECKING:
    from conftest import Rig

NOW = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)
TABLE = Dataset(["tag"], [["a"]])

SHAPES = '''
"""Classes that the annotations of the handlers name; it is a library module."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import attrs
import msgspec
import pydantic

import headgate


class Line(msgspec.Struct):
    item: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Order(msgspec.Struct):
    number: int
    lines: list[Line] = []
    notes: dict[str, list[int]] = {}
    tags: set[str] = set()


class Exact(msgspec.Struct, forbid_unknown_fields=True):
    number: int


class Start(msgspec.Struct, tag="start"):
    line: int


class Stop(msgspec.Struct, tag="stop"):
    reason: str


@dataclasses.dataclass
class Tank:
    name: str
    level: float = 0.5
    inner: Tank | None = None


class Limits(TypedDict):
    low: float
    high: NotRequired[float]


class Point(NamedTuple):
    x: int
    y: int = 0


class Colour(enum.Enum):
    RED = "red"


@attrs.define
class Valve:
    name: str
    opened: bool = False


class Recipe(pydantic.BaseModel):
    litres: int
    parts: dict[str, int] = {}


class Mixed(msgspec.Struct):
    recipes: list[Recipe]
    table: headgate.Dataset | None = None
    anything: object = None


class Even(msgspec.Struct):
    number: int

    def __post_init__(self):
        if self.number % 2:
            raise ValueError("it is odd")
'''

LINES = {"number": 1, "lines": [{"item": "a"}, {"item": "b", "count": "2"}]}

MISTAKES = [
    f"payload['parts'][{key!r}]: Input should be a valid integer, unable to parse string as an "
    "integer"
    for key in "abcdefghi"
]

# An annotation, a payload that fits with the `repr` of what the handler gets of it, and payloads
# that do not: each with the place and the beginning of the text.
TABLE_OF_TYPES: list[tuple[str, Any, str, list[tuple[Any, str, str]]]] = [
    (
        "shapes.Order",
        {"number": 1, "lines": [{"item": "a"}], "more": 1},
        "Order(number=1, lines=[Line(item='a', count=1)], notes={}, tags=set())",
        [
            ({}, "payload", "Object missing required field `number`"),
            ([], "payload", "Expected `object`, got `array`"),
            ({"number": "1"}, "payload['number']", "Expected `int`, got `str`"),
            ({"number": True}, "payload['number']", "Expected `int`, got `bool`"),
            (LINES, "payload['lines'][1]['count']", "Expected `int`, got `str`"),
            ({"number": 1, "lines": [{}]}, "payload['lines'][0]", "Object missing required"),
            ({"number": 1, "notes": {"a": [], "b.c": [1, None]}}, "payload['notes']['b.c'][1]", ""),
            ({"number": 1, "notes": {1: []}}, "payload['notes'].keys()", "Expected `str`"),
            ({"number": 1, "tags": {b"a"}}, "payload['tags']{…}", "Expected `str`, got `bytes`"),
            ({"number": 1, None: 2}, "payload.keys()", "Expected `str`"),
        ],
    ),
    ("shapes.Exact", {"number": 1}, "Exact(number=1)", [({"number": 1, "x": 1}, "payload", "")]),
    (
        "shapes.Start | shapes.Stop",
        {"type": "stop", "reason": "r"},
        "Stop(reason='r')",
        [
            ({"type": "start", "line": "1"}, "payload['line']", "Expected `int`"),
            ({"type": "x"}, "payload['type']", "Invalid value 'x'"),
        ],
    ),
    (
        "shapes.Tank",
        {"name": "T1", "inner": {"name": "T2", "level": 1}},
        "Tank(name='T1', level=0.5, inner=Tank(name='T2', level=1.0, inner=None))",
        [({"name": "a", "inner": {"name": 2}}, "payload['inner']['name']", "Expected `str`")],
    ),
    (
        "shapes.Limits",
        {"low": 1.5},
        "{'low': 1.5}",
        [({"low": 1, "high": "2"}, "payload['high']", "Expected `float`, got `str`")],
    ),
    ("shapes.Point", (1, 2), "Point(x=1, y=2)", [((1, "2"), "payload[1]", "Expected `int`")]),
    ("shapes.Colour", "red", "<Colour.RED: 'red'>", [("blue", "payload", "Invalid enum value")]),
    (
        "shapes.Valve",
        {"name": "v"},
        "Valve(name='v', opened=False)",
        [({"name": "v", "opened": 1}, "payload['opened']", "Expected `bool`, got `int`")],
    ),
    (
        "list[shapes.Even]",
        [{"number": 2}],
        "[Even(number=2)]",
        [([{"number": 2}, {"number": 1}], "payload[1]", "it is odd")],
    ),
    (
        "shapes.Recipe",
        {"litres": 5, "parts": {"a": 1}},
        "Recipe(litres=5, parts={'a': 1})",
        [
            ({"litres": None, "parts": {"a": "x"}}, "payload['litres']", "Input should be a valid"),
            ({"litres": 1, "parts": {"a": "x"}}, "payload['parts']['a']", "Input should be"),
            ({}, "payload", "Field required (litres)"),
            (
                {"litres": None, "parts": dict.fromkeys("abcdefghijk", "x")},
                "payload['litres']",
                f"Input should be a valid integer; {'; '.join(MISTAKES)}; and 2 more",
            ),
        ],
    ),
    (
        "dict[datetime.date, shapes.Recipe]",
        {},
        "{}",
        [
            (
                {dt.date(2026, 1, 2): {"litres": "x"}},
                "payload[datetime.date(2026, 1, 2)]['litres']",
                "",
            )
        ],
    ),
    (
        "list[shapes.Recipe]",
        [{"litres": 5}],
        "[Recipe(litres=5, parts={})]",
        [([{"litres": 1}, 2], "payload[1]", "Input should be a valid dictionary")],
    ),
    (
        "shapes.Recipe | None",
        {"litres": "5"},
        "Recipe(litres=5, parts={})",
        [({"litres": "x"}, "payload['litres']", "Input should be a valid integer")],
    ),
    ("pydantic.PositiveInt", 1, "1", [(0, "payload", "Input should be greater than 0")]),
    (
        "shapes.Mixed",
        {"recipes": [{"litres": 1}], "table": TABLE, "anything": 1.5},
        "Mixed(recipes=[Recipe(litres=1, parts={})], table=<Dataset of 1 rows: tag str>, "
        "anything=1.5)",
        [
            ({"recipes": [{"litres": 1}, {"litres": []}]}, "payload['recipes'][1]['litres']", ""),
            ({"recipes": [], "table": {}}, "payload['table']", "Expected `Dataset`, got `dict`"),
        ],
    ),
    ("dict", {"a": 1}, "{'a': 1}", [(1, "payload", "Expected `object`, got `int`")]),
    ("list[int]", [1, 2**70], f"[1, {2**70}]", [([1, 1.0], "payload[1]", "Expected `int`")]),
    (
        "dict[int, dict[str, float]]",
        {1: {"a": 1}},
        "{1: {'a': 1.0}}",
        [({1: {"a": 1}, 2: {"b": 1, "c": "x"}}, "payload[2]['c']", "Expected `float`")],
    ),
    ("int | str", "a", "'a'", [(1.5, "payload", "Expected `int | str`, got `float`")]),
    ("Literal['a', 5]", 5, "5", [("b", "payload", "Invalid enum value 'b'")]),
    ("Annotated[str, msgspec.Meta(max_length=2)]", "ab", "'ab'", [("abc", "payload", "Expected")]),
    ("datetime.datetime", NOW, repr(NOW), [(1, "payload", "Expected `datetime`, got `int`")]),
    ("datetime.date", "2026-01-02", "datetime.date(2026, 1, 2)", [("x", "payload", "Invalid")]),
    ("datetime.time", dt.time(3), repr(dt.time(3)), []),
    ("datetime.timedelta", dt.timedelta(1), "datetime.timedelta(days=1)", []),
    ("decimal.Decimal", Decimal("1.50"), "Decimal('1.50')", [("x", "payload", "Invalid decimal")]),
    ("uuid.UUID", UUID(int=5), repr(UUID(int=5)), [("x", "payload", "Invalid UUID")]),
    ("bytes", b"a", "b'a'", [("YWI=", "payload", "Expected `bytes`, got `str`")]),
    ("set[int]", {1}, "{1}", [({"a"}, "payload{…}", "Expected `int`")]),
    ("frozenset[int]", frozenset({1}), "frozenset({1})", []),
    ("tuple[int, str]", (1, "a"), "(1, 'a')", [((1,), "payload", "Expected `array` of length 2")]),
    ("headgate.Dataset", TABLE, repr(TABLE), [([], "payload", "Expected `Dataset`, got `list`")]),
    ("list[numpy.ndarray]", [numpy.zeros(1)], "[array([0.])]", [([[0.0]], "payload[0]", "Expect")]),
]

IMPORTS = "import datetime, decimal, uuid, headgate, msgspec, numpy, pydantic\n"
IMPORTS += "from typing import Annotated, Any, Iterator, AsyncIterator, Literal\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[headgate.Gateway]:
    """A gateway with a handler for each annotation of the table, named by its number."""
    folder = tmp_path_factory.mktemp("typed")
    messages, library = folder / "P" / "messages", folder / "P" / "library"
    messages.mkdir(parents=True)
    library.mkdir()
    (library / "shapes.py").write_text(SHAPES)
    for number, (annotation, *_) in enumerate(TABLE_OF_TYPES):
        script = f"def handleMessage(payload: {annotation}):\n    return repr(payload)\n"
        # Every second one has annotations that are text.
        future = "from __future__ import annotations\n" if number % 2 else ""
        (messages / f"{number}.py").write_text(future + IMPORTS + script)
    with headgate.Gateway("hub", projects=folder, port=0, data=folder / "data") as gateway:
        assert gateway.problems == []
        yield gateway


def refused(request: headgate.Request) -> PayloadError:
    """The PayloadError that a request ends with."""
    with pytest.raises(PayloadError) as caught:
        request.get()
    return caught.value


@pytest.mark.parametrize("number", range(len(TABLE_OF_TYPES)), ids=[t[0] for t in TABLE_OF_TYPES])
def test_types(hub: headgate.Gateway, number: int) -> None:
    """What fits arrives as what is annotated; what does not is refused, and the place is told."""
    _, fits, shown, wrong = TABLE_OF_TYPES[number]
    ask = hub.scope("").request
    assert ask("P", str(number), fits).get() == shown
    for payload, place, text in wrong:
        error = refused(ask("P", str(number), payload))
        assert (error.place, error.started) == (place, False), error
        assert str(error).startswith(f"{place}: {text}")


HEAD = "def handleMessage(payload: list[int]) -> list[int]:"
FORMS = {
    "def": HEAD,
    "async": f"async {HEAD}",
    "process": f"import headgate\n@headgate.handler(runtime='process')\n{HEAD}",
}
needs_workers = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")
EVERY_FORM = ["def", "async", pytest.param("process", marks=needs_workers)]


class TestRuns:
    @pytest.mark.parametrize("form", EVERY_FORM)
    @pytest.mark.parametrize("where", ["client", "in process"])
    def test_a_handler_does_not_begin_with_a_wrong_payload(
        self, rig: Rig, form: str, where: str
    ) -> None:
        """The request ends with PayloadError, .started False and the fate "not started"."""
        began = rig.folder / "began"
        hub = rig.gateway({"P/test": f"{FORMS[form]}\n  open({str(began)!r}, 'w').close()"})
        scope = rig.client(hub) if where == "client" else hub.scope("")
        handle = scope.request("P", "test", [1, "2"])
        error = refused(handle)
        assert (error.place, error.started) == ("payload[1]", False)
        assert handle.wait_fate(10) == "not started"
        assert not began.exists()

    @pytest.mark.parametrize("form", EVERY_FORM)
    def test_a_wrong_result_is_the_handlers_mistake(self, rig: Rig, form: str) -> None:
        """The request ends with PayloadError, whose place begins with result; it has started."""
        hub = rig.gateway({"P/test": f"{FORMS[form]}\n  return [*payload, 'x']"})
        error = refused(rig.client(hub).request("P", "test", [1, 2]))
        assert (error.place, error.started) == ("result[2]", True)
        assert str(error) == "result[2]: Expected `int`, got `str`"

    @pytest.mark.parametrize("head", ["def", "async def"])
    def test_a_generator_ends_with_its_first_wrong_value(self, rig: Rig, head: str) -> None:
        """The values before it arrive; a wrong payload lets it not begin."""
        kind = "Iterator" if head == "def" else "AsyncIterator"
        script = f"{IMPORTS}{head} handleMessage(payload: list[Any]) -> {kind}[int]:"
        hub = rig.gateway({"P/test": f"{script}\n  for value in payload: yield value"})
        client = rig.client(hub)
        assert client.request("P", "test", [1, 2]).get() == [1, 2]
        arrived = []
        handle = client.request("P", "test", [1, 2, "x", 3])
        with pytest.raises(PayloadError, match=r"^result: Expected `int`, got `str`") as caught:
            arrived.extend(handle.stream())
        assert (arrived, caught.value.started) == ([1, 2], True)
        handle = client.request("P", "test", 5)
        with pytest.raises(PayloadError, match=r"^payload: Expected `array`") as caught:
            arrived.extend(handle.stream())
        assert caught.value.started is False

    @pytest.mark.parametrize("result", ["None", "None, 1"])
    def test_a_message_does_not_care_for_the_result(self, rig: Rig, result: str) -> None:
        """What the handler of a message returns is dropped, wrong or not."""
        script = f"{FORMS['def']}\n  system.util.globals['running'].put(payload)\n  return {result}"
        hub = rig.gateway({"P/test": script})
        rig.client(hub).message("P", "test", [7]).get()
        assert hub.globals["running"].get(timeout=20) == [7]

    def test_large_payloads_of_async_handlers_are_checked_beside_the_loop(self, rig: Rig) -> None:
        """The objects are made on another thread than that which the handler runs on."""
        script = """
            import threading, msgspec

            class Order(msgspec.Struct):
                text: str
                thread: int = 0

                def __post_init__(self):
                    self.thread = threading.get_ident()

            async def handleMessage(payload: Order) -> bool:
                return payload.thread == threading.get_ident()
            """
        ask = rig.gateway({"P/test": script}).scope("").request
        assert ask("P", "test", {"text": "x"}).get() is True
        assert ask("P", "test", {"text": "x" * 300_000}).get() is False

    @pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyError('k')", "KeyboardInterrupt()"])
    def test_a_class_that_raises_ends_its_request_only(self, rig: Rig, raised: str) -> None:
        """Whatever is raised while an object is made is a refusal, and the pool goes on."""
        script = f"""
            import msgspec

            class Order(msgspec.Struct):
                number: int

                def __post_init__(self):
                    if self.number:
                        raise {raised}

            def handleMessage(payload: Order):
                return payload.number
            """
        ask = rig.gateway({"P/test": script}).scope("").request
        for _ in range(20):
            error = refused(ask("P", "test", {"number": 1}))
            assert (error.place, error.started) == ("payload", False)
            assert raised.partition("(")[0] in str(error)
        assert ask("P", "test", {"number": 0}).get() == 0

    def test_one_that_is_refused_slowly_has_not_started(self, rig: Rig) -> None:
        """Nobody is told that a handler runs whose payload is still looked at."""
        script = """
            import msgspec

            class Order(msgspec.Struct):
                number: int

                def __post_init__(self):
                    system.util.globals["running"].put(self.number)
                    system.util.globals["go"].wait(20)
                    raise ValueError("no")

            def handleMessage(payload: Order):
                return payload.number
            """
        hub = rig.gateway({"P/test": script, "P/hold": rig.HOLD})
        client = rig.client(hub)
        slow = client.request("P", "test", {"number": 1})
        assert hub.globals["running"].get(timeout=20) == 1
        # What begins later is told later.
        other = client.request("P", "hold", 2)
        rig.until(lambda: other.started)
        hub.globals["go"].set()
        assert refused(slow).started is False

    def test_texts_are_bounded_and_can_be_sent(self, rig: Rig) -> None:
        """A payload cannot make the error's text long, nor unfit for the wire."""
        hub = rig.gateway(
            {
                "P/test": "import msgspec\nclass A(msgspec.Struct,"
                " forbid_unknown_fields=True): pass\ndef handleMessage(payload: A): pass"
            }
        )
        ask = rig.client(hub).request
        assert len(str(refused(ask("P", "test", {"x" * 100_000: 1})))) < 3000
        assert refused(ask("P", "test", {"\ud800": 1})).place == "payload"

    def test_nested_requests_tell_of_their_own_payload(self, rig: Rig) -> None:
        """A handler that sends a wrong payload to another one has failed itself."""
        call = "def handleMessage(payload): system.util.sendRequest('P', 'test', {'a': 'x'})"
        typed = "def handleMessage(payload: dict[str, int]): pass"
        hub = rig.gateway({"P/test": typed, "P/call": call})
        with pytest.raises(HandlerError, match=r"PayloadError: payload\['a'\]: Expected `int`"):
            rig.client(hub).request("P", "call").get()


def checked(result: str, returns: str, rig: Rig) -> RequestError | Any:
    """What comes of a handler that is annotated with one thing and returns another."""
    script = (
        f"{IMPORTS}import pandas\ndef handleMessage(payload) -> {result}:\n    return {returns}\n"
    )
    hub = rig.gateway({"P/test": script, "P/library/shapes.py": SHAPES})
    handle = rig.client(hub).request("P", "test")
    return handle.result() if handle.block() else handle.getError()


class TestResults:
    @pytest.mark.parametrize(
        ("annotation", "returns", "arrives"),
        [
            ("shapes.Line", "shapes.Line('a')", {"item": "a", "count": 1}),
            ("shapes.Line", "{'item': 'a'}", {"item": "a"}),
            (
                "list[shapes.Tank]",
                "[shapes.Tank('a')]",
                [{"name": "a", "level": 0.5, "inner": None}],
            ),
            ("shapes.Recipe", "shapes.Recipe(litres=1)", {"litres": 1, "parts": {}}),
            ("list[shapes.Recipe]", "[{'litres': 1}]", [{"litres": 1}]),
            ("shapes.Colour", "shapes.Colour.RED", "red"),
            ("None", "None", None),
            ("Any", "5", 5),
            ("int", "numpy.int16(3)", 3),
            ("dict[str, float]", "shapes.Limits(low=1.5)", {"low": 1.5}),
            ("decimal.DecimalTuple", "decimal.Decimal(1).as_tuple()", (0, (1,), 0)),
            ("headgate.Dataset", "pandas.DataFrame({'a': [1]})", Dataset(["a"], [[1]])),
            ("pandas.DataFrame", "pandas.DataFrame({'a': [1]})", Dataset(["a"], [[1]])),
        ],
    )
    def test_fits(self, rig: Rig, annotation: str, returns: str, arrives: Any) -> None:
        """What is returned is sent as it would be without the annotation."""
        assert checked(annotation, returns, rig) == arrives

    @pytest.mark.parametrize(
        ("annotation", "returns", "place"),
        [
            ("shapes.Line", "None", "result"),
            ("shapes.Line", "{'item': 'a', 'count': 'x'}", "result['count']"),
            ("None", "1", "result"),
            ("dict[str, shapes.Order]", "{'a': {'number': 1, 'tags': 'x'}}", "result['a']['tags']"),
            ("list[shapes.Recipe]", "[{'litres': 'x'}]", "result[0]['litres']"),
            ("int", "numpy.float64(3)", "result"),
            ("list[int]", "[1, object()]", "result[1]"),
            ("pandas.DataFrame", "headgate.Dataset(['a'], [[1]])", "result"),
        ],
    )
    def test_does_not_fit(self, rig: Rig, annotation: str, returns: str, place: str) -> None:
        """What is returned and does not fit is refused, with the place in the result."""
        error = checked(annotation, returns, rig)
        assert isinstance(error, PayloadError)
        assert (error.place, error.started) == (place, True), error

    @pytest.mark.parametrize(
        ("annotation", "value"),
        [("Iterator[int]", 1), ("Generator[int, None, str]", 1), ("Iterable", "x"), ("Any", "x")],
    )
    def test_each_value_of_a_generator_is_checked(self, annotation: str, value: Any) -> None:
        """For a function that yields, what is annotated is what it yields."""
        checks = read(f") -> {annotation}: yield 1", streams=True)
        for check in filter(None, [checks.result]):
            check(value)
            with pytest.raises(PayloadError, match=r"^result: Expected `int`"):
                check("x")
        assert (checks.result is None) == (annotation in ("Iterable", "Any"))


def read(rest: str, *, streams: bool = False, **names: Any) -> Any:
    """The checks of ``def handleMessage(payload`` and the rest."""
    scope: dict[str, Any] = dict(names)
    exec(f"from typing import *\ndef handleMessage(payload{rest}", scope)
    return read_annotations(scope["handleMessage"], streams=streams, file=Path("script.py"))


class TestLoading:
    @pytest.mark.parametrize(
        "parameters",
        ["payload", "payload: Any", "payload: object", "*arguments: int", "payload, context: Nope"],
    )
    def test_nothing_is_checked_where_nothing_is_annotated(
        self, tmp_path: Path, parameters: str
    ) -> None:
        """There is no check that could cost anything, and no schema."""
        future = "from __future__ import annotations\n"
        script = f"{future}{IMPORTS}def handleMessage({parameters}): 1"
        signature = load(tmp_path, script).signature
        assert (signature.check, signature.check_result, signature.schema) == (None, None, None)

    @pytest.mark.parametrize(
        ("annotation", "problem", "cure"),
        [
            ("Nope", "'Nope' of the payload cannot be resolved: name 'Nope'", "TYPE_CHECKING"),
            ("list[Nope]", "name 'Nope' is not defined", "TYPE_CHECKING"),
            ("5 +", "cannot be resolved", ""),
            ("pathlib.Path", "No payload arrives as pathlib.Path", "leave the annotation out"),
            ("list[complex]", "No payload arrives as builtins.complex", "dataclass"),
            ("dict[str, int] | dict[str, str]", "more than one dict type", "leave"),
            ("Own", "No payload arrives as ", "msgspec Struct"),
            ("Holder", "No payload arrives as ", "msgspec Struct"),
            ("Later", "cannot be checked: name 'Missing' is not defined", ""),
            ("Lines", "Line is a dataclass of pydantic inside a msgspec Struct", "BaseModel"),
            ("Laters", "cannot be checked", ""),
        ],
    )
    def test_an_annotation_that_cannot_be_used_is_a_problem(
        self, tmp_path: Path, annotation: str, problem: str, cure: str
    ) -> None:
        """The problem names the script, the line, what is wrong, and what to write instead."""
        script = f"""
            import dataclasses, msgspec, pathlib, pydantic

            class Own: pass
            class Later(pydantic.BaseModel): number: "Missing"
            @pydantic.dataclasses.dataclass
            class Line: number: int
            class Lines(msgspec.Struct): line: list[Line]
            class Laters(msgspec.Struct): later: Later

            @dataclasses.dataclass
            class Holder:
                own: Own | None

            def handleMessage(payload: {annotation!r}):
                pass
            """
        (found,) = problems(tmp_path, script)
        assert problem in found.what
        assert cure in found.cure
        assert (Path(found.file).name, found.line) == ("test.py", 15)

    def test_a_generator_that_is_annotated_as_none_is_a_problem(self, tmp_path: Path) -> None:
        """The problem says what to write."""
        (found,) = problems(tmp_path, "def handleMessage(payload) -> list[int]:\n    yield 1")
        assert found.what == "list[int] is not what a function that yields returns"
        assert "Iterator[…]" in found.cure

    def test_a_generation_that_is_over_still_checks(self, tmp_path: Path) -> None:
        """What runs on an old generation needs nothing of its modules any more."""
        script = "from __future__ import annotations\ndef handleMessage(payload: shapes.Order): 1"
        check = load(tmp_path, script).signature.check
        assert check({"number": 1, "lines": [{"item": "a"}]}).lines[0].count == 1
        with pytest.raises(PayloadError):
            check({"number": 1, "lines": [{"item": 1}]})

    def test_pydantic_is_imported_by_its_users_alone(self, tmp_path: Path) -> None:
        """A script without pydantic is loaded, checks and has a schema without it."""
        script = tmp_path / "test.py"
        script.write_text("def handleMessage(payload: list[int]) -> dict[str, int]: 1")
        program = f"""
            import sys
            from pathlib import Path
            from headgate.projects.library import Library
            from headgate.projects.script import load_function, read_script
            library = Library("P", [], system=None)
            _, signature = load_function(read_script(Path({str(script)!r})), "test", library)
            assert signature.check([1]) == [1] and signature.schema
            assert "pydantic" not in sys.modules
            """
        subprocess.run([sys.executable, "-c", dedent(program)], check=True)


def write(folder: Path, script: str) -> Any:
    """A generation of a project with one handler, and the library of this page."""
    for place, text in {"messages/test.py": dedent(script), "library/shapes.py": SHAPES}.items():
        file = folder / "projects" / "P" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return load_projects(find_projects(folder / "projects"), system=lambda project: None)


def load(folder: Path, script: str) -> Any:
    """The handler, when its generation is over."""
    projects = write(folder, script)
    assert projects.problems == []
    handler = projects["P"].handlers["test"]
    projects.close()
    return handler


def problems(folder: Path, script: str) -> Any:
    """What is wrong with the handler."""
    projects = write(folder, script)
    projects.close()
    return projects.problems


# --- schemas -------------------------------------------------------------------------------------


class TestSchemas:
    def test_schemas_are_told_when_they_are_asked_for(self, rig: Rig) -> None:
        """The gateway tells them beside the other facts of a handler, and only then."""
        script = f"{IMPORTS}def handleMessage(payload: shapes.Line) -> list[int]: return []"
        hub = rig.gateway({"P/test": script, "P/plain": rig.ECHO, "P/library/shapes.py": SHAPES})
        ask = rig.client(hub).request
        assert all("schema" not in row for row in ask("@gateway", "handlers").get())
        plain, typed = ask("@gateway", "handlers", {"schema": True}).get()
        assert (plain["handler"], plain["schema"]) == ("plain", None)
        assert typed["schema"]["result"] == {"type": "array", "items": {"type": "integer"}}
        line = typed["schema"]["payload"]["$defs"]["Line"]
        assert line["required"] == ["item"]
        assert line["properties"]["count"] == {"type": "integer", "minimum": 1, "default": 1}

    @needs_workers
    def test_a_worker_tells_the_schema_of_its_handlers(self, rig: Rig) -> None:
        """It is the same as that of a handler in the gateway's process."""
        hub = rig.gateway({"P/thread": FORMS["def"] + " 1", "P/process": FORMS["process"] + " 1"})
        rows = rig.client(hub).request("@gateway", "handlers", {"schema": True}).get()
        process, thread = (row["schema"] for row in rows)
        assert process == thread
        assert process.keys() == {"payload", "result"}

    def test_rows_are_narrowed_by_name(self, rig: Rig) -> None:
        """A project and a handler in the payload leave the other rows out."""
        hub = rig.gateway(dict.fromkeys(["A/x", "A/y", "B/x"], rig.ECHO))
        ask = rig.client(hub).request

        def told(**named: str) -> list[str]:
            rows = ask("@gateway", "handlers", named).get()
            return [f"{row['project']}/{row['handler']}" for row in rows]

        assert told(project="A") == ["A/x", "A/y"]
        assert told(handler="x") == ["A/x", "B/x"]
        assert told(project="A", handler="y") == ["A/y"]
        assert told(project="C") == []

    def test_who_may_not_see_a_handler_does_not_see_its_schema(self, rig: Rig) -> None:
        """Schemas follow the rules for the list of handlers."""
        policy = RulePolicy(
            [Permission(allow=False, handlers=("P/secret",)), Permission(allow=True)]
        )
        typed = "def handleMessage(payload: list[int]): 1"
        hub = rig.gateway({"P/open": typed, "P/secret": typed}, policy=policy)
        rows = rig.client(hub).request("@gateway", "handlers", {"schema": True}).get()
        assert [row["handler"] for row in rows] == ["open"]

    def test_what_payloads_carry_has_schemas(self, tmp_path: Path) -> None:
        """Tables, models inside Structs, and what JSON has no form for."""
        script = "def handleMessage(payload: shapes.Mixed): 1"
        told = load(tmp_path, script).signature.schema["payload"]
        anything = told["$defs"]["Mixed"]["properties"]["anything"]
        assert anything == {"description": "anything", "default": None}
        table, _ = told["$defs"]["Mixed"]["properties"]["table"]["anyOf"]
        assert table["properties"].keys() == {"columns", "rows"}
        deep = read(": Deep): 1", Deep=msgspec.defstruct("Deep", [("m", Outer)])).schema["payload"]
        assert deep["$defs"]["Deep"]["properties"]["m"]["properties"]["inner"] == {
            "$ref": "#/$defs/Inner"
        }
        assert deep["$defs"]["Inner"]["required"] == ["number"]
        odd = msgspec.defstruct("Odd", [("table", Any, TABLE)])
        assert "no schema" in read(": Odd): 1", Odd=odd).schema["payload"]["$comment"]

    def test_results_of_pydantic_are_told_as_they_arrive(self) -> None:
        """A result has names of fields where a payload has aliases."""
        checks = read(": Aliased) -> Aliased: 1", Aliased=Aliased)
        assert list(checks.schema["payload"]["properties"]) == ["orderNumber"]
        assert list(checks.schema["result"]["properties"]) == ["number"]


class Inner(pydantic.BaseModel):
    number: int


class Outer(pydantic.BaseModel):
    inner: Inner


class Aliased(pydantic.BaseModel):
    number: int = pydantic.Field(alias="orderNumber")


# --- places --------------------------------------------------------------------------------------


@dataclass
class Tree:
    """A type, a value of it, and the ways to the value's leaves: each the keys and indexes."""

    kind: Any
    value: Any
    leaves: list[tuple[Any, ...]] = field(default_factory=lambda: [()])

    @staticmethod
    def of(kind: Any, value: Any, parts: list[tuple[Any, Tree]]) -> Tree:
        return Tree(kind, value, [(at, *leaf) for at, part in parts for leaf in part.leaves])


LEAVES = st.sampled_from(
    [Tree(int, 1), Tree(str, "a"), Tree(bool, True), Tree(float, 1.5), Tree(dt.datetime, NOW)]
)
KEYS = {str: st.text(st.characters(codec="utf-8"), max_size=5), int: st.integers(-9, 2**70)}
NAMES = st.lists(st.from_regex(r"f[a-z]{0,3}", fullmatch=True), min_size=1, max_size=4, unique=True)


def record(kinds: dict[str, Any], form: str) -> Any:
    """A class with fields."""
    if form == "struct":
        return msgspec.defstruct("Record", list(kinds.items()))
    if form == "model":
        return pydantic.create_model(
            "Record", **{name: (kind, ...) for name, kind in kinds.items()}
        )
    return make_dataclass("Record", list(kinds.items()))


@st.composite
def containers(draw: Any, inner: st.SearchStrategy[Tree], forms: tuple[str, ...]) -> Tree:
    """A list, tuple, dictionary or object of what stands inside."""
    form = draw(st.sampled_from(["list", "tuple", "dict", *forms]))
    if form == "tuple":
        parts = draw(st.lists(inner, min_size=1, max_size=3))
        kind = tuple[tuple(part.kind for part in parts)]  # type: ignore[misc]
        return Tree.of(kind, tuple(part.value for part in parts), [*enumerate(parts)])
    if form in forms:
        fields = {name: draw(inner) for name in draw(NAMES)}
        kind = record({name: part.kind for name, part in fields.items()}, form)
        value = {name: part.value for name, part in fields.items()}
        return Tree.of(kind, value, [*fields.items()])
    part = draw(inner)
    if form == "list":
        count = draw(st.integers(1, 4))
        return Tree.of(list[part.kind], [part.value] * count, [(at, part) for at in range(count)])
    by = draw(st.sampled_from([*KEYS]))
    keys = draw(st.lists(KEYS[by], min_size=1, max_size=6, unique=True))
    value = dict.fromkeys(keys, part.value)
    return Tree.of(dict[by, part.kind], value, [(key, part) for key in keys])  # type: ignore[valid-type]


def trees(*forms: str) -> st.SearchStrategy[Tree]:
    """Types of several levels with values."""
    return st.recursive(LEAVES, lambda inner: containers(inner, forms), max_leaves=8)


def with_wrong(value: Any, way: tuple[Any, ...], wrong: Any) -> Any:
    """A copy of a value with something else at one leaf."""
    if not way:
        return wrong
    changed = with_wrong(value[way[0]], way[1:], wrong)
    if isinstance(value, dict):
        return {**value, way[0]: changed}
    return type(value)((*value[: way[0]], changed, *value[way[0] + 1 :]))


def leads_there(tree: Tree, way: tuple[Any, ...]) -> None:
    def handle(payload: Any) -> None:
        pass

    handle.__annotations__["payload"] = tree.kind
    check = read_annotations(handle, streams=False, file=Path("x")).payload
    assert check is not None
    check(tree.value)
    wrong: list[Any] = []
    payload = with_wrong(tree.value, way, wrong)
    with pytest.raises(PayloadError) as caught:
        check(payload)
    assert eval(caught.value.place, {"payload": payload}) is wrong


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_the_place_leads_to_what_is_wrong(data: st.DataObject) -> None:
    """Python reads the place as the wrong value, wherever in the payload that is."""
    tree = data.draw(trees("struct", "dataclass"))
    leads_there(tree, data.draw(st.sampled_from(tree.leaves)))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_place_leads_there_for_pydantic_too(data: st.DataObject) -> None:
    """So it does where pydantic checks: the outermost is a model."""
    inner = data.draw(trees("model"))
    tree = Tree.of(record({"fa": inner.kind}, "model"), {"fa": inner.value}, [("fa", inner)])
    leads_there(tree, data.draw(st.sampled_from(tree.leaves)))


@pytest.mark.parametrize("nest", [1, 2, 3])
def test_finding_the_place_costs_little(nest: int) -> None:
    """A few times as many objects are made as the payload has, wherever the wrong one is."""
    made = []

    class Leaf(msgspec.Struct):
        number: int

        def __post_init__(self) -> None:
            made.append(self)

    kind: Any = Leaf
    for _ in range(nest):
        kind = dict[str, kind]
    width = {1: 1000, 2: 32, 3: 10}[nest]

    def built(levels: int) -> Any:
        return {str(at): built(levels - 1) for at in range(width)} if levels else {"number": 1}

    payload = wrong = built(nest)
    for _ in range(nest):
        wrong = wrong[str(width - 1)]
    wrong["number"] = "x"
    check = read(": Kind): 1", Kind=kind).payload
    with pytest.raises(PayloadError) as caught:
        check(payload)
    assert caught.value.place == f"payload{f'[{str(width - 1)!r}]' * nest}['number']"
    assert len(made) < 4 * width**nest


def test_a_dictionary_that_must_have_more_entries_is_named_as_a_whole() -> None:
    """The one place that is not found: without the other entries there is another mistake."""
    kind = Annotated[dict[str, int], msgspec.Meta(min_length=3)]
    check = read(": Kind): 1", Kind=msgspec.defstruct("Kind", [("d", kind)])).payload
    with pytest.raises(PayloadError, match=r"^payload\['d'\]: Expected `int`, got `str`$"):
        check({"d": {"a": 1, "b": 2, "c": "x"}})
