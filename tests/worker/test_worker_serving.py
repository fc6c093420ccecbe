"""Runs of handlers in a worker: permits, ends, interrupts, progress and values."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import TYPE_CHECKING

import pytest

from headgate.runtimes.link import (
    Granted,
    Logged,
    NestedAnswer,
    NestedCall,
    Reported,
    Returned,
    Stop,
    Void,
    Voided,
    Yielded,
)
from headgate.wire.codec import decode, encode

if TYPE_CHECKING:
    from worker_ends import Nursery, WorkerEnd

SCRIPTS = {
    "echo": "def handleMessage(payload):\n    return payload\n",
    "ask": """
        def handleMessage(payload):
            return system.util.sendRequest("ACME", "inner")
        """,
    "fail": "def handleMessage(payload):\n    raise KeyError(payload['key'])\n",
    "exit": "import sys\ndef handleMessage(payload):\n    sys.exit(3)\n",
    "odd": "def handleMessage(payload):\n    return object()\n",
    "who": """
        def handleMessage(payload, context):
            left = context.remaining()
            return [context.caller.user, context.request_id, 0 < left <= 60, context.cancelled]
        """,
    "sleep": """
        import time
        def handleMessage(payload, context):
            context.progress("begun")
            time.sleep(60)
        """,
    "asleep": """
        import threading, time
        def handleMessage(payload, context):
            threading.Timer(0.05, context.progress, ("begun",)).start()
            time.sleep(60)
        """,
    "patient": """
        import time
        def handleMessage(payload, context):
            context.progress("begun")
            while not context.cancelled:
                time.sleep(0.001)
            return "seen"
        """,
    "later": """
        import asyncio
        async def handleMessage(payload, context):
            context.progress("begun")
            await asyncio.sleep(payload)
            return "slept"
        """,
    "blocking": """
        import time
        async def handleMessage(payload, context):
            context.progress("begun")
            time.sleep(60)
        """,
    "leave": """
        import asyncio
        left = []
        async def tick():
            for n in range(3):
                await asyncio.sleep(0)
                left.append(n)
            print("ticked", left)
        async def handleMessage(payload):
            left.append(asyncio.create_task(tick()))
            return "left"
        """,
    "count": """
        def handleMessage(payload, context):
            try:
                for n in range(payload):
                    yield n
            finally:
                print("closed")
        """,
    "trickle": """
        import time
        def handleMessage(payload):
            yield "first"
            time.sleep(60)
        """,
    "child": """
        import os
        def handleMessage(payload):
            pid = os.fork()
            if pid == 0:
                print("in the child")
                return "from the child"
            return os.waitpid(pid, 0)[1]
        """,
}


@pytest.fixture
def worker(nursery: Nursery) -> WorkerEnd:
    """A worker that has loaded `SCRIPTS`."""
    return nursery.loaded(SCRIPTS)


# --- ends ----------------------------------------------------------------------------------------


def test_a_result_comes_back(worker: WorkerEnd) -> None:
    """It is what the handler returned, of any kind that a payload can hold."""
    payload = {"a": [1, 2.5, None], "b": b"x" * 300_000}
    assert worker.call("echo", payload) == payload


def test_a_handler_learns_who_asks_and_until_when(worker: WorkerEnd) -> None:
    """The context is that of a handler on the gateway."""
    run = worker.run("who")
    worker.permit()
    worker.send(run)
    end = worker.take(Returned)
    assert decode(end.payload) == ["operator", f"{'0' * 20}{run.sequence:012x}", True, False]


def test_an_exception_crosses_as_text(worker: WorkerEnd) -> None:
    """Type, message and the traceback from the script's first frame on; it is logged, too."""
    worker.begin("fail", {"key": "speed"})
    end = worker.take(Returned)
    assert (end.code, end.started) == ("handler_error", True)
    assert end.details["type"] == "KeyError"
    assert end.details["message"] == "'speed'"
    assert "raise KeyError(payload['key'])" in end.details["traceback"]
    assert "execute" not in end.details["traceback"]
    logged = worker.take(Logged)
    assert (logged.logger, logged.level, logged.number) == ("headgate.handlers", 40, end.number)
    assert worker.call("echo", 1) == 1


def test_a_result_that_cannot_be_sent_is_named(worker: WorkerEnd) -> None:
    """It is a PayloadError with its place."""
    worker.begin("odd")
    end = worker.take(Returned)
    assert (end.code, end.started, end.details["place"]) == ("payload", True, "result")


def test_sys_exit_ends_the_run_alone(worker: WorkerEnd) -> None:
    """The worker goes on."""
    worker.begin("exit")
    assert worker.take(Returned).details["type"] == "SystemExit"
    assert worker.call("echo", 1) == 1


