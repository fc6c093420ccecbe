"""What is beyond a limit is refused by name, counted and recorded, and hurts nobody else."""

from __future__ import annotations

import math
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import headgate
from headgate.errors import (
    ClientNotFound,
    GatewayUnreachable,
    HandlerNotFound,
    Overloaded,
    RequestError,
)
from headgate.gateway import excess, limits
from headgate.gateway.config import Settings
from headgate.gateway.excess import LIMITS, MAX_ROWS, Excess
from headgate.gateway.limits import OWNER_RESERVE, Limiter, Limits, TokenBucket
from headgate.gateway.rows import MOST_USERS
from headgate.gateway.rows import Rows as OfTheirOwn
from headgate.security.audit import Record
from headgate.wire.frames import Hello
from headgate.wire.session import Credit

if TYPE_CHECKING:
    from conftest import Records, Rig

COUNT = """
    def handleMessage(payload):
        system.util.globals["running"].put(payload)
        return payload
    """

NEVER = 0.001
"""Requests a second: none comes back while a test lasts."""

LONG = "n" * 40


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Later:
    """Runs what is put off when it is told to."""

    def __init__(self) -> None:
        self.function: Callable[[], None] | None = None

    def __call__(self, seconds: float, function: Callable[[], None]) -> Later:
        assert self.function is None, "one timer is enough"
        self.function = function
        return self

    def cancel(self) -> None:
        self.function = None

    def run(self) -> None:
        function, self.function = self.function, None
        assert function is not None
        function()


def limited(**values: Any) -> Limits:
    return Limits(**values)


def with_limits(**values: Any) -> Settings:
    """Return settings of a gateway with these limits."""
    return Settings(limits=limited(**values))


def apply(hub: headgate.Gateway, **values: Any) -> None:
    """Set limits of a gateway that runs, and wait until they hold."""
    done = threading.Event()

    def change() -> None:
        hub._reception.limiter.apply(limited(**values))
        done.set()

    hub.call(change)
    assert done.wait(10)


def refused(requests: list[Any]) -> list[RequestError]:
    """Wait for requests, and return the errors of those that failed."""
    return [error for request in requests if (error := request.getError()) is not None]


# --- what a limit may be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("requests_per_second", -1, "of 0 or more"),
        ("requests_per_second", math.nan, "of 0 or more"),
        ("user_requests_per_second", math.inf, "of 0 or more"),
        ("user_burst", -1, "of 0 or more"),
        ("in_flight", 0, "from 1 to 4096"),
        ("in_flight", 5000, "from 1 to 4096"),
        ("sessions", 0, "of 1 or more"),
        ("sessions_per_user", -1, "of 0 or more"),
        ("sessions_per_address", -1, "of 0 or more"),
        ("connections", 0, "of 1 or more"),
        ("connections_per_address", -1, "of 0 or more"),
        ("name_length", 8, "from 32 to 255"),
        ("name_length", 256, "from 32 to 255"),
        ("login_seconds", 0, "from 0.01 to 3600"),
        ("login_seconds", math.nan, "from 0.01 to 3600"),
    ],
)
def test_numbers_that_are_no_limit(name: str, value: float, text: str) -> None:
    """A wrong number is refused with the setting, the number and what may stand there."""
    with pytest.raises(ValueError, match=f"limits.{name} is {value}: write a number {text}"):
        limited(**{name: value})


@pytest.mark.parametrize("name", ["burst", "user_burst"])
def test_a_burst_of_less_than_one(name: str) -> None:
    """With a burst below 1 nothing would ever pass: it is refused, and 0 is something else."""
    with pytest.raises(ValueError, match=f"limits.{name} is 0.5, .* or 0 for what a second"):
        limited(**{name: 0.5})
    limited(**{name: 0})


# --- the bucket ----------------------------------------------------------------------------------

RATES = st.floats(0.01, 1e5)
BURSTS = st.floats(1, 100)
ASKED = st.lists(
    st.tuples(st.floats(0, 10) | st.floats(0, 1e-3), st.integers(1, 20)), min_size=1, max_size=40
)


