"""A pool of threads: who takes what waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from headgate.errors import Overloaded
from headgate.handler import HandlerSettings, PoolSettings, Signature
from headgate.invocation import HIGH, LOW, NORMAL, Caller, Invocation
from headgate.runtimes.gate import Finished
from headgate.runtimes.project import ProjectRuntime
from headgate.threads import LoopThread, Mailbox
from headgate.wire.codec import encode

if TYPE_CHECKING:
    from conftest import Rig

MEET = """
import threading
met = threading.Barrier(8)
def handleMessage(payload):
    met.wait(20)
    return payload
"""


class TestSlowHandlers:
    def test_all_threads_serve_a_crowd_of_several_sessions(self, rig: Rig) -> None:
        """Handlers that wait for each other get all 8 threads, whoever asked for them."""
        hub = rig.gateway({"ACME/meet": MEET})
        noisy, quiet = rig.client(hub), rig.client(hub)
        handles: list[Any] = [noisy.request("ACME", "meet", n, timeout=20) for n in range(39)]
        handles.append(quiet.request("ACME", "meet", 39, timeout=20))
        assert [handle.get() for handle in handles] == list(range(40))


class Handler(NamedTuple):
    """A function as a runtime wants it."""

    function: Any
    name: str = "test"
    project: str = "P"
    settings: HandlerSettings = HandlerSettings()
    signature: Signature = Signature()


CALLER = Caller("somebody", session="a")


class Works:
    """A project's runtime whose one handler runs until it is let go."""

    def __init__(self) -> None:
        self.loop = LoopThread("gateway")
        self.loop.start()
        self.order: list[Any] = []
        """The payloads of what has begun."""
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        ends: Mailbox[Finished] = Mailbox(self.loop.loop, lambda end: end[1].finished(end[0]))
        self.runtime = ProjectRuntime(
            "P", ends=ends, loop=self.loop.loop, on_wait=lambda invocation: None
        )

    def handle(self, payload: Any) -> None:
        self.order.append(payload)
        self.begun.release()
        self.go.acquire(timeout=20)

    def on_loop(self, function: Any, *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            return function(*arguments, **options)

        return self.loop.run(call())

    def have(self, queue: int = 10_000, **pools: int) -> None:
        """Load the handler, with a pool of so many threads."""
        handler = Handler(self.handle, settings=HandlerSettings(queue=queue))
        self.on_loop(self.runtime.exchange, {"test": handler}, pools=PoolSettings(**pools))

    def start(self, count: int, *, priority: int = NORMAL) -> None:
        """Ask so many times in one turn of the loop; the payloads are the priority."""
        self.on_loop(self.ask, count, priority)

    def ask(self, count: int, priority: int) -> None:
        asker: Any = None
        for _ in range(count):
            invocation = Invocation(
                CALLER,
                "P",
                "test",
                encode(priority),
                time.monotonic() + 60,
                asker,
                priority=priority,
            )
            self.runtime.endpoints["test"](invocation)

    def run(self, count: int) -> None:
        """Wait until so many more have begun."""
        for _ in range(count):
            assert self.begun.acquire(timeout=20)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "It did not come to pass"
            time.sleep(0.002)


@pytest.fixture
def works() -> Iterator[Works]:
    """A runtime on a loop."""
    works = Works()
    yield works
    for _ in range(1000):
        works.go.release()
    works.on_loop(works.runtime.close)
    works.loop.stop()


class TestPriorities:
    @pytest.mark.parametrize("higher", [NORMAL, HIGH])
    def test_what_stands_before_slow_handlers_is_taken_back(
        self, works: Works, higher: int
    ) -> None:
        """Low ones that came before anybody knew how slow they are let others by."""
        works.have(threads=2)

        def ask() -> None:
            works.ask(2, NORMAL)
            works.ask(12, LOW)

        works.on_loop(ask)
        works.run(2)
        works.until(lambda: works.runtime._pool._slow)
        works.start(5, priority=higher)
        for _ in range(19):
            works.go.release()
        works.run(17)
        # One stands before the threads, and two run at a time.
        assert works.order[2:].count(LOW) == 12
        assert sum(works.order[2:8].count(priority) for priority in (NORMAL, HIGH)) >= 4


class TestItsSize:
    def test_it_runs_as_many_as_its_settings_say(self, works: Works) -> None:
        """Three threads run three at once, and not one more."""
        works.have(threads=3)
        works.start(10)
        works.run(3)
        assert len(works.runtime.running) == len(works.runtime.threads) == 3

    def test_it_grows_at_once(self, works: Works) -> None:
        """At a reload those that wait get the new threads while the others still run."""
        works.have(threads=2)
        works.start(20)
        works.run(2)
        works.have(threads=12)
        works.run(10)
        assert len(works.runtime.running) == 12

    def test_it_shrinks_as_handlers_return(self, works: Works) -> None:
        """What runs goes on; then there are as few as there are to be, with a queue or without."""
        works.have(threads=8)
        works.start(40)
        works.run(8)
        works.have(threads=2)
        assert len(works.runtime.running) == 8
        for _ in range(8):
            works.go.release()
        works.run(2)
        works.until(lambda: len(works.runtime.threads) == 2)
        for _ in range(30):
            works.go.release()
            assert works.begun.acquire(timeout=20)
            assert len(works.runtime.running) <= 2

    def test_threads_that_idle_end(self, works: Works) -> None:
        """They do not wait for something to run."""
        works.have(threads=6)
        works.start(6)
        works.run(6)
        for _ in range(6):
            works.go.release()
        works.until(lambda: len(works.runtime._pool._idle) == 6)
        works.have(threads=1)
        works.until(lambda: len(works.runtime.threads) == 1)
        works.start(3)
        works.run(1)
        assert len(works.runtime.threads) == 1

    def test_the_limit_of_the_queue_counts_its_threads(self, works: Works) -> None:
        """What may be under way is what runs and what may wait."""
        works.have(queue=2, threads=3)
        works.start(5)
        with pytest.raises(Overloaded, match="5 calls of P/test"):
            works.start(1)
        works.have(queue=2, threads=4)
        works.start(1)
