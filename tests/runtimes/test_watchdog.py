"""The watchdog: who is named in the log, who is not, and how often."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from headgate.handler import HandlerSettings, Signature
from headgate.invocation import Caller, Invocation
from headgate.runtimes.gate import Finished
from headgate.runtimes.project import ProjectRuntime
from headgate.runtimes.watchdog import Watchdog
from headgate.threads import LoopThread, Mailbox
from headgate.wire.codec import encode

pytestmark = pytest.mark.skipif(
    not hasattr(time, "pthread_getcpuclockid"), reason="this system has no clocks of threads"
)

Function = Callable[..., Any]

SHARED = HandlerSettings()

MANY = 3 * 10**7
"""Numbers whose sum takes a call in C well over 0.1 s."""


@dataclass(frozen=True)
class Handler:
    """A function as a runtime wants it."""

    name: str
    function: Function
    settings: HandlerSettings = SHARED
    project: str = "P"

    @property
    def signature(self) -> Signature:
        return Signature(is_async=inspect.iscoroutinefunction(self.function))


def work(seconds: float) -> None:
    """Use so much processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Log(logging.Handler):
    """What the watchdog has said; a text may be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._news = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._news:
            self.texts.append(record.getMessage())
            self._news.notify_all()

    def naming(self, handler: str, count: int = 1) -> list[str]:
        """Wait until a handler was named that often, and return what was said of it."""

        def said() -> list[str]:
            return [text for text in self.texts if f"The handler P/{handler} " in text]

        with self._news:
            assert self._news.wait_for(lambda: len(said()) >= count, 60), f"{handler}: not named"
            return said()


class Yard:
    """A runtime of the project P with a watchdog, and what both said."""

    def __init__(self, log: Log, silent: float) -> None:
        self.log = log
        self.over = threading.Event()
        """Set at the end: whatever runs looks at it."""
        self._numbers = itertools.count(1)
        self._loop = LoopThread("gateway")
        self._loop.start()
        self._ended: dict[Invocation, threading.Event] = {}
        self._handlers: dict[str, Handler] = {}
        ends: Mailbox[Finished] = Mailbox(self._loop.loop, self._finished)
        self.runtime = ProjectRuntime(
            "P", ends=ends, loop=self._loop.loop, on_wait=lambda invocation: None
        )
        self.watchdog = Watchdog("watchdog", lambda: self.runtime.threads, silent=silent)

    def start(
        self, name: str, function: Function, settings: HandlerSettings = SHARED, count: int = 1
    ) -> threading.Event:
        """Run a handler as often as that; returns an event for the last one's end."""
        ended = threading.Event()

        async def call() -> None:
            self.watchdog.wake()
            if name not in self._handlers:
                self._handlers[name] = Handler(name, function, settings)
                self.runtime.exchange(self._handlers)
            for _ in range(count):
                invocation = self._invocation(name)
                self._ended[invocation] = ended
                self.runtime.endpoints[name](invocation)

        self._loop.run(call())
        return ended

    def _invocation(self, handler: str) -> Invocation:
        invocation = Invocation(
            Caller("operator"), "P", handler, encode({}), time.monotonic() + 600, self
        )
        invocation.origin, invocation.sequence = "0" * 20, next(self._numbers)
        return invocation

    def spin(self, payload: Any = None) -> None:
        """Compute in Python until all is over: a handler."""
        while not self.over.is_set():
            pass

    def sleep(self, payload: Any = None) -> None:
        """Wait until all is over: a handler."""
        self.over.wait(60)

    def _finished(self, end: Finished) -> None:
        invocation, gate, outcome = end
        if outcome is not None:
            gate.finished(invocation)
            ended = self._ended.pop(invocation)
            if ended not in self._ended.values():
                ended.set()

    def end(self) -> None:
        """Let everything end."""
        self.over.set()
        for ended in list(self._ended.values()):
            assert ended.wait(60)
        self.watchdog.close()
        self.runtime.close()
        self._loop.stop()


@pytest.fixture
def log() -> Iterator[Log]:
    """What the watchdog says."""
    log, logger = Log(), logging.getLogger("headgate.watchdog")
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)


@pytest.fixture
def make_yard(log: Log) -> Iterator[Callable[[float], Yard]]:
    """Makes a yard with a watchdog that is silent for so many seconds after each naming."""
    yards: list[Yard] = []

    def make(silent: float) -> Yard:
        yards.append(Yard(log, silent))
        return yards[-1]

    yield make
    for yard in yards:
        yard.end()


@pytest.fixture
def yard(make_yard: Callable[[float], Yard]) -> Yard:
    """A yard whose watchdog names at every look."""
    return make_yard(0.0)


