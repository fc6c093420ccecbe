"""`headgate permission` and `headgate check --user`: with a gateway that runs, and without."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, text
from typer.testing import CliRunner

from headgate.cli.app import app
from headgate.cli.ends import ExitCode
from headgate.gateway.config import Settings
from headgate.invocation import Caller
from headgate.projects.toml import parse_toml
from headgate.security.policy import RulePolicy
from headgate.store import Store
from headgate.store.tables import users

if TYPE_CHECKING:
    from conftest import Rig

CONFIGURATION = """
    name = "hub"
    data = "own"

    [zones]
    plant = { addresses = ["10.1.0.0/16"], hosts = ["panel-*"] }

    [[permission]]
    roles = ["operator"]
    zones = ["plant"]
    handlers = ["ACME/*"]
    allow = true

    [[permission]]
    handlers = ["ACME/*"]
    allow = false
    """
NARROW = """
    import headgate
    raise RuntimeError("nothing of a project runs here")

    @headgate.handler(roles=["engineer"])
    def handleMessage(payload): ...
    """


def invoke(*arguments: str) -> Any:
    """Run a command in this process."""
    return CliRunner().invoke(app, arguments)


def done(*arguments: str) -> Any:
    """Run a command that succeeds, and return its document."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == ExitCode.FINE, result.output
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a gateway that does not run: configuration, and a handler."""
    (tmp_path / "headgate.toml").write_text(dedent(CONFIGURATION), "utf-8")
    messages = tmp_path / "projects/ACME/messages"
    messages.mkdir(parents=True)
    (messages / "narrow.py").write_text(dedent(NARROW), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestCheck:
    @pytest.mark.parametrize(
        ("arguments", "allowed", "where"),
        [
            ("--from 10.1.2.3 --role operator ACME/test", True, "headgate.toml, permission 1"),
            ("--from 10.2.2.3 --role operator ACME/test", False, "headgate.toml, permission 2"),
            ("--host PANEL-7 --role operator ACME/test", True, "headgate.toml, permission 1"),
            ("--role operator --role owner ACME/test", False, "headgate.toml, permission 2"),
            ("B/test", True, "built-in: signed-in local users may request, message, see"),
            ("--action host B/test", False, "built-in: everything else is refused"),
            ("--gateway mill --role owner B/test", False, "built-in: everything else is refused"),
            ("--action administer --role owner @gateway/reload", True, "built-in: the owner may"),
            (
                *("--from 10.1.2.3 --role operator ACME/narrow", False),
                "the handler's own settings: roles=engineer",
            ),
        ],
    )
    def test_it_names_the_rule(
        self, folder: Path, arguments: str, allowed: bool, where: str
    ) -> None:
        """The exit code tells whether, the text and the document by which rule."""
        plain = invoke("check", "--user", "anna", *arguments.split())
        machine = invoke("check", "--user", "anna", *arguments.split(), "--json")
        code = ExitCode.FINE if allowed else ExitCode.DENIED
        assert (plain.exit_code, machine.exit_code) == (code, code), plain.output
        document = json.loads(machine.stdout)
        assert document["allow"] is allowed
        assert document["where"].startswith(where)
        assert f"by     {document['where']}" in plain.stdout
        assert not (folder / "own").exists()

    def test_rules_and_users_of_the_database_count(self, folder: Path) -> None:
        """The database is read even while a gateway holds its folder; --role wins over it."""
        done("permission", "add", "--refuse", "--role", "guest", "--handler", "B/*")
        with Store(folder / "own") as store:
            row = {"key": "anna", "name": "Anna", "roles": ["guest"], "hosts": [], "generation": 1}
            now = text("CURRENT_TIMESTAMP")
            made = {"created_at": now, "created_by": "owner", "changed_at": now}
            store.write(lambda c: c.execute(insert(users).values(**row, **made)).rowcount).result()
            result = invoke("check", "--user", "ANNA", "B/test")
            assert result.exit_code == ExitCode.DENIED
            assert "database, rule 1" in result.stdout
            assert "rule   refuse roles=guest handlers=B/*" in result.stdout
            assert invoke("check", "--user", "ANNA", "--role", "x", "B/test").exit_code == 0
            assert invoke("check", "--user", "ben", "B/test").exit_code == 0

    def test_rules_of_the_environment_count(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where there is no file."""
        (folder / "headgate.toml").unlink()
        monkeypatch.setenv("HEADGATE_DATA", str(folder / "own"))
        monkeypatch.setenv("HEADGATE_PERMISSION", '[{"allow": false, "handlers": ["B/*"]}]')
        result = invoke("check", "--user", "ann", "B/test", "--json")
        assert result.exit_code == ExitCode.DENIED, result.output
        assert json.loads(result.stdout)["where"] == "the configuration, permission 1"

    def test_an_older_database_has_no_rules(self, folder: Path) -> None:
        """What the gateway did not bring up to date yet is read as it is, and left so."""
        with Store(folder / "own") as store:
            for table in ("policy_changes", "permissions", "users"):
                store.write(lambda c, t=table: c.execute(text(f"DROP TABLE {t}")).close()).result()  # type: ignore[misc]
        assert invoke("check", "--user", "anna", "B/test").exit_code == ExitCode.FINE

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ("--user anna ACME", "'ACME' is no handler"),
            ("--user anna", "PROJECT/HANDLER"),
            ("--user anna --from 10.1 ACME/test", "'10.1' is no IP address"),
            ("--from 10.1.2.3", "need --user"),
            ("--user anna --projects projects ACME/test", "no project is loaded"),
            ("--user anna --config none.toml ACME/test", "none.toml"),
        ],
    )
    def test_wrong_use_is_told(self, folder: Path, arguments: str, told: str) -> None:
        """Each mistake has its own text, and exit code 2."""
        result = invoke("check", *arguments.split())
        assert result.exit_code == ExitCode.USAGE
        assert told in result.stderr

    def test_projects_are_checked_as_before(self, folder: Path) -> None:
        """Without a user the projects are loaded, also for zones that are not there."""
        script = folder / "projects/ACME/messages/narrow.py"
        script.write_text(
            "import headgate\n@headgate.handler(zones=['plnt'])\ndef handleMessage(payload): ..."
        )
        result = invoke("check", "--json")
        (problem,) = json.loads(result.stdout)["problems"]
        assert result.exit_code == ExitCode.HANDLER_ERROR
        assert "Did you mean 'plant'?" in problem["cure"]
        assert invoke("check", "projects").exit_code == ExitCode.HANDLER_ERROR
        (folder / "headgate.toml").unlink()
        assert invoke("check", "projects").exit_code == ExitCode.FINE


