"""The audit log while it is written: order, crashes, full disks, secrets."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from audit_logs import check, failed, found, make_log, rows, until
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import ConfigurationError, Overloaded
from headgate.security.audit import AuditLog, AuditSettings, Record, log
from headgate.security.audit.chain import make_row, parse_line
from headgate.security.audit.journal import Places
from headgate.security.audit.verify import read_head, verify
from headgate.wire.codec import encode


class Disk:
    """Lets the system's `os.write` fail, after a number of bytes, as on a full disk."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self._write = os.write
        patch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: memoryview) -> int:
        if self.room is None:
            return self._write(descriptor, data)
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that can be full, and a log that tries again soon."""
    monkeypatch.setattr(log, "RETRY_SECONDS", 0.01)
    disk = Disk(monkeypatch)
    yield disk
    disk.room = None


class TestRows:
    def test_what_a_row_holds(self, tmp_path: Path) -> None:
        """Every field that is set, the time in UTC to the microsecond, and nothing else."""
        record = Record(
            "failed",
            user="anna",
            host="panel-7",
            verified_host="panel-7.example",
            roles=("engineer", "operator"),
            method="password",
            address="10.1.2.3",
            session="ab",
            gateways=("plant",),
            target="ACME/test",
            action="request",
            outcome="timeout",
            duration=0.25,
            request_id="0" * 32,
            detail="too late",
        )
        with AuditLog(tmp_path) as log:
            log.record(record)
        row = rows(Places(tmp_path))[0]
        assert row.pop("seq") == 1
        assert row.pop("time")[-8] == "."
        assert len(row.pop("hash")) == 64
        assert row == {
            **{field: getattr(record, field) for field in record.__struct_fields__ if field in row},
            "roles": ["engineer", "operator"],
            "gateways": ["plant"],
        }
        assert len(row) == 15

    @settings(max_examples=50, deadline=None)
    @given(st.text(), st.text(), st.text())
    def test_no_text_forges_a_row(self, user: str, detail: str, target: str) -> None:
        """Whatever stands in a field, it is one line of ASCII that says what was recorded."""
        record = Record("refused", user=user, detail=detail, target=target)
        row = make_row(7, 0, record, previous=bytes(32))
        assert row.line.isascii()
        assert row.line.count(b"\n") == 1
        assert len(row.line.decode().splitlines()) == 1
        line = parse_line(row.line)
        assert line is not None
        assert line.follows(bytes(32))
        fields = line.fields()
        assert (fields["seq"], fields["event"]) == (7, "refused")
        assert [fields.get(name, "") for name in ("user", "detail", "target")] == [
            user,
            detail,
            target,
        ]

    @pytest.mark.parametrize(
        "text", ['"}\n{"seq":1', "\u2028", "\x85", "\x1b[2K", "\udc80", "\x00"]
    )
    def test_hostile_texts(self, tmp_path: Path, text: str) -> None:
        """Quotes, line ends of any kind, escapes and lone surrogates stay what they are."""
        with AuditLog(tmp_path) as log:
            log.record(Record("refused", user=text))
        assert rows(Places(tmp_path))[0]["user"] == text
        check(tmp_path)

    def test_a_record_that_cannot_be_encoded(self, tmp_path: Path) -> None:
        """It leaves a row that says so, and those around it are there."""
        bad = Record("login", user=object())  # type: ignore[arg-type]
        with AuditLog(tmp_path) as log:
            for record in (failed(1), bad, failed(2)):
                log.record(record)
        assert [row["event"] for row in rows(Places(tmp_path))[:3]] == ["failed", "login", "failed"]
        assert "could not be written" in rows(Places(tmp_path))[1]["detail"]
        check(tmp_path)

    def test_many_threads(self, tmp_path: Path) -> None:
        """Each row is there once, in one order, a thread's rows in that of its calls."""

        def write(thread: int) -> None:
            for number in range(500):
                log.record(Record("failed", user=str(thread), detail=str(number)))

        with AuditLog(tmp_path) as log:
            threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        written = rows(Places(tmp_path))
        assert [row["seq"] for row in written] == list(range(1, len(written) + 1))
        for thread in range(8):
            mine = [int(row["detail"]) for row in written if row.get("user") == str(thread)]
            assert mine == list(range(500))
        check(tmp_path)

    def test_the_head_follows(self, tmp_path: Path) -> None:
        """The head knows each row a moment later, while the log is open."""
        with AuditLog(tmp_path) as log:
            for number in (1, 2):
                log.record(failed(number))
                until(lambda number=number: read_head(tmp_path)[1].sequence == number)
                assert verify(tmp_path).signed == number

    def test_a_checkpoint_after_some_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """New rows are signed in the log itself after a while, and then there is rest."""
        monkeypatch.setattr(log, "CHECKPOINT_SECONDS", 0.05)
        with AuditLog(tmp_path) as audit:
            audit.record(failed(1))
            for number in (1, 2):
                until(lambda number=number: read_head(tmp_path)[1].sequence == 2 * number)
                audit.record(failed(2))
        assert [row["event"] for row in rows(Places(tmp_path))] == ["failed", "checkpoint"] * 3

    def test_checkpoints(self, tmp_path: Path) -> None:
        """A signed row comes after so many rows, and at the end."""
        make_log(tmp_path, 2_500)
        assert [row["event"] for row in rows(Places(tmp_path))].count("checkpoint") >= 1
        assert check(tmp_path).signed == check(tmp_path).last


