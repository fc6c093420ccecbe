"""Handlers in worker processes: what they can do, and what happens to them when they do worse."""

from __future__ import annotations

import logging
import os
import queue
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import CancellationException, DeadlockError, HandlerKilled, RequestTimeout

if TYPE_CHECKING:
    from conftest import Rig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")


def script(body: str, settings: str = "") -> str:
    """A handler in a process; its body has payload, context, os and time."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return (
        "import os, time, headgate\n"
        f"@headgate.handler(runtime='process'{settings and ', ' + settings})\n"
        f"def handleMessage(payload, context):\n{lines}\n"
    )


PID = script("return os.getpid()")

HOLD = script("context.progress(os.getpid())\nwhile True: time.sleep(0.01)")


class Plant:
    """A gateway with the project ACME."""

    def __init__(self, rig: Rig, scripts: dict[str, str], **options: Any) -> None:
        self.rig = rig
        self.scripts = {f"ACME/{name}": text for name, text in scripts.items()}
        self.hub = rig.gateway(self.scripts, **options)
        assert self.hub.problems == []

    def ask(self, handler: str, payload: Any = None, **options: Any) -> Any:
        """Ask for something, with the scope of the gateway itself."""
        return self.hub.scope("").request("ACME", handler, payload, **{"timeout": 30, **options})

    def call(self, handler: str, payload: Any = None, **options: Any) -> Any:
        return self.ask(handler, payload, **options).get()

    def begun(self, handler: str, payload: Any = None, **options: Any) -> tuple[Any, Any]:
        """Ask for something, and return it with its first progress value."""
        reported: queue.Queue[Any] = queue.Queue()
        handle = self.ask(handler, payload, on_progress=reported.put, **options)
        return handle, reported.get(timeout=20)


@pytest.fixture
def plant(rig: Rig) -> Callable[..., Plant]:
    return lambda scripts, **options: Plant(rig, scripts, **options)


def is_gone(pid: int) -> bool:
    """Whether there is no such process, dead ones that nobody has reaped included."""
    return not Path(f"/proc/{pid}").exists()


def descendants(pid: int) -> set[int]:
    """The processes below one, those that nobody has reaped too."""
    found: set[int] = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found |= {child, *descendants(child)}
    return found


def open_files() -> Counter[str]:
    """What this process has open."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]] += 1
        except FileNotFoundError:
            continue
    return found


