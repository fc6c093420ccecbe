"""The gateway as a process of its own: what its end means for the clients."""

from __future__ import annotations

import asyncio
import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import ConnectionLost, GatewayUnreachable, Overloaded

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Rig

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")

SCRIPTS = {
    "ACME/echo": "def handleMessage(payload):\n    return payload\n",
    "ACME/wait": """
        import asyncio
        async def handleMessage(payload):
            await asyncio.sleep(60)
        """,
    "ACME/file": """
        import asyncio, pathlib
        async def handleMessage(payload, context):
            context.progress("begun")
            while not pathlib.Path(payload).exists():
                await asyncio.sleep(0.005)
            return "ready"
        """,
    "ACME/nested": """
        import pathlib, time
        def handleMessage(payload, context):
            context.progress("begun")
            while not pathlib.Path(payload).exists():
                time.sleep(0.005)
            return system.util.sendRequest("ACME", "echo", {"asked": "late"})
        """,
    "ACME/spin": """
        import time
        def handleMessage(payload):
            time.sleep(60)
        """,
}

HANG = """
    import ctypes, os, signal, headgate

    @headgate.handler(runtime="process")
    def handleMessage(payload, context):
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
        context.progress(os.getpid())
        ctypes.PyDLL(None).pause()
    """

GRACE = 5.0

IMPATIENT = """
from headgate.gateway import Gateway
Gateway.stop.__defaults__ = ({},)
from headgate.cli import main
main()
"""


class Running:
    """A gateway process."""

    def __init__(self, folder: Path, projects: Path, *, port: int, grace: float) -> None:
        program = ["-m", "headgate"] if grace == GRACE else ["-c", IMPATIENT.format(grace)]
        command = [sys.executable, *program, "run", "--name", "hub"]
        options = ["--projects", projects, "--data", folder / "data", "--port", port]
        self.log = open(folder / "log", "a")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, *map(str, options)], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "is ready: ws://" in line, line
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(30)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


