"""
Is everything of an audit log there, and as it was written?

It only reads, so a gateway may write at the same time. The head is read first: whatever it knows
must be found in the segments that are read after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headgate.errors import ConfigurationError
from headgate.security.audit.chain import OWN_EVENTS, Head, Line, first_hash, parse_line
from headgate.security.audit.journal import Places
from headgate.security.audit.keys import fingerprint, public_bytes, read_key, read_public_key

__all__ = ["Anchor", "Problem", "Report", "read_head", "verify"]

MOST_PROBLEMS = 1_000
"""Problems that a report holds; there may be more."""


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written, and where."""

    file: str
    line: int
    """The line of the file, from 1; 0 where it is about no line."""
    sequence: int
    """The row's number; 0 where none is known."""
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: " + (f"row {self.sequence}: " if self.sequence else "") + self.what


@dataclass
class Report:
    """What `verify` found."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no sign of a change, but good to know."""
    key: str = ""
    """Fingerprint of the key that was verified with."""
    first: int = 0
    """The first row that is there; 0 if there is none."""
    last: int = 0
    """The last row that is there; 0 if there is none."""
    signed: int = 0
    """The last row that a signature vouches for."""
    segments: int = 0


@dataclass(frozen=True)
class Anchor:
    """A head that was kept elsewhere: the log must still hold that row."""

    hash: str
    sequence: int = 0
    """0: the row with this hash, wherever it stands."""
    key: str = ""
    """The public key in hex digits; empty if it is not known."""

    @classmethod
    def of(cls, text: str) -> Anchor:
        """
        Return the anchor that an argument means: the hash of a row, or a file with a head.

        Raises:
            ConfigurationError: It is neither.
        """
        if len(text) == 64 and not text.strip("0123456789abcdef"):
            return cls(text)
        try:
            head = Head.read(Path(text).read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"{text!r} is no hash of a row, and no file: {error.strerror}",
                cure="Give 64 hex digits, or the file that headgate audit head -o wrote",
            ) from None
        if head is None:
            raise ConfigurationError(
                "This is no head of an audit log, or it was changed", cure="", file=text
            )
        return cls(head.hash, head.sequence, head.key)


def read_head(data: Path) -> tuple[bytes, Head]:
    """
    Return the head of a log, as it stands in its file and decoded.

    Raises:
        ConfigurationError: There is none, or it is damaged.
    """
    file = Places(data).head
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(
            "There is no audit log here", cure="Give the gateway's folder: --data", file=str(file)
        ) from None
    head = Head.read(text)
    if head is None:
        raise ConfigurationError(
            "The head is damaged", cure="See: headgate audit verify", file=str(file)
        )
    return text, head


def verify(data: str | os.PathLike[str], anchor: Anchor | None = None) -> Report:
    """
    Verify the audit log in a gateway's data folder.

    Args:
        data: The data folder.
        anchor: A head that was kept elsewhere.

    Raises:
        OSError: A file cannot be read.
    """
    places = Places(data)
    for _ in range(3):
        try:
            return _Verification(places, anchor).report()
        except FileNotFoundError:
            continue  # retention removed a segment at this moment
    return _Verification(places, anchor).report()


