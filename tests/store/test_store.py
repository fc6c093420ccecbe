"""The store's contract, for every database that it can be on; then what is special to its file."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError

import headgate
from headgate.errors import ConfigurationError, Overloaded
from headgate.store import Store
from headgate.store import schema as store_schema
from headgate.store import store as store_module
from headgate.store import writer as store_writer
from headgate.store.tables import boots, metadata

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

marks = Table("marks", MetaData(), Column("number", Integer, primary_key=True))
# A child without its parent is found at the commit, not before.
children = Table(
    "children",
    marks.metadata,
    Column("mark", ForeignKey(marks.c.number, deferrable=True, initially="DEFERRED")),
)


@pytest.fixture(params=["sqlite"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store that nobody opened yet, on each kind of database."""
    return {"sqlite": Store}[request.param](tmp_path / "data")


@pytest.fixture
def store(closed: Store) -> Iterator[Store]:
    """An open store with a table to write to."""
    with closed:
        closed.write(marks.create).result()
        yield closed


def add(number: int) -> Callable[[Connection], int]:
    """A write that can be seen, and that fails if it is done twice."""

    def write(connection: Connection) -> int:
        connection.execute(insert(marks).values(number=number))
        return number

    return write


def added(connection: Connection) -> list[int]:
    """What `add` wrote, in order."""
    return list(connection.scalars(select(marks).order_by(marks.c.number)))


class Held:
    """Keeps the store's writer busy until `release`, so that what follows waits together."""

    def __init__(self, store: Store) -> None:
        self.release = threading.Event()
        running = threading.Event()

        def wait(connection: Connection) -> None:
            running.set()
            assert self.release.wait(20)

        self.done = store.write(wait)
        assert running.wait(20)


# -- node and boots


def test_node_id_is_kept(closed: Store) -> None:
    """The node's id is 32 bits, never 0, and the same at every open."""
    with closed:
        first = closed.node_id
    with closed:
        assert closed.node_id == first
    assert 0 < first < 2**32


def test_node_ids_differ(tmp_path: Path) -> None:
    """Two new databases have two ids."""
    with Store(tmp_path / "a") as a, Store(tmp_path / "b") as b:
        assert a.node_id != b.node_id


def test_boot_counts_opens(closed: Store) -> None:
    """Each open is the next boot, written down with its time and version."""
    before = datetime.now(UTC)
    for number in (1, 2, 3):
        with closed:
            assert closed.boot == number
            row = closed.read(
                lambda c: c.execute(select(boots).order_by(boots.c.number.desc())).first()
            ).result()
    assert row is not None
    assert (row.number, row.version) == (3, headgate.__version__)
    assert before <= row.started_at <= datetime.now(UTC)