@given(RATES, BURSTS, ASKED)
def test_no_window_has_more_than_its_burst_and_rate(
    rate: float, burst: float, asked: list[tuple[float, int]]
) -> None:
    """In any time t at most burst + rate * t pass, and no less than a plain bucket lets pass."""
    bucket, now, tokens = TokenBucket("rate", rate=rate, burst=burst), 1e5, burst
    passed: list[tuple[float, int]] = []
    for pause, number in asked:
        now += pause
        tokens = min(burst, tokens + pause * rate)
        if bucket.take(number, now):
            tokens -= number
            passed.append((now, number))
            assert tokens >= -1e-3
        else:
            assert tokens < number + 1e-3
    for first, (start, _) in enumerate(passed):
        total = 0
        for end, number in passed[first:]:
            total += number
            assert total <= burst + rate * (end - start) + 1e-3


@given(RATES, BURSTS, ASKED)
def test_room_and_wait_say_when_requests_pass(
    rate: float, burst: float, asked: list[tuple[float, int]]
) -> None:
    """What there is room for passes, one more does not, and one more does after the wait."""
    bucket, now = TokenBucket("rate", rate=rate, burst=burst), 50.0
    for pause, number in asked:
        now += pause
        bucket.take(number, now)
        room = bucket.room(now)
        assert not bucket.take(room + 1, now) or bucket.wait(now) < 2e-9
        bucket.spend(room, now)
        now += bucket.wait(now) + 1e-9
        assert bucket.take(1, now)


def test_a_bucket_without_a_burst_has_that_of_a_second() -> None:
    """Without a burst as many pass at once as in a second, and one at least."""
    assert TokenBucket("rate", rate=20).room(0) == 20
    assert TokenBucket("rate", rate=0.1).room(0) == 1


def test_another_rate_forgets_nothing() -> None:
    """What passed before a change of the rate counts after it: a reload is no way to more."""
    bucket = TokenBucket("rate", rate=1, burst=10)
    bucket.spend(8, 0)
    bucket.change(0, rate=2, burst=10)
    assert bucket.room(0) == 2
    assert bucket.room(1) == 4
    bucket.change(1, rate=1, burst=3)
    assert bucket.room(1) == 0
    assert bucket.room(2) == 1


# --- rates ---------------------------------------------------------------------------------------


def test_a_flood_of_one_session_is_its_own(rig: Rig, records: Records) -> None:
    """Beyond its rate a session gets Overloaded before any handler runs; others are served."""
    hub = rig.gateway(
        {"ACME/count": COUNT},
        recorder=records,
        config=with_limits(requests_per_second=NEVER, burst=5),
    )
    flood, other = rig.client(hub), rig.client(hub)
    errors = refused([flood.request("ACME", "count", number) for number in range(200)])
    assert len(errors) == 195
    for error in errors:
        assert isinstance(error, Overloaded)
        assert error.started is False
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 1 / NEVER
        assert "limits.requests_per_second" in str(error)
    assert [other.request("ACME", "count", -1).get() for _ in range(5)] == [-1] * 5
    ran = [hub.globals["running"].get_nowait() for _ in range(10)]
    assert sorted(ran) == [-1] * 5 + list(range(5))
    assert hub.globals["running"].empty()
    assert hub.counters()["requests_per_second"] == 195
    # A flood does not flood the audit: a row a second, with the number.
    hub.stop()
    rows = [record for record in records.records if record.event == "limited"]
    assert sum(int(row.detail.split()[0]) for row in rows) == 195
    assert len(rows) < 10
    assert rows[0].outcome == "requests_per_second"
    assert rows[0].user
    assert rows[0].address == "127.0.0.1"
    assert not [record for record in records.records if record.event == "failed"]


@pytest.mark.parametrize("spare", [0, 8])
def test_messages_count_and_cancellations_do_not(rig: Rig, spare: int) -> None:
    """A message is charged like a request; to cancel costs nothing and is always heard."""
    hub = rig.gateway(
        {"ACME/hold": rig.HOLD, "ACME/echo": rig.ECHO},
        config=with_limits(requests_per_second=NEVER, burst=5 + spare),
    )
    client = rig.client(hub)
    held = [client.request("ACME", "hold", number) for number in range(4)]
    for _ in held:
        hub.globals["running"].get(timeout=10)
    client.message("ACME", "echo", 1).get()
    for request in held:
        assert request.cancel()
    rig.until(lambda: [request.fate for request in held] == ["still running"] * 4)
    for _ in range(spare):
        assert client.request("ACME", "echo", 1).get() == 1
    for beyond in (client.request("ACME", "echo", 1), client.message("ACME", "echo", 1)):
        assert isinstance(beyond.getError(), Overloaded)