class TestPayloads:
    SECRET = "hunter2"

    @pytest.mark.parametrize(
        "payload",
        [
            {"password": SECRET},
            {"user": {"oldPassword": SECRET, "API_KEY": SECRET, "pin": SECRET}},
            [({"deep": [{"Authorization": SECRET}]},)],
            {("pass", "word"): 1, "Secrets": {"a": [SECRET]}},
        ],
    )
    def test_no_secret_is_written(self, tmp_path: Path, payload: Any) -> None:
        """Values of such keys are left out at any depth, whatever the case; the keys are there."""
        with AuditLog(tmp_path) as log:
            log.record(Record("failed", payload=encode(payload)))
        text = Places(tmp_path).segment(1).read_text()
        assert self.SECRET not in text
        assert "(left out)" in text

    def test_what_is_no_secret_is_written(self, tmp_path: Path) -> None:
        """Plain values as JSON has them; bytes are only described."""
        payload = {"number": 5, "list": [1.5, None, True, float("nan")], "blob": b"123"}
        with AuditLog(tmp_path) as log:
            log.record(Record("failed", payload=encode(payload)))
            log.record(Record("failed", payload=b"\xc1"))
        first, second = rows(Places(tmp_path))[:2]
        assert first["payload"] == {
            "number": 5,
            "list": [1.5, None, True, "nan"],
            "blob": "(bytes of 3)",
        }
        assert second["payload"] == "(1 bytes that are no payload)"


class TestCrashes:
    def test_a_torn_row(self, tmp_path: Path) -> None:
        """Verify tells it from a change; the next start cuts it off and says so."""
        places = make_log(tmp_path, 3)
        log = AuditLog(tmp_path).open()
        log.record(failed(1))
        until(lambda: not log.waiting and len(rows(places)) > 4)
        stop(log)
        with places.segment(1).open("ab") as stream:
            stream.write(b'{"seq":6,"time":"20')
        report = check(tmp_path)
        assert any("torn" in note for note in report.notes)
        assert any("not signed yet" in note for note in report.notes)
        make_log(tmp_path, 1)
        report = check(tmp_path)
        assert any("a torn row of 19 bytes was cut off" in note for note in report.notes)

    def test_rows_that_the_head_knew(self, tmp_path: Path) -> None:
        """After a crash, too: what the head knows must be there."""
        places = make_log(tmp_path, 3)
        log = AuditLog(tmp_path).open()
        until(lambda: verify(tmp_path).problems == [] and not log.waiting)
        stop(log)
        content = places.segment(1).read_bytes()
        places.segment(1).write_bytes(content[: content.rindex(b'{"seq"') + 30])
        assert any("the tail was cut off" in problem for problem in found(tmp_path))

    @pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
    def test_a_killed_process(self, tmp_path: Path) -> None:
        """SIGKILL while it writes: every row that was there is there, and the log goes on."""
        script = """
            import sys
            from headgate.security.audit import AuditLog, Record
            log = AuditLog(sys.argv[1]).open()
            while True:
                if log.waiting < 5_000:
                    log.record(Record("failed", user="anna", detail="x" * 500))
            """
        places = Places(tmp_path)
        for _ in range(3):
            command = [sys.executable, "-c", dedent(script), str(tmp_path)]
            process = subprocess.Popen(command)
            enough = size(places) + 100_000
            until(lambda enough=enough: size(places) > enough)
            process.send_signal(signal.SIGKILL)
            process.wait()
            check(tmp_path)
        places = make_log(tmp_path, 1)
        report = check(tmp_path)
        assert report.last == report.signed
        assert sum(row["event"] == "recovered" for row in rows(places)) == 3


