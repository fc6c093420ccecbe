"""headgate audit: list, verify, export and head, on a folder and beside a running gateway."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from audit_logs import failed, lines, make_log, rows, write_lines
from typer.testing import CliRunner, Result

from headgate.cli.app import app
from headgate.errors import ConfigurationError
from headgate.security.audit import AuditLog, Record
from headgate.security.audit.journal import Places
from headgate.security.audit.reading import point_in_time

if TYPE_CHECKING:
    from conftest import Rig

NOW = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)


def audit(*arguments: object) -> Result:
    """Run a command of ``headgate audit``."""
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A gateway's folder with a small log."""
    with AuditLog(tmp_path) as log:
        log.record(Record("login", user="anna", host="panel", address="10.1.2.3", outcome="ok"))
        log.record(failed(1, duration=1.5))
        log.record(Record("refused", user="=cmd|'/C calc'!A0", detail="x\x1b[2K\ny"))
    return tmp_path


class TestList:
    def test_for_people(self, data: Path) -> None:
        """A line a row; no row writes more than its line, or to the terminal."""
        shown = audit("list", "--data", data)
        assert shown.exit_code == 0
        assert '10.1.2.3 "panel"' in shown.stdout
        assert "1.500 s" in shown.stdout
        assert "\x1b" not in shown.stdout
        assert r"x\x1b[2K\ny" in shown.stdout

    @pytest.mark.parametrize(
        ("arguments", "events"),
        [
            (["--event", "LOG*"], ["login"]),
            (["--user", "anna"], ["login", "failed"]),
            (["--target", "acme/*"], ["failed"]),
            (["--outcome", "timeout"], ["failed"]),
            (["--limit", "2"], ["refused", "checkpoint"]),
            (
                ["--since", "1h", "--until", "2999-01-01"],
                ["login", "failed", "refused", "checkpoint"],
            ),
            (["--until", "1h"], []),
            (["--since", "2999-01-01"], []),
        ],
    )
    def test_filters(self, data: Path, arguments: list[str], events: list[str]) -> None:
        """What is asked for, the last ones first."""
        shown = audit("list", "--data", data, "--json", *arguments)
        assert [row["event"] for row in json.loads(shown.stdout)["rows"]] == events

    @pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
    def test_follow(self, data: Path) -> None:
        """Rows that come later are shown, until Ctrl-C."""
        command = [sys.executable, "-m", "headgate", "audit", "list", "--follow", "--json"]
        command += ["--event", "failed", "--data", str(data)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["target"] == failed(1).target
            make_log(data, 1)
            assert json.loads(process.stdout.readline())["target"] == failed(0).target
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130

    def test_no_log(self, tmp_path: Path) -> None:
        """A folder without a log is named, with the cure."""
        shown = audit("list", "--data", tmp_path / "nowhere")
        assert shown.exit_code == 2
        assert "nowhere" in shown.stderr
        assert "--data" in shown.stderr

    def test_the_folder_is_that_of_the_configuration(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As for all other commands: headgate.toml here, or the one that is named."""
        file = tmp_path / "plant" / "headgate.toml"
        file.parent.mkdir()
        file.write_text(f"data = {json.dumps(str(data))}")
        assert len(json.loads(audit("list", "--config", file, "--json").stdout)["rows"]) == 4
        monkeypatch.chdir(file.parent)
        for command in (("list",), ("verify",), ("head",), ("export", "-o", "-")):
            assert audit(*command).exit_code == 0, command


class TestVerify:
    def test_fine(self, data: Path) -> None:
        """Exit code 0; the key's fingerprint is shown."""
        shown = audit("verify", "--data", data)
        assert shown.exit_code == 0
        assert "SHA256:" in shown.stdout
        assert "No problems." in shown.stdout
        document = json.loads(audit("verify", "--data", data, "--json").stdout)
        assert document["problems"] == []
        assert (document["first"], document["last"], document["signed"]) == (1, 4, 4)

    def test_a_changed_row(self, data: Path) -> None:
        """Exit code 1; file, line, row and what is wrong are named."""
        file = Places(data).segment(1)
        content = lines(file)
        content[1] = content[1].replace(b"anna", b"otto")
        write_lines(file, content)
        shown = audit("verify", "--data", data)
        assert shown.exit_code == 1
        assert "audit/00000001.jsonl:2: row 2: it was changed" in shown.stderr
        (problem,) = json.loads(audit("verify", "--data", data, "--json").stdout)["problems"]
        assert (problem["line"], problem["sequence"]) == (2, 2)

    def test_a_kept_head(self, data: Path, tmp_path: Path) -> None:
        """`audit head` gives what `verify --head` takes, as a file and as a hash."""
        kept = tmp_path / "kept.json"
        assert audit("head", "--data", data, "-o", kept).exit_code == 0
        printed = audit("head", "--data", data).stdout
        assert printed == kept.read_text()
        make_log(data, 1)
        for anchor in (kept, json.loads(printed)["hash"]):
            assert audit("verify", "--data", data, "--head", anchor).exit_code == 0
        assert audit("verify", "--data", data, "--head", "0" * 64).exit_code == 1
        kept.write_text(printed.replace('"sequence":4', '"sequence":3'))
        shown = audit("verify", "--data", data, "--head", kept)
        assert shown.exit_code == 2
        assert "kept.json" in shown.stderr

    def test_beside_a_running_gateway(self, rig: Rig) -> None:
        """The log can be read, verified and its head taken while it is written."""
        hub = rig.gateway({"ACME/bad": "def handleMessage(p): 1 / 0"})
        for _ in range(5):
            hub.scope("").request("ACME", "bad").block()
            for command in ("verify", "list", "head"):
                assert audit(command, "--data", hub.data).exit_code == 0


class TestExport:
    @pytest.mark.parametrize("ending", ["jsonl", "csv"])
    def test_all_rows(self, data: Path, tmp_path: Path, ending: str) -> None:
        """By the file's ending; a file that is there is not overwritten."""
        file = tmp_path / f"out.{ending}"
        assert audit("export", "--data", data, "-o", file).exit_code == 0
        read: list[Any]
        with file.open(encoding="utf-8", newline="") as stream:
            read = list(csv.DictReader(stream) if ending == "csv" else map(json.loads, stream))
        written = rows(Places(data))
        assert [row["event"] for row in read] == [row["event"] for row in written]
        assert read[2]["detail"] == "x\x1b[2K\ny"
        again = audit("export", "--data", data, "-o", file)
        assert again.exit_code == 2
        assert str(file) in again.stderr

    def test_no_formula(self, data: Path) -> None:
        """A name that a spreadsheet would run is text in CSV."""
        shown = audit("export", "--data", data, "-o", "-", "--format", "csv")
        assert "'=cmd|" in shown.stdout
        assert ",=cmd" not in shown.stdout


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30m", "2030-01-31T11:30:00.000000Z"),
        ("7d", "2030-01-24T12:00:00.000000Z"),
        ("2030-01-31T08:00:00+02:00", "2030-01-31T06:00:00.000000Z"),
        ("2030-01-31T08:00Z", "2030-01-31T08:00:00.000000Z"),
        ((NOW - timedelta(days=1)).isoformat(), "2030-01-30T12:00:00.000000Z"),
    ],
)
def test_points_in_time(text: str, moment: str) -> None:
    """ISO 8601 with an offset, or how long ago."""
    assert point_in_time(text, NOW) == moment


@pytest.mark.parametrize("text", ["yesterday", "5", "h", "99999999999d", "2030-13-01"])
def test_no_point_in_time(text: str) -> None:
    """What is no time is refused, with what to write."""
    with pytest.raises(ConfigurationError, match="24h"):
        point_in_time(text, NOW)
