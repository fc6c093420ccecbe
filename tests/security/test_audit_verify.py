"""Verifying the audit log: whatever is changed is found, and its place is named."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from audit_logs import check, failed, found, lines, make_log, make_segments, rows, write_lines
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.security.audit import AuditLog, journal
from headgate.security.audit.chain import Head, make_row
from headgate.security.audit.journal import Places
from headgate.security.audit.keys import write_key
from headgate.security.audit.reading import Filter, read_rows
from headgate.security.audit.verify import Anchor, verify


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed log of two segments with 9 rows; nobody may change it."""
    data = tmp_path_factory.mktemp("original")
    places = make_segments(data, 2)
    assert places.numbers() == [1, 2]
    check(data)
    return data


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(original, tmp_path / "data"))


def segment(data: Path, number: int = 1) -> Path:
    """A segment's file."""
    return Places(data).segment(number)


def test_a_log_that_nobody_changed(original: Path) -> None:
    """Nothing is found, and the last row is signed."""
    report = check(original)
    assert (report.first, report.segments, report.notes) == (1, 2, [])
    assert report.last == report.signed == len(rows(Places(original)))


class TestBytes:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_any_changed_byte_is_found(self, original: Path, draw: st.DataObject) -> None:
        """Whatever byte of a segment, the head or the public key is changed to whatever."""
        places = Places(original)
        file = draw.draw(
            st.sampled_from([*sorted(places.segments.iterdir()), places.head, places.public_key])
        )
        before = file.read_bytes()
        place = draw.draw(st.integers(0, len(before) - 1))
        # Single bits turn hex digits into capitals, and line ends into other space.
        new = before[place] ^ draw.draw(
            st.sampled_from([1 << bit for bit in range(8)]) | st.integers(1, 255)
        )
        try:
            file.write_bytes(before[:place] + bytes([new]) + before[place + 1 :])
            problems = found(original)
        finally:
            file.write_bytes(before)
        assert problems, (file.name, place, before[place], new)
        # The public key's bytes change what all is verified with.
        assert file == places.public_key or any(file.name in text for text in problems[:2])

    @pytest.mark.parametrize("part", ["user", "seq", "time", "hash", "end", "quote", "middle"])
    def test_each_kind_of_byte(self, data: Path, part: str) -> None:
        """A byte in any part of a row: the file and a line at or beside the row are named."""
        file = segment(data)
        content = lines(file)
        row = content[1]
        place = {
            "user": row.index(b"anna"),
            "seq": row.index(b"2"),
            "time": row.index(b'"time":"') + 12,
            "hash": row.index(b'"hash":"') + 30,
            "end": len(row) - 1,
            "quote": row.index(b'"'),
            "middle": len(row) // 2,
        }[part]
        content[1] = row[:place] + bytes([row[place] ^ 1]) + row[place + 1 :]
        write_lines(file, content)
        problems = found(data)
        assert problems
        assert problems[0].startswith(("audit/00000001.jsonl:2", "audit/00000001.jsonl:3"))

    @pytest.mark.parametrize("name", ["hash", "signature", "key"])
    def test_digits_of_another_kind(self, data: Path, name: str) -> None:
        """A hex digit that becomes a capital means the same, and is found all the same."""
        for file in (segment(data), Places(data).head):
            before = file.read_bytes()
            last = before.splitlines()[-1]
            start = last.index(f'"{name}":"'.encode()) + len(name) + 4
            value = last[start : last.index(b'"', start)]
            file.write_bytes(before.replace(value, value.upper()))
            assert found(data), file
            file.write_bytes(before)

    @pytest.mark.parametrize(
        "middle",
        [
            b'"event":"lost","detail":' + b"[" * 100_000,
            b'"event":["lost"],"detail":{"event":"lost"}',
        ],
        ids=["too deep", "no text"],
    )
    def test_what_is_no_record(self, data: Path, middle: bytes) -> None:
        """A row that no gateway writes is named, and stops neither verify nor list."""
        file = segment(data)
        content = lines(file)
        start = content[1].index(b'"event"')
        content[1] = content[1][:start] + middle + content[1][content[1].index(b',"hash":"') :]
        write_lines(file, content)
        assert found(data)[0].startswith("audit/00000001.jsonl:2: row 2: ")
        assert list(read_rows(data, Filter()))

    def test_only_the_changed_row_is_named(self, data: Path) -> None:
        """The rows after it still hang together, so nothing is said of them."""
        for old, new in ((b"anna", b"otto"), (b'"hash":"', b'"hash":"')):
            file = segment(data)
            content = lines(file)
            content[1] = content[1].replace(old, new)
            write_lines(file, content)
        (problem,) = found(data)
        assert problem.startswith("audit/00000001.jsonl:2: row 2: it was changed")