@pytest.fixture
def run(rig: Rig, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Give a function that starts the gateway as a process, with the same data folder each time."""
    projects, started = rig.projects(SCRIPTS), []

    def start(port: int = 0, grace: float = GRACE) -> Running:
        started.append(Running(tmp_path, projects, port=port, grace=grace))
        return started[-1]

    yield start
    for running in started:
        running.end()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients connect again quickly."""
    monkeypatch.setattr("headgate.client.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("headgate.client.LONGEST_PAUSE", 0.2)


def zero(client: headgate.Client) -> bool:
    return not any(client.stats().values())


class TestKilled:
    @pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")
    def test_no_worker_survives(self, rig: Rig, run: Callable[..., Running]) -> None:
        """SIGKILL: not even one that hangs in C and takes no signal but that."""
        rig.projects({"ACME/hang": HANG})
        gateway = run()
        pids: queue.Queue[int] = queue.Queue()
        with headgate.connect(gateway.url) as client:
            client.request("ACME", "hang", None, on_progress=pids.put)
            pidfd = os.pidfd_open(pids.get(timeout=20))
            gateway.send(signal.SIGKILL)
            assert select.select([pidfd], [], [], 20)[0]
        os.close(pidfd)

    def test_a_thousand_requests_in_flight_all_end(
        self, rig: Rig, run: Callable[..., Running]
    ) -> None:
        """SIGKILL: every handle ends with an error within seconds, and the client comes back."""
        gateway, ends = run(), []
        with headgate.connect(gateway.url) as client:
            handles = [client.request("ACME", "wait", n, on_error=ends.append) for n in range(1000)]
            rig.until(lambda: all(handle.started for handle in handles[:100]))
            gateway.send(signal.SIGKILL)
            killed = time.monotonic()
            errors = [handle.getError() for handle in handles]
            assert time.monotonic() - killed < 30
            assert all(isinstance(error, (ConnectionLost, Overloaded)) for error in errors)
            assert all(error.started is not False for error in errors[:100])
            rig.until(lambda: len(ends) == 1000)
            assert client.request("ACME", "echo").block() is False
            gateway.wait()
            run(gateway.port)
            rig.until(lambda: client.connected)
            assert client.request("ACME", "echo", 5).get() == 5
            rig.until(lambda: zero(client))

    async def test_the_same_in_asyncio_code(self, rig: Rig, run: Callable[..., Running]) -> None:
        """All tasks that await are woken with ConnectionLost."""
        gateway = await asyncio.to_thread(run)
        async with headgate.connect(gateway.url) as client:
            handles = [client.request("ACME", "wait", n) for n in range(1000)]
            while not handles[0].started:
                await asyncio.sleep(0.002)
            gateway.send(signal.SIGKILL)
            async with asyncio.timeout(30):
                errors = await asyncio.gather(*handles, return_exceptions=True)
            assert all(isinstance(error, ConnectionLost) for error in errors)
            assert zero(client)

    def test_what_was_not_sent_yet_did_not_start(
        self, rig: Rig, run: Callable[..., Running]
    ) -> None:
        """Requests after the loss end at once with started False: they may be sent again."""
        gateway = run()
        with headgate.connect(gateway.url) as client:
            gateway.send(signal.SIGKILL)
            rig.until(lambda: not client.connected)
            for handle in [client.request("ACME", "echo") for _ in range(100)]:
                error = handle.getError()
                assert isinstance(error, GatewayUnreachable)
                assert error.started is False

    def test_a_gateway_that_stands_still_is_given_up(
        self, rig: Rig, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stopped process answers no ping: the connection counts as lost."""
        monkeypatch.setattr("headgate.wire.session.DEAD_AFTER", 2.0)
        monkeypatch.setattr("headgate.wire.session.PING_AFTER", 0.5)
        gateway = run()
        with headgate.connect(gateway.url) as client:
            handle = client.request("ACME", "wait")
            rig.until(lambda: handle.started)
            gateway.send(signal.SIGSTOP)
            error = handle.getError()
            assert isinstance(error, ConnectionLost)
            assert error.started is True
            gateway.send(signal.SIGKILL)

    def test_a_client_process_that_is_killed_stops_its_handlers(
        self, rig: Rig, run: Callable[..., Running]
    ) -> None:
        """The gateway notices the closed connection, and cancels what that client asked."""
        gateway = run()
        program = (
            "import headgate, sys, time\n"
            f"client = headgate.connect({gateway.url!r})\n"
            "handles = [client.request('ACME', 'wait', n) for n in range(50)]\n"
            "client.request('ACME', 'echo').get()\n"
            "print('asked', flush=True)\n"
            "time.sleep(60)\n"
        )
        other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert other.stdout is not None
        assert other.stdout.readline() == b"asked\n"
        with headgate.connect(gateway.url) as client:

            def stats() -> Any:
                return client.request("@gateway", "stats").get()

            assert stats()["handlers_under_way"] == 50
            other.kill()
            other.wait()
            other.stdout.close()
            rig.until(lambda: stats()["handlers_under_way"] == 0)
            assert stats()["sessions"] == 1


class TestStopped:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_what_is_in_flight_may_finish(
        self, rig: Rig, run: Callable[..., Running], tmp_path: Path, number: signal.Signals
    ) -> None:
        """SIGTERM: what runs is answered, nothing new is taken, and the process ends with 0."""
        gateway, go, seen = run(), tmp_path / "go", []
        with headgate.connect(gateway.url) as client:
            handle = client.request("ACME", "file", str(go), on_progress=seen.append)
            rig.until(lambda: seen)
            gateway.send(number)
            rig.until(lambda: client.request("ACME", "echo").block() is False)
            error = client.request("ACME", "echo").getError()
            assert isinstance(error, GatewayUnreachable)
            assert error.started is False
            assert not handle.done
            go.touch()
            assert handle.get() == "ready"
            assert gateway.wait() == 0

    def test_what_runs_may_still_ask(
        self, rig: Rig, run: Callable[..., Running], tmp_path: Path
    ) -> None:
        """A nested request belongs to the request in flight: it is answered in the grace."""
        gateway, go, seen = run(), tmp_path / "go", []
        with headgate.connect(gateway.url) as client:
            handle = client.request("ACME", "nested", str(go), on_progress=seen.append)
            rig.until(lambda: seen)
            gateway.send(signal.SIGTERM)
            rig.until(lambda: client.request("ACME", "echo").block() is False)
            go.touch()
            assert handle.get() == {"asked": "late"}
            assert gateway.wait() == 0

    def test_what_does_not_finish_ends_with_an_error(
        self, rig: Rig, run: Callable[..., Running]
    ) -> None:
        """After the grace the rest ends with ConnectionLost, threads that hang too."""
        gateway = run(grace=0.3)
        with headgate.connect(gateway.url) as client:
            handles = [client.request("ACME", name, {}) for name in ("wait", "spin")]
            rig.until(lambda: all(handle.started for handle in handles))
            gateway.send(signal.SIGTERM)
            for handle in handles:
                error = handle.getError()
                assert isinstance(error, ConnectionLost)
                assert error.started is True
            assert gateway.wait() == 0

    def test_a_second_signal_ends_it_at_once(self, rig: Rig, run: Callable[..., Running]) -> None:
        """Who cannot wait for the grace sends the signal again."""
        gateway = run()
        with headgate.connect(gateway.url) as client:
            handle = client.request("ACME", "spin")
            rig.until(lambda: handle.started)
            gateway.send(signal.SIGTERM)
            rig.until(lambda: client.request("ACME", "echo").block() is False)
            gateway.send(signal.SIGTERM)
            assert gateway.wait() == 128 + signal.SIGTERM
            assert isinstance(handle.getError(), ConnectionLost)

    def test_an_idle_one_ends_promptly_and_leaves_its_port(
        self, rig: Rig, run: Callable[..., Running], headgate_home: Path
    ) -> None:
        """Nothing in flight: nothing to wait for; the pointer of its port is gone."""
        gateway = run()
        pointer = headgate_home / "ports" / str(gateway.port)
        assert pointer.exists()
        with headgate.connect(gateway.url) as client:
            gateway.send(signal.SIGTERM)
            assert gateway.wait() == 0
            rig.until(lambda: not client.connected)
        assert not pointer.exists()

    def test_the_data_folder_is_usable_after_a_kill(
        self, rig: Rig, run: Callable[..., Running]
    ) -> None:
        """A killed gateway leaves nothing behind that keeps the next one from starting."""
        first = run()
        first.send(signal.SIGKILL)
        first.wait()
        second = run(first.port)
        with headgate.connect(second.url) as client:
            assert client.request("ACME", "echo", 1).get() == 1
        assert os.getpid() != second.process.pid