def size(places: Places) -> int:
    """Bytes of all segments."""
    return sum(file.stat().st_size for file in places.segments.glob("*"))


def stop(log: AuditLog) -> None:
    """End a log's thread as a crash does: nothing is signed, nothing closed."""
    log._journal.close = lambda: None  # type: ignore[method-assign]
    log.close()


class TestKey:
    def test_only_the_owner_can_read_it(self, tmp_path: Path) -> None:
        """The key is made once, for this user alone, and never shown."""
        places = make_log(tmp_path, 1)
        before = places.key.read_bytes()
        if os.name == "posix":
            assert places.key.stat().st_mode & 0o777 == 0o600
            assert places.segments.stat().st_mode & 0o777 == 0o700
            assert places.segment(1).stat().st_mode & 0o777 == 0o600
        make_log(tmp_path, 1)
        assert places.key.read_bytes() == before

    def test_without_it_there_is_no_start(self, tmp_path: Path) -> None:
        """A log whose key is gone is not gone on with under another key."""
        places = make_log(tmp_path, 1)
        places.key.unlink()
        with pytest.raises(ConfigurationError, match="key is missing"):
            AuditLog(tmp_path).open()

    @pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
    def test_open_to_others(self, tmp_path: Path) -> None:
        """A key that others can read signs nothing."""
        places = make_log(tmp_path, 1)
        places.key.chmod(0o644)
        with pytest.raises(ConfigurationError, match="read by others"):
            AuditLog(tmp_path).open()