def test_a_handler_that_is_not_there_is_not_found(worker: WorkerEnd) -> None:
    """Nothing has started."""
    worker.begin("missing")
    end = worker.take(Returned)
    assert (end.code, end.started) == ("handler_not_found", False)


def test_nothing_begins_after_its_deadline(worker: WorkerEnd) -> None:
    """It is a timeout that has not started."""
    worker.begin("echo", 1, seconds=-1.0)
    end = worker.take(Returned)
    assert (end.code, end.started) == ("timeout", False)


def test_a_child_of_a_handler_does_not_speak_for_the_worker(worker: WorkerEnd) -> None:
    """What it prints or returns never comes to the gateway; the worker goes on."""
    assert worker.call("child") == 0
    assert worker.call("echo", 2) == 2
    assert worker.heard == []


# --- permits -------------------------------------------------------------------------------------


def test_nothing_begins_without_a_permit(worker: WorkerEnd) -> None:
    """Of runs that were written ahead, those begin in order that there are permits for."""
    runs = [worker.run("echo", n) for n in range(4)]
    worker.send(*runs)
    worker.permit(2)
    assert [decode(worker.take(Returned).payload) for _ in range(2)] == [0, 1]
    worker.send(Void([runs[3].number]))
    worker.take(Voided)
    worker.permit()
    assert decode(worker.take(Returned).payload) == 2
    # What had run without a permit would have said so before this.
    assert worker.call("echo", 4) == 4
    assert worker.heard == []


def test_what_is_taken_back_never_begins(worker: WorkerEnd) -> None:
    """A head that runs long keeps nobody behind it: they run elsewhere, and what is new here."""
    head, *behind = [worker.run("patient"), worker.run("echo", 1), worker.run("echo", 2)]
    worker.permit(3)
    worker.send(head, *behind)
    worker.take(Reported)
    assert worker.take_permits_back() == 2
    worker.send(Void([run.number for run in behind]))
    worker.take(Voided)
    worker.send(Stop(head.number))
    assert decode(worker.take(Returned).payload) == "seen"
    assert worker.call("echo", 3) == 3
    assert worker.heard == []


def test_permits_may_come_before_and_after_their_runs(worker: WorkerEnd) -> None:
    """Either way a run begins once it has both."""
    worker.permit()
    worker.send(worker.run("echo", 1))
    assert decode(worker.take(Returned).payload) == 1
    worker.send(worker.run("echo", 2))
    worker.permit()
    assert decode(worker.take(Returned).payload) == 2


# --- stopping ------------------------------------------------------------------------------------


def test_a_handler_sees_that_nobody_waits(worker: WorkerEnd) -> None:
    """`context.cancelled` becomes True, and what it then returns is its end."""
    run = worker.begin("patient")
    worker.take(Reported)
    worker.send(Stop(run.number))
    assert decode(worker.take(Returned).payload) == "seen"


def test_a_run_that_is_stopped_before_it_begins_does_not_run(worker: WorkerEnd) -> None:
    """It ends as cancelled and not started."""
    first, second = worker.run("patient"), worker.run("echo", 1)
    worker.permit(2)
    worker.send(first, second, Stop(second.number))
    worker.take(Reported)
    worker.send(Stop(first.number))
    worker.take(Returned)
    end = worker.take(Returned)
    assert (end.number, end.code, end.started) == (second.number, "cancelled", False)


@pytest.mark.parametrize(
    ("handler", "payload"), [("sleep", None), ("later", 60), ("blocking", None)]
)
def test_an_interrupt_ends_what_was_stopped(
    worker: WorkerEnd, handler: str, payload: object
) -> None:
    """A sleeping handler, a task that awaits, and one that blocks its loop: all are cancelled."""
    run = worker.begin(handler, payload)
    worker.take(Reported)
    worker.send(Stop(run.number))
    worker.signal(signal.SIGINT)
    end = worker.take(Returned)
    assert (end.number, end.code, end.started) == (run.number, "cancelled", True)
    assert worker.call("echo", 1) == 1


def test_an_interrupt_that_comes_before_its_word_waits_for_it(worker: WorkerEnd) -> None:
    """A signal may overtake the frame."""
    run = worker.begin("sleep")
    worker.take(Reported)
    worker.signal(signal.SIGINT)
    worker.send(Stop(run.number))
    assert worker.take(Returned).code == "cancelled"


def test_an_interrupt_that_a_blocking_call_does_not_see_is_repeated(worker: WorkerEnd) -> None:
    """
    As one that comes right before the call blocks: Python knows of it, and the call goes on.

    Here that is so because another thread of the worker gets the signal.
    """
    run = worker.begin("asleep")
    worker.take(Reported)
    other = min({int(each) for each in os.listdir(f"/proc/{worker.pid}/task")} - {worker.pid})
    assert ctypes.CDLL(None).tgkill(worker.pid, other, signal.SIGINT) == 0
    worker.send(Stop(run.number))
    assert worker.take(Returned).code == "cancelled"


