"""Order, priorities and full queues, in every runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import DeadlockError, Overloaded, PayloadError

if TYPE_CHECKING:
    from conftest import Rig

HAS_WORKERS = all(
    importlib.util.find_spec(name) for name in ("headgate.worker", "headgate.runtimes.process")
)
"""Whether there is a runtime of processes, so that its rows count."""

RUNTIMES = {
    "thread": ("", "", "time.sleep"),
    "async": ("", "async ", "await asyncio.sleep"),
}
"""
What its name means in a script: settings, what stands before ``def``, how to sleep.

What handlers do stands in a file, so they may as well run in other processes.
"""
if HAS_WORKERS:
    RUNTIMES["process"] = ('runtime="process"', "", "time.sleep")

SCRIPT = """
import asyncio, os, time
import headgate

@headgate.handler({settings})
{way}def handleMessage(payload):
    with open(payload["journal"], "a") as journal:
        journal.write("begin {version}%s\\n" % payload["name"])
    try:
        {before}
        while payload["holds"] and not os.path.exists(payload["go"]):
            {sleep}(0.001)
    finally:
        with open(payload["journal"], "a") as journal:
            journal.write("end {version}%s\\n" % payload["name"])
    return payload["name"]
"""

NESTED = """
if payload["calls"]:
    nested = dict(payload, calls=False, name="nested", **payload["calls"])
    try:
        handle = system.util.sendRequestAsync("ACME", "work", nested)
        {result}
    except Exception as error:
        return type(error).__name__