class TestFullDisk:
    def test_it_goes_on_when_there_is_room(self, tmp_path: Path, disk: Disk) -> None:
        """Half a batch was written: nothing is doubled and nothing is missing afterwards."""
        with AuditLog(tmp_path) as log:
            log.record(failed(0))
            until(lambda: not log.waiting)
            disk.room = 100
            for number in range(1, 10):
                log.record(failed(number))
            until(lambda: log.failing)
            assert verify(tmp_path).problems == []
            disk.room = None
            until(lambda: not log.failing)
        targets = [row["target"] for row in rows(Places(tmp_path)) if row["event"] == "failed"]
        assert targets == [failed(number).target for number in range(10)]
        check(tmp_path)

    @pytest.mark.parametrize("policy", ["refuse", "continue"])
    def test_what_does_not_fit_in_the_queue(
        self,
        tmp_path: Path,
        disk: Disk,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        policy: Any,
    ) -> None:
        """It is counted, said in the log once, and later in a signed row."""
        monkeypatch.setattr(log, "MAX_WAITING", 10)
        with AuditLog(tmp_path, AuditSettings(on_full=policy)) as audit:
            audit.record(failed(0))
            until(lambda: not audit.waiting)
            assert audit.refusal() is None
            disk.room = 0
            audit.record(failed(1))
            until(lambda: audit.failing)
            for number in range(50):
                audit.record(failed(number))
            refusal = audit.refusal()
            assert (type(refusal) is Overloaded) == (policy == "refuse")
            assert audit.guards == (policy == "refuse")
            assert audit.lost
            disk.room = None
            until(lambda: not audit.failing)
            assert audit.refusal() is None
            assert not audit.guards
        (row,) = [row for row in rows(Places(tmp_path)) if row["event"] == "lost"]
        written = sum(row["event"] == "failed" for row in rows(Places(tmp_path)))
        assert row["lost"] + written == 52
        errors = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "cannot be written" in errors[0].getMessage()
        assert any("could not be written" in note for note in check(tmp_path).notes)

    def test_whoever_waits_is_told(self, tmp_path: Path, disk: Disk) -> None:
        """A strict record is there when it is told, or it is told that it is not."""
        told: list[bool] = []
        with AuditLog(tmp_path) as log:
            log.commit(failed(1), told.append)
            until(lambda: told == [True])
            assert rows(Places(tmp_path))[0]["target"] == failed(1).target
            disk.room = 0
            log.commit(failed(2), told.append)
            until(lambda: told == [True, False])
            log.commit(failed(3), told.append)
            assert told == [True, False, False]
            disk.room = None
        assert [r["target"] for r in rows(Places(tmp_path)) if r["event"] == "failed"] == [
            failed(n).target for n in (1, 2, 3)
        ]

    def test_a_real_full_file_system(self, tmp_path: Path) -> None:
        """A file system of a few hundred KB: it fills, room is made, every row is there."""
        script = """
            import os, sys, time
            from pathlib import Path
            from headgate.security.audit import AuditLog, AuditSettings, Record, log
            log.RETRY_SECONDS = 0.02
            log.MAX_WAITING = 100
            data = Path(sys.argv[1])
            filler = data / "filler"
            end = time.monotonic() + 20
            with AuditLog(data, AuditSettings(on_full="refuse")) as audit:
                filler.write_bytes(bytes(100_000))
                sent = 0
                while not audit.failing and time.monotonic() < end:
                    if audit.waiting < 50:
                        audit.record(Record("failed", detail="x" * 1000)); sent += 1
                assert audit.refusal() is not None
                filler.unlink()
                while audit.failing and time.monotonic() < end:
                    time.sleep(0.005)
                assert audit.refusal() is None and not audit.lost
            from headgate.security.audit.verify import read_head, verify
            assert verify(data).problems == [], verify(data).problems
            text = b"".join(f.read_bytes() for f in (data / "audit").iterdir())
            assert text.count(b'"event":"failed"') == sent, (text.count(b"failed"), sent)
            print("fine")
            """
        program = f'mount -t tmpfs -o size=400k none "$0" && exec "{sys.executable}" -c "$1" "$0"'
        command = ["unshare", "-rm", "sh", "-c", program, str(tmp_path), dedent(script)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=40)
        except FileNotFoundError:
            pytest.skip("there is no unshare here")
        if "unshare" in done.stderr or "mount" in done.stderr:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        assert done.stdout == "fine\n", done.stderr


def test_it_never_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not answer holds nobody up who records."""
    go, fsync = threading.Event(), os.fsync
    held: list[int] = []

    def wait(descriptor: int) -> None:
        held.append(descriptor)
        go.wait(20)
        fsync(descriptor)

    with AuditLog(tmp_path) as log:
        monkeypatch.setattr(os, "fsync", wait)
        for number in range(1_000):
            log.record(failed(number))
        until(lambda: held)
        assert log.waiting
        go.set()
    assert sum(row["event"] == "failed" for row in rows(Places(tmp_path))) == 1_000


def test_secrets_are_left_out_whatever_is_set(tmp_path: Path) -> None:
    """The setting adds patterns to those that there are, and takes none away."""
    secrets = {"Password": "a", "api_key": "b", "nested": [{"user_pin": "c"}], "authorization": "d"}
    for patterns in ((), ("recipe",)):
        with AuditLog(tmp_path, AuditSettings(redact=patterns)) as log:
            log.record(Record("failed", payload=encode({**secrets, "recipe": 1, "level": 5})))
    shown = [row["payload"] for row in rows(Places(tmp_path)) if row["event"] == "failed"]
    for payload, recipe in zip(shown, (1, "(left out)"), strict=True):
        assert payload == {
            "Password": "(left out)",
            "api_key": "(left out)",
            "nested": [{"user_pin": "(left out)"}],
            "authorization": "(left out)",
            "recipe": recipe,
            "level": 5,
        }


def test_settings_are_followed_at_once(tmp_path: Path) -> None:
    """Without a new start: what is redacted from now on."""
    with AuditLog(tmp_path, AuditSettings(redact=())) as log:
        log.record(Record("failed", payload=encode({"recipe": 1})))
        until(lambda: not log.waiting)
        log.configure(AuditSettings(redact=("RECI*",), strict=True))
        assert log.guards
        log.record(Record("failed", payload=encode({"recipe": 1})))
    assert [row["payload"]["recipe"] for row in rows(Places(tmp_path))[:2]] == [1, "(left out)"]
