"""audit list, verify, export and head: what a gateway has recorded."""

from __future__ import annotations

import csv
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from headgate.cli.administer import chosen_folder
from headgate.cli.ends import ExitCode, reporting, server_parts
from headgate.cli.options import WHERE, Json, Place, placed
from headgate.cli.output import complain, print_document, print_table
from headgate.errors import ConfigurationError

if TYPE_CHECKING:
    from headgate.security.audit.reading import Filter

__all__ = ["app"]

FOLLOW_SECONDS = 0.25
"""Seconds between two looks for new rows."""

COLUMNS = (
    *("seq", "time", "event", "user", "roles", "method", "address", "host", "verified_host"),
    *("session", "gateways", "target", "action", "outcome", "duration", "request_id", "detail"),
    *("payload", "payload_bytes", "hash"),
)
"""The columns of a CSV file."""

app = typer.Typer(
    no_args_is_help=True, help="Read and verify what a gateway has recorded.", epilog=WHERE
)

Since = Annotated[
    str, typer.Option(metavar="TIME", help="From then on: 2030-01-31T08:00, or 30m, 24h, 7d ago.")
]
Until = Annotated[str, typer.Option(metavar="TIME", help="Before then.")]


@app.command("list")
@placed(url=False)
def list_rows(
    since: Since = "",
    until: Until = "",
    user: Annotated[str, typer.Option(metavar="PATTERN", help="Of this user.")] = "",
    event: Annotated[
        str, typer.Option(metavar="PATTERN", help="login, refused, failed, administered …")
    ] = "",
    target: Annotated[str, typer.Option(metavar="PATTERN", help="Such as 'ACME/*'.")] = "",
    outcome: Annotated[str, typer.Option(metavar="PATTERN", help="Such as timeout.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The last ones, at most.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new rows until Ctrl-C.")
    ] = False,
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    List what was recorded, the oldest first.

    Patterns have * and ?, and are compared without case.

    --json prints {"rows": […]}; with --follow one row a line.
    """
    with reporting(as_json=as_json):
        folder = chosen_folder(place)
        wanted = _filter(since, until, user=user, event=event, target=target, outcome=outcome)
        if follow:
            _follow(folder, wanted, limit=limit, as_json=as_json)
            return
        rows = list(deque(_rows(folder, wanted), limit))
    if as_json:
        print_document({"rows": rows})
    elif rows:
        print_table(
            ("row", "time", "event", "user", "from", "target", "outcome", ""), map(_cells, rows)
        )
    else:
        print("No rows.")


@app.command()
@placed(url=False)
def verify(
    head: Annotated[
        str,
        typer.Option(
            metavar="FILE|HASH",
            help="A head that was kept elsewhere, by headgate audit head: the log must hold it.",
        ),
    ] = "",
    *,
    place: Place,
    as_json: Json = False,
) -> None:
    """
    Verify that nothing of the log was changed, added, moved or removed.

    Every problem is named with its file, line and row; the exit code is 1 if there
    are any. Only a head that was kept on another machine shows what somebody with
    the log's private key did.

    --json prints {"problems": […], "notes": […], "key", "first", "last", "signed",
    "segments"}.
    """
    with reporting(as_json=as_json):
        folder = chosen_folder(place)
        with server_parts():
            from headgate.security.audit.verify import Anchor
            from headgate.security.audit.verify import verify as verify_log
        with _readable():
            report = verify_log(folder, Anchor.of(head) if head else None)
    if as_json:
        fields = {**vars(report), "problems": [vars(problem) for problem in report.problems]}
        print_document(fields)
    else:
        for problem in report.problems:
            complain(f"Problem at {problem}")
        for note in report.notes:
            print(f"Note: {note}")
        segments = _number(report.segments, "segment")
        print(
            f"Rows {report.first} to {report.last} in {segments}, signed up to row {report.signed} "
            f"by the key {report.key or '(none)'}"
        )
        count = len(report.problems)
        print(f"{_number(count, 'problem')}." if count else "No problems.")
    raise typer.Exit(ExitCode.HANDLER_ERROR if report.problems else ExitCode.FINE)


@app.command()
@placed(url=False)
def export(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A new file; - for stdout.")
    ],
    since: Since = "",
    until: Until = "",
    form: Annotated[
        Literal["jsonl", "csv"] | None,
        typer.Option(
            "--format",
            help="JSON lines or CSV. Default: as the file's name ends, else jsonl.",
            show_default=False,
        ),
    ] = None,
    *,
    place: Place,
) -> None:
    """
    Write rows to a file, as JSON lines or CSV.

    In CSV, a text that a spreadsheet would take for a formula begins with '.
    """
    with reporting():
        rows = _rows(chosen_folder(place), _filter(since, until))
        write = _write_csv if (form or output.suffix.lstrip(".")) == "csv" else _write_lines
        with _readable():
            if str(output) == "-":
                number = write(sys.stdout, rows)
            else:
                with output.open("x", encoding="utf-8", newline="") as stream:
                    number = write(stream, rows)
    print(f"{_number(number, 'row')}.", file=sys.stderr)


@app.command()
@placed(url=False)
def head(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.", show_default=False),
    ] = None,
    *,
    place: Place,
) -> None:
    """
    Print the log's head, to be kept on another machine.

    It is one line of JSON: which row is the last one, its hash, and a signature.
    """
    with reporting():
        folder = chosen_folder(place)
        with server_parts():
            from headgate.security.audit.keys import fingerprint
            from headgate.security.audit.verify import read_head
        with _readable():
            text, found = read_head(folder)
            if output is not None:
                output.write_bytes(text)
    if output is None:
        print(text.decode(), end="", flush=True)
    key = fingerprint(bytes.fromhex(found.key))
    print(f"Row {found.sequence} of {found.time}, signed by the key {key}", file=sys.stderr)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _filter(since: str, until: str, **patterns: str) -> Filter:
    with server_parts():
        from headgate.security.audit.reading import Filter, point_in_time
    now = datetime.now(UTC)
    times = {"since": since, "until": until}
    texts = {key: point_in_time(text, now) for key, text in times.items() if text}
    return Filter(**texts, **patterns)


def _rows(folder: Path, wanted: Filter) -> Iterator[dict[str, Any]]:
    from headgate.security.audit.reading import read_rows

    with _readable():
        yield from read_rows(folder, wanted)


def _follow(folder: Path, wanted: Filter, *, limit: int, as_json: bool) -> None:
    from headgate.security.audit.reading import Tail

    tail, first = Tail(folder), True
    try:
        while True:
            with _readable():
                rows: Iterable[dict[str, Any]] = filter(wanted.matches, tail.rows())
                for row in deque(rows, limit) if first else rows:
                    text = json.dumps(row) if as_json else "  ".join(filter(None, _cells(row)))
                    print(text, flush=True)
            first = False
            sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.CANCELLED) from None


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what people are shown of a row; control characters in it are escaped."""
    host = row.get("verified_host") or (f'"{row["host"]}"' if row.get("host") else "")
    origin = " ".join(filter(None, (row.get("address", ""), host)))
    detail = str(row.get("detail", ""))
    if row.get("duration") is not None:
        detail = f"{row['duration']:.3f} s {detail}"
    texts = (row.get("seq"), row.get("time"), row.get("event"), row.get("user", ""), origin)
    cells = (*texts, row.get("target", ""), row.get("outcome", ""), detail)
    return tuple(_printable(str(cell)) for cell in cells)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _write_lines(stream: IO[str], rows: Iterable[dict[str, Any]]) -> int:
    return sum(bool(stream.write(json.dumps(row) + "\n")) for row in rows)


def _write_csv(stream: IO[str], rows: Iterable[dict[str, Any]]) -> int:
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    return sum(bool(writer.writerow([_csv_cell(row.get(c)) for c in COLUMNS])) for row in rows)


def _csv_cell(value: Any) -> Any:
    """Return a CSV cell; names in it come from anybody, so none may be a formula."""
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, list):
        text = " ".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"This cannot be read or written: {error.strerror}",
            cure="Run it as the user that the gateway runs as, or name another file",
            file=str(error.filename or ""),
        ) from error