"""


class Works:
    """A gateway with a handler ``work`` and its journal."""

    def __init__(self, rig: Rig, runtime: str, settings: str) -> None:
        self.rig = rig
        self.runtime = runtime
        self.journal = rig.folder / "journal"
        self.journal.touch()
        scripts = {"ACME/work": self.script(settings)}
        if runtime == "process":
            # A handler has all workers but one.
            scripts["ACME/project.toml"] = "[pool]\nworkers = 5\n"
        self.hub = rig.gateway(scripts)
        self.client = rig.client(self.hub)

    def script(self, settings: str, *, version: str = "", before: str = "pass") -> str:
        own, way, sleep = RUNTIMES[self.runtime]
        before = indent(dedent(before).strip(), " " * 8).strip()
        settings = ", ".join(filter(None, [own, settings]))
        return SCRIPT.format(
            settings=settings, way=way, sleep=sleep, version=version, before=before
        )

    def reload(self, script: str) -> None:
        (self.rig.folder / "hub/projects/ACME/messages/work.py").write_text(script)
        assert not self.hub.reload().problems

    def ask(
        self,
        name: Any,
        line: Any = "a",
        *,
        holds: bool = False,
        client: headgate.Client | None = None,
        priority: Any = None,
        **more: Any,
    ) -> Any:
        """Ask; with ``holds`` it runs until `go`."""
        payload = self.payload(name, line, holds=holds, **more)
        return (client or self.client).request("ACME", "work", payload, priority=priority)

    def payload(self, name: Any, line: Any, **more: Any) -> dict[str, Any]:
        return {
            "name": str(name),
            "line": line,
            "holds": False,
            "journal": str(self.journal),
            "go": str(self.rig.folder / "go"),
            "calls": None,
            **more,
        }

    def hold(self, name: Any, line: Any = "a", **options: Any) -> Any:
        """Ask, and return when it runs."""
        handle = self.ask(name, line, holds=True, **options)
        self.rig.until(lambda: f"begin {name}" in self.lines())
        return handle

    def waiting(self, count: int) -> None:
        self.rig.until(lambda: self.hub.stats()["handlers_queued"] == count)

    def go(self) -> None:
        Path(self.rig.folder / "go").touch()

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()

    def begun(self) -> list[str]:
        return [line.removeprefix("begin ") for line in self.lines() if line.startswith("begin")]


@pytest.fixture(params=sorted(RUNTIMES))
def works(rig: Rig, request: pytest.FixtureRequest) -> Callable[..., Works]:
    """Make a gateway whose handler runs in one of the runtimes."""
    return lambda settings: Works(rig, request.param, settings)


def in_turn(names: list[str]) -> list[str]:
    """What the journal has of runs one after the other."""
    return [f"{word} {name}" for name in names for word in ("begin", "end")]


BY_LINE = 'order_by="line"'


class TestByAKey:
    def test_one_after_the_other_in_the_order_of_arrival(self, works: Any) -> None:
        """Those of one line run in order, whoever asks for them and however."""
        acme = works(BY_LINE)
        other = acme.rig.client(acme.hub)
        first = acme.hold("a0", "a")
        handles = [first]
        for number in range(1, 20):
            client, priority = [(None, "low"), (other, "high")][number % 2]
            handles.append(acme.ask(f"a{number}", "a", client=client, priority=priority))
            acme.waiting(number)
        acme.go()
        assert [handle.get() for handle in handles] == [f"a{number}" for number in range(20)]
        assert acme.lines() == in_turn([f"a{number}" for number in range(20)])

    def test_others_run_beside_them(self, works: Any) -> None:
        """A line that stands holds up no other one."""
        acme = works(BY_LINE)
        held = [acme.hold(name, name) for name in "abc"]
        behind = [acme.ask(name + "2", name) for name in "abc"]
        acme.waiting(3)
        assert acme.ask("d", "d").get() == "d"
        acme.go()
        assert [handle.get() for handle in (*held, *behind)] == ["a", "b", "c", "a2", "b2", "c2"]
        for name in "abc":
            own = [line for line in acme.lines() if f" {name}" in line]
            assert own == in_turn([name, name + "2"])

    def test_equal_is_what_python_says(self, works: Any) -> None:
        """1, 1.0 and True are one line, "1" is another one."""
        acme = works(BY_LINE)
        held = acme.hold("one", 1)
        behind = [acme.ask("float", 1.0), acme.ask("bool", True)]
        acme.waiting(2)
        assert acme.ask("text", "1").get() == "text"
        acme.go()
        assert [handle.get() for handle in (held, *behind)] == ["one", "float", "bool"]

    def test_the_handlers_own_limit_holds_too(self, works: Any) -> None:
        """Lines wait for the handler's concurrency as single calls do."""
        acme = works(BY_LINE + ", concurrency=2")
        held = [acme.hold(name, name) for name in "ab"]
        behind = [acme.ask(f"{name}{n}", name) for n in (1, 2) for name in "abc"]
        acme.waiting(6)
        assert acme.begun() == ["a", "b"]
        acme.go()
        for handle in (*held, *behind):
            handle.get()
        begun = acme.begun()
        for name in "abc":
            assert [each for each in begun if each[0] == name and each[1:]] == [
                name + "1",
                name + "2",
            ]

    def test_what_waits_for_its_line_counts_for_the_queue(self, works: Any) -> None:
        """A full queue is full, whatever its calls wait for; who comes later is told when."""
        acme = works(BY_LINE + ", concurrency=1, queue=2")
        held = acme.hold("a0")
        behind = [acme.ask(f"a{number}") for number in (1, 2)]
        acme.waiting(2)
        error = acme.ask("b", "b").getError()
        assert isinstance(error, Overloaded)
        assert error.started is False
        assert error.retry_after is None
        behind[0].cancel()
        acme.waiting(1)
        behind.append(acme.ask("a3"))
        acme.go()
        assert [handle.get() for handle in (held, *behind[1:])] == ["a0", "a2", "a3"]
        assert acme.lines() == in_turn(["a0", "a2", "a3"])

    def test_one_that_is_cancelled_keeps_its_line_until_it_is_over(self, works: Any) -> None:
        """A thread cannot be stopped, so what is behind it waits; others are over at once."""
        acme = works(BY_LINE)
        held = acme.hold("a0")
        behind = [acme.ask("a1"), acme.ask("a2")]
        acme.waiting(2)
        held.cancel()
        behind[0].cancel()
        assert acme.ask("b", "b").get() == "b"
        if acme.runtime == "thread":
            acme.waiting(1)
            assert "end a0" not in acme.lines()
            acme.go()
        assert behind[1].get() == "a2"
        # A worker that is killed writes nothing any more.
        first = ["begin a0"] if acme.runtime == "process" else in_turn(["a0"])
        assert [line for line in acme.lines() if " a" in line] == [*first, *in_turn(["a2"])]

    def test_a_payload_without_a_key(self, works: Any) -> None:
        """It is refused before it begins, and the error names the place."""
        acme = works(BY_LINE)
        for payload in (None, [1], "text", {"Line": 1}, {"line": [1]}):
            error = acme.client.request("ACME", "work", payload).getError()
            assert isinstance(error, PayloadError), payload
            assert error.started is False
            assert error.place == "payload['line']"
            assert "payload['line']" in str(error)


LARGE = b"x" * (1024 * 1024)
"""So large a payload is read beside the event loop."""


