"""Settings that change while the gateway runs, and those that wait for its next start."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import ConfigurationError
from headgate.gateway.config import Settings
from headgate.gateway.limits import Limits
from headgate.security.zones import Zone

if TYPE_CHECKING:
    from conftest import Records, Rig

ECHO = {"ACME/echo": "def handleMessage(payload, context):\n    return context.caller.session\n"}


def limited(in_flight: int, more: str = "") -> str:
    """A file with one limit and more before it."""
    return f"port = 0\n{more}\n[limits]\nin_flight = {in_flight}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file with settings."""
    file = tmp_path / "etc" / "headgate.toml"
    file.parent.mkdir()
    file.write_text(limited(100), "utf-8")
    return file


class TestMade:
    def test_keywords_win_over_the_file(self, rig: Rig, file: Path) -> None:
        """What a program gives counts, also after a reload; the rest is the file's."""
        file.write_text('name = "file"\nport = 1\n[limits]\nin_flight = 7\n', "utf-8")
        gateway = rig.gateway(ECHO, "hub", config=file, port=0)
        assert (gateway.name, gateway.settings.limits.in_flight) == ("hub", 7)
        assert gateway.port > 1
        file.write_text('name = "other"\nport = 2\n[limits]\nin_flight = 8\n', "utf-8")
        gateway.reload()
        assert gateway.settings.limits.in_flight == 8
        assert gateway.settings.name == "hub"

    def test_everything_may_stand_in_the_file(
        self, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A path alone makes a gateway; its projects are beside the file or where it says."""
        rig.projects(ECHO, "etc")
        rig.projects(ECHO, "far")
        file = tmp_path / "etc" / "headgate.toml"
        far = '[project.FAR]\npath = "../far/projects/ACME"'
        file.write_text(f'name = "e"\nport = 0\nprojects = "projects"\ndata = "d"\n{far}', "utf-8")
        monkeypatch.setenv("HEADGATE_NAME", "environment")
        with headgate.Gateway(config=file) as gateway:
            assert gateway.name == "environment"
            assert gateway.data == tmp_path / "etc" / "d"
            assert set(gateway.projects) == {"ACME", "FAR"}

    def test_settings_of_a_program(self, rig: Rig) -> None:
        """Settings may be made without a file; a mistake in them is told at once."""
        gateway = rig.gateway(ECHO, config=Settings(limits=Limits(in_flight=5)))
        assert gateway.settings.limits.in_flight == 5
        with pytest.raises(ConfigurationError, match="is no network"):
            headgate.Gateway(config=Settings(zones={"a": Zone(addresses=("x",))}), projects={})

    def test_without_a_file_the_environment_is_left_alone(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A gateway in a program is what the program says."""
        monkeypatch.setenv("HEADGATE_LIMITS__IN_FLIGHT", "3")
        assert rig.gateway(ECHO).settings == Settings(name="hub", port=0, reload=False).model_copy(
            update={"data": rig.folder / "hub" / "data"}
        )

    def test_without_projects(self) -> None:
        """A gateway needs projects, from one or the other."""
        with pytest.raises(ConfigurationError, match="Give it projects= or config="):
            headgate.Gateway("hub")


class TestApplied:
    async def test_what_can_change_does(self, rig: Rig, records: Records) -> None:
        """New rules, zones, limits are in force at once; the record says what was and is."""
        told: list[Settings] = []
        async with headgate.Gateway(
            "hub",
            projects=rig.projects(ECHO),
            port=0,
            data=rig.folder / "data",
            recorder=records,
            on_settings=told.append,
        ) as gateway:
            before = gateway.settings
            applied = gateway.apply(
                before.model_copy(
                    update={
                        "limits": Limits(in_flight=5),
                        "zones": {"plant": Zone(addresses=("10.1.0.0/16",))},
                    }
                )
            )
            assert [change.key for change in applied.changed] == [
                "limits.in_flight",
                "zones.plant.addresses",
            ]
            assert applied.restart == ()
            assert gateway.settings.limits.in_flight == 5
            assert [each.limits.in_flight for each in told] == [4096, 5]
        assert records.told("administered", "limits.in_flight: 4096 → 5")
        assert records.told("administered", 'zones.plant.addresses: nothing → ["10.1.0.0/16"]')

    async def test_what_needs_a_restart_is_named(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A new port is told, and not half taken: what runs stays as it is."""
        async with headgate.Gateway(
            "hub", projects=rig.projects(ECHO), port=0, data=rig.folder / "data"
        ) as gateway:
            url = gateway.url
            wanted = gateway.settings.model_copy(update={"port": 9, "limits": Limits(in_flight=5)})
            applied = gateway.apply(wanted)
            assert [(c.key, c.old, c.new) for c in applied.restart] == [("port", "0", "9")]
            assert (gateway.settings.port, gateway.url) == (0, url)
            assert gateway.settings.limits.in_flight == 5
        assert "need a restart of the gateway have changed: port" in caplog.text

    async def test_a_part_that_refuses_leaves_everything(self, rig: Rig) -> None:
        """Either all parts take the new settings or none does."""
        taken: list[int] = []

        def take(settings: Settings) -> None:
            taken.append(settings.limits.in_flight)
            if settings.limits.in_flight == 5:
                raise ConfigurationError("No")

        async with headgate.Gateway(
            "hub",
            projects=rig.projects(ECHO),
            port=0,
            data=rig.folder / "data",
            on_settings=take,
        ) as gateway:
            with pytest.raises(ConfigurationError, match="No"):
                gateway.apply(gateway.settings.model_copy(update={"limits": Limits(in_flight=5)}))
            assert gateway.settings.limits.in_flight == 4096
        assert taken == [4096, 5, 4096]

    async def test_mistakes_are_refused(self, rig: Rig) -> None:
        """Settings with a mistake are not applied, whoever made them."""
        async with headgate.Gateway(
            "hub", projects=rig.projects(ECHO), port=0, data=rig.folder / "data"
        ) as gateway:
            wrong = gateway.settings.model_copy(update={"zones": {"a": Zone(addresses=("x",))}})
            with pytest.raises(ConfigurationError, match="is no network"):
                gateway.apply(wrong)
            assert gateway.settings.zones == {}

    def test_secrets_are_not_told(self, rig: Rig, file: Path, records: Records) -> None:
        """A value that is named like a secret is in no record, no log and no answer."""
        gateway = rig.gateway(ECHO, config=file, reload=False, recorder=records)
        client = rig.client(gateway)
        file.write_text(limited(100) + '[log.levels]\npassword = "error"\n', "utf-8")
        (change,) = client.request("@gateway", "reload").get()["settings"]["changed"]
        assert change == {"key": "log.levels.password", "old": "", "new": "…"}
        assert records.told("administered", "log.levels.password: nothing → …")
        assert in_force(client)("log.levels.password") == "…"

    def test_only_a_running_one(self, rig: Rig) -> None:
        """Before and after its life a gateway takes no settings."""
        gateway = headgate.Gateway("hub", projects=rig.projects(ECHO))
        with pytest.raises(RuntimeError, match="does not run"):
            gateway.apply(Settings())


class TestWatched:
    def test_a_mistake_keeps_what_was(
        self, rig: Rig, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A broken file changes nothing, is told once with its line, and so is its correction."""
        caplog.set_level(logging.INFO, "headgate.gateway")
        gateway = rig.gateway(ECHO, config=file, reload=False)
        client = rig.client(gateway)

        def reload() -> dict[str, Any]:
            return dict(client.request("@gateway", "reload").get()["settings"])

        file.write_text(limited(50, "prot = 1"), "utf-8")
        (mistake,) = reload()["mistakes"]
        assert (mistake["file"], mistake["line"]) == (str(file), 2)
        assert "Did you mean 'port'?" in mistake["cure"]
        assert reload()["mistakes"]
        assert gateway.settings.limits.in_flight == 100
        assert caplog.text.count("The settings stay as they were") == 1
        file.write_text(limited(50), "utf-8")
        applied = reload()
        assert not applied["mistakes"]
        assert list(applied["changed"]) == [{"key": "limits.in_flight", "old": "100", "new": "50"}]
        assert "corrected" in caplog.text
        file.unlink()
        assert "cannot be read" in reload()["mistakes"][0]["what"]
        assert gateway.settings.limits.in_flight == 50

    def test_an_edit_takes_effect(self, rig: Rig, file: Path) -> None:
        """Saved is enough; also if the file is replaced by another one."""
        gateway = rig.gateway(ECHO, config=file)
        file.write_text(limited(50), "utf-8")
        rig.until(lambda: gateway.settings.limits.in_flight == 50)
        draft = file.with_name("draft")
        draft.write_text(limited(60), "utf-8")
        draft.replace(file)
        rig.until(lambda: gateway.settings.limits.in_flight == 60)

    def test_a_link_that_leads_elsewhere(self, rig: Rig, tmp_path: Path) -> None:
        """Container systems exchange the folder behind a link."""
        for number in (1, 2):
            (tmp_path / f"v{number}").mkdir()
            (tmp_path / f"v{number}" / "headgate.toml").write_text(limited(number), "utf-8")
        now = tmp_path / "now"
        now.symlink_to(tmp_path / "v1")
        gateway = rig.gateway(ECHO, config=now / "headgate.toml")
        (tmp_path / "next").symlink_to(tmp_path / "v2")
        (tmp_path / "next").replace(now)
        rig.until(lambda: gateway.settings.limits.in_flight == 2)

    def test_what_changed_before_the_start_is_seen(self, rig: Rig, file: Path) -> None:
        """Between reading the file and watching it nothing gets lost."""
        gateway = headgate.Gateway(
            projects=rig.projects(ECHO), data=rig.folder / "data", config=file
        )
        file.write_text(limited(50), "utf-8")
        with gateway:
            rig.until(lambda: gateway.settings.limits.in_flight == 50)


# --- as a process --------------------------------------------------------------------------------


class Running:
    """A gateway process that was started in a folder."""

    def __init__(self, folder: Path, *options: str, **streams: Any) -> None:
        command = [sys.executable, "-m", "headgate", "run", "--json", *options]
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                **{"stdin": subprocess.DEVNULL, **streams},
            )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())

    def log(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        lines = self._log.read_text("utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def logged(self, text: str) -> bool:
        return any(text in line["event"] for line in self.log())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running(folder: Path, *options: str, **streams: Any) -> Iterator[Running]:
    """A gateway process, until the end of the block."""
    process = Running(folder, *options, **streams)
    try:
        yield process
    finally:
        process.end()


@pytest.fixture
def place(rig: Rig, tmp_path: Path) -> Path:
    """Give a folder with settings and projects, where a gateway can be run."""
    rig.projects(ECHO, "etc")
    (tmp_path / "etc" / "headgate.toml").write_text(limited(100), "utf-8")
    return tmp_path / "etc"


def in_force(client: headgate.Client) -> Callable[[str], Any]:
    """The settings in force, as a client is told."""
    return lambda key: client.request("@gateway", "settings").get()[key]


def test_edits_reach_a_running_process(rig: Rig, place: Path) -> None:
    """What is saved counts for the next request, without a restart, and the session stays."""
    file = place / "headgate.toml"
    with running(place) as gateway, headgate.connect(gateway.ready["url"]) as client:
        assert gateway.ready["config"] == str(file)
        assert gateway.logged(f"settings: {file}")
        setting, session = in_force(client), client.request("ACME", "echo").get()
        assert setting("limits.in_flight") == 100
        file.write_text(limited(50, 'host = "::1"') + '[log]\nlevel = "debug"\n', "utf-8")
        rig.until(lambda: setting("limits.in_flight") == 50)
        assert (setting("host"), setting("log.level")) == ("127.0.0.1", "debug")
        rig.until(lambda: gateway.logged("need a restart of the gateway have changed: host"))
        file.write_text(limited(30, "host = 7"), "utf-8")
        rig.until(lambda: gateway.logged("The settings stay as they were"))
        assert setting("limits.in_flight") == 50
        file.write_text(limited(20), "utf-8")
        rig.until(lambda: setting("limits.in_flight") == 20)
        assert client.request("ACME", "echo").get() == session
        assert gateway.process.poll() is None


@pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP is POSIX's")
def test_sighup_and_log_levels(rig: Rig, place: Path) -> None:
    """SIGHUP reads file and projects again; a logger's level is another one at once."""
    options = ("--no-reload", "--port", "0", "--log-level", "warning")
    with running(place, *options) as gateway, headgate.connect(gateway.ready["url"]) as client:
        setting = in_force(client)
        assert gateway.log() == []
        levels = '[log.levels]\n"headgate.audit" = "info"\n'
        (place / "headgate.toml").write_text(limited(50) + levels, "utf-8")
        new = place / "projects" / "ACME" / "messages" / "new.py"
        new.write_text("def handleMessage(payload):\n    return 'new'\n", "utf-8")
        gateway.process.send_signal(signal.SIGHUP)
        rig.until(lambda: setting("limits.in_flight") == 50)
        rig.until(lambda: client.request("ACME", "new").block())
        # What the flag says, the file cannot change.
        assert setting("log.level") == "warning"
        rig.until(lambda: gateway.logged("administered"))
        assert {line["logger"] for line in gateway.log()} == {"headgate.audit"}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP is POSIX's")
def test_a_closed_terminal_ends_it(place: Path) -> None:
    """SIGHUP that comes because the terminal is gone is no wish to reload."""
    master, terminal = os.openpty()
    with running(place, stdin=terminal, start_new_session=True) as gateway:
        os.close(terminal)
        os.close(master)
        gateway.process.send_signal(signal.SIGHUP)
        assert gateway.process.wait(20) == 0