def test_all_sessions_of_a_user_share_a_bucket(rig: Rig) -> None:
    """The rate of a user holds for its sessions together, and a new session has no new burst."""
    hub = rig.gateway(
        {"ACME/echo": rig.ECHO}, config=with_limits(user_requests_per_second=NEVER, user_burst=6)
    )
    clients = [rig.client(hub), rig.client(hub)]
    errors = refused([c.request("ACME", "echo", 1) for _ in range(10) for c in clients])
    assert len(errors) == 14
    assert all("limits.user_requests_per_second" in str(error) for error in errors)
    for client in clients:
        client.close()
    rig.until(lambda: hub.stats()["sessions"] == 0)
    assert refused([rig.client(hub).request("ACME", "echo", 1)])
    assert hub.counters()["user_requests_per_second"] == 15


def test_rates_change_while_sessions_are_open(rig: Rig) -> None:
    """New rates hold at once for sessions that are there, `in_flight` for those that come."""
    hub = rig.gateway({"ACME/echo": rig.ECHO})
    client = rig.client(hub)

    def refusals(**values: Any) -> int:
        apply(hub, **values)
        return len(refused([client.request("ACME", "echo", 1) for _ in range(10)]))

    assert refusals() == 0
    assert refusals(requests_per_second=NEVER, burst=3) == 7
    assert refusals(user_requests_per_second=NEVER, user_burst=4) == 6
    assert refusals(user_requests_per_second=NEVER, user_burst=8) == 6
    assert refusals(user_requests_per_second=1e9) == 0
    assert refusals(in_flight=1) == 0
    late = rig.client(hub)
    first, second = late.request("ACME", "echo", 1), late.request("ACME", "echo", 1)
    assert first.get() == 1
    assert isinstance(second.getError(), Overloaded)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5), st.integers(0, 6)), max_size=40),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_both_rates_hold(asked: list[tuple[str, int, int]], own: int, shared: int) -> None:
    """What passes is what is left of the session's and of the user's; nothing else is charged."""
    clock = Clock()
    limiter = Limiter(
        limited(requests_per_second=1, burst=own, user_requests_per_second=1, user_burst=shared),
        clock=clock,
    )
    sessions = {name: limiter.admit("u", address="", is_owner=False) for name in "ab"}
    left = {"a": float(own), "b": float(own), "user": float(shared)}
    for name, number, quarters in asked:
        clock.now += quarters / 4
        for each in left:
            left[each] = min(left[each] + quarters / 4, shared if each == "user" else own)
        session = sessions[name]
        assert session.take is not None
        all_pass = session.take(number, clock.now)
        passed = number if all_pass else session.take_some(number, clock.now)
        assert passed == min(number, int(left[name]), int(left["user"]))
        left[name] -= passed
        left["user"] -= passed


def test_buckets_of_users_are_forgotten() -> None:
    """A bucket of a user without sessions is kept until it is full, and no more than so many."""
    clock = Clock()
    limiter = Limiter(limited(user_requests_per_second=1, user_burst=2), clock=clock)

    def visit(user: str) -> bool:
        admission = limiter.admit(user, address="10.0.0.1", is_owner=False)
        assert admission.take is not None
        passed = admission.take(2, clock.now)
        limiter.leave(admission)
        return passed

    assert visit("a")
    assert not visit("a")
    clock.now += 2
    assert visit("b")
    assert len(limiter._users) == 1
    assert visit("a")
    for number in range(limits.MAX_IDLE_USERS + 100):
        visit(str(number))
    assert len(limiter._users) == limits.MAX_IDLE_USERS


