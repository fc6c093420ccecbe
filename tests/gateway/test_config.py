"""Settings: where they come from, which wins, and what is said of mistakes."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.errors import ConfigurationError
from headgate.gateway.config import Configuration, Settings
from headgate.gateway.document import documented_file, json_schema
from headgate.gateway.layers import Layer, Place, flatten
from headgate.security.policy import Permission
from headgate.security.zones import HostPin, Zone

DOCS = Path(__file__).parents[2] / "docs"


def load(folder: Path, text: str, **environment: str) -> Configuration:
    """Read a file with this text."""
    file = folder / "headgate.toml"
    file.write_text(text, "utf-8")
    return Configuration.load(file, environment=environment)


def mistakes(folder: Path, text: str = "", **environment: str) -> list[str]:
    """What is wrong: the place, a blank, what and the cure."""
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text, **environment)
    return [
        re.sub(r"^.*headgate\.toml:", "", str(each)).replace(": ", " ", 1)
        for each in caught.value.all()
    ]


# --- what wins -----------------------------------------------------------------------------------

TEXT = st.text("aZ0 _ä€😀'\"\\#=[]{}.,/\n\x7f\x85\u2028", min_size=1, max_size=20)
NAME = TEXT.filter(
    lambda text: not text.startswith(".") and not {"/", "\\"} & set(text) and text.isprintable()
)
SOME: dict[Place, st.SearchStrategy[Any]] = {
    ("name",): NAME,
    ("port",): st.integers(0, 65535),
    ("insecure",): st.booleans(),
    ("reload",): st.sampled_from([True, False, "poll"]),
    ("log", "level"): st.sampled_from(["debug", "info", "warning", "error"]),
    ("limits", "in_flight"): st.integers(1, 4096),
    ("limits", "burst"): st.just(0.0) | st.floats(1, 1e9),
    ("audit", "redact"): st.lists(TEXT, max_size=3),
}
"""Settings of every kind."""

SOURCES = ("file", "environment", "argument")


def literal(value: Any) -> str:
    """A value as it stands in a file."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml(values: dict[Place, Any]) -> str:
    """A file with these values; JSON's texts, numbers and arrays are TOML's too."""
    lines = []
    for table, places in groupby(sorted(values, key=lambda place: place[:-1]), lambda p: p[:-1]):
        lines += [f"[{'.'.join(map(str, table))}]"] if table else []
        lines += [f"{place[-1]} = {literal(values[place])}" for place in places]
    return "\n".join(lines)


def variable(place: Place) -> str:
    """The name of a setting's environment variable."""
    return "HEADGATE_" + "__".join(map(str, place)).upper()


def words(value: Any) -> str:
    """A value as it stands in an environment variable."""
    return value if isinstance(value, str) else json.dumps(value)