class TestPermission:
    def test_without_a_gateway(self, folder: Path) -> None:
        """The commands open the database themselves: add, list, remove, undo, history."""
        rule = ("--user", "guest", "--handler", "ACME/*", "--action", "request")
        assert done("permission", "add", "--refuse", *rule)["change"]["rule"] == 1
        added = invoke("permission", "add", "--allow", *rule, "--before", "1")
        assert added.stdout == (
            "Rule 2 added: allow users=guest handlers=ACME/* actions=request\nThis is change 2.\n"
        )
        listed = [rule["where"] for rule in done("permission", "list")["rules"]]
        assert [where for where in listed if "database" in where] == [
            "database, rule 2",
            "database, rule 1",
        ]
        assert listed[0] == "headgate.toml, permission 1"
        assert listed[-1].startswith("built-in")
        done("permission", "remove", "2")
        assert "which undoes change 3" in invoke("permission", "undo").stdout
        kinds = [change["kind"] for change in done("permission", "history")["changes"]]
        assert kinds == ["added", "removed", "added", "added"]
        shown = invoke("permission", "history").stdout
        assert re.search(r"^4 .* UTC .* added .* 2 .* allow users=guest .* 3", shown, re.MULTILINE)
        assert "database, rule 2" in invoke("permission", "list").stdout

    def test_with_a_gateway(self, rig: Rig) -> None:
        """With --url the gateway is asked, and the change takes effect there at once."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client = rig.client(hub)
        assert client.request("ACME", "echo").block()
        refuse = ("permission", "add", "--refuse", "--handler", "ACME/*", "--url", hub.url)
        assert done(*refuse)["change"]["number"] == 1
        assert not client.request("ACME", "echo").block()
        assert done("permission", "undo", "1", "--url", hub.url)["change"]["undoes"] == 1
        assert client.request("ACME", "echo").block()
        everything = ("permission", "add", "--refuse", "--data", str(hub.data))
        told = invoke(*everything)
        assert told.exit_code == ExitCode.USAGE
        assert "headgate permission add --allow --role owner" in told.stderr
        done(*everything, "--handler", "ACME/*")
        assert not client.request("ACME", "echo").block()
        assert done("permission", "undo", "--data", str(hub.data))["change"]["undoes"] == 3
        assert len(done("permission", "history", "--url", hub.url)["changes"]) == 4
        assert len(done("permission", "list", "--url", hub.url)["rules"]) == 3

    def test_a_mistake_is_told(self, folder: Path) -> None:
        """It names the nearest that would be right; nothing is changed."""
        for arguments, told in (
            (("--refuse", "--zone", "plnt"), "Did you mean 'plant'?"),
            (("--refuse", "--action", "reqest"), "Did you mean 'request'?"),
            (("--refuse", "--handler", "ACME"), "'ACME/*'"),
            (("--refuse", "--before", "3"), "no rule 3"),
        ):
            result = invoke("permission", "add", *arguments)
            assert result.exit_code == ExitCode.USAGE
            assert told in result.stderr
        assert done("permission", "history") == {"changes": []}

    def test_a_zone_that_went_is_no_dead_end(self, folder: Path) -> None:
        """A rule whose zone is gone keeps the gateway from starting; it can be removed."""
        done("permission", "add", "--refuse", "--zone", "plant")
        done("permission", "add", "--refuse", "--zone", "plant")
        configuration = folder / "headgate.toml"
        configuration.write_text("name = 'hub'\ndata = 'own'\n", "utf-8")
        result = invoke("permission", "list")
        assert result.exit_code == ExitCode.USAGE
        assert "database, rule 1: there is no zone 'plant'" in result.stderr
        done("permission", "remove", "1")
        done("permission", "remove", "2")
        done("permission", "list")


def test_the_document_is_right() -> None:
    """The rules of docs/permissions.md decide as the page says."""
    page = Path(__file__).parents[1] / "docs" / "permissions.md"
    (example,) = re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    settings = Settings.model_validate(parse_toml(example, file=page))
    policy = RulePolicy(settings.permission, settings.zones)
    operator = Caller("anna", frozenset({"operator"}), address="10.1.2.3", method="password")
    miller = Caller("anna", frozenset({"operator"}), gateway=("mill",))
    owner = Caller("root", frozenset({"owner"}))
    elsewhere = Caller("anna", frozenset({"operator"}), address="10.9.2.3", method="password")
    asked = {
        (operator, "ACME/test"): True,
        (elsewhere, "ACME/test"): False,
        (elsewhere, "B/test"): True,
        (owner, "ACME/test"): True,
        (miller, "ACME/level"): True,
        (miller, "ACME/test"): False,
    }
    for (caller, target), allowed in asked.items():
        assert policy.decide(caller, "request", *target.split("/")).allow is allowed