def test_boots_are_not_kept_for_ever(closed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the latest boots are kept, and counting goes on."""
    monkeypatch.setattr(store_module, "BOOTS_KEPT", 2)
    for _ in range(4):
        with closed:
            kept = closed.read(lambda c: list(c.scalars(select(boots.c.number)))).result()
    assert kept == [3, 4]


def test_times_are_utc(store: Store) -> None:
    """A moment comes back aware and in UTC, whatever zone it was given in."""
    moment = NOON.astimezone(timezone(timedelta(hours=9)))

    def write(connection: Connection) -> None:
        connection.execute(insert(boots).values(number=99, started_at=moment, version="test"))

    store.write(write).result()
    query = select(boots.c.started_at).where(boots.c.number == 99)
    back = store.read(lambda c: c.scalar(query)).result()
    assert (back, back.tzinfo) == (NOON, UTC)


def test_naive_time_is_refused(store: Store) -> None:
    """A moment without a zone is refused instead of guessed at."""
    naive = datetime(2026, 1, 1)
    row = insert(boots).values(number=99, started_at=naive, version="test")
    with pytest.raises(StatementError, match="give it a zone"):
        store.write(lambda c: c.execute(row).rowcount).result()


# -- writing


def test_write_returns_the_value(store: Store) -> None:
    """The future has what the function returned."""
    assert store.write(add(101)).result() == 101


def test_write_is_awaitable(store: Store) -> None:
    """In asyncio code the future is awaited through wrap_future."""

    async def main() -> list[int]:
        await asyncio.wrap_future(store.write(add(101)))
        return await asyncio.wrap_future(store.read(added))

    assert asyncio.run(main()) == [101]


def test_write_is_seen_once_done(store: Store) -> None:
    """A read that starts after a write's future is done sees the write."""
    for number in range(101, 151):
        store.write(add(number)).result()
        assert store.read(added).result()[-1] == number


def test_write_survives_close(closed: Store) -> None:
    """What was written is there at the next open."""
    with closed:
        closed.write(marks.create)
        write = closed.write(add(101))
    assert write.done()
    with closed:
        assert closed.read(added).result() == [101]


def test_writes_keep_order(store: Store) -> None:
    """Functions run in the order of the calls, all on one thread that is not the caller's."""
    ran: list[tuple[int, str]] = []

    def note(number: int) -> Callable[[Connection], None]:
        return lambda _: ran.append((number, threading.current_thread().name))

    for done in [store.write(note(number)) for number in range(1_200)]:
        done.result()
    assert [number for number, _ in ran] == list(range(1_200))
    assert {thread for _, thread in ran} == {"headgate-store"}


def test_failed_write_undoes_only_itself(store: Store) -> None:
    """In one group, a function that raises undoes all that it did and nothing of the others."""

    def fails(connection: Connection) -> None:
        add(102)(connection)
        raise LookupError("mine")

    held = Held(store)
    before, failed, after = store.write(add(101)), store.write(fails), store.write(add(103))
    held.release.set()
    assert (before.result(), after.result()) == (101, 103)
    with pytest.raises(LookupError, match="mine"):
        failed.result()
    assert store.read(added).result() == [101, 103]


def test_constraint_fails_one_write(store: Store) -> None:
    """A row that the database refuses is the problem of its own function only."""
    held = Held(store)
    writes = [store.write(add(number)) for number in (101, 101, 102)]
    held.release.set()
    assert isinstance(writes[1].exception(), IntegrityError)
    assert store.read(added).result() == [101, 102]


def test_exit_in_a_write_does_not_end_the_writer(store: Store) -> None:
    """Even SystemExit in a function leaves the writer at work."""

    def leave(_: Connection) -> None:
        raise SystemExit

    held = Held(store)
    before, left, after = store.write(add(101)), store.write(leave), store.write(add(102))
    held.release.set()
    assert (before.result(), after.result()) == (101, 102)
    with pytest.raises(SystemExit):
        left.result()


def test_waiting_writes_share_a_commit(store: Store) -> None:
    """Functions that wait together are committed together."""
    commits = count_events(writing(store), "commit")
    held = Held(store)
    writes = [store.write(add(number)) for number in range(101, 201)]
    held.release.set()
    for write in writes:
        write.result()
    assert len(commits) == 2, "one for the function that held the writer, one for the hundred"


def test_group_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long queue is committed in several groups."""
    monkeypatch.setattr(store_writer, "MAX_GROUP", 10)
    commits = count_events(writing(store), "commit")
    held = Held(store)
    writes = [store.write(add(number)) for number in range(101, 126)]
    held.release.set()
    for write in writes:
        write.result()
    assert len(commits) == 1 + 3


def test_future_is_done_after_the_commit(store: Store) -> None:
    """No future is done before its transaction is committed."""
    seen: list[bool] = []
    held = Held(store)
    write = store.write(add(101))
    event.listen(writing(store), "commit", lambda _: seen.append(write.done()))
    held.release.set()
    write.result()
    assert seen[-1] is False


def test_failed_commit_fails_the_group(store: Store) -> None:
    """When a commit fails, nothing of the group is written and every future says so."""

    def orphan(connection: Connection) -> None:
        connection.execute(insert(children).values(mark=999))

    store.write(children.create).result()
    held = Held(store)
    writes: list[Future[Any]] = [store.write(f) for f in (add(101), orphan, add(102))]
    held.release.set()
    assert [type(write.exception()) for write in writes] == [IntegrityError] * 3
    assert store.write(add(103)).result() == 103
    assert store.read(added).result() == [103]


def test_lost_transaction_fails_the_group(store: Store) -> None:
    """Where the database itself undid the whole transaction, no future claims success."""

    def undone(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT OR ROLLBACK INTO marks VALUES (101)")

    held = Held(store)
    writes: list[Future[Any]] = [store.write(f) for f in (add(101), undone, add(102))]
    held.release.set()
    assert all(write.exception() for write in writes)
    assert store.read(added).result() == []
    assert store.write(add(103)).result() == 103
    assert store.read(added).result() == [103]


def test_cancelled_write_does_not_run(store: Store) -> None:
    """A write that is cancelled while it waits is withdrawn."""
    held = Held(store)
    withdrawn, other = store.write(add(101)), store.write(add(102))
    assert withdrawn.cancel()
    held.release.set()
    other.result()
    assert store.read(added).result() == [102]


def test_too_many_writes_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue has an end; what it refuses never started."""
    monkeypatch.setattr(store_writer, "MAX_WAITING", 3)
    held = Held(store)
    writes = [store.write(add(number)) for number in (101, 102, 103)]
    assert store.waiting == 3
    with pytest.raises(Overloaded) as refused:
        store.write(add(104))
    assert refused.value.started is False
    held.release.set()
    assert [write.result() for write in writes] == [101, 102, 103]
    assert store.waiting == 0
    assert store.write(add(105)).result() == 105


# -- reading


def test_read_cannot_write(store: Store) -> None:
    """A function that writes in a read is refused by the database."""
    with pytest.raises(OperationalError, match="readonly"):
        store.read(add(101)).result()
    assert store.read(added).result() == []


def test_read_does_not_wait_for_a_write(store: Store) -> None:
    """Reads go on while a write is under way, and do not see it."""
    running, release = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        add(101)(connection)
        running.set()
        assert release.wait(20)

    write = store.write(slow)
    assert running.wait(20)
    assert store.read(added).result(10) == []
    release.set()
    write.result()
    assert store.read(added).result() == [101]


def test_read_is_one_moment(store: Store) -> None:
    """All statements of one read see the database as it was at its first."""

    def twice(connection: Connection) -> tuple[list[int], list[int]]:
        before = added(connection)
        store.write(add(101)).result()
        return before, added(connection)

    assert store.read(twice).result() == ([], [])


# -- opening and closing


def test_close_finishes_what_waits(closed: Store) -> None:
    """Closing runs every function that waits, commits them and completes their futures."""
    with closed:
        closed.write(marks.create)
        held = Held(closed)
        writes = [closed.write(add(number)) for number in range(101, 1_301)]
        held.release.set()
    assert all(write.done() for write in writes)
    with closed:
        assert closed.read(added).result() == list(range(101, 1_301))


def test_close_leaves_no_thread(closed: Store) -> None:
    """After closing, the store has no thread and no open file."""
    before = set(threading.enumerate())
    with closed:
        closed.write(marks.create)
        closed.write(add(101)).result()
        closed.read(added).result()
    assert set(threading.enumerate()) == before


def test_store_must_be_open(closed: Store) -> None:
    """A store that is not open says so; closing it again is fine, opening it twice is not."""
    with closed, pytest.raises(RuntimeError, match="open already"):
        closed.open()
    closed.close()
    for use in (closed.write, closed.read):
        with pytest.raises(RuntimeError, match="not open"):
            use(added)
    assert closed.waiting == 0


# -- schema


def test_revisions_make_the_tables(closed: Store) -> None:
    """What the revisions make is what the tables say."""

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, metadata))

    with closed:
        assert closed.read(differences).result() == []