@given(data=st.data())
def test_the_strongest_source_wins(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Defaults < file < environment < arguments, for each setting alone; its origin is known."""
    given_by: dict[str, dict[Place, Any]] = {source: {} for source in SOURCES}
    for place, values in SOME.items():
        chosen = data.draw(st.sets(st.sampled_from(SOURCES)), label=str(place))
        for source in sorted(chosen):
            given_by[source][place] = data.draw(values, label=f"{source} {place}")
    file = tmp_path_factory.getbasetemp() / "precedence.toml"
    file.write_text(toml(given_by["file"]), "utf-8")
    configuration = Configuration.load(
        file,
        environment={variable(p): words(value) for p, value in given_by["environment"].items()},
        arguments=[
            Layer.of("argument", f"--{p[-1]}", p, value)
            for p, value in given_by["argument"].items()
        ],
    )
    defaults = Settings().flat()
    flat = configuration.settings.flat()
    for place in SOME:
        winner = next((s for s in reversed(SOURCES) if place in given_by[s]), "default")
        expected = defaults[place] if winner == "default" else given_by[winner][place]
        assert flat[place] == expected
        assert type(flat[place]) is type(expected)
        origin = configuration.origin(place)
        assert origin.kind == winner
        if winner == "file":
            line = file.read_text("utf-8").split("\n")[(origin.line or 0) - 1]
            assert line.startswith(f"{place[-1]} =")
        elif winner != "default":
            assert origin.name == (variable(place) if winner == "environment" else f"--{place[-1]}")


def test_tables_are_merged_and_arrays_replaced(tmp_path: Path) -> None:
    """A zone of the environment stands beside those of the file; its array replaces one."""
    text = """
        [zones.plant]
        addresses = ["10.1.0.0/16", "10.2.0.0/16"]
        hosts = ["panel-*"]
        """
    configuration = load(
        tmp_path,
        text,
        HEADGATE_ZONES='{"office": {"hosts": ["pc-*"]}}',
        HEADGATE_ZONES__plant__ADDRESSES='["10.3.0.0/16"]',
    )
    assert configuration.settings.zones == {
        "plant": Zone(addresses=("10.3.0.0/16",), hosts=("panel-*",)),
        "office": Zone(hosts=("pc-*",)),
    }
    origin = configuration.origin
    assert origin(("zones", "plant", "hosts")).line == 4
    assert str(origin(("zones", "plant", "addresses", 0))) == "HEADGATE_ZONES__plant__ADDRESSES"
    assert str(origin(("zones", "office", "hosts"))) == "HEADGATE_ZONES"
    assert str(origin(("zones", "office", "addresses"))) == "default"


@pytest.mark.parametrize(("text", "value"), [("1", True), ("yes", True), ("OFF", False)])
def test_words_for_true_and_false(tmp_path: Path, text: str, value: bool) -> None:
    """Environment variables know the usual words."""
    assert load(tmp_path, "", HEADGATE_INSECURE=text).settings.insecure is value


def test_empty_variables_are_none(tmp_path: Path) -> None:
    """An empty variable is as good as none, and those of clients are not the gateway's."""
    environment = {"HEADGATE_PORT": "", "HEADGATE_URL": "ws://x", "HEADGATE_HOME": "/x"}
    configuration = load(tmp_path, "port = 5", **environment)
    assert configuration.settings.port == 5
    assert configuration.strangers == ()


def test_strangers_are_told_and_left_alone(tmp_path: Path) -> None:
    """What a container's system sets for a service named headgate stops nothing."""
    names = {"HEADGATE_SERVICE_HOST": "10.0.0.1", "HEADGATE_PORT_8188_TCP": "tcp://10.0.0.1:8188"}
    assert set(load(tmp_path, "", **names).strangers) == set(names)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file means the same from everywhere; a variable means the working folder."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    text = """
        projects = "p"
        data = "/var/data"
        [tls]
        certificate = "../a.pem"
        key = "b/a.key"
        [project.ACME]
        path = "acme"
        """
    settings = load(tmp_path / "etc", text, HEADGATE_TLS__CLIENT_CA="ca.pem").settings
    etc = tmp_path / "etc"
    assert settings.projects == etc / "p"
    assert settings.data == Path("/var/data")
    assert settings.tls.certificate == etc / "../a.pem"
    assert settings.project["ACME"].path == etc / "acme"
    assert settings.tls.client_ca == tmp_path / "work" / "ca.pem"


def test_projects_stand_beside_the_file(tmp_path: Path) -> None:
    """Without a word of projects they are in its folder; with a path of one, only that is meant."""
    assert load(tmp_path, "").folder_of_projects() == tmp_path / "projects"
    one = load(tmp_path, '[project.A]\npath = "a"')
    assert (one.folder_of_projects(), one.named_projects()) == (None, {"A": tmp_path / "a"})


# --- mistakes ------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Each with its line, what is wrong, and the cure; those of variables with their names."""
    text = """\
prot = 1
port = "8188"
[limits]
in_flit = 3
sessions = 0
login_seconds = true
[zones]
plant = { adresses = [] }
[hosts.panel]
[[permission]]
allow = true
[[permission]]
allow = "yes"
user = []
"""
    told = mistakes(
        tmp_path,
        text,
        HEADGATE_LIMITS__IN_FLIGHT="many",
        HEADGATE_HTTP__HOSTS='["a", 3]',
        HEADGATE_ZONES="{",
        HEADGATE_LIMIT__BURST="3",
        HEADGATE_LOG_LEVEL="debug",
    )
    expected = [
        ("HEADGATE_LOG_LEVEL is no setting", "Did you mean HEADGATE_LOG__LEVEL?"),
        ("HEADGATE_LIMIT__BURST is no setting", "Did you mean HEADGATE_LIMITS__BURST?"),
        ("HEADGATE_ZONES is not JSON", "Write a table, as JSON"),
        ("HEADGATE_LIMITS__IN_FLIGHT limits.in_flight cannot be", "a whole number from 1"),
        ("HEADGATE_HTTP__HOSTS http.hosts[1] cannot be 3", "a text in quotes"),
        ("1 'prot' is no setting", "Did you mean 'port'?"),
        ('2 port cannot be "8188"', "Write a whole number from 0 to 65535"),
        ("4 'in_flit' is no setting of limits", "Did you mean 'in_flight'?"),
        ("5 limits.sessions cannot be 0", "a whole number from 1"),
        ("6 limits.login_seconds cannot be true", "a number from 0.01 to 3600"),
        ("8 'adresses' is no setting of zones.plant", "Did you mean 'addresses'?"),
        ("9 hosts.panel has no addresses", "Write addresses = and an array"),
        ('13 permission[1].allow cannot be "yes"', "Write true or false"),
        ("14 'user' is no setting of permission[1]", "Did you mean 'users'?"),
    ]
    assert len(told) == len(expected), told
    for begin, cure in expected:
        (found,) = [each for each in told if each.startswith(begin)]
        assert cure in found


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('[zones]\na = { addresses = ["10.1.4.7/16"] }', 2, "10.1.0.0/16 for the network"),
        ('[zones.a]\naddresses = ["plant"]', 2, "'plant' is no network"),
        ("[zones.a]", 1, "Nobody is in the zone 'a'"),
        ('[zones.a]\nhosts = [" "]', 2, "An empty text matches nothing"),
        ('[hosts]\na = { addresses = ["::1/64"] }', 2, "or ::1 for the one address"),
        (
            '[zones.plant]\nhosts = ["p"]\n[[permission]]\nallow = true\nzones = ["plan"]',
            5,
            "There is no zone 'plan'. Did you mean 'plant'?",
        ),
        (
            '[[permission]]\nallow = true\n\n[[permission]]\nhandlers = ["ACME"]\nallow = true',
            5,
            "Write 'ACME/*'",
        ),
        ('[[permission]]\nallow = true\nactions = ["call"]', 3, '"request" or "message"'),
        ('name = "../other"', 1, "is no name for a gateway"),
        ('name = ""', 1, "is no name for a gateway"),
        ('name = "mill@hub"', 1, "is no name for a gateway"),
        ('name = "a\\nb"', 1, "is no name for a gateway"),
        ('[tls]\nkey = "a.key"', 2, "tls.key is the key of no certificate"),
        ('[http]\norigins = ["https://hmi.example.org/"]', 2, "is no origin"),
        ('[http]\nhosts = ["hub.example.org:8188"]', 2, "is no host name"),
        ('[log]\nlevel = "warn"', 2, '"debug" or "info" or "warning" or "error"'),
        ("limits = 3", 1, "limits cannot be 3. Write a table"),
        ('reload = "pol"', 1, 'Write true or false or "poll"'),
        ("port = 1\nport = 2", 2, "not valid TOML"),
        ("[limits]\nburst = 0.5", 2, "limits.burst is 0.5, and less than one request cannot pass"),
        ("[limits]\nburst = nan", 2, "limits.burst cannot be NaN"),
        ("[audit]\nretain_days = inf", 2, "audit.retain_days cannot be Infinity"),
        ("[audit]\nretain_days = nan", 2, "audit.retain_days cannot be NaN"),
        ("[audit]\nretain_days = 0", 2, "a number above 0 to 36500"),
        ("[audit]\nsegment_bytes = 0", 2, "a whole number from 65536 to 1"),
    ],
)
def test_mistake(tmp_path: Path, text: str, line: int, what: str) -> None:
    """What has no meaning, or another one than it seems to have, is told with its line."""
    (told,) = mistakes(tmp_path, text)
    assert told.startswith(f"{line} "), told
    assert what in told


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """A file that is named must be there."""
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Configuration.load(tmp_path / "nowhere.toml")


