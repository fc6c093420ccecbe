"""
Cut thousands of sessions at once, and see them come back by ticket beside a client that goes on.

    python -m benchmarks.reconnects                   10,000, without TLS and with it
    python -m benchmarks.reconnects --sessions 300 --kinds plain --json

Each kind is measured twice: with the pauses of the product's clients, and with none before the
first try. The gateway is `headgate run` with its defaults on a core of its own; the crowd and the
client that is measured share another one. The exit code is 1 if a session did
not come back by its ticket, or a request of the other client was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import uvloop

import headgate
from benchmarks.company import resident_bytes
from benchmarks.crowd import Return, crowd
from benchmarks.gateway import PASSWORD, USER, api_token, serve
from benchmarks.processes import CORES, Served
from headgate.security.audit.reading import Filter, read_rows

T = TypeVar("T")

EVERY = 0.005
"""Seconds between two requests of the client that goes on."""

ALONE = 3.0
"""Seconds for which it is measured with nobody else doing anything."""

AUDIT_SECONDS = 10.0
"""Seconds after which the audit must be complete."""

PATIENCE = 600.0
"""Seconds that a crowd has for anything."""

KINDS = {"plain": False, "tls": True}
PAUSES = {"jitter": False, "at-once": True}


@dataclass
class Found:
    """What one return came to."""

    kind: str
    pauses: str
    sessions: int
    back: Return
    alone: dict[str, float]
    """The round trips of the other client in seconds: p50, p99 and the longest."""
    beside: dict[str, float]
    requests: int
    """Requests that it made meanwhile; each was answered."""
    logins: dict[str, int]
    """What the gateway's audit tells: logins by ticket, and others."""
    cpu: float
    """Seconds of processor time that the gateway used for a session that came back."""
    bytes_a_session: float
    """What a session adds to the gateway's memory at first."""
    bytes_after: float
    """What it is after the return."""

    @property
    def good(self) -> bool:
        """Whether nothing is missing."""
        counts = {self.back.by_ticket, self.back.answered, self.logins["by ticket"]}
        return counts == {self.sessions}


def main() -> int:
    """Measure and print."""
    options = _parser().parse_args()
    found = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["HEADGATE_HOME"] = home
        if CORES:
            os.sched_setaffinity(0, CORES[-1:])
        for kind in options.kinds:
            for pauses in options.pauses:
                found.append(_measured(kind, pauses, options.sessions, alone=options.alone))
                if not options.json:
                    print(_text(found[-1]), flush=True)
    if options.json:
        print(json.dumps([asdict(each) for each in found]))
    return 0 if all(each.good for each in found) else 1


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reconnects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--pauses", nargs="+", choices=PAUSES, default=list(PAUSES))
    parser.add_argument("--alone", type=float, default=ALONE, help="seconds before the cut")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser


def _measured(kind: str, pauses: str, sessions: int, *, alone: float) -> Found:
    with serve(tls=KINDS[kind], user=True) as served:
        empty = resident_bytes(served.pid)
        with _gathered(served, sessions, at_once=PAUSES[pauses]) as pipe:
            full = resident_bytes(served.pid)
            before, beside, back, used = uvloop.run(_accompanied(served, pipe, alone))
            return Found(
                kind,
                pauses,
                sessions,
                back,
                alone=_quantiles(before),
                beside=_quantiles(beside),
                requests=len(beside),
                logins=_logins(Path(served.data), least=2 * sessions + 1),
                cpu=used / sessions,
                bytes_a_session=(full - empty) / sessions,
                bytes_after=(resident_bytes(served.pid) - empty) / sessions,
            )


@contextlib.contextmanager
def _gathered(served: Served, sessions: int, *, at_once: bool) -> Iterator[Connection]:
    """Run a crowd in a process of its own; all of it has logged in."""
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    run = partial(crowd, there, served.address, api_token(served).strip())
    process = spawning.Process(target=run, kwargs={"sessions": sessions, "at_once": at_once})
    process.start()
    there.close()
    try:
        _answer(here)
        yield here
    finally:
        process.terminate()
        process.join()
        here.close()


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE):
        raise RuntimeError("the crowd does not answer")
    return pipe.recv()


