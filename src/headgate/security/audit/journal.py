"""The files of the audit log, for the one thread that writes them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headgate.errors import ConfigurationError
from headgate.files import sync_folder, write_whole
from headgate.security.audit.chain import (
    Head,
    Line,
    Row,
    first_hash,
    make_row,
    moment,
    parse_line,
    sign_row,
)
from headgate.security.audit.keys import (
    public_bytes,
    read_key,
    write_key,
    write_public_key,
)
from headgate.security.audit.record import AuditSettings, Record

__all__ = ["Journal", "Places"]

logger = logging.getLogger("headgate.audit")

ROWS_AT_ONCE = 200
"""Rows, about a millisecond, after which other threads get the interpreter."""

LONGEST_ROW = 1024 * 1024
"""Bytes in which the last row of a segment is looked for; none is nearly as long."""

SECONDS_A_DAY = 86_400


class Places:
    """Where the parts of a log stand in a gateway's data folder."""

    def __init__(self, data: str | os.PathLike[str]) -> None:
        self.data = Path(data)
        self.segments = self.data / "audit"
        """The folder of the segments."""
        self.head = self.data / "audit-head.json"
        self.key = self.data / "audit-key.pem"
        """The private key; who has it can sign any log."""
        self.public_key = self.data / "audit-key.pub"

    def segment(self, number: int) -> Path:
        """Return the file of a segment."""
        return self.segments / f"{number:08}.jsonl"

    def numbers(self) -> list[int]:
        """Return the numbers of the segments that are there, the oldest first."""
        files = self.segments.glob("????????.jsonl")
        return sorted(int(file.stem) for file in files if file.stem.isdecimal())


