"""Headgate as its users have it: `headgate run` with its defaults, and clients of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import headgate
from benchmarks.candidates import Candidate
from benchmarks.load import IN_FLIGHT, PAYLOAD, Call, Connect, Load
from benchmarks.processes import Measure, Served, server_core

__all__ = [
    "ASYNC",
    "NESTED",
    "PROCESS",
    "SYNC",
    "SYNC_AS_USER",
    "SYNC_AS_USER_TLS",
    "connect",
    "raise_file_limit",
    "reported",
    "serve",
    "threaded",
]

ROOT = Path(__file__).parents[1]
"""Where the gateway runs: one of the handlers imports the loads."""

PROJECTS = ROOT / "benchmarks" / "projects"

HEADGATE = [sys.executable, "-m", "headgate"]

USER, PASSWORD, ROLE = "operator1", "correct horse battery", "operator"


@contextlib.contextmanager
def serve(*, tls: bool = False, rules: int = 0, user: bool = False) -> Iterator[Served]:
    """
    Run a gateway as its own process.

    Args:
        tls: Whether its port speaks TLS.
        rules: Rules that are asked before the built-in ones; `USER` needs the last one.
        user: Whether there is `USER` beside its owner.
    """
    with tempfile.TemporaryDirectory() as data, contextlib.ExitStack() as stack:
        config = _configure(Path(data), tls=tls, rules=rules)
        if user:
            order = ("user", "add", USER, "--role", ROLE, "--password-stdin")
            _run(*order, data=Path(data), text=PASSWORD)
        command = [*HEADGATE, "run", "--config", str(config), "--log-level", "error", "--json"]
        raise_file_limit()
        with server_core():
            running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        process = stack.enter_context(running)
        stack.callback(process.terminate)
        yield Served(_url(process, secure=tls), process.pid, data)


def _configure(data: Path, *, tls: bool, rules: int) -> Path:
    """Write the settings, and make the certificate."""
    settings = {"name": "bench", "port": 0, "data": str(data), "projects": str(PROJECTS)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    if tls:
        _run("cert", "init", data=data)
        lines += ["[tls]", 'certificate = "tls/server.pem"', 'key = "tls/server-key.pem"']
    for number in range(1, rules + 1):
        role = ROLE if number == rules else f"role-{number}"
        project = "ACME" if number == rules else f"PROJECT-{number}"
        lines += ["[[permission]]", "allow = true", f'roles = ["{role}"]']
        lines += [f'handlers = ["{project}/*"]', 'actions = ["request", "message"]']
    config = data / "headgate.toml"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config


def api_token(served: Served) -> str:
    """Make an API token of `USER`."""
    return _run("token", "create", USER, "--url", served.address, data=None)


def _run(*words: str, data: Path | None, text: str = "") -> str:
    """Run a command, for a gateway that is not running if its folder is given."""
    folder = () if data is None else ("--data", str(data))
    done = subprocess.run(
        [*HEADGATE, *words, *folder], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"headgate {words[0]} {words[1]}: {done.stderr.strip()}")
    return done.stdout


def _url(process: subprocess.Popen[str], *, secure: bool) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the gateway did not start; it has told why above")
    url: str = json.loads(line)["url"]
    return f"{'wss' if secure else 'ws'}://127.0.0.1:{url.rpartition(':')[2]}"


@contextlib.asynccontextmanager
async def connect(
    url: str, *, handler: str, project: str = "ACME", as_user: bool = False
) -> AsyncIterator[Call]:
    """Connect a client: of the gateway's owner, or of `USER`, who logs in with a password."""
    login = {"username": USER, "password": PASSWORD} if as_user else {}
    async with headgate.connect(url, **login) as client:
        yield partial(client.request, project, handler)


RULES = 50

SYNC = Candidate(serve, partial(connect, handler="sync"))
SYNC_AS_USER = Candidate(
    partial(serve, rules=RULES, user=True), partial(connect, handler="sync", as_user=True)
)
SYNC_AS_USER_TLS = Candidate(
    partial(serve, rules=RULES, tls=True, user=True), partial(connect, handler="sync", as_user=True)
)
ASYNC = Candidate(serve, partial(connect, handler="asynchronous"))
NESTED = Candidate(serve, partial(connect, handler="nested"))
PROCESS = Candidate(serve, partial(connect, project="WORK", handler="process"))


async def reported(connect: Connect, load: Load) -> float:
    """Return requests a second that a handler has counted."""
    async with connect() as call:
        return float(await call({"seconds": load.seconds}))


def raise_file_limit() -> None:
    """Each session is an open file at both ends."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def threaded(load: Load) -> Iterator[Measure]:
    """A program without event loop: each answer's callback makes the next request."""
    with serve() as served:
        yield lambda: _callbacks_a_second(served.address, load.seconds)


def _callbacks_a_second(url: str, seconds: float) -> float:
    with headgate.connect(url) as client:
        _chains(client, seconds / 10)
        return _chains(client, seconds)


def _chains(client: headgate.Client, seconds: float) -> float:
    """Requests a second of `IN_FLIGHT` chains of requests, one in flight in each."""
    request, clock = client.request, time.perf_counter
    answers, ended, over = 0, 0, threading.Event()
    start = clock()
    end = start + seconds

    def answered(_: object) -> None:
        # All callbacks run on one thread.
        nonlocal answers, ended
        answers += 1
        if clock() < end:
            request("ACME", "sync", PAYLOAD, on_success=answered)
            return
        ended += 1
        if ended == IN_FLIGHT:
            over.set()

    for _ in range(IN_FLIGHT):
        request("ACME", "sync", PAYLOAD, on_success=answered)
    if not over.wait(seconds + 60):
        raise RuntimeError("not every request was answered")
    return answers / (clock() - start)
