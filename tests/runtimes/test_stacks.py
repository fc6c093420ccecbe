"""The stack of a worker's handler, read from what `faulthandler` wrote of it."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from headgate.handler import HandlerSettings, Signature
from headgate.invocation import Caller, Invocation
from headgate.runtimes import execute as executed
from headgate.runtimes.execute import execute
from headgate.runtimes.running import cpu_seconds_of, memory_of, stack_in_dump
from headgate.wire.codec import encode

EXECUTE = executed.__file__


class Runs:
    """A handler that is a function of this file."""

    project = "ACME"
    name = "dumps"
    settings = HandlerSettings()
    signature = Signature()

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function


def run(function: Callable[[Any], Any]) -> None:
    """Run a handler on this thread, as a worker does."""
    invocation = Invocation(Caller("u"), "ACME", "dumps", encode({}), 0.0, asker=None)  # type: ignore[arg-type]
    # The context of whoever tests after this is none of a handler.
    copy_context().run(execute, invocation, Runs(function), lambda i, value: None)


def dump(file: Path, *, all_threads: bool) -> str:
    with file.open("w") as out:
        faulthandler.dump_traceback(out, all_threads=all_threads)
    return file.read_text(encoding="ascii")


def inner(file: Path, dumps: list[str], *, all_threads: bool) -> None:
    dumps.append(dump(file, all_threads=all_threads))


class TestStack:
    @pytest.mark.parametrize("all_threads", [True, False])
    def test_of_the_main_thread(self, tmp_path: Path, all_threads: bool) -> None:
        """It goes from the handler to where it is, and has the lines of its source."""
        found: list[str] = []
        over = threading.Event()
        other = threading.Thread(target=over.wait, args=(20,))
        other.start()

        def handler(payload: Any) -> None:
            inner(tmp_path / "dump", found, all_threads=all_threads)

        run(handler)
        over.set()
        other.join()
        lines = stack_in_dump(found[0])
        assert lines[0].startswith(f'  File "{__file__}", line ')
        assert lines[0].endswith("in handler")
        assert lines[1] == '    inner(tmp_path / "dump", found, all_threads=all_threads)'
        names = [line.rpartition(" in ")[2] for line in lines if line.startswith("  File")]
        assert names == ["handler", "inner", "dump"]

    def test_without_a_handler(self, tmp_path: Path) -> None:
        """Between two handlers there is none."""
        assert stack_in_dump(dump(tmp_path / "dump", all_threads=True)) == []
        assert stack_in_dump("") == []

    def test_that_is_too_deep(self, tmp_path: Path) -> None:
        """Of more than the 100 frames that are written the innermost are shown."""
        found: list[str] = []

        def handler(depth: Any) -> None:
            if not isinstance(depth, int) or depth:
                handler(depth - 1 if isinstance(depth, int) else 150)
            else:
                inner(tmp_path / "dump", found, all_threads=True)

        run(handler)
        lines = stack_in_dump(found[0])
        assert lines[0] == "  ..."
        assert any(line.startswith("  [Previous line repeated 9") for line in lines)
        assert lines[-2].endswith("in dump")

    def test_in_files_with_any_name(self, tmp_path: Path) -> None:
        """What is not ASCII in a name comes back as it was."""
        script = tmp_path / "möbius \u20ac.py"
        script.write_text("def größe(payload):\n    look()\n", encoding="utf-8")
        found: list[str] = []
        names: dict[str, Any] = {"look": lambda: inner(tmp_path / "dump", found, all_threads=False)}
        exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), names)
        run(names["größe"])
        assert stack_in_dump(found[0])[:2] == [
            f'  File "{script}", line 2, in größe',
            "    look()",
        ]

    def test_what_other_releases_write(self) -> None:
        """Names of threads, and what is no Python frame, do not disturb it."""
        text = dedent(
            f"""
            Thread 0x00007f3a [reader] (most recent call first):
              <no Python frame>

            Current thread 0x00007f3b [main] (most recent call first):
              Garbage-collecting
              File "/p/messages/turn.py", line ??? in deep
              File "/p/messages/turn.py", line 3 in handleMessage
              File "{EXECUTE}", line 70 in execute
              File "/w/worker.py", line 9 in serve
            """
        )
        assert stack_in_dump(text) == [
            '  File "/p/messages/turn.py", line 3, in handleMessage',
            '  File "/p/messages/turn.py", line None, in deep',
        ]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
class TestProcesses:
    def test_of_this_one(self) -> None:
        """Memory is what is resident, processor time that of all threads; both are known."""
        before, seconds = memory_of(os.getpid()), cpu_seconds_of(os.getpid())
        assert before is not None
        assert seconds is not None
        held = bytearray(b"x" * (64 << 20))
        assert (memory_of(os.getpid()) or 0) - before > len(held) // 2
        assert (cpu_seconds_of(os.getpid()) or 0) >= seconds > 0

    def test_of_one_that_is_gone(self) -> None:
        """Neither is known."""
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            child.wait()
        assert (memory_of(child.pid), cpu_seconds_of(child.pid)) == (None, None)
