"""The manual page's requests as they happen: a gateway in another process, a client in this one."""

from __future__ import annotations

import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

import headgate
from headgate.cli.ends import reporting, server_parts
from headgate.client import Client, connect
from headgate.errors import ConfigurationError, GatewayUnreachable

__all__ = ["demo", "example_projects"]

LONGEST = 30.0
"""Seconds after which the gateway is killed, so that whatever waits for it ends."""

FIRST_EXAMPLE = """\
# This calls the message handler 'test', and returns a handle into myHandle.
# We then call get() on myHandle, which will block the script and will wait for a return or throw \
an exception on failure.
myHandle = system.util.sendRequestAsync(project='ACME', messageHandler='test', \
payload={'number':55})
"""

SECOND_EXAMPLE = """\
# This will call the message handler 'test', and will return a handle into myHandle.
# In this example, we will define a function to run when the message handler has successfully \
finished, using the onSuccess function on the Request Handle.

# Note that function accepts a single argument for the message.
def successFunc(message):
	system.gui.messageBox("Successfully finished: %s" % message)

# We're specifying that the request should timeout after 5 seconds.
myHandle = system.util.sendRequestAsync(project='ACME', messageHandler='test', \
payload={'number':55}, timeoutSec=5)

# Call the Request Handler's onSuccess function, passing in successFunc.
myHandle.onSuccess(successFunc)
"""

ERROR = """\
def errorFunc(error):
    print("errorFunc got %s: %s" % (type(error).__name__, error))

myHandle = system.util.sendRequestAsync('ACME', 'recipe', {'name': 'cola'}, onError=errorFunc)
"""

PROGRESS = """\
def progressFunc(value):
    print("progressFunc got %s" % value)

myHandle = client.request("ACME", "report", {"hours": 5, "seconds": 0.6}, on_progress=progressFunc)
"""

CANCEL = """\
myHandle = client.request("ACME", "report", {"hours": 100, "seconds": 10},
                          on_progress=progressFunc, on_error=errorFunc)
"""

TIMEOUT = """\
myHandle = system.util.sendRequestAsync('ACME', 'report', {'hours': 100, 'seconds': 10},
                                        timeoutSec=0.3, onError=errorFunc)
"""


def demo() -> None:
    """Show the manual page's requests; everything that was started is ended again."""
    stage = Stage(Console(highlight=False, markup=False, soft_wrap=True))
    with reporting(), _ending_on_sigterm(), _home_of_its_own() as home:
        with server_parts():
            import headgate.gateway  # noqa: F401
        stage.title("A gateway in a process of its own")
        with _gateway(home, stage) as url, connect(url) as client, stage.heard_boxes():
            _play(stage, client)
        stage.say("The gateway is stopped.")
        _say_what_is_next(stage)


def example_projects() -> Path:
    """
    Return the folder of the example plant's projects.

    In an installed package the plant stands inside it, in a checkout beside it.

    Raises:
        ConfigurationError: It is in neither place.
    """
    package = Path(headgate.__file__).parent
    for root in (package, package.parents[1]):
        projects = root / "examples" / "plant" / "projects"
        if projects.is_dir():
            return projects
    raise ConfigurationError(
        "The example plant is missing", cure="Install headgate again", file=str(package)
    )