class TestRows:
    def test_a_deleted_row(self, data: Path) -> None:
        """The row that is gone is named, and where it stood."""
        file = segment(data)
        content = lines(file)
        del content[1]
        write_lines(file, content)
        (problem,) = found(data)
        assert problem == "audit/00000001.jsonl:2: row 3: row 2 is missing before this row"

    def test_two_swapped_rows(self, data: Path) -> None:
        """Both places are named."""
        file = segment(data)
        content = lines(file)
        content[0], content[1] = content[1], content[0]
        write_lines(file, content)
        problems = found(data)
        assert any("jsonl:1: row 2" in problem for problem in problems)
        assert any("jsonl:2: row 1: it stands behind row 2" in problem for problem in problems)

    def test_swapped_rows_in_the_middle(self, data: Path) -> None:
        """Two problems: the one that is missing, and the one that was moved."""
        file = segment(data)
        content = lines(file)
        content[1], content[2] = content[2], content[1]
        write_lines(file, content)
        problems = found(data)
        assert [problem.split(": ")[1] for problem in problems] == ["row 3", "row 2"]

    def test_a_row_twice(self, data: Path) -> None:
        """The second one is named."""
        file = segment(data)
        content = lines(file)
        write_lines(file, [*content[:2], content[1], *content[2:]])
        (problem,) = found(data)
        assert problem.startswith("audit/00000001.jsonl:3: row 2: it stands behind row 2")

    def test_a_forged_row_in_its_place(self, data: Path) -> None:
        """Its own hash may be right: the next row's is not."""
        file = segment(data)
        content = lines(file)
        forged = content[1].replace(b"anna", b"otto")
        body, _, _ = forged.partition(b',"hash":')
        previous = bytes.fromhex(content[0].split(b'"hash":"')[1][:64].decode())
        digest = hashlib.sha256(previous + body).hexdigest()
        content[1] = body + f',"hash":"{digest}"}}\n'.encode()
        write_lines(file, content)
        (problem,) = found(data)
        assert problem.startswith("audit/00000001.jsonl:3: row 3: it was changed, or the row befo")

    def test_a_log_that_was_written_anew(self, data: Path, tmp_path: Path) -> None:
        """Every hash is right, but the checkpoint is signed with another key, and the head too."""
        other = make_log(tmp_path / "other", 3)
        shutil.copy(other.segment(1), segment(data))
        segment(data, 2).unlink()
        problems = found(data)
        assert any("signed with a foreign key" in problem for problem in problems)
        shutil.copy(other.head, Places(data).head)
        assert any("audit-head.json:1" in p and "foreign key" in p for p in found(data))

    def test_a_whole_foreign_log_beside_the_key(self, data: Path, tmp_path: Path) -> None:
        """With its public key too: the private one tells; without that, a kept head does."""
        places, anchor = Places(data), Anchor.of(str(_kept(data, tmp_path)))
        other = make_segments(tmp_path / "other", 2)
        for file in (*other.segments.iterdir(), other.head, other.public_key):
            shutil.copy(file, data / file.relative_to(other.data))
        assert any("not that of the private key" in problem for problem in found(data))
        places.key.unlink()
        assert found(data) == []
        assert any("a foreign key" in problem for problem in found(data, anchor))