# --- sessions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["sessions", "sessions_per_user"])
def test_too_many_sessions(rig: Rig, records: Records, limit: str) -> None:
    """The login is refused with the limit's name; when a session ends there is room again."""
    hub = rig.gateway({"ACME/echo": rig.ECHO}, recorder=records, config=with_limits(**{limit: 1}))
    clients = [rig.client(hub) for _ in range(1 + OWNER_RESERVE)]
    with pytest.raises(Overloaded, match=f"limits.{limit} allows 1"):
        headgate.connect(hub.url)
    assert clients[0].request("ACME", "echo", 1).get() == 1
    assert hub.counters()[limit] == 1
    clients[0].close()
    rig.until(lambda: hub.stats()["sessions"] == OWNER_RESERVE)
    assert rig.client(hub).request("ACME", "echo", 1).get() == 1
    hub.stop()
    assert records.told("limited", f"1 refused within 1 s by limits.{limit}")
    assert not records.told("refused", "")


def test_the_owner_always_gets_in() -> None:
    """When others have taken all sessions, some are left for the owner, and for nobody else."""
    limiter = Limiter(limited(sessions=3))
    for number in range(3):
        limiter.admit(f"user{number}", address="10.0.0.1", is_owner=False)
    with pytest.raises(Overloaded, match=r"limits.sessions"):
        limiter.admit("user", address="127.0.0.1", is_owner=False)
    for _ in range(OWNER_RESERVE):
        limiter.admit("me", address="127.0.0.1", is_owner=True)
    with pytest.raises(Overloaded):
        limiter.admit("me", address="127.0.0.1", is_owner=True)


def test_sessions_of_an_address() -> None:
    """An address has its own number of sessions; loopback has no limit of this kind."""
    limiter = Limiter(limited(sessions_per_address=2))

    def admit(address: str) -> limits.Admission:
        return limiter.admit("user", address=address, is_owner=False)

    first = admit("10.0.0.1")
    admit("::ffff:10.0.0.1")
    with pytest.raises(Overloaded, match=r"limits.sessions_per_address allows 2"):
        admit("10.0.0.1")
    admit("10.0.0.2")
    # A host of IPv6 has all addresses of its network.
    admit("2001:db8::1")
    admit("2001:db8::2")
    with pytest.raises(Overloaded):
        admit("2001:db8::ffff:3")
    admit("2001:db8:0:1::1")
    for address in ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1") * 2:
        admit(address)
    limiter.leave(first)
    limiter.leave(first)
    admit("10.0.0.1")
    with pytest.raises(Overloaded):
        admit("10.0.0.1")
    assert limiter.excess.counters["sessions_per_address"] == 3


# --- connections ---------------------------------------------------------------------------------


def test_connections_that_do_not_log_in(rig: Rig) -> None:
    """Too many of an address are cut at once; who is logged in does not notice."""
    hub = rig.gateway(
        {"ACME/echo": rig.ECHO},
        config=with_limits(connections_per_address=10),
    )
    client = rig.client(hub)
    session = client.session_id
    with ExitStack() as open_ones:
        peers = [
            open_ones.enter_context(socket.create_connection(("127.0.0.1", hub.port), timeout=10))
            for _ in range(30)
        ]
        rig.until(lambda: hub.counters()["connections_per_address"] == 20)
        assert hub.stats()["connecting"] == 10
        for peer in peers[10:]:
            assert cut(peer)
        assert client.request("ACME", "echo", 1).get() == 1
        with pytest.raises(GatewayUnreachable):
            headgate.connect(hub.url)
    rig.until(lambda: hub.stats()["connecting"] == 0)
    # Whoever has logged in makes room.
    apply(hub, connections_per_address=1)
    for number in range(3):
        assert rig.client(hub).request("ACME", "echo", number).get() == number
    assert client.session_id == session


def test_a_login_that_does_not_come(rig: Rig, records: Records) -> None:
    """A login that takes longer than the setting says is cut; nobody else notices."""
    hub = rig.gateway({"ACME/echo": rig.ECHO}, recorder=records)
    client = rig.client(hub)
    apply(hub, login_seconds=0.05)
    with connect(f"ws://127.0.0.1:{hub.port}/channel") as peer, pytest.raises(ConnectionClosed):
        peer.recv(timeout=10)
    assert hub.counters()["login_seconds"] == 1
    assert client.request("ACME", "echo", 1).get() == 1
    hub.stop()
    assert records.told("limited", "limits.login_seconds")