class _Verification:
    def __init__(self, places: Places, anchor: Anchor | None) -> None:
        self._places = places
        self._anchor = anchor
        self._result = Report()
        self._expected = 1
        self._previous: set[bytes] = set()
        """Hashes that the next row may go on from; empty if none is known."""
        self._unreadable = 0
        """Lines since the last row that were none."""
        self._start: tuple[str, Line] | None = None
        """The first row, where rows before it are gone."""
        self._removed: dict[int, str] = {}
        """Hashes of the last rows of the segments that retention removed."""
        self._anchored = False

    def report(self) -> Report:
        self._public = self._find_key()
        self._head = self._find_head()
        self._result.key = fingerprint(self._public) if self._public else ""
        self._previous = {first_hash(self._public)} if self._public else set()
        numbers = self._places.numbers()
        self._result.segments = len(numbers)
        for number, following in zip(numbers, [*numbers[1:], 0], strict=False):
            self._segment(number, is_last=not following)
            if following and following != number + 1:
                missing = self._places.segment(number + 1)
                self._problem(missing, 0, 0, "the segment is missing")
        self._check_start()
        self._check_end(numbers)
        self._check_anchor()
        return self._result

    # --- key and head ----------------------------------------------------------------------------

    def _find_key(self) -> bytes:
        """Return the key to verify with: the anchor's, the private one's, or the public one."""
        public = read_public_key(self._places.public_key)
        own = None
        try:
            own = public_bytes(read_key(self._places.key).public_key())
        except ConfigurationError as error:
            self._problem(self._places.key, 0, 0, error.problem)
        except (FileNotFoundError, PermissionError):
            pass
        if public is None:
            self._problem(
                self._places.public_key, 0, 0, "the public key is missing, or it was changed"
            )
        elif own is not None and own != public:
            self._problem(self._places.public_key, 0, 0, "it is not that of the private key")
        found = own or public or b""
        if self._anchor is not None and self._anchor.key:
            anchored = bytes.fromhex(self._anchor.key)
            if found and anchored != found:
                self._problem(
                    self._places.public_key,
                    *(0, 0),
                    f"a foreign key: {fingerprint(found)} instead of {fingerprint(anchored)}",
                )
            return anchored
        return found

    def _find_head(self) -> Head | None:
        try:
            data = self._places.head.read_bytes()
        except FileNotFoundError:
            self._problem(self._places.head, 0, 0, "the head is missing")
            return None
        head = Head.read(data)
        if head is None:
            self._problem(self._places.head, 1, 0, "the head was changed: its signature is bad")
        elif self._public and head.key != self._public.hex():
            self._problem(
                self._places.head,
                *(1, head.sequence),
                f"signed with a foreign key, {fingerprint(bytes.fromhex(head.key))}",
            )
            return None
        return head

    # --- rows ------------------------------------------------------------------------------------

    def _segment(self, number: int, *, is_last: bool) -> None:
        file = self._places.segment(number)
        with file.open("rb") as stream:
            for place, text in enumerate(stream, 1):
                if is_last and not text.endswith(b"\n"):
                    self._torn(file, place, len(text))
                elif (line := parse_line(text)) is None:
                    self._unreadable += 1
                    self._problem(file, place, 0, "this is no row of an audit log: it was changed")
                else:
                    self._row(file, place, line)

    def _torn(self, file: Path, place: int, size: int) -> None:
        if self._head is not None and self._head.clean:
            what = f"{size} bytes without an end stand behind the last row"
            self._problem(file, place, self._expected, what)
        else:
            self._result.notes.append(
                f"{self._name(file)}:{place}: the last row is torn: the gateway writes it at this "
                "moment, or was killed while it did. Its next start repairs that"
            )

    def _row(self, file: Path, place: int, line: Line) -> None:
        sequence = line.sequence
        if not self._result.first:
            self._result.first = sequence
            if sequence != 1:
                self._start = (self._name(file), line)
                self._expected, self._previous = sequence, set()
        if sequence < self._expected and not self._unreadable:
            what = f"it stands behind row {self._expected - 1}: it was moved or put in again"
            self._problem(file, place, sequence, what)
            return
        if sequence > self._expected + self._unreadable:
            self._problem(file, place, sequence, self._missing(sequence - 1) + " before this row")
            self._previous = set()
        elif self._unreadable:
            self._previous = set()
        self._check_hash(file, place, line)
        self._check_meaning(file, place, line)
        self._check_known(file, place, line)
        self._expected, self._unreadable = sequence + 1, 0
        self._result.last = sequence

    def _missing(self, last: int) -> str:
        first = self._expected + self._unreadable
        return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"

    def _check_hash(self, file: Path, place: int, line: Line) -> None:
        previous, following = self._previous, {line.hash}
        if previous and not any(line.follows(each) for each in previous):
            self._problem(
                file,
                *(place, line.sequence),
                "it was changed, or the row before it was replaced: its hash does not fit",
            )
            # If only the hash in the row was changed, the next row goes on from the true one.
            following |= {line.hash_after(each) for each in previous}
        self._previous = following

    def _check_meaning(self, file: Path, place: int, line: Line) -> None:
        """Check what the row says, and its signature if it has or needs one."""
        try:
            fields = line.fields() if _may_be_own(line) else {}
        except ValueError:
            self._problem(file, place, line.sequence, "this is no record: it was changed")
            return
        event = fields.get("event", "")
        if event not in OWN_EVENTS and line.signature is None:
            return
        if not line.is_signed_by(self._public):
            key = fields.get("key")
            foreign = isinstance(key, str) and key != self._public.hex() and self._public
            what = "signed with a foreign key" if foreign else "its signature is missing or bad"
            self._problem(file, place, line.sequence, what)
            return
        self._result.signed = line.sequence
        if event == "removed":
            self._removed.update(_removed(fields))
        elif event == "damaged":
            what = f"the gateway found at its start: {fields.get('detail')}"
            self._problem(file, place, line.sequence, what)
        elif event in ("recovered", "lost"):
            what = f"row {line.sequence}: {fields.get('detail')}"
            self._result.notes.append(f"{self._name(file)}:{place}: {what}")

    def _check_known(self, file: Path, place: int, line: Line) -> None:
        """Compare the row with what head and anchor know of it."""
        head, anchor = self._head, self._anchor
        if head is not None and line.sequence == head.sequence:
            if line.hash.hex() != head.hash:
                self._problem(file, place, line.sequence, "the head knows another row here")
            self._result.signed = max(self._result.signed, line.sequence)
        if anchor is not None and line.hash.hex() == anchor.hash:
            self._anchored = anchor.sequence in (0, line.sequence)

    # --- ends ------------------------------------------------------------------------------------

    def _check_start(self) -> None:
        """Check that what is missing before the first row was removed by retention."""
        if self._start is None:
            return
        name, line = self._start
        removed = self._removed.get(line.sequence - 1)
        what = ""
        if removed is None:
            what = f"rows 1 to {line.sequence - 1} are missing, and retention did not remove them"
        elif not line.follows(bytes.fromhex(removed)):
            what = "it was changed: its hash does not fit to the rows that retention removed"
        if what:
            self._result.problems.insert(0, Problem(name, 1, line.sequence, what))

    def _check_end(self, numbers: list[int]) -> None:
        head, last = self._head, self._expected - 1
        if head is None:
            if not numbers:
                self._problem(self._places.segments, 0, 0, "there are no segments")
            return
        file = self._places.segments / head.segment if head.segment else self._places.segments
        if head.sequence > last:
            what = f"{self._missing(head.sequence)} at the end: the tail was cut off"
            if not file.exists():
                what += ", and this segment is missing"
            self._problem(file, 0, 0, what)
        elif last > head.sequence and head.clean:
            what = f"rows {head.sequence + 1} to {last} were added after the gateway had stopped"
            self._problem(file, 0, head.sequence + 1, what)
        elif last > self._result.signed:
            self._result.notes.append(
                f"{last - self._result.signed} rows at the end are not signed yet"
            )

    def _check_anchor(self) -> None:
        anchor = self._anchor
        if anchor is None or self._anchored:
            return
        row = f"row {anchor.sequence} of" if anchor.sequence else "the row of"
        what = f"{row} the given head is not in the log: the log was replaced or cut"
        if anchor.sequence and anchor.sequence < self._result.first:
            if self._removed.get(anchor.sequence) == anchor.hash:
                return
            what = f"{row} the given head was removed by retention: it can show nothing any more"
        self._problem(self._places.segments, 0, anchor.sequence, what)

    def _problem(self, file: Path, line: int, sequence: int, what: str) -> None:
        if len(self._result.problems) < MOST_PROBLEMS:
            self._result.problems.append(Problem(self._name(file), line, sequence, what))

    def _name(self, file: Path) -> str:
        return str(file.relative_to(self._places.data))


def _may_be_own(line: Line) -> bool:
    """Whether the row may be one of the log's own; most are not, and need not be decoded."""
    return line.signature is not None or any(
        b'"event":"%s"' % event.encode() in line.body for event in OWN_EVENTS
    )


def _removed(fields: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Return number and hash of the last row of each segment that a row says was removed."""
    for each in fields.get("segments", ()):
        yield int(each["last"]), str(each["hash"])