class TestTail:
    @pytest.mark.parametrize("cut", [1, 2, 4])
    def test_cut_rows(self, data: Path, cut: int) -> None:
        """The rows that are gone are named."""
        last = check(data).last
        content = lines(segment(data, 2))
        write_lines(segment(data, 2), content[:-cut])
        (problem,) = found(data)
        assert problem.startswith("audit/00000002.jsonl: row")
        assert "the tail was cut off" in problem
        assert str(last) in problem

    def test_half_a_row(self, data: Path) -> None:
        """A row that is cut in two is no crash where the log was closed."""
        file = segment(data, 2)
        file.write_bytes(file.read_bytes()[:-20])
        problems = found(data)
        assert any("without an end" in problem for problem in problems)
        assert any("the tail was cut off" in problem for problem in problems)

    def test_the_last_segment(self, data: Path) -> None:
        """The head names the file that is missing."""
        segment(data, 2).unlink()
        (problem,) = found(data)
        assert problem.startswith("audit/00000002.jsonl: row")
        assert "this segment is missing" in problem

    def test_the_first_segment(self, data: Path) -> None:
        """Retention left no word of it."""
        segment(data, 1).unlink()
        problems = found(data)
        assert "retention did not remove them" in problems[0]
        assert problems[0].startswith("audit/00000002.jsonl:1")

    def test_a_segment_in_the_middle(self, tmp_path: Path) -> None:
        """The file and its rows are named."""
        make_segments(tmp_path / "log", 3)
        segment(tmp_path / "log", 2).unlink()
        problems = found(tmp_path / "log")
        assert "audit/00000002.jsonl: the segment is missing" in problems
        assert any("are missing before this row" in problem for problem in problems)

    @pytest.mark.parametrize(
        "also", [(), ("audit-head.json",), ("audit-head.json", "audit-key.pem")]
    )
    def test_everything(self, data: Path, also: tuple[str, ...]) -> None:
        """Whatever goes with the segments, their folder or the head is named."""
        shutil.rmtree(data / "audit")
        for name in also:
            (data / name).unlink()
        problems = found(data)
        assert any("audit" in problem and "missing" in problem for problem in problems)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        """Where there should be a log and is nothing, that is found too."""
        assert any("no segments" in problem for problem in found(tmp_path))

    def test_rows_that_were_added(self, data: Path) -> None:
        """Nobody needs a key for a row's hash; but the head knows that the log was closed."""
        places = Places(data)
        key_free = Head.read(places.head.read_bytes())
        assert key_free is not None
        row = make_row(key_free.sequence + 1, 0, failed(9), previous=bytes.fromhex(key_free.hash))
        with segment(data, 2).open("ab") as stream:
            stream.write(row.line)
        (problem,) = found(data)
        assert "added after the gateway had stopped" in problem
        make_log(data, 1)
        assert any("Something was added behind row" in problem for problem in found(data))

    def test_the_next_start_hides_nothing(self, data: Path) -> None:
        """A gateway goes on behind what is missing, and says so: it is found for ever."""
        segment(data, 2).unlink()
        make_log(data, 2)
        make_log(data, 2)
        problems = found(data)
        assert any("the gateway found at its start" in problem for problem in problems)
        assert any("missing before this row" in problem for problem in problems)

    def test_a_start_after_all_was_deleted(self, data: Path) -> None:
        """A new log with the old key says that there was one before."""
        shutil.rmtree(data / "audit")
        Places(data).head.unlink()
        make_log(data, 2)
        assert any("The head is missing" in problem for problem in found(data))


def _kept(data: Path, folder: Path) -> Path:
    return Path(shutil.copy(Places(data).head, folder / "kept.json"))


class TestKeptHead:
    def test_it_is_still_there(self, data: Path, tmp_path: Path) -> None:
        """The log may have grown since: file and hash both are found."""
        kept = _kept(data, tmp_path)
        make_log(data, 3)
        head = Head.read(kept.read_bytes())
        assert head is not None
        assert found(data, Anchor.of(str(kept))) == found(data, Anchor.of(head.hash)) == []

    def test_a_log_signed_anew_with_its_own_key(self, data: Path, tmp_path: Path) -> None:
        """Who has the key can write another history; only the head that was kept shows it."""
        kept, places = _kept(data, tmp_path), Places(data)
        shutil.rmtree(places.segments)
        key = places.key.read_bytes()
        places.head.unlink()
        places.key.unlink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                journal.Ed25519PrivateKey, "generate", lambda: load_pem_private_key(key, None)
            )
            make_log(data, 20)
        assert found(data) == []
        (problem,) = found(data, Anchor.of(str(kept)))
        assert "not in the log" in problem
        head = Head.read(kept.read_bytes())
        assert head is not None
        assert found(data, Anchor.of(head.hash))

    def test_a_changed_key(self, data: Path) -> None:
        """A private key that is not the log's is named."""
        write_key(Places(data).key, Ed25519PrivateKey.generate())
        assert any("not that of the private key" in problem for problem in found(data))


