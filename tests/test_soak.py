"""The soak, short, and the judgements that it rests on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="The soak needs /proc and Linux's sockets"
)

if sys.platform.startswith("linux"):
    from soak import journal
    from soak.account import Account
    from soak.flat import Figure, Point, judge
    from soak.gateway import Life
    from soak.payloads import Payloads, differs
    from soak.plan import KINDS
    from soak.rows import CODES, FATES, ROW, STARTED

pytestmark = [linux, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[1]


def soak(*options: str, module: str = "soak") -> subprocess.CompletedProcess[str]:
    """Run a soak as `make soak` does."""
    places = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=150,
    )


class TestSoak:
    def test_every_request_is_accounted_for(self) -> None:
        """64 clients, cut connections, restarts, edits: each request ends once, and truthfully."""
        done = soak("--seconds", "10")
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert "soak passed" in done.stdout

    def test_a_broken_promise_is_found(self) -> None:
        """A client that calls lost requests "not started" is convicted by the handlers' journal."""
        small = ["--seconds", "1", "--processes", "2", "--clients", "8"]
        done = soak(*small, "--plant", "untruthful")
        assert done.returncode == 1, done.stdout[-8000:] + done.stderr[-2000:]
        assert ".started is False, and the handler ran" in done.stdout

    def test_nothing_is_left_of_workers_that_are_killed(self) -> None:
        """Of requests that crash, hang or are cancelled each has its end, and all processes go."""
        done = soak("--requests", "300", module="soak.kills")
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        ends = {"result", "HandlerKilled", "RequestTimeout", "CancellationException"}
        assert all(f"'{end}': " in done.stdout for end in ends)


class Books:
    """A ledger and a journal of the test's own writing."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._numbers = count(1)
        monkeypatch.setenv(journal.FOLDER, str(folder))
        monkeypatch.setattr(journal, "_open", [])

    def request(
        self,
        code: str,
        *events: int,
        started: bool | None = True,
        fate: str = "finished",
        life: int = 1,
        overdue: float = 0.0,
        waited: float = 0.0,
    ) -> None:
        """Book a request that ended so, and what its handler wrote."""
        number = next(self._numbers)
        identity = f"{7:08x}{life:06x}{1:06x}{number:012x}"
        for event in events:
            context = SimpleNamespace(request_id=identity)
            journal.note(event, {"id": [1, number]}, context)
        row = ROW.pack(
            number,
            KINDS.index(next(kind for kind in KINDS if kind.name == "echo")),
            CODES.index(code),
            STARTED.index(started),
            FATES.index(fate),
            bytes.fromhex(identity),
            0.0,
            time.monotonic() + waited,
            1e12 - overdue,
        )
        with open(self._folder / "ledger-1", "ab") as file:
            file.write(row)

    def problems(self, *, made: int = 1) -> list[str]:
        """Hold one against the other; the gateway's first life was killed, the second was not."""
        lives = [Life(f"{0:06x}", "killed"), Life(f"{1:06x}", "")]
        return Account(self._folder, lives=lives, made={1: made}).problems()


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """Books with nothing in them."""
    yield Books(tmp_path, monkeypatch)
    for descriptor in journal._open:
        os.close(descriptor)


