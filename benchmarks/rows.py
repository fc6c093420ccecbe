"""What is measured, beside what, and what must be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import company, gateway, peers, stream
from benchmarks.bare import ECHO
from benchmarks.broker import NATS
from benchmarks.candidates import Candidate, loaded
from benchmarks.gateway import SYNC
from benchmarks.hop import HOP
from benchmarks.load import (
    Measurement,
    large_payloads,
    many_connections,
    p50,
    p99,
    throughput,
)
from benchmarks.processes import Contender

__all__ = ["ROWS", "UNMEASURED", "Bar", "Row", "Unit"]


@dataclass(frozen=True)
class Unit:
    """What a figure is counted in."""

    name: str
    text: Callable[[float], str]
    """Writes a figure of this unit for people."""


PER_SECOND = Unit(
    "requests a second", lambda n: f"{n / 1e3:.1f} k/s" if n >= 1e3 else f"{n:.0f} /s"
)
VALUES_PER_SECOND = Unit("values a second", PER_SECOND.text)
SECONDS = Unit("seconds", lambda n: f"{n * 1e6:.0f} µs" if n < 1e-3 else f"{n * 1e3:.1f} ms")
BYTES = Unit("bytes", lambda n: f"{n / 1e3:.1f} KB")


@dataclass(frozen=True)
class Bar:
    """A limit that a ratio, or the figure of a row that stands alone, is held against."""

    limit: float
    at_least: bool
    text: Callable[[float], str] = BYTES.text
    """Writes a large limit, which is a figure and no ratio."""

    def __str__(self) -> str:
        limit = f"{self.limit:g}" if self.limit < 1000 else self.text(self.limit)
        return f"{'≥' if self.at_least else '≤'} {limit}"

    def reached(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value >= self.limit if self.at_least else value <= self.limit


at_least, at_most = partial(Bar, at_least=True), partial(Bar, at_least=False)


@dataclass(frozen=True)
class Row:
    """Headgate at one kind of work, and what it is compared with."""

    key: str
    work: str
    unit: Unit
    ours: Contender
    beside: Contender | None = None
    beside_name: str = "bare echo"
    bar: Bar | None = None
    """Of the ratio of ours to what stands beside it; of our figure if nothing does."""

    floor: Bar | None = None
    """The same for `benchmarks.quick`, with room for a noisy machine."""

    most_pairs: int | None = None
    """For what takes long."""


def beside_echo(key: str, work: str, unit: Unit, measurement: Measurement) -> partial[Row]:
    """Begin a row: a sync handler and the bare echo under the same load."""
    ours, bare = loaded(SYNC, measurement), loaded(ECHO, measurement)
    return partial(Row, key, work, unit, ours, bare)


CORE_ROWS = [
    beside_echo("sync", "sync handler, 256 in flight", PER_SECOND, throughput)(
        bar=at_least(0.6), floor=at_least(0.25)
    ),
    beside_echo("p50", "sync handler, one at a time, p50", SECONDS, p50)(
        bar=at_most(2), floor=at_most(3.5)
    ),
    beside_echo("connections", "256 clients, one in flight each", PER_SECOND, many_connections)(
        bar=at_least(0.5)
    ),
    Row(
        "async",
        "`async def` handler, 256 in flight",
        PER_SECOND,
        loaded(gateway.ASYNC, throughput),
        loaded(ECHO, throughput),
        bar=at_least(0.4),
        floor=at_least(0.15),
    ),
    Row(
        "threads",
        "client with threads and callbacks, 256 in flight",
        PER_SECOND,
        gateway.threaded,
        loaded(ECHO, throughput),
        bar=at_least(0.35),
        floor=at_least(0.2),
    ),
    Row(
        "nested",
        "handler calls handler, 256 in flight",
        PER_SECOND,
        loaded(gateway.NESTED, gateway.reported),
        loaded(HOP, throughput),
        "bare hop",
        bar=at_least(0.6),
    ),
    beside_echo("large", "1 MB there and back, 4 in flight", PER_SECOND, large_payloads)(
        bar=at_least(0.6)
    ),
    Row(
        "user",
        "user, 50 rules: sync handler, 256 in flight",
        PER_SECOND,
        loaded(gateway.SYNC_AS_USER, throughput),
        loaded(SYNC, throughput),
        "owner, no rules",
    ),
    Row(
        "user-p50",
        "user, 50 rules: sync handler, one at a time, p50",
        SECONDS,
        loaded(gateway.SYNC_AS_USER, p50),
        loaded(SYNC, p50),
        "owner, no rules",
    ),
    Row(
        "tls",
        "user, 50 rules, TLS: sync handler, 256 in flight",
        PER_SECOND,
        loaded(gateway.SYNC_AS_USER_TLS, throughput),
        loaded(gateway.SYNC_AS_USER, throughput),
        "the same without TLS",
    ),
    Row(
        "tls-p50",
        "user, 50 rules, TLS: sync handler, one at a time, p50",
        SECONDS,
        loaded(gateway.SYNC_AS_USER_TLS, p50),
        loaded(gateway.SYNC_AS_USER, p50),
        "the same without TLS",
    ),
    Row(
        "noisy",
        "p99 beside a client with 4,096 in flight",
        SECONDS,
        loaded(SYNC, p99, company=company.noisy),
        loaded(SYNC, p99),
        "the same alone",
        bar=at_most(3),
    ),
    Row(
        "idle",
        "p50 beside 10,000 idle sessions",
        SECONDS,
        loaded(SYNC, p50, company=company.idle),
        loaded(SYNC, p50, company=partial(company.idle, sessions=company.FEW_SESSIONS)),
        "beside 10 sessions",
        bar=at_most(1.1),
        most_pairs=7,
    ),
    Row(
        "memory",
        "memory of an idle session, of 10,000",
        BYTES,
        company.bytes_a_session,
        beside_name="",
        bar=at_most(20_000),
        most_pairs=3,
    ),
    Row(
        "stream",
        "1,000,000 values of a generator on a thread",
        VALUES_PER_SECOND,
        stream.values_a_second,
        beside_name="",
        bar=at_least(150_000, text=PER_SECOND.text),
    ),
    Row(
        "stream-memory",
        "the gateway's growth while a reader takes a value a second",
        BYTES,
        stream.bytes_for_a_slow_reader,
        beside_name="",
        bar=at_most(5_000_000),
        most_pairs=3,
    ),
]


def beside_peer(
    key: str, name: str, peer: Candidate, *, bar: Bar | None = None, pipelined: bool = True
) -> list[Row]:
    """Return the rows of one peer; where its client waits for each answer there is only a p50."""
    latency = Row(
        f"{key}-p50",
        "sync handler, one at a time, p50",
        SECONDS,
        loaded(SYNC, p50),
        loaded(peer, p50),
        name,
    )
    if not pipelined:
        return [latency]
    ours, theirs = loaded(SYNC, throughput), loaded(peer, throughput)
    return [
        Row(key, "sync handler, 256 in flight", PER_SECOND, ours, theirs, name, bar=bar),
        latency,
    ]


PEER_ROWS = [
    *beside_peer("nats", "nats-py `request`", NATS, bar=at_least(4)),
    *beside_peer("grpc", "grpc.aio unary", peers.GRPC, bar=at_least(25)),
    *beside_peer("zmq", "pyzmq DEALER/ROUTER", peers.ZMQ),
    *beside_peer("rpyc", "RPyC", peers.RPYC, pipelined=False),
    *beside_peer("pyro", "Pyro5", peers.PYRO, pipelined=False),
]

ROWS = {row.key: row for row in [*CORE_ROWS, *PEER_ROWS]}

UNMEASURED = [
    ("the rows above with metrics", "as above"),
    ("sync handler, 256 in flight, beside Crossbar", "≥ 50 × Crossbar"),
    ("client → gateway → gateway → handler, 256 in flight", "≥ 3 × nats-py; p50 ≤ 1.6 × nats-py"),
    ("10,000 idle sessions with TLS", "≤ 48 KB each"),
    ("one message to 10,000 sessions", "≥ 0.6 × bare writes; no loop turn over 10 ms"),
    ("durable requests, group commit", "≥ 5 k/s accepted"),
]
"""What must be reached too, of parts that do not exist yet."""
