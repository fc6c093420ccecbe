"""The soak itself: rounds of load, each of them followed by a rest in which figures are taken."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from soak.account import Account, lost_while_running
from soak.edits import Edits
from soak.faults import NEED_LOSSES
from soak.flat import Figure, Point, Series, judge
from soak.gateway import GatewayProcess
from soak.plan import Setup
from soak.process import Commanded, environment, everywhere

__all__ = ["Options", "Result", "soak"]

ROUND = 20.0
"""Seconds of load in a round of a long soak."""

RESTARTS_EVERY = 3
"""Rounds from one with restarts of the gateway to the next."""

EDIT_EVERY = 1.5
"""Seconds between two edits of handlers' files."""

LONGER = 60.0
"""Seconds by which a soak is lengthened at most, so that a planted fault has its chance."""

SLOW = 200
"""The number of the process with the slow peers."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the soak is to be."""

    seconds: float
    seed: int
    processes: int = 4
    clients: int = 16
    rate: float = 400.0
    """Requests a second of all processes together."""
    cuts: float = 16.0
    """Connections that are cut a second, of all processes together."""
    slow: int = 3
    plant: str = ""
    keep: bool = False
    """Whether the folder with logs, ledgers and journals is kept."""

    @property
    def patience(self) -> float:
        """Timeout in seconds of requests that nothing should delay."""
        return 20.0 if self.seconds >= 120 else 12.0

    @property
    def round(self) -> float:
        """Seconds of load in a round."""
        return max(1.0, min(ROUND, self.seconds / (self.rounds + 2)))

    @property
    def rounds(self) -> int:
        """Rounds at least; the shortest soaks judge no slopes."""
        if self.seconds < 5:
            return 1
        return 3 if self.seconds < 30 else 6


class Result(msgspec.Struct, kw_only=True):
    """What came of it."""

    options: Options
    folder: str
    minutes: float = 0.0
    loaded: float = 0.0
    """Seconds under load."""
    counts: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    slow: Counter[str] = msgspec.field(default_factory=Counter)
    fates: Counter[str] = msgspec.field(default_factory=Counter)
    started: Counter[str] = msgspec.field(default_factory=Counter)
    made: int = 0
    booked: int = 0
    runs: int = 0
    cuts: int = 0
    restarts: Counter[str] = msgspec.field(default_factory=Counter)
    edits: int = 0
    generations: int = 0
    figures: list[Figure] = []
    problems: list[str] = []


def soak(options: Options, *, say: Callable[[str], None]) -> Result:
    """
    Run a soak.

    Args:
        options: What it is to be.
        say: Gets a line about each round.
    """
    with _folder(options) as folder, contextlib.ExitStack() as ends:
        rounds = _Rounds(options, folder, ends, say)
        rounds.play()
        return rounds.result()


@contextlib.contextmanager
def _folder(options: Options) -> Iterator[Path]:
    if options.keep:
        yield Path(tempfile.mkdtemp(prefix="headgate-soak-"))
        return
    with tempfile.TemporaryDirectory(prefix="headgate-soak-") as folder:
        yield Path(folder)


