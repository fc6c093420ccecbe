"""Handlers in worker processes: what they can do, and what happens to them when they do worse."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import CancellationException, DeadlockError, HandlerKilled, RequestTimeout
from headgate.runtimes.link import Logged, NestedCall, framed

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

    def test_a_logger_for_each_run(
        self, plant: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Loggers last, so only so many are made; beyond that a record names its own."""
        known = logging.root.manager.loggerDict
        acme = plant({"log": script("import logging\nlogging.getLogger(payload).error('stuck')")})
        monkeypatch.setattr("headgate.runtimes.forkserver.MOST_LOGGERS", len(known) + 1)
        for n in range(3):
            acme.call("log", f"valve-{n}")
        record = ("headgate.worker", logging.ERROR, "valve-2: stuck")
        acme.rig.until(lambda: record in caplog.record_tuples)
        assert [name for name in known if name.startswith("valve-")] == ["valve-0"]


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

    def test_what_follows_is_not_killed_for_it(
        self, plant: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A run that ends while its worker is measured takes the next one's life not."""
        body = (
            "if payload == 'first':\n"
            "    while not os.path.exists(FOLDER + '/go'): time.sleep(0.001)\n"
            "if payload == 'second':\n"
            "    open(FOLDER + '/begun', 'w').close()\n"
            "    while not os.path.exists(FOLDER + '/end'): time.sleep(0.001)\n"
            "return payload"
        )
        text = f"FOLDER = {str(tmp_path)!r}\n" + script(body, "memory=4000")
        monkeypatch.setattr("headgate.runtimes.patrol.MEMORY_SECONDS", 0.001)
        monkeypatch.setattr("headgate.runtimes.staging.STAGED_SECONDS", 0.1)
        monkeypatch.setattr("headgate.runtimes.patrol.STAGED_SECONDS", 0.1)
        acme = plant({"run": text, "project.toml": "[pool]\nworkers = 1\n"})
        for handle in [acme.ask("run", n) for n in range(200)]:
            handle.get()

        def measure(pid: int) -> int:
            (tmp_path / "go").touch()
            # If it was not given ahead, it does not begin now, and this shows less.
            with contextlib.suppress(AssertionError):
                acme.rig.until((tmp_path / "begun").exists, 2.0)
            monkeypatch.undo()
            return 1 << 40 if (tmp_path / "begun").exists() else 0

        monkeypatch.setattr("headgate.runtimes.workers.memory_of", measure)
        handles: list[Any] = []
        acme.hub.call(lambda: handles.extend(acme.ask("run", n) for n in ("first", "second")))
        acme.rig.until(lambda: len(handles) == 2)
        assert handles[0].get() == "first"
        (tmp_path / "end").touch()
        assert [handle.get() for handle in handles] == ["first", "second"]

    def test_too_much_memory(self, plant: Any) -> None:
        """A handler that holds more than its limit is killed, and told why."""
        body = "held = [b'x' * 2**20 for _ in range(256)]\ntime.sleep(60)"
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
            "return 100_000 * '7'"
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
        # Its death is told by another process. If that took longer, this would show less.
        time.sleep(0.1)
        free.set()
        # More than is read at once.
        assert handle.get() == 100_000 * "7"

    def test_the_fork_server_dies(self, plant: Any) -> None:
        """What ran ends as killed, with what it had started; what comes after that is served."""
        start = "import subprocess\ncontext.progress(subprocess.Popen(['sleep', '600']).pid)\n"
        acme = plant({"hold": script(f"{start}while True: time.sleep(60)"), "pid": PID})
        handle, child = acme.begun("hold")
        pidfd = os.pidfd_open(child)
        worker = acme.hub.running()["running"][0]["pid"]
        (parent,) = (n for n in descendants(os.getpid()) if worker in descendants(n))
        os.kill(parent, signal.SIGKILL)
        error = handle.getError()
        assert type(error) is HandlerKilled
        assert "SIGKILL" in str(error)
        assert acme.call("pid") != worker
        assert select.select([pidfd], [], [], 20)[0]
        os.close(pidfd)

    @pytest.mark.parametrize(
        "nonsense",
        [
            b"\x00\x00\x00\x02\x92\x63",
            b"\x7f\xff\xff\xff\x01",
            framed(NestedCall(10**9, 0, "ACME", "count", b"\xc0", 1e12)),
            framed(Logged("x", 20, "text"))[:-1] + b"\xff",
        ],
        ids=["no frame", "no length", "a number again", "no text"],
    )
    def test_nonsense_on_the_link(self, plant: Any, nonsense: bytes, tmp_path: Path) -> None:
        """Only who wrote it is killed, and what it had asked for before is asked once."""
        ask = framed(NestedCall(10**9, 0, "ACME", "count", b"\xc0", 1e12))
        body = (
            "for fd in range(3, 20):\n"
            "    path = f'/proc/self/fd/{fd}'\n"
            "    if os.path.lexists(path) and 'socket' in os.readlink(path):\n"
            "        os.write(fd, payload)\n"
            "while True: time.sleep(60)"
        )
        note = tmp_path / "note"
        acme = plant(
            {
                "write": script(body),
                "count": script(
                    f"with open({str(note)!r}, 'a') as f: f.write('x')\ntime.sleep(0.3)"
                ),
                "hold": HOLD,
            }
        )
        spared, worker = acme.begun("hold")
        error = acme.ask("write", ask + nonsense).getError()
        assert (type(error), error.started) == (HandlerKilled, True)
        acme.rig.until(lambda: note.exists() and note.read_text() == "x")
        assert not is_gone(worker)
        spared.cancel()

    def test_a_handler_leaves_something_behind_that_blocks(
        self, plant: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that begins nothing any more is killed, and what it was given runs elsewhere."""
        monkeypatch.setattr("headgate.runtimes.patrol.STUCK_SECONDS", 0.3)
        body = (
            "import os, time, asyncio, headgate\n"
            "@headgate.handler(runtime='process')\n"
            "async def handleMessage(payload):\n"
            "    def block():\n"
            "        open(payload, 'w').close()\n"
            "        while True: time.sleep(60)\n"
            "    asyncio.get_running_loop().call_later(0.02, block)\n"
            "    return os.getpid()\n"
        )
        acme = plant({"leave": body, "pid": PID, "project.toml": "[pool]\nworkers = 1\n"})
        blocks = acme.rig.folder / "blocks"
        worker = acme.call("leave", str(blocks))
        acme.rig.until(blocks.exists)
        handles = [acme.ask("pid") for _ in range(3)]
        assert worker not in [handle.get() for handle in handles]
        assert is_gone(worker)

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

    @pytest.mark.parametrize("by", ["cancel", "stop"])
    def test_a_handler_that_takes_no_interrupt(self, plant: Any, by: str) -> None:
        """It is killed after a grace, and its caller learns it, also when the gateway stops."""
        body = (
            "while True:\n"
            "    try:\n"
            "        context.progress(os.getpid())\n"
            "        time.sleep(60)\n"
            "    except KeyboardInterrupt: pass"
        )
        acme = plant({"hold": script(body, "on_timeout='interrupt'"), "pid": PID})
        if by == "cancel":
            handle, worker = acme.begun("hold")
            handle.cancel()
        else:
            reported: queue.Queue[int] = queue.Queue()
            client = acme.rig.client(acme.hub)
            handle = client.request("ACME", "hold", None, on_progress=reported.put)
            worker = reported.get(timeout=20)
            acme.hub.stop(0.0)
        assert handle.wait_fate(20) == "stopped"
        acme.rig.until(lambda: is_gone(worker))

    def test_one_that_has_ended_already_is_not_killed(self, plant: Any) -> None:
        """Not even if the gateway has not read its result yet."""
        body = (
            "import threading\n"
            "context.progress(os.getpid())\n"
            "while not os.path.exists(payload): time.sleep(0.005)\n"
            "threading.Timer(0.2, lambda: open(payload + ' over', 'w').close()).start()"
        )
        acme = plant({"test": script(body), "pid": PID, "project.toml": "[pool]\nworkers = 1\n"})
        go = acme.rig.folder / "go"
        handle, worker = acme.begun("test", str(go))

        def block() -> None:
            go.touch()
            acme.rig.until((go.parent / "go over").exists)

        acme.hub.call(block)
        handle.cancel()
        assert handle.wait_fate(20) == "finished"
        assert acme.call("pid") == worker

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

    def test_a_reload_while_workers_are_made_that_hang(self, plant: Any, tmp_path: Path) -> None:
        """Those of the newer code do not wait for them."""
        hangs = (
            "import os, time\n"
            f"try: open({str(tmp_path / 'first')!r}, 'x').close()\n"
            f"except FileExistsError: open({str(tmp_path / 'hangs')!r}, 'w'); time.sleep(60)\n"
        )
        hold = script("context.progress(os.getpid())\nwhile True: time.sleep(60)", "concurrency=2")
        acme = plant({"hold": hangs + hold, "project.toml": "[pool]\nworkers = 2\n"})
        acme.rig.until((tmp_path / "hangs").exists)
        acme.rig.projects({"ACME/hold": hold})
        acme.hub.reload()
        handles, workers = zip(*(acme.begun("hold") for _ in range(2)), strict=True)
        assert len(set(workers)) == 2
        for handle in handles:
            handle.cancel()

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
