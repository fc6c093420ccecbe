"""`headgate config`, and how `headgate run` and `init` deal with settings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from headgate.cli.app import app
from headgate.gateway.config import Configuration, Settings
from headgate.gateway.document import documented_file, json_schema

if TYPE_CHECKING:
    from conftest import Rig


def invoke(*arguments: str) -> Any:
    """Run a command in this process."""
    return CliRunner().invoke(app, arguments)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_show_names_the_origin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting, its value, and the file's line, the variable or that it is a default."""
    (folder / "headgate.toml").write_text('name = "hub"\n[limits]\nburst = 3\n', "utf-8")
    monkeypatch.setenv("HEADGATE_PORT", "9000")
    lines = invoke("config", "show", "--origin").stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:] if line}
    assert rows["name"] == ["hub", f"{folder / 'headgate.toml'}:1"]
    assert rows["limits.burst"] == ["3.0", f"{folder / 'headgate.toml'}:3"]
    assert rows["port"] == ["9000", "HEADGATE_PORT"]
    assert rows["host"] == ["127.0.0.1", "default"]
    assert "HEADGATE_PORT" not in invoke("config", "show").stdout


def test_show_for_machines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json one document has values with types and origins."""
    (folder / "other.toml").write_text("[[permission]]\nallow = true\n", "utf-8")
    document = json.loads(invoke("config", "show", "--config", "other.toml", "--json").stdout)
    assert document["file"] == str(folder / "other.toml")
    rows = {row["key"]: row for row in document["settings"]}
    assert rows["permission[0]"]["value"]["allow"] is True
    assert rows["permission[0]"]["line"] == 1
    assert rows["port"] == {"key": "port", "value": 8188, "origin": "default", "line": None}


def test_show_of_what_is_in_force(rig: Rig) -> None:
    """A running gateway tells its own."""
    gateway = rig.gateway({}, "hub")
    document = json.loads(invoke("config", "show", "--url", gateway.url, "--json").stdout)
    assert {"key": "name", "value": "hub"} in document["settings"]


def test_secrets_are_not_shown(folder: Path) -> None:
    """What is named like a secret is shown as there, not as what it is."""
    (folder / "headgate.toml").write_text('[log.levels]\ntoken = "debug"\n', "utf-8")
    for arguments in (["--origin"], ["--json"]):
        shown = invoke("config", "show", *arguments).stdout
        assert "log.levels.token" in shown
        assert "debug" not in shown


def test_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 with every mistake, its place and cure; 0 without."""
    assert "there is no file" in invoke("config", "check").stdout
    (folder / "headgate.toml").write_text("prot = 1\nname = 2\n", "utf-8")
    result = invoke("config", "check")
    assert result.exit_code == 1
    assert f"'prot' is no setting\n  at   {folder / 'headgate.toml'}:1\n" in result.stdout
    assert "cure Did you mean 'port'?" in result.stdout
    assert "headgate.toml:2" in result.stdout
    document = json.loads(invoke("config", "check", "--json").stdout)
    assert [each["line"] for each in document["mistakes"]] == [1, 2]
    (folder / "headgate.toml").write_text("port = 1\n", "utf-8")
    monkeypatch.setenv("HEADGATE_SERVICE_PORT", "1")
    result = invoke("config", "check")
    assert (result.exit_code, result.stdout.count("HEADGATE_SERVICE_PORT")) == (0, 1)


def test_show_and_run_refuse_mistakes(folder: Path) -> None:
    """2: they tell all mistakes, one a line, and go no further."""
    (folder / "headgate.toml").write_text("prot = 1\nname = 2\n", "utf-8")
    for command in (["config", "show"], ["run"]):
        result = invoke(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("headgate.toml:") == 2


def test_schema_and_example() -> None:
    """Both are printed as they stand in the documents."""
    assert json.loads(invoke("config", "schema").stdout) == json_schema()
    assert invoke("config", "example").stdout == documented_file()


def test_init_makes_settings(folder: Path) -> None:
    """The starter's file says what is default, and its comments are settings."""
    invoke("init", ".", "--project", "P")
    file = folder / "headgate.toml"
    default = Settings(name=folder.name, projects=folder / "projects")
    assert Configuration.load(file).settings == default
    file.write_text(
        re.sub(r"^# (?=\w+ = |\[)", "", file.read_text("utf-8"), flags=re.MULTILINE), "utf-8"
    )
    settings = Configuration.load(file).settings
    assert settings.permission[0].handlers == ("P/*",)
    assert settings.log.level == "debug"
    assert invoke("init", ".", "--project", "Q").stdout.startswith("Kept ")


def test_flags_win(folder: Path, rig: Rig) -> None:
    """`headgate run --config`: the file, the environment over it, the flags over both."""
    projects = rig.projects({"ACME/echo": rig.ECHO})
    file = folder / "other.toml"
    file.write_text(
        f'name = "file"\nhost = "127.0.0.2"\nport = 1\nprojects = "nowhere"\n'
        f'data = "data"\n[project.NAMED]\npath = "{projects / "ACME"}"\n',
        "utf-8",
    )
    variables = {"HEADGATE_NAME": "variable", "HEADGATE_HOST": "127.0.0.1", "HEADGATE_X": "1"}
    flags = ["--config", "other.toml", "--port", "0", "--projects", str(projects)]
    with subprocess.Popen(
        [sys.executable, "-m", "headgate", "run", *flags, "--json"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        found = json.loads(invoke("handlers", "--url", ready["url"], "--json").stdout)
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert ready["name"] == "variable"
    assert ready["url"].startswith("ws://127.0.0.1:")
    assert ready["config"] == str(file)
    assert ready["data"] == str(folder / "data")
    assert {each["project"] for each in found["handlers"]} == {"ACME", "NAMED"}
    assert "HEADGATE_X is no setting" in log


def test_reload_tells_settings(rig: Rig, folder: Path) -> None:
    """`headgate reload` says what has changed, what waits for a restart, and what is wrong."""
    file = folder / "headgate.toml"
    file.write_text("[limits]\nin_flight = 5\n", "utf-8")
    gateway = rig.gateway({}, config=file, reload=False)
    file.write_text('host = "::1"\n[limits]\nin_flight = 6\n', "utf-8")
    result = invoke("reload", "--url", gateway.url)
    assert result.exit_code == 0
    assert "setting limits.in_flight: 5 → 6\n" in result.stdout
    assert 'setting host: "::1" after a restart of the gateway\n' in result.stdout
    file.write_text("[limits]\nin_flihgt = 6\n", "utf-8")
    result = invoke("reload", "--url", gateway.url)
    assert result.exit_code == 1
    assert f"at   {file}:2" in result.stdout
    assert "all settings stay as they were" in result.stdout