class _Rounds:
    """A soak under way."""

    def __init__(
        self,
        options: Options,
        folder: Path,
        ends: contextlib.ExitStack,
        say: Callable[[str], None],
    ) -> None:
        self._options = options
        self._folder = folder
        self._say = say
        self._edits = Edits(folder / "projects", options.seed)
        # The controller is a client too, and finds the local token as the others do.
        os.environ["HEADGATE_HOME"] = environment(folder)["HEADGATE_HOME"]
        self._gateway = GatewayProcess(folder, plant=options.plant)
        ends.callback(self._gateway.close)
        self._gateway.start()
        self._clients = [self._start(ends, n) for n in range(1, options.processes + 1)]
        self._slow = self._start(ends, SLOW)
        self._series: Series = {}
        self._objects: dict[str, list[tuple[float, int, dict[str, int]]]] = {}
        self._begun = time.monotonic()
        self._result = Result(options=options, folder=str(folder))

    def play(self) -> None:
        """Play rounds until the time is over, and a planted fault has had its chance."""
        number = 0
        while number < self._options.rounds or self._left() > 0 or self._lacks_a_chance():
            # The second half is one long life, in which slow growth can be seen.
            early = number == 0 or self._left() > self._options.seconds / 2
            self._load(restarts=early and number % RESTARTS_EVERY == 0)
            self._rest(number)
            number += 1

    def result(self) -> Result:
        """End everything and check the books."""
        result = self._result
        ends = everywhere([*self._clients, self._slow], "end")
        self._gateway.close()
        self._sum(ends)
        made = {p.setup.process: e["made"] for p, e in zip(self._all, ends, strict=True)}
        account = Account(self._folder, lives=self._gateway.lives, made=made)
        result.problems = [problem for end in ends for problem in end["problems"]]
        result.problems += self._gateway.problems + list(self._gateway.complaints())
        result.problems += account.problems()
        result.booked, result.runs = account.booked, account.runs
        result.fates, result.started = account.fates, account.started
        minutes = result.minutes or 1.0
        pairs = zip(self._clients, ends[:-1], strict=True)
        cuts = {f"client {p.setup.process}": e["cuts"] / minutes for p, e in pairs}
        cuts["gateway"] = result.cuts / minutes
        self._count_objects()
        result.figures = judge(self._series, cuts_a_minute=cuts)
        result.problems += [
            f"{f.process}: {f.name} grows by {f.slope:.1f} a minute"
            for f in result.figures
            if f.grows
        ]
        return result

    @property
    def _all(self) -> list[Commanded]:
        return [*self._clients, self._slow]

    def _left(self) -> float:
        """Seconds for further rounds."""
        return self._options.seconds - (time.monotonic() - self._begun) - self._options.round

    def _lacks_a_chance(self) -> bool:
        """Whether a fault is planted that nothing could show yet, and there is time for more."""
        if self._options.plant not in NEED_LOSSES or self._left() < -LONGER:
            return False
        return not lost_while_running(self._folder)

    def _start(self, ends: contextlib.ExitStack, number: int) -> Commanded:
        options = self._options
        is_slow = number == SLOW
        setup = Setup(
            url=self._gateway.url,
            folder=str(self._folder),
            process=number,
            form="with" if number % 2 else "async with",
            clients=options.slow if is_slow else options.clients,
            seed=options.seed,
            rate=options.rate / options.processes,
            cuts=options.cuts / options.processes,
            patience=options.patience,
            plant=options.plant,
        )
        module = "soak.slow" if is_slow else "soak.clients"
        process = Commanded(module, setup, self._folder)
        ends.callback(process.close)
        return process

    def _load(self, *, restarts: bool) -> None:
        everywhere(self._all, "load")
        begin = time.monotonic()
        end = begin + self._options.round
        due = [(0.3, "killed"), (0.65, "stopped")] if restarts else []
        next_edit = begin
        while (now := time.monotonic()) < end:
            if due and now > begin + due[0][0] * self._options.round:
                how = due.pop(0)[1]
                self._gateway.restart(how)
                self._result.restarts[how] += 1
            if now >= next_edit:
                self._edits.one()
                next_edit = now + EDIT_EVERY
            time.sleep(0.05)
        self._result.loaded += time.monotonic() - begin

    def _rest(self, number: int) -> None:
        everywhere(self._all, "rest")
        clients = self._options.processes * self._options.clients
        minute = (time.monotonic() - self._begun) / 60
        gateway = self._gateway.settle(clients)
        self._note("gateway", minute, self._gateway.life, gateway)
        made = cuts = 0
        for process, figures in zip(
            self._clients, everywhere(self._clients, "sample"), strict=True
        ):
            self._note(f"client {process.setup.process}", minute, 0, figures)
            made, cuts = made + figures["made"], cuts + figures["cuts"]
        self._say(
            f"{minute:5.1f} min  round {number + 1:<3} requests {made:<8} cuts {cuts:<6} "
            f"restarts {self._result.restarts.total():<3} edits {self._edits.count:<5} "
            f"gateway {gateway['rss'] / 2**20:.0f} MiB, {gateway['fds']} descriptors"
        )

    def _note(self, process: str, minute: float, life: int, figures: dict[str, Any]) -> None:
        for name, value in figures.items():
            if isinstance(value, int | float) and name not in ("made", "cuts"):
                self._series.setdefault((process, name), []).append(Point(minute, life, value))
        self._objects.setdefault(process, []).append((minute, life, figures["objects"]))

    def _count_objects(self) -> None:
        """Add a series for each type: it has none of them where it is not mentioned."""
        for process, rests in self._objects.items():
            for name in {name for _, _, counts in rests for name in counts}:
                points = [Point(minute, life, c.get(name, 0)) for minute, life, c in rests]
                self._series[process, name] = points

    def _sum(self, ends: list[dict[str, Any]]) -> None:
        result = self._result
        result.minutes = (time.monotonic() - self._begun) / 60
        generations: set[int] = set()
        for end in ends[:-1]:
            result.counts.update({(kind, code): count for kind, code, count in end["counts"]})
            result.reasons.update(end["reasons"])
            result.cuts += end["cuts"]
            generations |= set(end["generations"])
        result.made = sum(end["made"] for end in ends)
        result.slow = Counter(ends[-1]["counts"])
        result.edits, result.generations = self._edits.count, len(generations)