class Journal:
    """
    Appends rows to segments, and keeps the head; it belongs to one thread.

    What raises OSError has changed nothing that counts, and can be tried again.

    Args:
        data: The gateway's data folder, which it holds the lock of.

    Raises:
        ConfigurationError: There is a log, but its key is missing, damaged or open to others.
    """

    def __init__(self, data: Path) -> None:
        self.places = Places(data)
        self.rows_since_checkpoint = 0
        self._findings: list[tuple[Record, dict[str, Any]]] = []
        self._descriptor: int | None = None
        self._key = self._take_key()
        self.public = public_bytes(self._key.public_key())
        """The 32 bytes of the public key."""
        self._sequence, self._hash = 0, first_hash(self.public)
        self._number, self._size = 1, 0
        self._find_end()

    # --- writing ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Write what was found at the start, and a head that says that the log is open."""
        self.seal()
        while self._findings:
            record, fields = self._findings[0]
            self._append([self._signed(record, **fields)])
            del self._findings[0]
            self.seal()

    def write(self, records: Sequence[tuple[int, Record]], redact: Sequence[str]) -> None:
        """Append the rows of records with their times; they are on the disk when it returns."""
        rows, previous = [], self._hash
        for number, (at, record) in enumerate(records, self._sequence + 1):
            row = _row(number, at, record, previous, redact)
            rows.append(row)
            previous = row.hash
            if not number % ROWS_AT_ONCE:
                time.sleep(0)
        self._append(rows)
        self.rows_since_checkpoint += len(rows)

    def tell(self, event: str, detail: str, **fields: Any) -> None:
        """Append a signed row of the log's own."""
        self._append([self._signed(Record(event, detail=detail), **fields)])

    def checkpoint(self) -> None:
        """Append a signed row that vouches for all before it, and write the head."""
        if self.rows_since_checkpoint:
            self.tell("checkpoint", "")
            self.rows_since_checkpoint = 0
        self.seal()

    def seal(self) -> None:
        """Write the head."""
        self._seal(clean=False)

    def rotate(self, settings: AuditSettings) -> bool:
        """
        Close the segment if it is large enough, so that the next row begins another one.

        Returns:
            Whether it was.
        """
        if self._size < settings.segment_bytes:
            return False
        self.checkpoint()
        self._close_file()
        self._number, self._size = self._number + 1, 0
        return True

    def remove_old(self, settings: AuditSettings) -> None:
        """Remove the segments that are too old, and leave a signed row of that."""
        before = moment(max(0, time.time_ns() - int(settings.retain_days * SECONDS_A_DAY * 1e9)))
        gone = []
        for number in self.places.numbers():
            ends = _ends(self.places.segment(number)) if number < self._number else None
            if ends is None or _time(ends[1]) >= before:
                break
            first, last = ends
            fields = {"first": first.sequence, "last": last.sequence, "hash": last.hash.hex()}
            gone.append({"segment": self.places.segment(number).name, **fields})
        if gone:
            detail = f"Older than {settings.retain_days:g} days"
            self.tell("removed", detail, segments=gone)
            self.seal()
            for each in gone:
                (self.places.segments / str(each["segment"])).unlink(missing_ok=True)
            sync_folder(self.places.segments)

    def close(self) -> None:
        """Vouch for all rows, and say in the head that the log is closed."""
        self.checkpoint()
        self._seal(clean=True)

    def let_go(self) -> None:
        """Close the file, whatever was or could not be written."""
        self._close_file()

    def _signed(self, record: Record, **fields: Any) -> Row:
        number, now = self._sequence + 1, time.time_ns()
        return sign_row(number, now, record, previous=self._hash, key=self._key, **fields)

    def _append(self, rows: Sequence[Row]) -> None:
        """Append rows: all of them, or none."""
        data = b"".join(row.line for row in rows)
        try:
            descriptor = self._opened()
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            # What the system still holds of it is not to be trusted: cut off at the next try.
            self._close_file()
            raise
        self._size += len(data)
        self._sequence += len(rows)
        self._hash = rows[-1].hash

    def _opened(self) -> int:
        if self._descriptor is None:
            self.places.segments.mkdir(mode=0o700, exist_ok=True)
            file = self.places.segment(self._number)
            is_new = not file.exists()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(file, flags, 0o600)
            os.ftruncate(self._descriptor, self._size)
            if is_new:
                sync_folder(self.places.segments)
        return self._descriptor

    def _close_file(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _seal(self, *, clean: bool) -> None:
        write_whole(self.places.head, self._head(clean).sign(self._key))

    def _head(self, clean: bool) -> Head:
        return Head(
            sequence=self._sequence,
            hash=self._hash.hex(),
            time=moment(time.time_ns()),
            segment=self.places.segment(self._number).name,
            clean=clean,
            key=self.public.hex(),
        )

    # --- the start -------------------------------------------------------------------------------

    def _take_key(self) -> Ed25519PrivateKey:
        places = self.places
        try:
            return read_key(places.key)
        except FileNotFoundError:
            head = self._read_head()
            if places.numbers() or (head is not None and head.sequence):
                raise ConfigurationError(
                    "The audit log's key is missing",
                    cure=f"Put it back from a backup, or move {places.segments} and {places.head} "
                    "away: then the next start begins a new log",
                    file=str(places.key),
                ) from None
            return self._begin_new()

    def _begin_new(self) -> Ed25519PrivateKey:
        """Make the key. Its file comes last: where it is, there must be a head."""
        places, key = self.places, Ed25519PrivateKey.generate()
        public = public_bytes(key.public_key())
        write_public_key(places.public_key, key)
        head = Head(0, first_hash(public).hex(), moment(time.time_ns()), "", False, public.hex())
        write_whole(places.head, head.sign(key))
        write_key(places.key, key)
        return key

    def _find_end(self) -> None:
        """Find the row to go on from; what is wrong there becomes rows."""
        numbers, torn, last = self.places.numbers(), 0, None
        if numbers:
            self._number = numbers[-1]
            self._size, torn, last = _tail(self.places.segment(self._number))
        for number in reversed(numbers[:-1]):
            if last is None:
                _, _, last = _tail(self.places.segment(number))
        if last is not None:
            self._sequence, self._hash = last.sequence, last.hash
        self._compare(self._read_head(), torn)

    def _read_head(self) -> Head | None:
        try:
            return Head.read(self.places.head.read_bytes())
        except FileNotFoundError:
            return None

    def _compare(self, head: Head | None, torn: int) -> None:
        """Compare the end of the log with what the head knows."""
        last = self._sequence
        if head is None or head.key != self.public.hex():
            self._found("damaged", "The head is missing, damaged, or not of this log's key")
        elif head.sequence > last:
            self._found("damaged", f"Rows {last + 1} to {head.sequence} are missing at the end")
            self._sequence, self._hash = head.sequence, bytes.fromhex(head.hash)
            number = int(head.segment.partition(".")[0])
            if number > self._number:
                self._number, self._size = number, 0
        elif head.clean and (last > head.sequence or torn):
            self._found("damaged", f"Something was added behind row {head.sequence}, the last one")
        elif not head.clean and (last or torn):
            rows = last - head.sequence
            detail = f"The log was not closed: {rows} rows stand behind the head"
            torn_text = f", and a torn row of {torn} bytes was cut off" if torn else ""
            self._found("recovered", detail + torn_text, behind=head.sequence, torn=torn)

    def _found(self, event: str, detail: str, **fields: Any) -> None:
        logger.log(
            logging.ERROR if event == "damaged" else logging.WARNING,
            "The audit log in %s: %s. See: headgate audit verify",
            self.places.segments,
            detail,
        )
        self._findings.append((Record(event, detail=detail), fields))


def _row(number: int, at: int, record: Record, previous: bytes, redact: Iterable[str]) -> Row:
    try:
        return make_row(number, at, record, previous=previous, redact=tuple(redact))
    except Exception as error:
        logger.exception("A record cannot be written: %s", record.event)
        what = f"The rest could not be written: {type(error).__name__}"
        return make_row(number, at, Record(str(record.event), detail=what), previous=previous)


def _tail(file: Path) -> tuple[int, int, Line | None]:
    """Return the length of a segment's whole lines, that of a torn one, and the last row."""
    data = file.read_bytes()
    length = data.rfind(b"\n") + 1
    for line in reversed(data[:length].split(b"\n")):
        if (row := parse_line(line + b"\n")) is not None:
            return length, len(data) - length, row
    return length, len(data) - length, None


def _ends(file: Path) -> tuple[Line, Line] | None:
    """Return the first and the last row of a closed segment, None if it is damaged."""
    with file.open("rb") as stream:
        first = parse_line(stream.readline())
        stream.seek(max(0, file.stat().st_size - LONGEST_ROW))
        last = parse_line(stream.read().removesuffix(b"\n").rpartition(b"\n")[2] + b"\n")
    return None if first is None or last is None else (first, last)


def _time(row: Line) -> str:
    """Return when a row was recorded; a damaged one is of any time."""
    try:
        return str(row.fields().get("time", "9999"))
    except ValueError:
        return "9999"