class TestLargePayloads:
    def test_nobody_overtakes_one_while_it_is_read(self, works: Any) -> None:
        """What arrives behind a large payload waits until it is known what that waits for."""
        acme = works(BY_LINE)
        # From the gateway itself: over a connection small requests overtake parts of large ones.
        ask = acme.hub.system.util.sendRequestAsync
        handles = [
            ask("ACME", "work", acme.payload(f"a{number}", "a", more=LARGE if large else b""))
            for number, large in enumerate([True, False, False] * 5)
        ]
        handles.append(ask("ACME", "work", acme.payload("b", "b")))
        handles[6].cancel()
        for handle in (*handles[:6], *handles[7:]):
            handle.get()
        own = [line for line in acme.lines() if not line.endswith((" a6", " b"))]
        assert own == in_turn([f"a{number}" for number in range(15) if number != 6])

    def test_one_without_a_key(self, works: Any) -> None:
        """It is refused as a small one is, and nothing is left of it."""
        acme = works(BY_LINE)
        for payload in ({"a": LARGE}, [LARGE], {"a": LARGE, "line": {}}):
            error = acme.client.request("ACME", "work", payload).getError()
            assert isinstance(error, PayloadError)
            assert error.started is False
            assert error.place == "payload['line']"
            assert acme.ask("a").get() == "a"


class TestDeadlock:
    @pytest.mark.parametrize("more", [b"", LARGE], ids=["small", "large"])
    @pytest.mark.parametrize(("line", "told"), [("a", "DeadlockError"), ("b", "nested")])
    def test_waiting_for_ones_own_line(self, works: Any, line: str, told: str, more: bytes) -> None:
        """Who waits for what waits behind it is told at once; another line is no deadlock."""
        acme = works(BY_LINE)
        result = "return await handle" if acme.runtime == "async" else "return handle.get()"
        acme.reload(acme.script(BY_LINE, before=NESTED.format(result=result)))
        outer = acme.ask("outer", "a", calls={"line": line, "more": more})
        assert outer.get() == told

    def test_the_error_tells_of_the_order(self, rig: Rig) -> None:
        """More concurrency alone is no cure where calls are kept in order."""
        script = "import headgate\n@headgate.handler(order_by='line')\n"
        script += "def handleMessage(payload):\n"
        script += "    return system.util.sendRequest('ACME', 'work', payload)\n"
        hub = rig.gateway({"ACME/work": script})
        error = hub.scope("").request("ACME", "work", {"line": 1}).getError()
        assert "(calls of one 'line' run one after the other)" in str(error)

    def test_between_two_lines(self, works: Any) -> None:
        """Two that ask for each other's lines: one of them is told."""
        acme = works(BY_LINE)
        result = "return await handle" if acme.runtime == "async" else "return handle.get()"
        wait = "while os.path.getsize(payload['journal']) < len('begin a begin b '):\n"
        own = RUNTIMES[acme.runtime][2]
        before = wait + f"    {own}(0.001)\n" + dedent(NESTED.format(result=result))
        acme.reload(acme.script(BY_LINE, before=before))
        handles = [acme.ask(a, a, calls={"line": b}) for a, b in ("ab", "ba")]
        assert sorted(handle.get() for handle in handles) == [DeadlockError.__name__, "nested"]


class TestReload:
    @pytest.mark.parametrize(
        ("before", "after"),
        [(BY_LINE, BY_LINE), ("concurrency=1", BY_LINE), (BY_LINE, BY_LINE + ", concurrency=2")],
        ids=["kept", "gained", "limited"],
    )
    def test_the_order_holds_across_generations(self, works: Any, before: str, after: str) -> None:
        """Nothing begins before what ran before it is over, in the generation before too."""
        acme = works(before)
        held = acme.hold("a0")
        handles = [acme.ask(f"a{number}") for number in range(1, 8)]
        acme.waiting(7)
        acme.reload(acme.script(after, version="new-"))
        handles += [acme.ask(f"a{number}") for number in range(8, 12)]
        acme.waiting(11)
        assert acme.begun() == ["a0"]
        acme.go()
        for handle in (held, *handles):
            handle.get()
        assert acme.lines() == in_turn(["a0", *(f"new-a{number}" for number in range(1, 12))])

    def test_a_handler_that_loses_its_order(self, works: Any) -> None:
        """What waited for its line begins beside what runs."""
        acme = works(BY_LINE)
        held = acme.hold("a0")
        handles = [acme.ask(f"a{number}") for number in range(1, 4)]
        acme.waiting(3)
        acme.reload(acme.script("", version="new-"))
        assert [handle.get() for handle in handles] == ["a1", "a2", "a3"]
        acme.go()
        assert held.get() == "a0"

    def test_what_waits_and_has_no_such_key(self, works: Any) -> None:
        """It ends as it would have, had it come now."""
        acme = works("concurrency=1")
        held = acme.hold("a0")
        lacks, has = acme.ask("a1"), acme.ask("a2", other=5)
        acme.waiting(2)
        acme.reload(acme.script('order_by="other"', version="new-"))
        error = lacks.getError()
        assert isinstance(error, PayloadError)
        assert error.started is False
        acme.go()
        assert (held.get(), has.get()) == ("a0", "a2")


