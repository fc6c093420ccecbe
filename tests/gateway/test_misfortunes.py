"""What goes wrong around a request ends that request at most, and nothing after it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Rig

from headgate.errors import DeadlockError, HandlerError, RequestTimeout
from headgate.runtimes.pool import Worker
from headgate.security.audit import Record

UNSPEAKABLE = """
    class Unspeakable(Exception):
        def __str__(self):
            raise SystemExit("not even this")

    class Annotated(Exception):
        @property
        def __notes__(self):
            raise RuntimeError("no notes")

    def handleMessage(payload):
        raise {
            "text": Unspeakable(),
            "notes": Annotated("annotated"),
            "syntax": SyntaxError("x", ("f", 1, "a", "text")),
        }[payload]
    """


class Once:
    """A recorder that fails the first time."""

    def __init__(self) -> None:
        self.failures = 0

    def record(self, record: Record) -> None:
        if record.event == "failed" and not self.failures:
            self.failures += 1
            raise OSError("no space left on the device")


@pytest.mark.parametrize("what", ["text", "notes", "syntax"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_exception_that_cannot_be_described(rig: Rig, what: str, kind: str) -> None:
    """It ends its own request, and its thread goes on to the next one."""
    script = UNSPEAKABLE.replace("def handleMessage", f"{kind} handleMessage")
    hub = rig.gateway({"ACME/bad": script, "ACME/echo": rig.ECHO})
    scope = hub.scope("")
    for _ in range(10):
        error = scope.request("ACME", "bad", what).getError()
        assert isinstance(error, HandlerError)
        assert error.started is True
    assert scope.request("ACME", "echo", 1).get() == 1
    rig.settle(hub)


def test_a_recorder_that_fails(rig: Rig) -> None:
    """A record is lost; the deadlines of later requests are met."""
    recorder = Once()
    hub = rig.gateway({"ACME/hold": rig.HOLD}, recorder=recorder)
    for _ in range(2):
        error = hub.scope("").request("ACME", "hold", 1, timeout=0.1).getError()
        assert isinstance(error, RequestTimeout)
    assert recorder.failures == 1


def test_a_thread_that_cannot_be_started(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system had no thread to give for once: the request gets one a moment later."""
    start, refused = Worker.start, []

    def refuse_once(worker: Worker) -> None:
        if not refused:
            refused.append(worker)
            raise RuntimeError("can't start new thread")
        start(worker)

    monkeypatch.setattr(Worker, "start", refuse_once)
    hub = rig.gateway({"ACME/echo": rig.ECHO})
    assert hub.scope("").request("ACME", "echo", 1).get() == 1
    assert refused


def test_a_handler_that_waits_for_its_own_handle(rig: Rig) -> None:
    """Nobody is queued, so nobody could ever end the wait: the request ends with DeadlockError."""
    hub = rig.gateway(
        {
            "ACME/own": """
                def handleMessage(payload):
                    system.util.globals["ready"].wait(20)
                    return system.util.globals["handle"].get()
                """
        }
    )
    hub.globals["ready"] = ready = threading.Event()
    hub.globals["handle"] = handle = hub.scope("").request("ACME", "own")
    ready.set()
    assert isinstance(handle.getError(), DeadlockError)
    rig.settle(hub)


def test_a_thread_of_a_handler_waits_for_itself(rig: Rig) -> None:
    """That a helper thread waits in the handler's context does not mean that the handler does."""
    hub = rig.gateway(
        {
            "ACME/one": """
                import contextvars
                import threading

                import headgate

                @headgate.handler(threading="Dedicated")
                def handleMessage(payload):
                    if payload == "leaf":
                        return "leaf"
                    nested = system.util.globals["scope"].request("ACME", "one", "leaf")
                    context = contextvars.copy_context()
                    waiting = threading.Thread(target=lambda: context.run(nested.getError))
                    system.util.globals["nested"] = nested
                    waiting.start()
                    system.util.globals["go"].wait(0.2)
                    return "parent"
                """
        }
    )
    hub.globals["scope"] = hub.scope("ACME")
    assert hub.scope("").request("ACME", "one", "parent").get() == "parent"
    assert hub.globals["nested"].get() == "leaf"


@pytest.mark.parametrize("raised", ["SystemExit(1)", "asyncio.CancelledError()", "GeneratorExit()"])
def test_a_script_that_ends_more_than_itself_when_it_is_loaded(rig: Rig, raised: str) -> None:
    """It is a problem of that script; the gateway starts and the others serve."""
    hub = rig.gateway({"ACME/bad": f"import asyncio\nraise {raised}\n", "ACME/echo": rig.ECHO})
    assert [problem.handler for problem in hub.problems] == ["bad"]
    assert hub.scope("").request("ACME", "echo", 1).get() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals are POSIX's")
def test_a_signal_in_the_middle_of_anything(rig: Rig, tmp_path: Path) -> None:
    """Signal handlers that cancel, at thousands of moments, leave every handle usable."""
    hub = rig.gateway({"ACME/echo": rig.ECHO})
    script = """
        import signal, sys, headgate

        with headgate.connect(sys.argv[1]) as client:
            open_requests = []

            def cancel_all(*_):
                for request in list(open_requests):
                    request.cancel()

            signal.signal(signal.SIGALRM, cancel_all)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0003)
            for number in range(3000):
                request = client.request("ACME", "echo", number)
                open_requests.append(request)
                request.block()
                open_requests.remove(request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(client.request("ACME", "echo", "alive").get())
        """
    done: Any = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), hub.url],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout == "alive\n", done.stderr
