"""
Edits while requests run: no request fails but those of handlers that were removed.

A short form runs with the suite. ``make soak-reload`` runs a thousand edits and prints the figures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import headgate

EDITS = int(os.environ.get("HEADGATE_SOAK_EDITS", "40"))
"""Edits of one run."""

RATE = int(os.environ.get("HEADGATE_SOAK_RATE", "2000" if EDITS > 40 else "500"))
"""Requests a second."""

TURN = 0.01
"""Seconds between two bursts of requests."""

PAIR = (
    "import pair\nVERSION = {n}\ndef handleMessage(payload):\n    return [VERSION, pair.VERSION]\n"
)
ORDERED = """
import headgate
VERSION = {n}
@headgate.handler(threading="Dedicated", queue=100000)
def handleMessage(payload):
    return VERSION
"""
TASK = "VERSION = {n}\nasync def handleMessage(payload):\n    return VERSION\n"
PLAIN = "VERSION = {n}\ndef handleMessage(payload):\n    return VERSION\n"
STATE = "calls = []\ndef handleMessage(payload):\n    calls.append(1)\n    return len(calls)\n"


@dataclass
class Tally:
    """What came of the requests and edits."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    halves: int = 0
    """Answers of a script of one version with a library of another."""
    back: int = 0
    """Answers of an older version than one that was seen before by the same ordered handler."""
    edits: int = 0
    kept: int = 0
    """Mistakes that were written on purpose."""


class Editor:
    """Edits the files of a running gateway's projects, as people and their editors do."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        self.folder = folder
        self.tally = tally
        self.random = random.Random(7)
        self.versions = itertools.count(1)
        for kind in (self.pair, self.ordered, self.task, self.plain):
            kind()
        self.comes()
        self.put("still/messages/state.py", STATE)
        tally.edits = 0

    def put(self, path: str, text: str) -> None:
        """Write a file."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.tally.edits += 1

    def pair(self) -> None:
        """A script and its library change together."""
        n = next(self.versions)
        self.put("lib/library/pair.py", f"VERSION = {n}\n")
        self.put("lib/messages/pair.py", PAIR.format(n=n))

    def ordered(self) -> None:
        """A Dedicated handler changes."""
        self.put("other/messages/ordered.py", ORDERED.format(n=next(self.versions)))

    def task(self) -> None:
        """An async handler changes."""
        self.put("other/messages/task.py", TASK.format(n=next(self.versions)))

    def plain(self) -> None:
        """An editor puts a new file in the old one's place."""
        file = self.folder / "other/messages/plain.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".py~")
        new.write_text(PLAIN.format(n=next(self.versions)))
        new.replace(file)
        self.tally.edits += 1

    def half(self) -> None:
        """A file is written in two steps, or with a mistake that is corrected by a later edit."""
        self.put("other/messages/plain.py", PLAIN.format(n=next(self.versions))[:-30])
        self.tally.kept += 1

    def settings(self) -> None:
        """The settings change."""
        text = f"[defaults]\nconcurrency = {self.random.choice([2, 8, 50])}\n"
        self.put("other/project.toml", text)

    def comes(self) -> None:
        """A handler comes."""
        self.put("other/messages/now_and_then.py", PLAIN.format(n=next(self.versions)))

    def goes(self) -> None:
        """A handler goes."""
        (self.folder / "other/messages/now_and_then.py").unlink(missing_ok=True)
        self.tally.edits += 1

    async def work(self, edits: int) -> None:
        """Edit in bursts, as a person who saves and a tool that writes many files."""
        kinds = [self.pair, self.ordered, self.task, self.plain, self.half]
        kinds += [self.settings, self.comes, self.goes]
        self.random.shuffle(kinds)
        following = itertools.cycle(kinds)
        while self.tally.edits < edits:
            for _ in range(self.random.randint(1, 3)):
                next(following)()
            await asyncio.sleep(self.random.choice([0.02, 0.3, 0.6]))
        self.plain()
        self.comes()


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """A gateway process that watches its projects: its URL, process and log."""
    log = folder / "log"
    command = [sys.executable, "-m", "headgate", "run", "--port", "0", "--json", "--name", "soak"]
    command += ["--projects", str(folder / "projects"), "--data", str(folder / "data")]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process.pid, log
    finally:
        process.terminate()
        process.communicate()