class TestHolding:
    def test_a_handler_that_computes_in_python(self, yard: Yard) -> None:
        """It is named with its request, caller, thread, cure and stack."""
        yard.start("spin", yard.spin)
        text = yard.log.naming("spin")[0]
        assert "P/spin holds the interpreter: it has computed for " in text
        assert f"(Request {'0' * 31}1 of operator, thread headgate-P-1.)" in text
        assert "Let it compute in a process of its own" in text
        assert text.endswith("pass") or "while not self.over.is_set():" in text
        assert "execute.py" not in text

    def test_one_call_in_c_that_keeps_the_interpreter(self, yard: Yard) -> None:
        """One call that lets nobody in, not even the watchdog, is enough."""

        def handle(payload: Any) -> None:
            sum(range(MANY))
            yard.over.wait(60)

        yard.start("c", handle)
        assert "P/c holds the interpreter" in yard.log.naming("c")[0]

    def test_several_that_compute_at_once(self, yard: Yard) -> None:
        """Those who share the interpreter among them are all named."""
        for number in range(4):
            yard.start(f"spin{number}", yard.spin)
        for number in range(4):
            yard.log.naming(f"spin{number}")

    def test_a_task_that_computes(self, yard: Yard) -> None:
        """The task that runs is named, not those that wait on the same loop."""

        async def compute(payload: Any) -> None:
            await asyncio.sleep(0)
            yard.spin()

        async def wait(payload: Any) -> None:
            while not yard.over.is_set():
                await asyncio.sleep(0.001)

        yard.start("waits", wait)
        yard.start("computes", compute)
        assert "thread headgate-P-async" in yard.log.naming("computes", 3)[0]
        assert not [text for text in yard.log.texts if "P/waits" in text]

    def test_a_task_that_blocks_its_event_loop(self, yard: Yard) -> None:
        """It is named although it uses no processor time: other tasks stand still."""

        async def block(payload: Any) -> None:
            yard.sleep()

        yard.start("blocks", block)
        text = yard.log.naming("blocks")[0]
        assert "P/blocks blocks its event loop: it has waited for " in text
        assert "asyncio.to_thread(function)" in text
        assert "in sleep\n    self.over.wait(60)" in text


class TestOthers:
    def test_one_that_waits_is_not_named(self, yard: Yard) -> None:
        """A handler that sleeps, or computes a little now and then, is not the one to blame."""

        def now_and_then(payload: Any) -> None:
            while not yard.over.wait(0.03):
                work(0.005)

        yard.start("sleeps", yard.sleep)
        yard.start("now and then", now_and_then)
        yard.start("spin", yard.spin)
        yard.log.naming("spin", 25)
        assert not [text for text in yard.log.texts if "P/spin" not in text]

    def test_a_task_that_pauses_is_not_named(self, yard: Yard) -> None:
        """Each step of a task counts alone: other tasks get their turn."""

        async def steps(payload: Any) -> None:
            while not yard.over.is_set():
                work(0.02)
                await asyncio.sleep(0)

        yard.start("steps", steps)
        yard.start("spin", yard.spin)
        yard.log.naming("spin", 10)
        assert not [text for text in yard.log.texts if "P/spin" not in text]

    def test_many_short_ones_are_not_named(self, yard: Yard) -> None:
        """Neither are short runs, however many follow each other on one thread."""

        settings = HandlerSettings(threading="Dedicated")
        yard.start("spin", yard.spin)
        while len(yard.log.texts) < 10:
            assert yard.start("short", lambda payload: work(0.002), settings, 200).wait(60)
        assert not [text for text in yard.log.texts if "P/spin" not in text]

    def test_one_that_computes_without_the_interpreter_is_not_named(self, yard: Yard) -> None:
        """A library that lets go of the interpreter may compute for as long as it likes."""
        data = bytes(20_000_000)
        cores: list[float] = []

        def digest(payload: Any) -> None:
            began, used = time.monotonic(), time.thread_time()
            for _ in range(8):
                hashlib.sha256(data).digest()
            cores.append((time.thread_time() - used) / (time.monotonic() - began))

        yard.start("spin", yard.spin)
        for _ in range(5):
            before = len(yard.log.texts)
            assert yard.start("digest", digest).wait(60)
            # Without a core for each of the two they look alike.
            if cores[-1] > 0.9:
                assert not [text for text in yard.log.texts[before:] if "P/spin" not in text]
                return
        pytest.skip("this machine has no core to spare")

    def test_processor_time_is_known_of_those_with_a_thread(self, yard: Yard) -> None:
        """It tells what a run has used; of a task nobody knows."""
        yard.start("sleeps", yard.sleep)
        yard.start("spin", yard.spin)
        yard.log.naming("spin", 2)
        used = {
            run.invocation.handler: yard.watchdog.processor_time(run.invocation)
            for run in yard.runtime.runs
        }
        assert used["spin"] > 0.1
        assert used["sleeps"] < 0.1


class TestHowOften:
    def test_once_in_a_while(self, make_yard: Callable[[float], Yard]) -> None:
        """A handler is named once in the time that it is told, others meanwhile too."""
        yard = make_yard(1000.0)
        yard.start("first", yard.spin)
        yard.log.naming("first")
        yard.start("first", yard.spin)
        yard.start("second", yard.spin)
        yard.log.naming("second")
        assert len(yard.log.naming("first")) == 1

    def test_again_after_that(self, make_yard: Callable[[float], Yard]) -> None:
        """One that goes on holding it is named again when that time is over."""
        yard = make_yard(0.2)
        began = time.monotonic()
        yard.start("spin", yard.spin)
        yard.log.naming("spin", 3)
        assert time.monotonic() - began >= 0.4

    def test_it_rests_while_nothing_runs(self, yard: Yard) -> None:
        """It looks while something runs, sleeps after that, and wakes when it is told to."""
        assert yard.watchdog.is_resting
        assert yard.start("empty", lambda payload: None).wait(60)
        assert not yard.watchdog.is_resting
        end = time.monotonic() + 60
        while not yard.watchdog.is_resting:
            assert time.monotonic() < end
            time.sleep(0.01)
        yard.start("spin", yard.spin)
        yard.log.naming("spin")

    def test_its_thread_ends(self, yard: Yard) -> None:
        """After `close` it is gone, and nothing wakes it."""
        yard.start("sleeps", yard.sleep)
        yard.watchdog.close()
        yard.watchdog.wake()
        assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_the_switch_interval_is_pythons(yard: Yard) -> None:
    """A program that lets threads run longer at once has handlers named all the same."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.02)
    try:
        yard.start("spin", yard.spin)
        yard.log.naming("spin")
    finally:
        sys.setswitchinterval(before)