async def _accompanied(
    served: Served, pipe: Connection, alone: float
) -> tuple[list[float], list[float], Return, float]:
    """
    Cut the crowd beside a client that goes on.

    Returns:
        Its round trips before the cut, and from then on until all are back; how they came back;
        and the seconds of processor time that the gateway used for that.
    """
    async with headgate.connect(served.address, username=USER, password=PASSWORD) as client:
        before, beside = _Laps(client), _Laps(client)
        await asyncio.wait_for(before.until(asyncio.sleep(alone)), PATIENCE)
        used = _cpu_seconds(served.pid)
        pipe.send("cut")
        back = await beside.until(asyncio.to_thread(_answer, pipe))
    used = _cpu_seconds(served.pid) - used
    return before.seconds, beside.seconds, Return(**back), used


class _Laps:
    """
    A client's requests at fixed moments, whether or not those before are answered.

    A round trip counts from its moment on: a gateway that stands still for a second delays all
    requests of that second, not one.
    """

    def __init__(self, client: headgate.Client) -> None:
        self._client = client
        self.seconds: list[float] = []
        """The round trips."""

    async def until(self, end: Awaitable[T]) -> T:
        """Ask until something is over, and return what that gives once all is answered."""
        ending, asked = asyncio.ensure_future(end), []
        due = time.perf_counter()
        while not ending.done():
            asked.append(asyncio.ensure_future(self._ask(len(asked), due)))
            due += EVERY
            await asyncio.sleep(due - time.perf_counter())
        await asyncio.gather(*asked)
        return await ending

    async def _ask(self, number: int, due: float) -> None:
        answer = await self._client.request("ACME", "sync", {"number": number})
        self.seconds.append(time.perf_counter() - due)
        if answer != {"ok": number}:
            raise RuntimeError(f"{answer} came for the request {number}")


def _quantiles(seconds: list[float]) -> dict[str, float]:
    laps = sorted(seconds)
    return {"p50": laps[len(laps) // 2], "p99": laps[len(laps) * 99 // 100], "max": laps[-1]}


def _logins(data: Path, *, least: int) -> dict[str, int]:
    """Count the logins of the users in the audit, which may be a moment behind."""
    end = time.monotonic() + AUDIT_SECONDS
    while True:
        details = [row["detail"] for row in read_rows(data, Filter(event="login", user=USER))]
        if len(details) >= least or time.monotonic() > end:
            by_ticket = sum("ticket from" in detail for detail in details)
            return {"by ticket": by_ticket, "others": len(details) - by_ticket}
        time.sleep(0.1)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _text(found: Found) -> str:
    back, ms = (
        found.back,
        {
            name: ", ".join(f"{key} {value * 1e3:.1f} ms" for key, value in laps.items())
            for name, laps in (("alone", found.alone), ("beside", found.beside))
        },
    )
    lines = {
        "back": f"{found.logins['by ticket']} by ticket of {found.sessions} in "
        f"{back.seconds:.1f} s, {found.sessions / back.seconds:.0f} a second; "
        f"{back.attempts} connections tried; "
        f"the crowd itself used {back.cpu:.1f} s of processor time",
        "other client, alone": ms["alone"],
        "other client, beside": f"{ms['beside']}; {found.requests} requests answered",
        "gateway": f"{found.cpu * 1e3:.2f} ms of processor time for each that came back; "
        f"{found.bytes_a_session / 1e3:.1f} KB of memory a session, {found.bytes_after / 1e3:.1f} "
        "KB afterwards",
    }
    lines |= {"problem": ", ".join(back.lost)} if back.lost else {}
    head = f"{found.sessions} sessions, {found.kind}, {found.pauses}"
    return "\n".join([head, *(f"  {name + ':':<21} {text}" for name, text in lines.items())])


if __name__ == "__main__":
    sys.exit(main())