class Stage:
    """
    Shows code, runs exactly that code, and tells what happened.

    What callbacks print comes from the callback thread; it is shown in its turn by `hear`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._names: dict[str, Any] = {"print": self._heard.put}
        self._number = 0
        self._end = time.monotonic() + LONGEST + 1

    def give(self, **names: Any) -> None:
        """Let the code that is shown use these names."""
        self._names.update(names)

    def title(self, text: str) -> None:
        """Begin a new part."""
        self._number += 1
        self._console.print(f"\n{self._number}. {text}", style="bold")

    def say(self, text: str) -> None:
        """Tell what happened."""
        self._console.print(f"   {text}")

    def run(self, code: str) -> float:
        """Show statements and run them; returns the milliseconds that they took."""
        self._show(code)
        begin = time.perf_counter()
        exec(compile(code, "<demo>", "exec"), self._names)
        return (time.perf_counter() - begin) * 1000

    def ask(self, expression: str) -> Any:
        """Show an expression, and its value or what it raises."""
        self._show(expression)
        try:
            value = eval(expression, self._names)
        except headgate.RequestError as error:
            self.say(f"-> raised {type(error).__name__}: {error}")
            return error
        self.say(f"-> {value!r}")
        return value

    def hear(self, *, of: str = "") -> None:
        """Wait for a line from the callback thread and show it; with `of`, until one has this."""
        while True:
            try:
                line = self._heard.get(timeout=max(0.1, self._end - time.monotonic()))
            except queue.Empty:
                raise GatewayUnreachable("A callback that was due did not run") from None
            self.say(f"   {line}")
            if of in line:
                return

    @contextmanager
    def heard_boxes(self) -> Iterator[None]:
        """Hear the lines that `system.gui.messageBox` logs, as there is no GUI here."""
        logger, boxes = logging.getLogger("headgate.gui"), _Boxes(self._heard)
        level, propagate = logger.level, logger.propagate
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(boxes)
        try:
            yield
        finally:
            logger.removeHandler(boxes)
            logger.setLevel(level)
            logger.propagate = propagate

    def _show(self, code: str) -> None:
        for line in code.rstrip().expandtabs(4).splitlines():
            comment = line.lstrip().startswith("#")
            self._console.print(f"   | {line}", style="dim" if comment else "cyan")


class _Boxes(logging.Handler):
    """Passes the text of message boxes on."""

    def __init__(self, heard: queue.SimpleQueue[str]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.put(f"[messageBox on thread {record.threadName}] {record.getMessage()}")


# --- the play ------------------------------------------------------------------------------------


def _play(stage: Stage, client: Client) -> None:
    stage.say(f"This process is its client: session {client.session_id}")
    stage.give(client=client, system=client.system)
    for scene in (_handle, _success, _error, _progress, _cancel, _timeout):
        scene(stage)


def _handle(stage: Stage) -> None:
    stage.title("The manual page's first example: a handle at once, the result when it is there")
    took = stage.run(FIRST_EXAMPLE)
    stage.say(f"-> returned after {took:.1f} ms")
    stage.ask("myHandle.get()")


def _success(stage: Stage) -> None:
    stage.title("The manual page's second example: a function to run on success")
    stage.run(SECOND_EXAMPLE)
    stage.hear()
    stage.ask("myHandle.block()")


def _error(stage: Stage) -> None:
    stage.title("The handler raises an exception: the error callback gets it, get() raises it")
    stage.run(ERROR)
    stage.hear()
    stage.ask("myHandle.get()")


def _progress(stage: Stage) -> None:
    stage.title("Progress, with Python's names for the same request")
    stage.run(PROGRESS)
    stage.hear(of="'done': 5")
    stage.ask("myHandle.get()['best_hour']")


def _cancel(stage: Stage) -> None:
    stage.title("Cancel: the request ends at once, and the handler is told to stop")
    stage.run(CANCEL)
    stage.hear()
    stage.ask("myHandle.cancel()")
    stage.hear(of="errorFunc")
    stage.ask("myHandle.started")
    stage.ask("myHandle.wait_fate(2)")
    stage.say("   The handler saw context.cancelled and returned; see messages/report.py.")


def _timeout(stage: Stage) -> None:
    stage.title("Timeout: one deadline for the queue, the network and the handler")
    stage.run(TIMEOUT)
    stage.hear()
    stage.ask("myHandle.block()")
    stage.ask("myHandle.wait_fate(2)")


def _say_what_is_next(stage: Stage) -> None:
    projects = example_projects()
    if projects.is_relative_to(Path.cwd()):
        projects = projects.relative_to(Path.cwd())
    stage.title("What to try next")
    stage.say(f"headgate run --projects {shlex.quote(str(projects))}")
    stage.say("""headgate request ACME test '{"number": 55}'    # in another terminal""")
    stage.say("headgate init my-plant                         # a project of your own")
    stage.say("README.md tells the rest.")


# --- what is started, and ended again ------------------------------------------------------------


@contextmanager
def _gateway(home: Path, stage: Stage) -> Iterator[str]:
    """Run a gateway on the example plant in another process; gives its URL."""
    projects = str(example_projects())
    arguments = ["run", "--name", "hub", "--projects", projects, "--port", "0"]
    stage.say(f"$ headgate {shlex.join(arguments)}")
    log = home / "gateway.log"
    begin = time.perf_counter()
    with log.open("w") as stderr, ExitStack() as stack:
        # -P: a folder that is named headgate, where the demo runs, is not the package.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "headgate", *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        stack.callback(_end, process)
        watchdog = threading.Timer(LONGEST, process.kill)
        watchdog.daemon = True
        watchdog.start()
        stack.callback(watchdog.cancel)
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline() or "{}")
        if "url" not in ready:
            reason = ready.get("error", {}).get("message", "")
            raise GatewayUnreachable(f"The gateway did not start. {reason}\n{log.read_text()}")
        took = time.perf_counter() - begin
        stage.say(f"Ready after {took:.1f} s: {ready['url']}, process {ready['pid']}")
        yield ready["url"]


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def _home_of_its_own() -> Iterator[Path]:
    """Use a new folder for Headgate's data, so that the user's own is not touched."""
    before = os.environ.get("HEADGATE_HOME")
    with tempfile.TemporaryDirectory(prefix="headgate-demo-", ignore_cleanup_errors=True) as home:
        os.environ["HEADGATE_HOME"] = home
        try:
            yield Path(home)
        finally:
            os.environ.pop("HEADGATE_HOME")
            if before is not None:
                os.environ["HEADGATE_HOME"] = before


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process the orderly way, so that the gateway is ended too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