def cut(peer: socket.socket) -> bool:
    """Whether the gateway closed a connection."""
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_of_all_addresses() -> None:
    """All addresses of the network together have a limit too, which leaves this machine out."""
    limiter = Limiter(limited(connections=5, connections_per_address=2))
    taken = [a for a in (f"10.0.0.{n // 3}" for n in range(30)) if limiter.connecting(a)]
    assert len(taken) == 5
    assert limiter.connecting("127.0.0.1")
    assert limiter.connecting("127.0.0.2")
    assert not limiter.connecting("127.0.0.3")
    assert limiter.excess.counters["connections_per_address"] == 2 + 1
    assert limiter.excess.counters["connections"] == 23
    for address in (*taken, "127.0.0.1", "127.0.0.1"):
        limiter.settled(address)
    assert limiter.stats() == {"connecting": 0}
    assert limiter.connecting("10.0.0.1")


# --- names ---------------------------------------------------------------------------------------


def test_names_that_are_too_long(rig: Rig, records: Records) -> None:
    """A request with an overlong name ends before anybody looks at it, and names the limit."""
    seen: list[tuple[str, str]] = []

    class Watching:
        def authorise(self, caller: Any, action: str, project: str, handler: str) -> None:
            seen.append((project, handler))

    hub = rig.gateway(
        {"ACME/echo": rig.ECHO},
        recorder=records,
        policy=Watching(),
        config=with_limits(name_length=32),
    )
    client = rig.client(hub)
    for request, kind in (
        (client.request(LONG, "echo"), HandlerNotFound),
        (client.request("ACME", LONG), HandlerNotFound),
        (client.request("ACME", "echo", remote_server=LONG), GatewayUnreachable),
        (client.request("ACME", "echo", host_name=LONG), ClientNotFound),
        (client.message("ACME", LONG), HandlerNotFound),
        (client.message("ACME", "echo", filters={"hostName": LONG}), RequestError),
    ):
        error = request.getError()
        assert type(error) is kind
        assert error.started is False
        assert "limits.name_length" in str(error)
    assert seen == []
    assert client.request("ACME", "echo", 1).get() == 1
    assert hub.counters()["name_length"] == 6
    hub.stop()
    assert not [record for record in records.records if LONG in str(record)]


@pytest.mark.parametrize("option", ["host_name", "project"])
def test_names_in_a_login_that_are_too_long(rig: Rig, records: Records, option: str) -> None:
    """A login with an overlong name is refused, and the name is written nowhere."""
    hub = rig.gateway({"ACME/echo": rig.ECHO}, recorder=records, config=with_limits(name_length=32))
    with pytest.raises(RequestError, match=f"{option} has 40 characters, and limits.name_length"):
        headgate.connect(hub.url, **{option: LONG})
    assert hub.counters()["name_length"] == 1
    hub.stop()
    assert not [record for record in records.records if LONG in str(record)]


@pytest.mark.parametrize("place", ["method", "user", "project", "host_name", "kind", "software"])
def test_every_name_in_a_hello(place: str) -> None:
    """All names that a client gives itself are looked at."""
    limiter = Limiter(limited(name_length=32))
    fields: dict[str, Any] = {"method": "local"}
    fields |= {"extensions": {"user": LONG}} if place == "user" else {place: LONG}
    with pytest.raises(RequestError, match=f"{place} has 40 characters"):
        limiter.require_names(Hello([1], [], nonce=b"", **fields), "")
    fields = {"method": "local", "extensions": {"user": "u" * 32}}
    limiter.require_names(Hello([1], [], nonce=b"", **fields), "")


# --- in flight -----------------------------------------------------------------------------------