class TestRetention:
    def old(self, data: Path) -> Places:
        """A log whose old segments were removed."""
        make_segments(data, 3)
        # Everything that is closed is older than this.
        return make_log(data, 1, segment_bytes=600, retain_days=1e-9)

    def test_what_was_removed_is_not_missed(self, tmp_path: Path) -> None:
        """A signed row says what was removed, and the rest is verified."""
        places = self.old(tmp_path / "log")
        assert not places.segment(1).exists()
        report = check(places.data)
        assert report.first > 1
        (removed,) = [row for row in rows(places) if row["event"] == "removed"]
        assert removed["segments"][-1]["last"] == report.first - 1

    def test_what_somebody_else_removed_is_missed(self, tmp_path: Path) -> None:
        """One segment more than retention removed."""
        places = self.old(tmp_path / "log")
        make_segments(places.data, 2)
        first, *others = places.numbers()
        assert others
        places.segment(first).unlink()
        assert any("retention did not remove them" in problem for problem in found(places.data))

    def test_a_changed_first_row_is_found(self, tmp_path: Path) -> None:
        """The first row that is left hangs on the row that tells of the removal."""
        places = self.old(tmp_path / "log")
        file = places.segment(places.numbers()[0])
        content = lines(file)
        content[0] = content[0].replace(b'"time":"2', b'"time":"3')
        write_lines(file, content)
        assert any(":1: row" in problem for problem in found(places.data))

    @pytest.mark.parametrize("until", [1, 2])
    def test_a_removal_that_was_cut_short(self, tmp_path: Path, until: int) -> None:
        """The row is there and the files are, too: fine; the next look removes them."""
        make_segments(tmp_path / "log", 3)
        places, unlink = Places(tmp_path / "log"), Path.unlink

        def fail(file: Path, missing_ok: bool = False) -> None:
            if file == places.segment(until):
                raise OSError("the power is gone")
            unlink(file, missing_ok)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", fail)
            make_log(places.data, 1, segment_bytes=600, retain_days=1e-9)
        assert places.numbers()[0] == until
        check(places.data)
        make_log(places.data, 1, segment_bytes=600, retain_days=1e-9)
        assert places.numbers()[0] > until
        check(places.data)

    def test_a_head_from_before_it(self, tmp_path: Path) -> None:
        """A kept head whose row is gone shows nothing any more, and that is said."""
        places = make_segments(tmp_path / "log", 3)
        head = Head.read(places.head.read_bytes())
        assert head is not None
        early = Anchor(rows(places)[1]["hash"], 2, head.key)
        assert found(places.data, early) == []
        make_log(places.data, 1, segment_bytes=600, retain_days=1e-9)
        assert any("removed by retention" in problem for problem in found(places.data, early))


def test_rows_while_they_are_written(tmp_path: Path) -> None:
    """Verifying beside the gateway finds nothing, at whatever moment it looks."""
    with AuditLog(tmp_path) as log:
        for number in range(40):
            for _ in range(50):
                log.record(failed(number))
            assert verify(tmp_path).problems == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_other_order_of_lines_is_found(original: Path, draw: st.DataObject) -> None:
    """Whatever is left out, doubled or moved in a segment."""
    file = draw.draw(st.sampled_from([segment(original, 1), segment(original, 2)]))
    before = file.read_bytes()
    content = before.splitlines(keepends=True)
    indices = draw.draw(st.lists(st.integers(0, len(content) - 1), max_size=len(content) + 2))
    if indices == list(range(len(content))):
        return
    try:
        write_lines(file, [content[index] for index in indices])
        problems = found(original)
    finally:
        file.write_bytes(before)
    assert problems