def test_revisions_are_in_order() -> None:
    """The schema's list names every revision that is packaged, oldest first."""
    config = Config()
    config.set_main_option("script_location", "headgate.store:migrations")
    script = ScriptDirectory.from_config(config)
    packaged = [revision.revision for revision in script.walk_revisions()]
    assert tuple(reversed(packaged)) == store_schema.REVISIONS


def test_later_schema_is_refused(closed: Store) -> None:
    """A database of a later release is left as it is, and the error names that release."""
    with closed:
        closed.write(lambda c: c.execute(text("UPDATE boots SET version = '9.1'")).rowcount)
        closed.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = 'zz'")))
    with pytest.raises(ConfigurationError, match=r"Headgate 9\.1") as refused:
        closed.open()
    assert "'zz'" in refused.value.problem
    assert "--data" in refused.value.cure


def test_failed_migration_leaves_nothing(closed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that fails half-way through the schema can be repeated."""
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_node_id", lambda connection: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            closed.open()
    with closed:
        assert closed.boot == 1


# -- SQLite's file and folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a database that was used and closed."""
    with Store(tmp_path / "data"):
        return tmp_path / "data"


def test_opening_again_is_quick(folder: Path) -> None:
    """An up-to-date database opens within 50 ms, and without Alembic."""
    program = """
import sys, time
from headgate.store import Store
def opened():
    start = time.perf_counter()
    with Store(sys.argv[1]):
        return time.perf_counter() - start
print(min(opened() for _ in range(20)), "alembic" in sys.modules)
"""
    out = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
    )
    seconds, alembic = out.stdout.split()
    assert alembic == "False"
    assert float(seconds) < 0.050