class TestRuns:
    def test_a_handler_runs_in_another_process(self, plant: Any) -> None:
        """It has the payload and returns a result, and the gateway's process is not it."""
        acme = plant({"pid": PID, "echo": script("return payload")})
        assert acme.call("pid") != os.getpid()
        assert acme.call("echo", {"a": [1, None, 2.5]}) == {"a": [1, None, 2.5]}

    def test_calls_of_one_handler_leave_a_worker_to_others(self, plant: Any) -> None:
        """Without a concurrency of its own a handler takes all workers but one."""
        acme = plant({"hold": HOLD, "pid": PID})
        first, worker = acme.begun("hold")
        others = [acme.ask("hold") for _ in range(3)]
        assert acme.call("pid") != worker
        for handle in (*others, first):
            handle.cancel()
        assert [handle.wait_fate(20) for handle in others] == ["not started"] * 3

    def test_a_slow_run_does_not_keep_what_is_quick_behind_it(self, plant: Any) -> None:
        """What was given to a worker ahead goes to another one."""
        body = "if payload: context.progress(1); time.sleep(60)"
        acme = plant(
            {
                "nap": script(body, "concurrency=2"),
                "project.toml": "[pool]\nworkers = 2\n",
            }
        )
        for handle in [acme.ask("nap") for _ in range(200)]:
            handle.get()
        quick = [acme.ask("nap", n == 5) for n in range(40)]
        for n, handle in enumerate(quick):
            assert n == 5 or handle.get() is None
        quick[5].cancel()

    def test_requests_of_a_handler(self, plant: Any) -> None:
        """It asks other handlers in the name of its caller, and a worker more stands in for it."""
        acme = plant(
            {
                "outer": script("return system.util.sendRequest('ACME', 'inner', payload)"),
                "inner": script("return [payload, context.caller.user]"),
                "project.toml": "[pool]\nworkers = 1\n",
            }
        )
        assert acme.call("outer", {"n": 1}) == [{"n": 1}, acme.hub.caller.user]

    def test_a_stream_that_is_larger_than_what_waits(self, plant: Any) -> None:
        values = "for number in range(40): yield bytes([number]) * 50_000"
        acme = plant({"stream": script(values)})
        expected = [bytes([number]) * 50_000 for number in range(40)]
        assert list(acme.ask("stream", timeout=10).stream()) == expected
        assert acme.call("stream", timeout=10) == expected

    def test_a_handler_that_waits_for_itself(self, plant: Any) -> None:
        """Its request can never begin, and ends with the cycle named."""
        acme = plant({"again": script("system.util.sendRequest('ACME', 'again')")})
        with pytest.raises(headgate.HandlerError, match=r"DeadlockError.*ACME/again"):
            acme.call("again")
        assert DeadlockError.__name__ in str(acme.ask("again").getError())

    def test_what_it_logs(self, plant: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Records come to the gateway's log with their logger and level."""
        acme = plant({"log": script("import logging\nlogging.getLogger('valve').warning('stuck')")})
        acme.call("log")
        acme.rig.until(lambda: ("valve", logging.WARNING, "stuck") in caplog.record_tuples)


class TestDeaths:
    @pytest.mark.parametrize(
        ("body", "how"),
        [
            ("os._exit(3)", "exit code 3"),
            ("import ctypes; ctypes.string_at(0)", "signal SIGSEGV"),
            ("os.kill(os.getpid(), 9)", "signal SIGKILL"),
        ],
    )
    def test_a_crash(self, plant: Any, body: str, how: str) -> None:
        """The request ends with what is to blame; the next one finds another worker."""
        acme = plant({"crash": script(f"context.progress(os.getpid())\n{body}"), "pid": PID})
        handle, worker = acme.begun("crash")
        error = handle.getError()
        assert type(error) is HandlerKilled
        assert error.started is True
        assert [part in str(error) for part in ("ACME/crash", str(worker), how)] == [True] * 3
        assert acme.call("pid") != worker

    def test_too_much_memory(self, plant: Any) -> None:
        """A handler that holds more than its limit is killed, and told why."""
        body = "held = []\nwhile True: held.append(bytes(2**20).replace(b'\\0', b'x'))"
        acme = plant({"eat": script(body, "memory=200"), "pid": PID})
        error = acme.ask("eat").getError()
        assert type(error) is HandlerKilled
        assert (error.started, "memory=200 MiB" in str(error)) == (True, True)
        assert acme.call("pid")

    def test_what_it_had_said_before_counts(self, plant: Any) -> None:
        """A result that nobody has read when its worker dies is the result."""
        body = (
            "import threading\n"
            "context.progress(os.getpid())\n"
            "while not os.path.exists(payload): time.sleep(0.005)\n"
            "threading.Timer(0.5, os._exit, [1]).start()\n"
            "return 7"
        )
        acme = plant({"last": script(body)})
        go, blocks, free = acme.rig.folder / "go", threading.Event(), threading.Event()
        handle, worker = acme.begun("last", str(go))

        def block() -> None:
            blocks.set()
            free.wait(20)

        acme.hub.call(block)
        assert blocks.wait(20)
        go.touch()
        acme.rig.until(lambda: is_gone(worker))
        free.set()
        assert handle.get() == 7

    def test_the_fork_server_dies(self, plant: Any) -> None:
        """What ran ends as killed, and what comes after that is served."""
        acme = plant({"hold": HOLD, "pid": PID})
        handle, worker = acme.begun("hold")
        (parent,) = (n for n in descendants(os.getpid()) if worker in descendants(n))
        os.kill(parent, signal.SIGKILL)
        assert type(handle.getError()) is HandlerKilled
        assert acme.call("pid") != worker

    def test_workers_that_cannot_be_loaded_any_more(self, plant: Any, tmp_path: Path) -> None:
        """What waits ends with the reason, and nothing of it began."""
        broken = tmp_path / "broken"
        text = f"import os\nif os.path.exists({str(broken)!r}): os._exit(5)\n" + script(
            "context.progress(os.getpid())\nwhile not payload: time.sleep(0.01)"
        )
        acme = plant({"run": text, "project.toml": "[pool]\nworkers = 1\n"})
        handle, _ = acme.begun("run")
        waiting = acme.ask("run", True)
        broken.touch()
        handle.cancel()
        error = waiting.getError()
        assert type(error) is HandlerKilled
        assert (error.started, "exit code 5" in str(error)) == (False, True)
        broken.unlink()
        acme.rig.until(lambda: acme.ask("run", True).getError() is None)


class TestStops:
    @pytest.mark.parametrize("by", ["cancel", "deadline"])
    def test_only_the_worker_that_runs_it_is_killed(self, plant: Any, by: str) -> None:
        """The other worker goes on with what it runs, and nothing of the killed one is left."""
        wait = script(
            "context.progress(os.getpid())\n"
            "while not os.path.exists(payload): time.sleep(0.005)\n"
            "return os.getpid()"
        )
        acme = plant({"hold": HOLD, "wait": wait})
        go = acme.rig.folder / "go"
        other, spared = acme.begun("wait", str(go))
        handle, victim = acme.begun("hold", timeout=0.5 if by == "deadline" else 30)
        if by == "cancel":
            assert handle.cancel()
        error = handle.getError()
        assert type(error) is (CancellationException if by == "cancel" else RequestTimeout)
        assert error.started is True
        assert handle.wait_fate(20) == "stopped"
        go.touch()
        assert other.get() == spared
        acme.rig.until(lambda: is_gone(victim))

    def test_what_was_given_ahead_begins_once(self, plant: Any, tmp_path: Path) -> None:
        """Whatever is killed or taken back beside it, each run begins once or never."""
        journal = tmp_path / "journal"
        body = (
            "with open(payload['journal'], 'a') as file: file.write(f\"{payload['n']}\\n\")\n"
            "if payload['how'] == 'die': os._exit(1)\n"
            "if payload['how'] == 'nap': time.sleep(0.02)\n"
            "return payload['n']"
        )
        acme = plant(
            {"run": script(body, "concurrency=2"), "project.toml": "[pool]\nworkers = 2\n"}
        )
        chance = random.Random(7)
        kinds = [
            chance.choices(["run", "die", "nap", "cancel"], [90, 2, 2, 6])[0] for _ in range(900)
        ]
        handles = []
        for n, how in enumerate(kinds):
            handles.append(acme.ask("run", {"n": n, "how": how, "journal": str(journal)}))
            if how == "cancel":
                handles[max(0, n - chance.randrange(20))].cancel()
        ends = [(handle.getError(), handle.wait_fate(20)) for handle in handles]
        began = Counter(map(int, journal.read_text().split()))
        assert set(began.values()) == {1}
        for n, (error, fate) in enumerate(ends):
            where = (n, kinds[n], error, fate)
            if error is None:
                assert began[n], where
                assert handles[n].get() == n
            elif type(error) is HandlerKilled:
                assert (kinds[n], error.started, began[n]) == ("die", True, 1), where
                assert fate == "stopped", where
            else:
                assert type(error) is CancellationException, where
                assert fate in ("stopped", "finished", "not started"), where
                assert fate == "stopped" or (fate == "finished") == bool(began[n]), where

    def test_interrupt(self, plant: Any, tmp_path: Path) -> None:
        """KeyboardInterrupt is raised in the handler, which cleans up; its worker goes on."""
        body = (
            "context.progress(os.getpid())\n"
            "try:\n"
            "    while True: time.sleep(0.01)\n"
            "finally:\n"
            "    open(payload, 'w').close()"
        )
        acme = plant(
            {
                "hold": script(body, "on_timeout='interrupt'"),
                "pid": PID,
                "project.toml": "[pool]\nworkers = 1\n",
            }
        )
        handle, worker = acme.begun("hold", str(tmp_path / "cleaned"))
        handle.cancel()
        assert handle.wait_fate(20) == "stopped"
        assert (tmp_path / "cleaned").exists()
        assert acme.call("pid") == worker

    def test_a_handler_that_takes_no_interrupt(self, plant: Any) -> None:
        """It is killed after a grace."""
        body = (
            "import signal\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "context.progress(os.getpid())\n"
            "while True: time.sleep(60)"
        )
        acme = plant({"hold": script(body, "on_timeout='interrupt'"), "pid": PID})
        handle, worker = acme.begun("hold")
        handle.cancel()
        assert handle.wait_fate(20) == "stopped"
        acme.rig.until(lambda: is_gone(worker))

    def test_abandon(self, plant: Any) -> None:
        """It learns that nobody waits, and goes on until it returns, on the same worker."""
        body = "context.progress(os.getpid())\nwhile not context.cancelled: time.sleep(0.005)"
        acme = plant(
            {
                "hold": script(body, "on_timeout='abandon'"),
                "pid": PID,
                "project.toml": "[pool]\nworkers = 1\n",
            }
        )
        handle, worker = acme.begun("hold")
        handle.cancel()
        assert handle.wait_fate(20) == "finished"
        acme.rig.settle(acme.hub)
        assert acme.call("pid") == worker

    def test_a_chain_of_handlers(self, plant: Any) -> None:
        """The end of the outermost one ends all that it asked for."""
        deeper = "context.progress(os.getpid())\nsystem.util.sendRequest('ACME', '{}', payload)"
        acme = plant(
            {
                "one": script(deeper.format("two")),
                "two": script(deeper.format("three")),
                "three": script(
                    "open(payload['note'], 'w').write(f'{os.getpid()}')\nwhile True: pass"
                ),
            }
        )
        note = acme.rig.folder / "pid"
        handle, outermost = acme.begun("one", {"note": str(note)})
        innermost = acme.rig.until(lambda: note.exists() and note.read_text())
        handle.cancel()
        acme.rig.until(lambda: is_gone(outermost) and is_gone(int(innermost)))


class TestWorkers:
    def test_a_reload(self, plant: Any) -> None:
        """What runs ends on its old worker, which ends with it; what comes runs the new code."""
        old = (
            "context.progress(os.getpid())\n"
            "while not os.path.exists(payload): time.sleep(0.005)\n"
            "return 'old'"
        )
        acme = plant({"test": script(old, "concurrency=2")})
        go = acme.rig.folder / "go"
        running, worker = acme.begun("test", str(go))
        acme.rig.projects({"ACME/test": script("return ['new', os.getpid()]", "concurrency=2")})
        acme.hub.reload()
        what, other = acme.call("test")
        assert (what, other != worker) == ("new", True)
        go.touch()
        assert running.get() == "old"
        acme.rig.until(lambda: is_gone(worker))

    def test_an_old_worker_is_replaced(self, plant: Any) -> None:
        """After its age another one has its place."""
        acme = plant({"pid": PID, "project.toml": "[pool]\nworkers = 1\nworker_age = 0.2\n"})
        first = acme.call("pid")
        acme.rig.until(lambda: acme.call("pid") != first)
        acme.rig.until(lambda: is_gone(first))

    def test_a_large_worker_is_replaced(self, plant: Any) -> None:
        """After a run that leaves it with more than it may hold another one has its place."""
        keep = (
            "import builtins\n"
            "builtins.kept = [b'x' * 2**20 for _ in range(200)]\n"
            "return os.getpid()"
        )
        acme = plant(
            {
                "keep": script(keep),
                "pid": PID,
                "project.toml": "[pool]\nworkers = 1\nworker_memory = 150\n",
            }
        )
        large = acme.call("keep")
        acme.rig.until(lambda: is_gone(large))
        assert acme.call("pid") != large

    def test_nothing_is_left_of_a_gateway(self, rig: Rig, tmp_path: Path) -> None:
        """No process, dead or alive, and no open file, whatever was killed meanwhile."""
        processes, files = descendants(os.getpid()), open_files()
        with headgate.Gateway(
            "other",
            projects=rig.projects({"ACME/hold": HOLD, "ACME/crash": script("os._exit(1)")}),
            port=0,
            data=tmp_path / "other",
        ) as gateway:
            ask = gateway.scope("").request
            for _ in range(5):
                assert ask("ACME", "crash", None).getError()
            holding = ask("ACME", "hold", None)
            rig.until(gateway.running)
            assert descendants(os.getpid()) > processes
            gateway.stop(0.0)
        assert holding.getError() is not None
        assert descendants(os.getpid()) == processes
        assert open_files() == files

    def test_many_threads_may_ask(self, plant: Any) -> None:
        """All are answered with what they asked for."""
        acme = plant({"echo": script("return payload")})
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda n: acme.call("echo", n), range(400))) == list(range(400))
        assert threading.active_count() < 60
