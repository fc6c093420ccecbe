"""The fork server, as the gateway holds it: workers are made, load, die and leave nothing."""

from __future__ import annotations

import os
import queue
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.errors import ConfigurationError
from headgate.runtimes.forkserver import ForkServer, WorkerProcess
from headgate.runtimes.link import Returned, Run, WorkerCode, decode_from_worker, framed
from headgate.wire.codec import decode, encode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")

SOON = 20.0
"""Seconds that nothing here takes, however busy the machine is."""


@pytest.fixture
def forkserver() -> Iterator[ForkServer]:
    server = ForkServer("hub")
    yield server
    server.close()


def code_of(folder: Path, text: str) -> WorkerCode:
    """What a worker loads that has one handler, `test`."""
    script = folder / "test.py"
    script.write_text(text, encoding="utf-8")
    return WorkerCode(
        gateway="hub",
        project="ACME",
        library=[],
        scripts={"test": str(script)},
        log_level=20,
        files={str(script): text.encode()},
    )


def answer(worker: WorkerProcess, payload: object) -> Returned:
    """Let a worker run its handler, and return how that ended."""
    from headgate.invocation import Caller

    caller = Caller("operator")
    run = Run(1, "test", encode(payload), time.monotonic() + SOON, caller, "00" * 10, 1)
    worker.sock.setblocking(True)
    worker.sock.sendall(framed(run))
    os.eventfd_write(worker.permits, 1)
    while data := worker.sock.recv(65536):
        for frame in map(decode_from_worker, worker.reader.feed(data)):
            if isinstance(frame, Returned):
                return frame
    raise AssertionError("It closed its end")


def death(worker: WorkerProcess) -> int:
    """Wait until a worker is dead, and return its status."""
    told: queue.Queue[int] = queue.Queue()
    worker.when_dead(told.put)
    return told.get(timeout=SOON)


class TestWorkers:
    def test_it_loads_and_runs(self, forkserver: ForkServer, tmp_path: Path) -> None:
        """A worker is told what to load, says what it found, and runs that by permit."""
        worker = forkserver.spawn()
        code = code_of(tmp_path, "import os\ndef handleMessage(payload): return os.getpid()")
        loaded = worker.load(code, time.monotonic() + SOON)
        assert (list(loaded.handlers), loaded.problems) == (["test"], [])
        assert decode(answer(worker, {}).payload) == worker.pid
        worker.close()

    def test_what_it_sees_of_the_environment(
        self, forkserver: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The names that it may see, and no other secret of the gateway."""
        monkeypatch.setenv("PLANT", "north")
        monkeypatch.setenv("HEADGATE_PASSWORD", "secret")
        text = "import os\ndef handleMessage(payload): return dict(os.environ)"
        worker = forkserver.spawn(["PLANT", "NEVER_SET"])
        worker.load(code_of(tmp_path, text), time.monotonic() + SOON)
        seen = decode(answer(worker, {}).payload)
        assert seen["PLANT"] == "north"
        assert seen["PATH"] == os.environ["PATH"]
        assert not seen.keys() & {"HEADGATE_PASSWORD", "HEADGATE_HOME", "NEVER_SET"}
        worker.close()

    def test_its_stacks_are_not_read_when_it_is_closed(self, forkserver: ForkServer) -> None:
        """The number of its pipe is another file's then, which loses nothing."""
        worker = forkserver.spawn()
        assert worker.read_dump() == b""
        number = worker.dump
        worker.close()
        pipes = [os.pipe()]
        while pipes[-1][0] < number:
            pipes.append(os.pipe())
        for _, end in pipes:
            os.write(end, b"data")
        assert worker.read_dump() is None
        assert [os.read(end, 10) for end, _ in pipes] == [b"data"] * len(pipes)
        for end in (end for pipe in pipes for end in pipe):
            os.close(end)

    def test_it_does_not_come_to_an_end_with_loading(
        self, forkserver: ForkServer, tmp_path: Path
    ) -> None:
        """Loading has a deadline."""
        worker = forkserver.spawn()
        with pytest.raises(ConfigurationError, match="in time"):
            worker.load(code_of(tmp_path, "while True: pass"), time.monotonic() + 0.3)
        worker.close()

    def test_it_dies_of_loading(self, forkserver: ForkServer, tmp_path: Path) -> None:
        """The error says how it died, long before the deadline."""
        worker = forkserver.spawn()
        with pytest.raises(ConfigurationError, match="exit code 7"):
            worker.load(code_of(tmp_path, "import os\nos._exit(7)"), time.monotonic() + 3600)
        worker.close()


class TestDeaths:
    def test_a_death_is_told(self, forkserver: ForkServer) -> None:
        """With the signal that it died of; whoever asks later is told, too."""
        worker = forkserver.spawn()
        worker.kill()
        assert death(worker) == -signal.SIGKILL
        assert death(worker) == worker.status == -signal.SIGKILL
        worker.close()

    def test_a_signal_never_meets_another_process(self, forkserver: ForkServer) -> None:
        """Nothing happens to a worker that is dead, or was let go of."""
        worker = forkserver.spawn()
        worker.kill()
        death(worker)
        worker.signal(signal.SIGTERM)
        worker.close()
        worker.kill()
        worker.close()

    def test_what_a_worker_has_started_dies_with_it(
        self, forkserver: ForkServer, tmp_path: Path
    ) -> None:
        """A process that a handler has started is gone before the death is told."""
        text = (
            "import subprocess\n"
            "def handleMessage(payload): return subprocess.Popen(['sleep', '600']).pid"
        )
        worker = forkserver.spawn()
        worker.load(code_of(tmp_path, text), time.monotonic() + SOON)
        child = decode(answer(worker, {}).payload)
        worker.kill()
        death(worker)
        end = time.monotonic() + SOON
        while Path(f"/proc/{child}").exists() and time.monotonic() < end:
            time.sleep(0.005)
        assert not Path(f"/proc/{child}").exists()
        worker.close()

    def test_the_fork_server_dies(self, forkserver: ForkServer) -> None:
        """All its workers are dead, and it makes no more: another one must."""
        workers = [forkserver.spawn() for _ in range(3)]
        assert forkserver.pid is not None
        os.kill(forkserver.pid, signal.SIGKILL)
        assert all(death(worker) < 0 for worker in workers)
        assert forkserver.is_dead
        with pytest.raises(ConfigurationError):
            forkserver.spawn()
        for worker in workers:
            worker.close()

    def test_the_fork_server_does_not_answer(
        self, forkserver: ForkServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is given up, so that no late answer is taken for one to something else."""
        monkeypatch.setattr("headgate.runtimes.forkserver.START_SECONDS", 0.5)
        worker = forkserver.spawn()
        assert forkserver.pid is not None
        os.kill(forkserver.pid, signal.SIGSTOP)
        with pytest.raises(ConfigurationError):
            forkserver.spawn()
        assert death(worker) < 0
        assert forkserver.is_dead
        worker.close()

    def test_it_is_closed(self) -> None:
        """Its workers go with it, and no file is left open."""
        before = os.listdir("/proc/self/fd")
        server = ForkServer("hub")
        workers = [server.spawn() for _ in range(3)]
        pids = [server.pid, *(worker.pid for worker in workers)]
        server.close()
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        for worker in workers:
            worker.close()
        assert len(os.listdir("/proc/self/fd")) == len(before)