async def load(client: headgate.Client, tally: Tally, stopped: asyncio.Event) -> None:
    """Send requests at a steady rate until it is stopped; all have ended when this returns."""
    handlers = ["lib/pair", "other/ordered", "other/task", "other/plain", "other/now_and_then"]
    handlers.append("still/state")
    newest: dict[str, int] = {}
    open_requests: set[asyncio.Task[None]] = set()

    async def one(target: str) -> None:
        tally.requests += 1
        try:
            answer = await client.request(*target.split("/"), {}, timeout=30)
        except Exception as error:
            tally.failures[f"{target}: {type(error).__name__}"] += 1
            return
        if target == "lib/pair":
            tally.halves += answer[0] != answer[1]
        elif target in ("other/ordered", "still/state"):
            # One thread, in order; and state that no edit of other projects may begin anew.
            tally.back += target == "other/ordered" and answer < newest.get(target, 0)
            newest[target] = max(answer, newest.get(target, 0))

    due, number = monotonic(), 0
    while not stopped.is_set():
        due = max(due + TURN, monotonic() - 1.0)
        for _ in range(round(RATE * TURN)):
            task = asyncio.ensure_future(one(handlers[number % len(handlers)]))
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
            number += 1
        await asyncio.sleep(max(0.0, due - monotonic()))
    await asyncio.gather(*open_requests)
    assert newest["still/state"] == sum(n % len(handlers) == 5 for n in range(number))


def sizes(pid: int) -> dict[str, int]:
    """Threads, descriptors and resident memory in MiB of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return {
        "threads": int(fields["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "MiB": int(fields["VmRSS"].split()[0]) // 1024,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(60 + EDITS)
async def test_edits_fail_no_request_but_of_what_was_removed(tmp_path: Path) -> None:
    """Every request to a handler that stays gets an answer of one whole generation."""
    tally, stopped = Tally(), asyncio.Event()
    editor = Editor(tmp_path / "projects", tally)
    with gateway(tmp_path) as (url, pid, log):
        async with headgate.connect(url) as client:
            requests = asyncio.ensure_future(load(client, tally, stopped))
            await editor.work(min(10, EDITS // 4))
            before = sizes(pid)
            await editor.work(EDITS)
            while not await corrected(client):
                await asyncio.sleep(0.05)
            stopped.set()
            await requests
            stats: dict[str, int] = {"generations_left": 1}
            while stats["generations_left"]:
                await asyncio.sleep(0.05)
                stats = await client.request("@gateway", "stats")
        after = sizes(pid)
        told = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    generations = Counter(line.split(":")[0] for line in told if ": reloaded;" in line)
    report(tally, generations, before, after)
    failures = {name for name in tally.failures if name != "other/now_and_then: HandlerNotFound"}
    assert not failures
    assert tally.halves == tally.back == 0
    assert generations
    assert "project 'still'" not in generations
    assert after["threads"] <= before["threads"] + 4
    assert after["descriptors"] <= before["descriptors"] + 4


async def corrected(client: headgate.Client) -> bool:
    """Whether the last edits serve."""
    try:
        await client.request("other", "now_and_then", {})
    except headgate.HandlerNotFound:
        return False
    return not await client.request("@gateway", "problems")


def report(tally: Tally, generations: Any, before: Any, after: Any) -> None:
    """Print what `make soak-reload` shows."""
    print(f"\nedits {tally.edits} ({tally.kept} of them mistakes), requests {tally.requests}")
    print(f"generations {dict(generations)}")
    print(f"failures {dict(tally.failures)}, halves {tally.halves}, out of order {tally.back}")
    print(f"before {before}\nafter  {after}")