def test_database_is_durable(folder: Path) -> None:
    """The writing connection uses WAL and waits for the disk; a busy database is waited for."""
    with Store(folder) as store:
        settings = {
            name: store.write(lambda c, name=name: c.execute(text(f"PRAGMA {name}")).scalar())
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert {name: value.result() for name, value in settings.items()} == {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 5_000,
    }


def test_write_has_the_database_to_itself(store: Store) -> None:
    """What a write has read is still true when it writes: other programs wait from its start."""

    def read_then_write(connection: Connection) -> list[int]:
        before = added(connection)
        intruder = sqlite3.connect(store.folder / "headgate.db", timeout=0)
        with closing(intruder), pytest.raises(sqlite3.OperationalError, match="locked"):
            intruder.execute("INSERT INTO marks VALUES (102)")
        add(101)(connection)
        return before

    assert store.write(read_then_write).result() == []
    assert store.read(added).result() == [101]


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_folder_is_private(folder: Path) -> None:
    """Folder, database and lock file are for this user alone."""
    assert folder.stat().st_mode & 0o077 == 0
    assert {file.name: file.stat().st_mode & 0o077 for file in folder.iterdir()} == {
        "headgate.db": 0,
        "headgate.lock": 0,
    }


def write_garbage(file: Path) -> None:
    """No database at all."""
    file.write_bytes(b"this is not a database\n" * 500)


def cut_off(file: Path) -> None:
    """A database of which only the first page is left."""
    file.write_bytes(file.read_bytes()[:4096])


@pytest.mark.parametrize("damage", [write_garbage, cut_off])
def test_damaged_database_is_named(folder: Path, damage: Callable[[Path], None]) -> None:
    """A damaged file is named and not touched, and the folder is free again."""
    file = folder / "headgate.db"
    damage(file)
    content = file.read_bytes()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="damaged") as refused:
            Store(folder).open()
    assert refused.value.file == str(file)
    assert "backup" in refused.value.cure
    assert file.read_bytes() == content


def test_other_programs_database_is_refused(tmp_path: Path) -> None:
    """A database with other tables is not taken over."""
    connection = sqlite3.connect(tmp_path / "headgate.db")
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    with pytest.raises(ConfigurationError, match="another program") as refused:
        Store(tmp_path).open()
    assert refused.value.file == str(tmp_path / "headgate.db")


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    """A data folder that is a file is named."""
    file = tmp_path / "data"
    file.touch()
    with pytest.raises(ConfigurationError, match="--data") as refused:
        Store(file).open()
    assert refused.value.file == str(file)


def test_folder_in_place_of_the_database(tmp_path: Path) -> None:
    """A database file that cannot be opened is named, with the reason."""
    (tmp_path / "headgate.db").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be used: unable to open") as refused:
        Store(tmp_path).open()
    assert refused.value.file == str(tmp_path / "headgate.db")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    """A folder that this user cannot write is named, with the cure."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o555)
    with (
        as_ordinary_user(),
        pytest.raises(ConfigurationError, match="Permission denied") as refused,
    ):
        Store(folder).open()
    assert refused.value.file.startswith(str(folder))
    assert "--data" in refused.value.cure


# -- one process to a folder


HOLDER = """
import sys
from headgate.store import Store
with Store(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_refused(folder: Path) -> None:
    """The error says which process holds the folder, and what to do."""
    holder = hold(folder)
    with pytest.raises(ConfigurationError, match="is in use") as refused:
        Store(folder).open()
    assert re.search(rf"\bprocess {holder.pid}\b", str(refused.value))
    assert str(folder) in str(refused.value)
    assert "--name" in refused.value.cure
    holder.communicate("")
    with Store(folder) as store:
        assert store.boot == 3


def test_killed_process_holds_nothing(folder: Path) -> None:
    """A process that was killed leaves the folder free and its commits in place."""
    holder = hold(folder)
    holder.kill()
    holder.communicate()
    with Store(folder) as store:
        assert store.boot == 3


def test_second_store_in_one_process_is_refused(store: Store) -> None:
    """Two stores of one process cannot share a folder either."""
    with pytest.raises(ConfigurationError, match="in use by this process"):
        Store(store.folder).open()
    assert store.write(add(101)).result() == 101


# -- helpers


def writing(store: Store) -> Engine:
    """The engine that the store writes through."""
    return store._writer._engine


def count_events(engine: Engine, name: str) -> list[str]:
    """A list that grows by one for each event."""
    seen: list[str] = []
    event.listen(engine, name, lambda _: seen.append(name))
    return seen


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that has the folder open until its input ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    return holder


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Give up root's right to write everywhere, as CI has it, for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