def test_secrets_are_not_told(tmp_path: Path) -> None:
    """A secret that stands in the wrong place is in no error."""
    text = 'password = "hunter2"\n[limits]\ntoken = "hunter2"\n[log.levels]\ntoken = "hunter2"'
    told = mistakes(tmp_path, text, HEADGATE_TLS__PASSWORD="hunter2")
    assert len(told) == 4
    assert "hunter2" not in " ".join(told)


def test_settings_of_a_program_are_checked() -> None:
    """Settings that never stood in a file are held to the same rules."""
    rule = Permission(allow=True, zones=("nowhere",))
    with pytest.raises(ConfigurationError, match=r"permission\[0\].zones\[0\]: There is no zone"):
        Configuration.of(Settings(permission=(rule,)))


# --- the documents -------------------------------------------------------------------------------


def test_documents_are_generated() -> None:
    """docs/headgate.toml is `headgate config example`, the schema `headgate config schema`."""
    assert (DOCS / "headgate.toml").read_text("utf-8") == documented_file()
    assert json.loads((DOCS / "headgate.schema.json").read_text("utf-8")) == json_schema()


def uncommented(text: str, pattern: str = r"^#(?=\S)") -> str:
    """The documented file with its settings in force."""
    return re.sub(pattern, "", text, flags=re.MULTILINE)