def test_an_interrupt_that_comes_late_hits_nobody(worker: WorkerEnd) -> None:
    """Neither an idle worker, nor the next run."""
    run = worker.begin("echo", 1)
    worker.take(Returned)
    worker.send(Stop(run.number))
    worker.signal(signal.SIGINT)
    worker.begin("ask")
    call = worker.take(NestedCall)
    worker.signal(signal.SIGINT)
    worker.send(Stop(run.number), NestedAnswer(call.number, encode("there")))
    assert decode(worker.take(Returned).payload) == "there"


def test_an_interrupt_never_cuts_a_frame(nursery: Nursery) -> None:
    """It waits until what is being sent is sent: here as nobody reads yet."""
    worker = nursery.loaded(
        {
            "talk": """
                def handleMessage(payload, context):
                    while True:
                        context.progress(b"x" * 3_000_000)
                """,
            "echo": SCRIPTS["echo"],
        }
    )
    for _ in range(5):
        run = worker.begin("talk")
        assert len(decode(worker.take(Reported).payload)) == 3_000_000
        worker.send(Stop(run.number))
        worker.signal(signal.SIGINT)
        assert worker.take(Returned).code == "cancelled"
    assert worker.call("echo", 1) == 1


def test_a_worker_ends_when_its_link_is_closed(nursery: Nursery, worker: WorkerEnd) -> None:
    """At once, whatever it runs."""
    worker.begin("sleep")
    worker.take(Reported)
    worker.sock.shutdown(1)
    assert nursery.exit_of(worker) == 0


# --- what comes before the end -------------------------------------------------------------------


def test_progress_is_conflated(nursery: Nursery) -> None:
    """Of many values few leave, the last one among them, before the end."""
    worker = nursery.loaded(
        {
            "report": """
                def handleMessage(payload, context):
                    for n in range(payload):
                        context.progress(n)
                """
        }
    )
    worker.begin("report", 20_000)
    worker.take(Returned)
    values = [decode(frame.payload) for frame in worker.heard if isinstance(frame, Reported)]
    assert values[0] == 0
    assert values[-1] == 19_999
    assert values == sorted(set(values))
    assert len(values) < 5_000


def test_values_leave_in_order_and_together(worker: WorkerEnd) -> None:
    """All of them before the end, in far fewer frames; a list for who takes no stream."""
    run = worker.run("count", 5_000, streams=True)
    worker.permit()
    worker.send(run, Granted(run.number, 10_000_000))
    end = worker.take(Returned)
    frames = [frame for frame in worker.heard if isinstance(frame, Yielded)]
    assert [decode(part) for frame in frames for part in frame.parts] == list(range(5_000))
    assert (end.code, end.payload) == ("", b"")
    assert len(frames) < 2_500
    assert worker.call("count", 3) == [0, 1, 2]


def test_a_generator_goes_on_as_far_as_its_reader_takes_more(worker: WorkerEnd) -> None:
    """It waits at the end of the grant, and for each further one."""
    run = worker.run("count", 10_000, streams=True)
    worker.permit()
    worker.send(run)
    parts: list[bytes] = []
    cost = len(encode(9_000)) + 64

    def read_until(count: int) -> None:
        while len(parts) < count:
            parts.extend(worker.take(Yielded).parts)

    read_until(256 * 1024 // cost)
    within = len(parts)
    assert within < 10_000
    worker.send(Granted(run.number, 512 * 1024))
    read_until(512 * 1024 // cost)
    assert within < len(parts) < 10_000
    worker.send(Stop(run.number))
    end = worker.take(Returned)
    assert (end.code, end.started) == ("cancelled", True)
    assert worker.take(Logged).message == "closed"


def test_a_value_leaves_before_the_generator_blocks(worker: WorkerEnd) -> None:
    """Its reader does not wait for the next one."""
    worker.begin("trickle", streams=True)
    assert [decode(part) for part in worker.take(Yielded).parts] == ["first"]


def test_tasks_that_are_left_behind_go_on(worker: WorkerEnd) -> None:
    """While the worker waits for its next run."""
    assert worker.call("leave") == "left"
    assert worker.take(Logged).message.startswith("ticked")


def test_runs_that_were_written_ahead_end_in_order(worker: WorkerEnd) -> None:
    """However many there are."""
    runs = [worker.run("echo", {"number": n}) for n in range(2_000)]
    worker.permit(len(runs))
    worker.send(*runs)
    ends = [worker.take(Returned) for _ in runs]
    assert [end.number for end in ends] == [run.number for run in runs]