def test_more_in_flight_than_allowed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that ignores its credit is refused what is beyond it."""
    hub = rig.gateway({"ACME/hold": rig.HOLD}, config=with_limits(in_flight=3))
    client = rig.client(hub)
    held = [client.request("ACME", "hold", number) for number in range(4)]
    # A client knows its credit, and does not send what is beyond it.
    assert isinstance(held.pop().getError(), Overloaded)
    assert hub.counters()["in_flight"] == 0
    monkeypatch.setattr("headgate.wire.handshake.Credit", lambda **told: Credit())
    rude = rig.client(hub)
    held += [rude.request("ACME", "hold", number) for number in range(3)]
    error = rude.request("ACME", "hold", 4).getError()
    assert isinstance(error, Overloaded)
    assert "limits.in_flight" in str(error)
    assert error.started is False
    assert hub.counters()["in_flight"] == 1
    hub.globals["go"].set()
    assert not refused(held)


# --- counters and the audit ----------------------------------------------------------------------


class Rows:
    def __init__(self) -> None:
        self.rows: list[Record] = []
        self.broken = False

    def record(self, record: Record) -> None:
        if self.broken:
            raise OSError("No space left on device")
        self.rows.append(record)


def test_rows_of_the_audit_are_few() -> None:
    """A second has a row for each limit, user and address, and a flood of these is added up."""
    later, rows = Later(), Rows()
    counted = Excess(rows)
    counted.start(later)
    for number in range(3000):
        counted.add("connections", address=f"10.0.{number % 1500 // 256}.{number % 256}")
        counted.add("requests_per_second", user="u", number=2)
    later.run()
    assert len(rows.rows) <= MAX_ROWS + len(LIMITS)
    totals: Counter[str] = Counter()
    for row in rows.rows:
        totals[row.outcome] += int(row.detail.split()[0])
    assert totals == {"connections": 3000, "requests_per_second": 6000}
    assert rows.rows[1].detail == "6000 refused within 1 s by limits.requests_per_second"
    assert counted.counters["connections"] == 3000
    counted.add("sessions")
    counted.stop()
    assert rows.rows[-1].outcome == "sessions"
    assert later.function is None
    counted.add("sessions")
    assert counted.counters["sessions"] == 2
    # The gateway starts again.
    counted.start(later)
    counted.add("sessions")
    assert later.function is not None


def test_a_recorder_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The limits hold also where nothing can be written down."""
    later, rows = Later(), Rows()
    counted = Excess(rows)
    counted.start(later)
    rows.broken = True
    counted.add("sessions")
    counted.add("connections")
    later.run()
    assert caplog.text.count("A record was lost") == 2
    rows.broken = False
    counted.add("sessions")
    later.run()
    assert len(rows.rows) == 1


def test_what_has_a_row_of_its_own_is_limited_for_each_user() -> None:
    """One user's flood takes no row from another one; what nobody would tell of has a row."""
    later, rows = Later(), Rows()
    counted = Excess(rows)
    each = OfTheirOwn("failures", counted, rate=NEVER, burst=3)
    assert [each.take(user="ann") for _ in range(5)] == [True] * 5
    counted.start(later)
    assert [each.take(user="ann") for _ in range(5)] == [False] * 5
    assert [each.take(user="ben") for _ in range(4)] == [True] * 3 + [False]
    later.run()
    assert [(row.event, row.user, row.outcome, row.detail.split()[0]) for row in rows.rows] == [
        ("limited", "ann", "failures", "5"),
        ("limited", "ben", "failures", "1"),
    ]
    counted.stop()
    assert each.take(user="ann")


def test_quiet_users_are_forgotten() -> None:
    """However many users there have been, the table is small; who was not quiet is kept."""
    counted = Excess(Rows())
    counted.start(Later())
    each = OfTheirOwn("failures", counted, rate=1e9, burst=1)
    each._buckets["ann"] = TokenBucket("failures", rate=NEVER, burst=1)
    assert each.take(user="ann")
    for number in range(3 * MOST_USERS):
        each.take(user=str(number))
    assert len(each._buckets) <= MOST_USERS + 1
    assert not each.take(user="ann")


def test_the_counters_are_told(rig: Rig) -> None:
    """Whoever may see the gateway may see its counters: one for each limit."""
    hub = rig.gateway({})
    client = rig.client(hub)
    assert client.request("@gateway", "counters").get() == dict.fromkeys(LIMITS, 0)
    named = {limit for limit in LIMITS if not hasattr(Limits(), limit)}
    assert named == {"logins", "refusals", "failures"}


def test_rows_come_while_the_gateway_runs(
    rig: Rig, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused is recorded soon after, not only in the end."""
    monkeypatch.setattr(excess, "ROW_SECONDS", 0.01)
    hub = rig.gateway({}, recorder=records, config=with_limits(name_length=32))
    rig.client(hub).request(LONG, "echo").getError()
    rig.until(lambda: records.told("limited", "limits.name_length"))
