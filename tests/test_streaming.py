"""Streaming answers: what a generator yields comes one by one, no faster than it is read."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.invocation import FIRST_GRANT, Fate
from headgate.runtimes import emitter, process
from headgate.runtimes.gate import MOST_ABANDONED

if TYPE_CHECKING:
    from conftest import Rig

COUNT = """
    def handleMessage(payload, context):
        told = system.util.globals["running"]
        try:
            for number in range(payload["n"]):
                if number == payload.get("reports"):
                    context.progress("on the way")
                yield number
            if "fails" in payload:
                raise ValueError(payload["fails"])
        finally:
            told.put("ended" if number == payload["n"] - 1 else "closed")
    """
ASYNC_COUNT = COUNT.replace("def handle", "async def handle")
BLOCKS = """
    def handleMessage(payload):
        for size in payload["sizes"]:
            yield bytes(size)
    """
NOTHING = """
    def handleMessage(payload):
        yield from ()
    """
NESTED = """
    def handleMessage(payload):
        request = system.util.sendRequestAsync("ACME", "count", payload)
        for number in request.stream():
            yield number * 2
    """
ASYNC_NESTED = """
    async def handleMessage(payload):
        async for number in system.util.sendRequestAsync("ACME", "count", payload).stream():
            yield number * 2
    """
SCRIPTS = {
    "ACME/count": COUNT,
    "ACME/acount": ASYNC_COUNT,
    "ACME/blocks": BLOCKS,
    "ACME/nothing": NOTHING,
    "ACME/nested": NESTED,
    "ACME/anested": ASYNC_NESTED,
    "ACME/echo": "def handleMessage(payload):\n    return payload\n",
}
BOTH = pytest.mark.parametrize("handler", ["count", "acount"])
MANY = 100_000
"""More small values than a window holds."""


@pytest.fixture
def gateway(rig: Rig) -> headgate.Gateway:
    return rig.gateway(SCRIPTS)


@pytest.fixture
def client(rig: Rig, gateway: headgate.Gateway) -> headgate.Client:
    return rig.client(gateway)


@pytest.fixture(params=["client", "gateway"])
def asked(
    request: pytest.FixtureRequest, gateway: headgate.Gateway, client: headgate.Client
) -> Any:
    """Who sends the request: a client, or a script in the gateway's process."""
    return client if request.param == "client" else gateway.scope("ACME")


def told(gateway: headgate.Gateway) -> str:
    """How the next generator came to its end."""
    how: str = gateway.globals["running"].get(timeout=20)
    return how


# --- values ---------------------------------------------------------------------------------------


@BOTH
def test_values_come_in_order(asked: Any, handler: str) -> None:
    """All values come, each once and in order, however many they are."""
    request = asked.request("ACME", handler, {"n": MANY})
    assert all(value == number for number, value in enumerate(request.stream()))
    assert request.started is True
    assert request.get() is None


@BOTH
def test_values_come_to_a_coroutine(rig: Rig, gateway: headgate.Gateway, handler: str) -> None:
    """An event loop reads them too, and its client's sockets are its own."""

    async def read() -> int:
        async with headgate.connect(gateway.url) as client:
            request = client.request("ACME", handler, {"n": 20_000})
            return sum([number async for number in request.stream()])

    assert asyncio.run(read()) == sum(range(20_000))


@BOTH
def test_who_reads_no_stream_gets_a_list(asked: Any, handler: str) -> None:
    """`get`, `await` and the callback give all values as one list."""
    got = threading.Event()
    results: list[Any] = []
    request = asked.request(
        "ACME", handler, {"n": MANY}, on_success=lambda value: (results.append(value), got.set())
    )
    assert request.get() == list(range(MANY))
    assert got.wait(20)
    assert results == [list(range(MANY))]


def test_the_manuals_functions_give_a_list(gateway: headgate.Gateway) -> None:
    """`sendRequest` knows no streams: the values are its result."""
    assert gateway.system.util.sendRequest("ACME", "count", {"n": 3}) == [0, 1, 2]


def test_no_values(asked: Any) -> None:
    """A generator that yields nothing gives an empty stream, or an empty list."""
    assert list(asked.request("ACME", "nothing").stream()) == []
    assert asked.request("ACME", "nothing").get() == []