def test_documented_file_has_every_setting_with_its_default(tmp_path: Path) -> None:
    """Uncommented it changes nothing; what has no default is there as an example."""
    text = documented_file()
    assert tomllib.loads(uncommented(text)) != {}
    configuration = load(tmp_path, uncommented(text))
    assert configuration.settings == Settings()
    for place in Settings().flat():
        stands = rf"^#? ?(\[+)?({re.escape('.'.join(map(str, place)))}|{place[-1]})\b"
        assert re.search(stands, text, re.MULTILINE), place
    assert load(tmp_path, text).settings == Settings()


def test_examples_are_settings(tmp_path: Path) -> None:
    """The examples of the documented file are right, too."""
    lines = uncommented(documented_file(), r"^# (?=\[|[a-z_]+ = )").split("\n")
    settings = load(tmp_path, "\n".join(line for line in lines if line[:1] != "#")).settings
    assert settings.zones["plant"].hosts == ("panel-*",)
    assert settings.hosts == {"panel-1": HostPin(addresses=("10.1.4.7",))}
    assert settings.permission[0].roles == ("operator",)
    assert settings.log.levels == {"headgate.audit": "warning"}


def test_schema_describes_every_setting() -> None:
    """Each has a meaning; nothing but what is known may stand in a table."""
    schema = json_schema()
    nodes = [schema, *schema["$defs"].values()]
    for node in nodes:
        assert node["additionalProperties"] is False
        for name, field in node["properties"].items():
            assert "description" in field or "$ref" in field, name


def test_settings_survive_the_way_round(tmp_path: Path) -> None:
    """What one gateway has, written into variables, is what the next one has."""
    text = """
        port = 1
        [project.ACME]
        path = "a"
        [zones.plant]
        addresses = ["10.1.0.0/16"]
        [[permission]]
        allow = true
        roles = ["operator"]
        zones = ["plant"]
        """
    first = load(tmp_path, text).settings
    values = first.model_dump(mode="json", exclude_none=True)
    environment = {f"HEADGATE_{name}".upper(): words(value) for name, value in values.items()}
    assert Configuration.load(environment=environment).settings == first
    assert dict(flatten(values)).keys() <= first.flat().keys()