class TestDedicated:
    def test_the_order_of_arrival_over_all(self, works: Any) -> None:
        """Neither sessions nor priorities have turns where everything is in order."""
        acme = works('threading="Dedicated"')
        other = acme.rig.client(acme.hub)
        handles = [acme.hold("0")]
        for number in range(1, 30):
            client, priority = (None, "low") if number % 3 else (other, "high")
            handles.append(acme.ask(number, client=client, priority=priority))
            acme.waiting(number)
        acme.go()
        for handle in handles:
            handle.get()
        assert acme.lines() == in_turn([str(number) for number in range(30)])

    def test_what_waits_when_a_handler_becomes_so(self, works: Any) -> None:
        """The order of arrival counts for it as for what comes later."""
        acme = works("concurrency=1")
        other = acme.rig.client(acme.hub)
        handles = [acme.hold("0")]
        for number in range(1, 10):
            if number == 5:
                acme.reload(acme.script('threading="Dedicated"'))
            handles.append(acme.ask(number, client=None if number % 3 else other))
            acme.waiting(number)
        acme.go()
        for handle in handles:
            handle.get()
        assert acme.lines() == in_turn([str(number) for number in range(10)])


class TestPriorities:
    def test_higher_ones_begin_before_lower_ones(self, works: Any) -> None:
        """Of what waits the high ones begin first, then the normal ones; each eighth is lower."""
        acme = works("concurrency=1")
        handles = [acme.hold("held")]
        for number in range(8):
            for priority in ("low", "normal", "high"):
                handles.append(acme.ask(f"{priority}{number}", priority=priority))
        acme.waiting(24)
        acme.go()
        for handle in handles:
            handle.get()
        begun = acme.begun()[1:]
        high, normal, low = (
            [f"{priority}{number}" for number in range(8)] for priority in ("high", "normal", "low")
        )
        assert begun == [*high[:7], "normal0", "high7", *normal[1:7], "low0", "normal7", *low[1:]]

    def test_in_the_pool(self, rig: Rig) -> None:
        """Calls of any handler that wait for a thread go by priority, also those of one session."""
        acme = Works(rig, "thread", "")
        handles = [acme.hold(f"held{number}") for number in range(8)]
        for number in range(40):
            for priority in ("low", "normal", "high"):
                handles.append(acme.ask(f"{priority}{number}", priority=priority))
        acme.waiting(120)
        acme.go()
        for handle in handles:
            handle.get()
        begun = acme.begun()[8:]

        def middle(priority: str) -> float:
            return sum(begun.index(f"{priority}{number}") for number in range(40)) / 40

        assert middle("high") < 40 < middle("normal") < 80 < middle("low")
        # Some of the lower ones were not left for the end.
        assert min(begun.index(f"low{number}") for number in range(40)) < 80


class TestRetryAfter:
    def test_who_is_refused_is_told_when_there_is_room(self, works: Any) -> None:
        """When runs have ended, the time is known in which the next ones do."""
        acme = works("concurrency=1, queue=1")
        held = acme.hold("first")
        behind = acme.ask("second")
        acme.waiting(1)
        unknown = acme.ask("x").getError()
        acme.go()
        assert (held.get(), behind.get()) == ("first", "second")
        acme.rig.settle(acme.hub)
        (acme.rig.folder / "go").unlink()
        held, behind = acme.hold("third"), acme.ask("fourth")
        acme.waiting(1)
        known = acme.ask("x").getError()
        acme.go()
        assert (held.get(), behind.get()) == ("third", "fourth")
        assert unknown.retry_after is None
        assert 0.05 <= known.retry_after <= 60.0
        assert "2 calls of ACME/work" in str(known)
