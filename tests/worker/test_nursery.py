"""The fork server: what workers get of the world, and what becomes of them."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from worker_ends import Nursery

from headgate.runtimes.link import Logged, Reported
from headgate.wire.codec import decode

SCRIPTS = {
    "world": """
        import os, sys
        def handleMessage(payload):
            with open("/proc/self/environ") as file:
                environ = file.read()
            return {
                "environment": dict(os.environ),
                "environ": environ,
                "group": os.getpgid(0) == os.getpid(),
                "niceness": os.nice(0),
                "oom": open("/proc/self/oom_score_adj").read().strip(),
                "gateway": sorted(m for m in sys.modules if m.startswith("headgate.gateway")),
            }
        """,
    "exit": "import os\ndef handleMessage(payload):\n    os._exit(payload)\n",
    "crash": """
        import ctypes, logging
        def handleMessage(payload):
            ctypes.string_at(0)
        """,
    "hold": """
        import ctypes, logging
        def handleMessage(payload):
            logging.getLogger("hold").info("begun")
            # Holds the interpreter, as C code does that never gives it back.
            ctypes.PyDLL(None).sleep(1000)
        """,
    "family": """
        import subprocess, sys, time
        def handleMessage(payload, context):
            child = subprocess.Popen([sys.executable, "-c", payload])
            context.progress(child.pid)
            time.sleep(60)
        """,
    "echo": "def handleMessage(payload):\n    return payload\n",
}


def ended(pidfd: int, seconds: float = 20.0) -> bool:
    """Wait until a process has ended."""
    return bool(select.select([pidfd], [], [], seconds)[0])


def dumped(fd: int) -> str:
    """Read a dump of stacks up to its pause."""
    text = b""
    while select.select([fd], [], [], 0.2 if text else 20.0)[0]:
        data = os.read(fd, 1 << 16)
        if not data:
            break
        text += data
    return text.decode()


def test_a_worker_has_nothing_of_the_gateway(nursery: Nursery) -> None:
    """Its environment is what it was given, and its files are its own three and the standard."""
    others = [nursery.loaded(SCRIPTS) for _ in range(2)]
    worker = nursery.loaded(SCRIPTS)
    world = worker.call("world")
    folder = Path(f"/proc/{worker.pid}/fd")
    files = {int(fd): os.readlink(folder / fd).partition(":")[0] for fd in os.listdir(folder)}
    # Link, permits, dump, and a pipe of its own, with both ends, that tells of signals.
    own = sorted(files.pop(fd) for fd in list(files) if fd > 2)
    assert own == ["anon_inode", "pipe", "pipe", "pipe", "socket"]
    assert set(files) == {0, 1, 2}
    assert files[0] == "/dev/null"
    assert world["environment"]["PLANT"] == "north"
    known = {"PATH", "PYTHONPATH", "PLANT", "LC_CTYPE"}
    assert set(world["environment"]) <= known
    assert {pair.partition("=")[0] for pair in world["environ"].split("\0") if pair} <= known
    assert world["gateway"] == []
    assert world["group"]
    assert world["oom"] == "1000"
    assert world["niceness"] >= 5
    assert all(other.call("echo", 1) == 1 for other in others)


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_is_told(nursery: Nursery, code: int) -> None:
    """With the exit code; others live on."""
    worker, other = nursery.loaded(SCRIPTS), nursery.loaded(SCRIPTS)
    worker.begin("exit", code)
    assert nursery.exit_of(worker) == code
    assert not other.is_dead
    assert other.call("echo", 1) == 1


def test_a_crash_is_told_with_its_place(nursery: Nursery) -> None:
    """The signal as the end, and the stack in the pipe for stacks."""
    worker = nursery.loaded(SCRIPTS)
    worker.begin("crash")
    assert nursery.exit_of(worker) == -signal.SIGSEGV
    text = dumped(worker.dump)
    assert "Segmentation fault" in text
    assert "messages/crash.py" in text


def test_stacks_are_told_while_c_code_holds_the_interpreter(nursery: Nursery) -> None:
    """The handler's own lines are in them."""
    worker = nursery.loaded(SCRIPTS)
    worker.begin("hold")
    worker.take(Logged)
    worker.signal(signal.SIGUSR2)
    text = dumped(worker.dump)
    assert "messages/hold.py" in text
    assert "in handleMessage" in text


def test_what_a_worker_started_dies_with_it(nursery: Nursery) -> None:
    """Its children in its process group are dead when its death is told, and no zombies."""
    worker = nursery.loaded(SCRIPTS)
    worker.begin("family", "import time; time.sleep(60)")
    child = int(decode(worker.take(Reported).payload))
    pidfd = os.pidfd_open(child)
    try:
        worker.signal(signal.SIGKILL)
        assert nursery.exit_of(worker) == -signal.SIGKILL
        assert ended(pidfd)
        assert not Path(f"/proc/{worker.pid}").exists()
        reaped(nursery.process.pid, child)
    finally:
        os.close(pidfd)


def reaped(pid: int, child: int | None = None) -> None:
    """Wait until a process has no dead children that it has not reaped."""
    end = time.monotonic() + 20
    while (left := zombies(pid)) or (child is not None and Path(f"/proc/{child}").exists()):
        assert time.monotonic() < end, left
        time.sleep(0.002)


def zombies(pid: int) -> list[str]:
    """The dead children of a process that it has not reaped."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = []
    for child in children:
        with suppress(FileNotFoundError):
            stat = Path(f"/proc/{child}/stat").read_text()
            found += [child] if stat.rpartition(")")[2].split()[0] == "Z" else []
    return found


def test_many_workers_leave_nothing(nursery: Nursery) -> None:
    """Neither zombies nor open files in the fork server."""
    files = len(os.listdir(f"/proc/{nursery.process.pid}/fd"))
    for _ in range(20):
        worker = nursery.spawn()
        worker.signal(signal.SIGKILL)
        assert nursery.exit_of(worker) == -signal.SIGKILL
    assert len(os.listdir(f"/proc/{nursery.process.pid}/fd")) == files
    assert zombies(nursery.process.pid) == []


def test_the_end_of_the_gateway_ends_everything(tmp_path: Path) -> None:
    """The fork server, its workers, and what they have started."""
    own = Nursery(tmp_path)
    worker = own.loaded(SCRIPTS)
    worker.begin("family", "import time; time.sleep(60)")
    child = os.pidfd_open(int(decode(worker.take(Reported).payload)))
    try:
        own.control.close()
        assert own.process.wait(20) == 0
        assert ended(worker.pidfd)
        assert ended(child)
    finally:
        os.close(child)
        own.close()


def test_workers_die_with_their_fork_server(tmp_path: Path) -> None:
    """Also if it is killed."""
    own = Nursery(tmp_path)
    worker = own.loaded(SCRIPTS)
    own.process.kill()
    assert ended(worker.pidfd)
    own.close()


def test_sigterm_ends_a_worker(nursery: Nursery) -> None:
    """As it ends any program."""
    worker = nursery.loaded(SCRIPTS)
    worker.signal(signal.SIGTERM)
    assert nursery.exit_of(worker) == -signal.SIGTERM