class TestAccount:
    def test_a_proper_request_is_no_problem(self, books: Books) -> None:
        """It is booked once, its handler ran once, and both say the same."""
        books.request("ok", journal.BEGUN, journal.RETURNED)
        assert books.problems() == []

    @pytest.mark.parametrize(
        ("finding", "code", "events", "more"),
        [
            ("a handler ran twice", "ok", [1, 2, 1, 2], {}),
            ("the handler did not return", "ok", [1], {}),
            ("the handler did not return", "ok", [], {"life": 0}),
            ("is False, and the handler ran", "connection_lost", [1], {"started": False}),
            ("is True, and the handler did not run", "timeout", [], {"fate": "unknown"}),
            ("an answer was lost", "timeout", [1, 2], {"waited": 10.0}),
            ("an answer was lost", "connection_lost", [1, 2], {"waited": 10.0}),
            ("began after the deadline", "timeout", [1], {"overdue": 1e12, "fate": "unknown"}),
            ("fate is 'not started', and", "cancelled", [1, 2], {"fate": "not started"}),
            ("fate is 'finished', and", "cancelled", [1], {}),
            ("fate is 'stopped', and", "cancelled", [1, 2], {"fate": "stopped"}),
            ("had 0 ends", "ok", [1, journal.INNER_MADE, journal.INNER_BEGUN, 2], {}),
            ("had 2 ends", "ok", [1, journal.INNER_MADE, 7, 8, 2], {}),
        ],
    )
    def test_a_broken_promise_is_a_problem(
        self, books: Books, finding: str, code: str, events: list[int], more: dict[str, object]
    ) -> None:
        """Whatever the callers and the handlers tell differently is found."""
        books.request(code, *events, **more)  # type: ignore[arg-type]
        assert any(finding in problem for problem in books.problems())

    def test_what_a_kill_leaves_open_is_no_problem(self, books: Books) -> None:
        """Of a handler that was told to run, a killed gateway may leave nothing behind."""
        books.request("connection_lost", life=0)
        assert books.problems() == []

    def test_each_number_is_booked_once(self, books: Books) -> None:
        """A request that is missing in the ledger is a problem, and so is one too many."""
        books.request("ok", journal.BEGUN, journal.RETURNED)
        assert any("not booked exactly once" in problem for problem in books.problems(made=2))
        assert any("nobody made" in problem for problem in books.problems(made=0))


def figure(values: list[float], *, name: str = "blocks", lives: int = 1) -> Figure:
    """Judge a series with three points a minute, of a process with 100 cuts a minute."""
    each = len(values) // lives
    points = [Point(n / 3, n // each, value) for n, value in enumerate(values)]
    (found,) = judge({("gateway", name): points}, cuts_a_minute={"gateway": 100.0})
    return found


class TestFlat:
    def test_a_block_for_each_cut_is_growth(self) -> None:
        """A leak of one piece of memory at each cut is told from the noise of a long soak."""
        dice = random.Random(1)
        values = [300_000 + 100 * n / 3 + dice.gauss(0, 100) for n in range(60)]
        assert figure(values).grows

    def test_noise_is_none(self) -> None:
        """What goes up and down without a trend is flat."""
        dice = random.Random(1)
        assert not figure([300_000 + dice.gauss(0, 100) for _ in range(60)]).grows

    def test_another_level_in_another_life_is_none(self) -> None:
        """A gateway that was started again begins anew: the step is no growth."""
        dice = random.Random(1)
        values = [life * 50_000 + dice.gauss(0, 100) for life in range(4) for _ in range(6)]
        assert not figure(values, lives=4).grows

    def test_growth_in_each_life_is_growth(self) -> None:
        """A leak that starts again with each life is found."""
        values = [float(n) * 100 for _ in range(4) for n in range(6)]
        assert figure(values, lives=4).grows

    def test_a_first_rest_is_left_out(self) -> None:
        """The first figures of a life are taken before it is warm."""
        assert not figure([0.0, 200_000.0, *([300_000.0] * 10)]).grows

    def test_too_little_is_not_judged(self) -> None:
        """Three points are no line."""
        found = figure([n * 1e6 for n in range(5)])
        assert not found.judged
        assert not found.grows


class TestPayloads:
    def test_equal_seeds_make_equal_stocks(self) -> None:
        """What is sent can be played again."""
        first, second = (Payloads("7") for _ in range(2))
        dice, again = random.Random(1), random.Random(1)
        assert not any(differs(first.pick(dice), second.pick(again)) for _ in range(300))

    @pytest.mark.parametrize(
        ("sent", "came"),
        [
            (1, True),
            (0.0, -0.0),
            ((1,), [1]),
            ({"a": 1}, {"a": 1.0}),
            ({1}, {1.0}),
            ([1, 2], [1]),
            (b"a", "a"),
        ],
    )
    def test_a_difference_in_type_is_one(self, sent: object, came: object) -> None:
        """Equal is not enough: what comes back has the same types at every place."""
        assert differs(sent, came)
        assert not differs(sent, sent)