def test_a_result_is_one_value(asked: Any) -> None:
    """The stream of a handler that returns is what it returns, also if that is None."""
    assert list(asked.request("ACME", "echo", {"a": 1}).stream()) == [{"a": 1}]
    assert list(asked.request("ACME", "echo", [None]).stream()) == [[None]]


def test_a_message_to_a_generator_runs_it(gateway: headgate.Gateway) -> None:
    """A message's handler may yield: the values are dropped, and it runs to its end."""
    gateway.system.util.sendMessage("ACME", "count", {"n": 3})
    assert told(gateway) == "ended"


@pytest.mark.parametrize("size", [60 * 1024 * 1024, FIRST_GRANT, 70_000])
def test_a_large_value_comes_whole(client: headgate.Client, size: int) -> None:
    """A value may be larger than the window; those beside it keep their places."""
    stream = client.request("ACME", "blocks", {"sizes": [1, size, 2, size // 2, 3]}).stream()
    assert [len(value) for value in stream] == [1, size, 2, size // 2, 3]


def test_a_nested_stream(asked: Any) -> None:
    """A handler may yield what it reads of another one's stream."""
    for handler in ("nested", "anested"):
        stream = asked.request("ACME", handler, {"n": 10_000}).stream()
        assert list(stream) == list(range(0, 20_000, 2))


def test_a_stream_of_another_gateway(rig: Rig) -> None:
    """Values come over the Gateway Network, and the window reaches through it."""
    network = headgate.MemoryNetwork()
    there = rig.gateway(SCRIPTS, name="b", network=network)
    client = rig.client(rig.gateway({}, name="a", network=network))
    request = client.request("ACME", "count", {"n": MANY}, remote_server="b")
    assert list(request.stream()) == list(range(MANY))
    request = client.request("ACME", "count", {"n": MANY}, remote_server="b")
    with request.stream() as stream:
        assert next(stream) == 0
    assert [told(there), told(there)] == ["ended", "closed"]
    assert request.wait_fate() == Fate.STOPPED


def test_progress_comes_beside_values(client: headgate.Client) -> None:
    """A generator may report progress."""
    progress: list[Any] = []
    come = threading.Event()
    request = client.request(
        "ACME",
        "count",
        {"n": 3, "reports": 1},
        on_progress=lambda value: (progress.append(value), come.set()),
    )
    assert list(request.stream()) == [0, 1, 2]
    assert come.wait(20)
    assert progress == ["on the way"]


# --- errors ---------------------------------------------------------------------------------------


@BOTH
def test_values_come_before_the_error(asked: Any, handler: str) -> None:
    """What was yielded before the handler failed is not lost."""
    stream = asked.request("ACME", handler, {"n": 3, "fails": "too hot"}).stream()
    assert list(islice(stream, 3)) == [0, 1, 2]
    with pytest.raises(headgate.HandlerError, match="too hot") as caught:
        next(stream)
    assert "count.py" in caught.value.remote_traceback
    assert "execute.py" not in caught.value.remote_traceback


def test_a_value_that_cannot_be_sent_ends_the_stream(rig: Rig) -> None:
    """It is a PayloadError, behind the values before it, and the generator is closed."""
    script = """
        def handleMessage(payload):
            try:
                yield 1
                yield object()
            finally:
                system.util.globals["running"].put("closed")
        """
    gateway = rig.gateway({"ACME/odd": script})
    stream = rig.client(gateway).request("ACME", "odd").stream()
    assert next(stream) == 1
    with pytest.raises(headgate.PayloadError, match="result is of type object"):
        next(stream)
    assert told(gateway) == "closed"


def test_too_many_values_for_a_list(asked: Any, gateway: headgate.Gateway) -> None:
    """Beyond the limit of a payload the list fails, the text names the cure; a stream goes on."""
    sizes = [16 * 1024 * 1024] * 5
    request = asked.request("ACME", "blocks", {"sizes": sizes})
    with pytest.raises(headgate.PayloadError, match=r"request\.stream\(\)"):
        request.get()
    request = asked.request("ACME", "blocks", {"sizes": sizes})
    assert sum(len(value) for value in request.stream()) == sum(sizes)


def test_a_deadline_ends_a_stream_that_is_not_read(
    client: headgate.Client, gateway: headgate.Gateway
) -> None:
    """What came before the deadline can be read after it, and then the timeout is raised."""
    request = client.request("ACME", "count", {"n": MANY}, timeout=0.3)
    stream = request.stream()
    assert told(gateway) == "closed"
    assert request.block() is False
    got: list[int] = []
    with pytest.raises(headgate.RequestTimeout):
        got.extend(iter(stream))
    assert 0 < len(got) < MANY
    assert request.started is True
    assert request.wait_fate() == Fate.STOPPED


# --- a reader that has enough ---------------------------------------------------------------------


def leave_by_close(request: headgate.Request) -> None:
    stream = request.stream()
    next(stream)
    stream.close()


def leave_by_with(request: headgate.Request) -> None:
    with request.stream() as stream:
        next(stream)


def leave_by_break(request: headgate.Request) -> None:
    for _ in request.stream():
        break
    gc.collect()


def leave_by_cancel(request: headgate.Request) -> None:
    next(request.stream())
    request.cancel()


def leave_by_async_with(request: headgate.Request) -> None:
    async def leave() -> None:
        async with request.stream() as stream:
            await anext(stream)

    asyncio.run(leave())


def leave_by_a_cancelled_task(request: headgate.Request) -> None:
    async def read() -> None:
        async for number in request.stream():
            if number == 5:
                task.cancel()

    async def main() -> None:
        nonlocal task
        task = asyncio.create_task(read())
        await asyncio.gather(task, return_exceptions=True)

    task: asyncio.Task[None]
    asyncio.run(main())


@BOTH
@pytest.mark.parametrize(
    "leave",
    [
        leave_by_close,
        leave_by_with,
        leave_by_break,
        leave_by_cancel,
        leave_by_async_with,
        leave_by_a_cancelled_task,
    ],
)
def test_leaving_early_closes_the_generator(
    asked: Any, gateway: headgate.Gateway, handler: str, leave: Any
) -> None:
    """The request is cancelled, the generator closed where it stands, and nobody is in doubt."""
    request = asked.request("ACME", handler, {"n": MANY * 100})
    leave(request)
    assert told(gateway) == "closed"
    assert isinstance(request.error(), headgate.CancellationException)
    assert request.started is True
    assert request.wait_fate() == Fate.STOPPED


@BOTH
def test_a_lost_caller_closes_the_generator(
    rig: Rig, gateway: headgate.Gateway, handler: str
) -> None:
    """When the connection ends nobody reads any more."""
    client = headgate.connect(gateway.url)
    stream = client.request("ACME", handler, {"n": MANY * 100}).stream()
    next(stream)
    client.close()
    assert told(gateway) == "closed"
    with pytest.raises(headgate.ConnectionLost):
        list(stream)


def test_a_stream_that_is_closed_gives_nothing(asked: Any) -> None:
    """Whatever had come, and whatever the handler is: it may be closed again."""
    for handler, result in (("count", None), ("echo", {"n": 5})):
        request = asked.request("ACME", handler, {"n": 5})
        stream = request.stream()
        assert request.block()
        stream.close()
        stream.close()
        assert list(stream) == []
        assert request.get() == result


def test_a_stream_that_is_garbage_cancels_its_request_later(gateway: headgate.Gateway) -> None:
    """A collection comes in the middle of anything that the client does on its event loop."""

    async def main() -> None:
        async with headgate.connect(gateway.url) as client:
            request = client.request("ACME", "count", {"n": MANY})
            stream = request.stream()
            await anext(stream)
            del stream
            assert not request.done
            with pytest.raises(headgate.CancellationException):
                await request

    asyncio.run(main())


def test_several_readers_share_the_values(client: headgate.Client) -> None:
    """Each gets others, in order, none is lost, and all come to the end."""
    stream = client.request("ACME", "count", {"n": MANY}).stream()
    with ThreadPoolExecutor(3) as readers:
        parts = list(readers.map(list, [stream] * 3))
    assert all(part == sorted(part) for part in parts)
    assert sorted(value for part in parts for value in part) == list(range(MANY))


# --- a reader that is slow ------------------------------------------------------------------------

STEPS = """
    def handleMessage(payload):
        steps = system.util.globals["steps"]
        for number in range(payload["n"]):
            steps.append(number)
            yield bytes(1000)
    """


def test_a_slow_reader_holds_the_generator_up(rig: Rig) -> None:
    """The generator is a window ahead of its reader, and goes on when that goes on."""
    gateway = rig.gateway({"ACME/steps": STEPS})
    steps: list[int] = gateway.globals.setdefault("steps", [])
    stream = rig.client(gateway).request("ACME", "steps", {"n": 2000}).stream()
    window = FIRST_GRANT // 1000
    next(stream)
    rig.until(lambda: len(steps) > window // 2)
    # Nothing tells that it does not go on: it would within a moment.
    assert not threading.Event().wait(0.05)
    before = len(steps)
    assert before <= window + 1
    assert len(list(islice(stream, window))) == window
    rig.until(lambda: len(steps) > before)
    assert len(list(stream)) == 2000 - window - 1


@BOTH
def test_held_up_generators_do_not_hold_up_others(
    client: headgate.Client, gateway: headgate.Gateway, handler: str
) -> None:
    """More streams than the project has threads wait for their readers; other handlers run."""
    count = FIRST_GRANT // 20
    streams = [client.request("ACME", handler, {"n": count}).stream() for _ in range(12)]
    assert [next(stream) for stream in streams] == [0] * 12
    assert client.request("ACME", "echo", {"a": 1}).get() == {"a": 1}
    for stream in streams:
        assert sum(1 for _ in stream) == count - 1


def test_closed_streams_do_not_count_as_hung(
    client: headgate.Client, gateway: headgate.Gateway
) -> None:
    """A thread that is held up by its reader ends when that leaves: the project goes on at once."""
    count = MOST_ABANDONED * 2
    streams = [client.request("ACME", "count", {"n": MANY}).stream() for _ in range(count)]
    for stream in streams:
        next(stream)
    for stream in streams:
        stream.close()
    assert client.request("ACME", "echo", {"a": 1}).get() == {"a": 1}
    assert [told(gateway) for _ in streams] == ["closed"] * count


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_a_closed_generator_that_does_not_end_hangs_after_a_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """For a second its thread is expected to end; then the project has lost it."""
    monkeypatch.setattr(emitter, "ENDING_SECONDS", seconds)
    script = """
        def handleMessage(payload):
            try:
                yield from range(100)
                yield bytes(1_000_000)
                yield 0
            finally:
                system.util.globals["running"].put("closed")
                system.util.globals["go"].wait(20)
        """
    gateway = rig.gateway({"ACME/stays": script, "ACME/echo": SCRIPTS["ACME/echo"]})
    client = rig.client(gateway)
    streams = [client.request("ACME", "stays").stream() for _ in range(MOST_ABANDONED)]
    for stream in streams:
        next(stream)
        stream.close()
    assert [told(gateway) for _ in streams] == ["closed"] * MOST_ABANDONED
    request = client.request("ACME", "echo", {"a": 1})
    assert (request.getError() is None) is (seconds > 0)


def test_reading_on_an_event_loop_is_refused(client: headgate.Client) -> None:
    """`for` would block the loop; the text says what to write."""

    async def main() -> None:
        stream = client.request("ACME", "count", {"n": MANY}).stream()
        with pytest.raises(RuntimeError, match="async for value in"):
            list(stream)
        stream.close()

    asyncio.run(main())


# --- handlers in processes ------------------------------------------------------------------------

WORKER = """
    import os, pathlib, signal, time, headgate
    @headgate.handler(runtime="process")
    HEAD handleMessage(payload):
        end = "closed"
        try:
            yield os.getpid()
            for number in range(payload["n"]):
                yield number
                if number == payload.get("dies"):
                    time.sleep(0.05)
                    os.kill(os.getpid(), signal.SIGKILL)
                if number == payload.get("hangs"):
                    pathlib.Path(payload["file"] + ".busy").touch()
                    time.sleep(1000)
            end = "ended"
        finally:
            pathlib.Path(payload["file"]).write_text(end)
    """
WORKER_LEAVES = """
    import os, headgate
    @headgate.handler(runtime="process")
    def handleMessage(payload):
        global stream
        stream = system.util.sendRequestAsync("ACME", "flood", payload).stream()
        next(stream)
        return os.getpid()
    """
FLOOD = """
    import pathlib
    def handleMessage(payload):
        yield from (bytes(1000) for _ in range(1000))
        pathlib.Path(payload["file"]).touch()
    """
WORKER_NESTED = """
    import headgate
    @headgate.handler(runtime="process")
    def handleMessage(payload):
        yield from system.util.sendRequestAsync("ACME", payload["inner"], payload).stream()
    """
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")


@pytest.fixture(scope="module")
def workers(module_rig: Rig) -> headgate.Client:
    scripts = {
        "ACME/count": WORKER.replace("HEAD", "def"),
        "ACME/acount": WORKER.replace("HEAD", "async def"),
        "ACME/nested": WORKER_NESTED,
        "ACME/leaves": WORKER_LEAVES,
        "ACME/flood": FLOOD,
    }
    return module_rig.client(module_rig.gateway(scripts))


@ON_LINUX
@BOTH
@pytest.mark.parametrize("nested", [False, True])
def test_leaving_early_closes_the_generator_of_a_worker(
    module_rig: Rig,
    workers: headgate.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    handler: str,
    nested: bool,
) -> None:
    """One that waits for its reader is closed, and its worker goes on."""
    monkeypatch.setattr(process, "CLOSING_SECONDS", 20.0)
    payload = {"n": 10**9, "inner": handler, "file": str(tmp_path / "end")}
    request = workers.request("ACME", "nested" if nested else handler, payload)
    with request.stream() as stream:
        pid = next(stream)
        assert list(islice(stream, 10_000)) == list(range(10_000))
    assert request.wait_fate() == Fate.STOPPED
    module_rig.until(lambda: (tmp_path / "end").exists() and (tmp_path / "end").read_text())
    assert (tmp_path / "end").read_text() == "closed"
    assert os.path.exists(f"/proc/{pid}")


@ON_LINUX
@BOTH
def test_one_that_does_not_end_is_killed(
    module_rig: Rig, workers: headgate.Client, tmp_path: Path, handler: str
) -> None:
    """A generator that is busy between two values has a moment, no more."""
    payload = {"n": 10**9, "hangs": 0, "file": str(tmp_path / "end")}
    request = workers.request("ACME", handler, payload)
    with request.stream() as stream:
        pid = next(stream)
        module_rig.until((tmp_path / "end.busy").exists)
    assert request.wait_fate() == Fate.STOPPED
    module_rig.until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert not (tmp_path / "end").exists()


@ON_LINUX
@BOTH
def test_values_come_before_the_death(
    workers: headgate.Client, tmp_path: Path, handler: str
) -> None:
    """What a worker had sent when it died is not lost."""
    payload = {"n": 10**9, "dies": 1000, "file": str(tmp_path / "end")}
    request = workers.request("ACME", handler, payload)
    stream = request.stream()
    assert list(islice(stream, 1, 1002)) == list(range(1001))
    with pytest.raises(headgate.HandlerKilled):
        next(stream)
    assert (request.started, request.fate) == (True, Fate.STOPPED)


@ON_LINUX
def test_a_reader_that_died_holds_nothing_up(
    module_rig: Rig, workers: headgate.Client, tmp_path: Path
) -> None:
    """What a worker had asked for, and left behind, runs to its end when the worker is gone."""
    pid = workers.request("ACME", "leaves", {"file": str(tmp_path / "end")}).get()
    os.kill(pid, signal.SIGKILL)
    module_rig.until((tmp_path / "end").exists, seconds=10)


# --- two processes --------------------------------------------------------------------------------

GATEWAY = """
    import sys
    import headgate
    with headgate.Gateway("hub", projects=sys.argv[1], data=sys.argv[2], port=0) as gateway:
        print(gateway.url, flush=True)
        sys.stdin.read()
    """


@pytest.fixture
def other_process(rig: Rig) -> Iterator[tuple[str, int]]:
    """A gateway in a process of its own: its URL and pid."""
    script = "def handleMessage(payload):\n    yield from range(payload['n'])\n"
    folder = rig.projects({"ACME/range": script})
    command = [sys.executable, "-c", dedent(GATEWAY), str(folder), str(rig.folder / "data")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as gateway:
        assert gateway.stdout is not None
        yield gateway.stdout.readline().strip(), gateway.pid
        assert gateway.stdin is not None
        gateway.stdin.close()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_slow_reader_costs_the_gateway_no_memory(other_process: tuple[str, int]) -> None:
    """While a million values wait for their reader, the gateway holds a window of them."""
    url, pid = other_process
    with headgate.connect(url) as client:
        assert len(client.request("ACME", "range", {"n": 10_000}).get()) == 10_000
        before = resident(pid)
        stream = client.request("ACME", "range", {"n": 1_000_000}).stream()
        # In this time it could send all of them.
        for number in range(5):
            assert next(stream) == number
            threading.Event().wait(0.1)
        assert resident(pid) - before < 5_000_000
        stream.close()
