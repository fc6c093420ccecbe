"""The configuration of a gateway: ``headgate.toml``, the environment and flags over it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headgate.channel.local import SETTINGS_FILE
from headgate.errors import ConfigurationError
from headgate.gateway.layers import (
    Fields,
    Layer,
    Origin,
    Place,
    dotted,
    flatten,
    is_secret,
    merge,
    own_variables,
    read_environment,
    read_file,
)
from headgate.gateway.limits import Limits
from headgate.handler import known_names
from headgate.scope import MAX_TIMEOUT
from headgate.security.audit import AuditSettings
from headgate.security.policy import Permission
from headgate.security.zones import HostPin, Zone

__all__ = [
    "Configuration",
    "Handlers",
    "Http",
    "Log",
    "ProjectSettings",
    "Settings",
    "Tls",
    "mistakes_of",
]

Level = Literal["debug", "info", "warning", "error"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Tls(_Section):
    """The section ``[tls]``."""

    certificate: Path | None = Field(default=None, examples=["server.pem"])
    """The server's certificate and its chain, PEM. Default: what ``headgate cert init`` made."""

    key: Path | None = Field(default=None, examples=["server.key"])
    """Its private key, PEM. Default: it stands in the certificate's file."""

    client_ca: Path | None = Field(default=None, examples=["ca.pem"])
    """Authorities whose client certificates are taken, PEM. Default: those of ``cert init``."""

    require_client_certificate: bool = False
    """Whether a client of another machine is refused if it shows no certificate."""


class Http(_Section):
    """The section ``[http]``."""

    hosts: tuple[str, ...] = ()
    """Names of this gateway in URLs, beside loopback, its address and those of its certificate."""

    origins: tuple[str, ...] = ()
    """Origins of pages that may connect, such as ``https://hmi.example.org``, beside its own."""


class Log(_Section):
    """The section ``[log]``: what ``headgate run`` logs."""

    level: Level = "info"
    """The least level that is logged."""

    levels: dict[str, Level] = Field(default={}, examples=[{"headgate.audit": "warning"}])
    """Levels of single loggers, such as ``"headgate.audit" = "warning"``."""


class Handlers(_Section):
    """The section ``[handlers]``: what holds for handlers that say nothing themselves."""

    warn_after: Annotated[float, Ge(0), Le(MAX_TIMEOUT)] = 0.0
    """Seconds after which a run that still goes on is named in the log, once; 0 for never."""


class ProjectSettings(_Section):
    """A section ``[project.NAME]``."""

    path: Path | None = Field(default=None, examples=["../ACME"])
    """Where the project stands. Default: in the folder of the projects."""


class Settings(_Section):
    """All of a gateway's settings."""

    name: str = "gateway"
    """The gateway's name in the Gateway Network."""

    projects: Path | None = Field(default=None, examples=["projects"])
    """
    The folder of the projects. Default: ``projects`` beside the file, if no project has a path.
    """

    project: dict[str, ProjectSettings] = Field(
        default={}, examples=[{"ACME": {"path": "../ACME"}}]
    )
    """What is said of single projects."""

    host: str = "127.0.0.1"
    """The address to listen on."""

    port: Annotated[int, Ge(0), Le(65535)] = 8188
    """The port to listen on; 0 takes a free one."""

    data: Path | None = Field(default=None, examples=["data"])
    """The gateway's own folder. Default: one for its name among the user's data."""

    reload: bool | Literal["poll"] = True
    """
    Whether edits of the projects and of this file take effect while it runs; "poll" to look for
    those of projects where the system does not tell of them.
    """

    insecure: bool = False
    """Whether to listen beyond loopback without TLS or without users."""

    tls: Tls = Tls()
    http: Http = Http()
    log: Log = Log()
    handlers: Handlers = Handlers()
    limits: Limits = Limits()
    audit: AuditSettings = AuditSettings()

    zones: dict[str, Zone] = Field(
        default={}, examples=[{"plant": {"addresses": ["10.1.0.0/16"], "hosts": ["panel-*"]}}]
    )
    """Parts of the network, by name."""

    hosts: dict[str, HostPin] = Field(
        default={}, examples=[{"panel-1": {"addresses": ["10.1.4.7"]}}]
    )
    """From where host names may be claimed."""

    permission: tuple[Permission, ...] = Field(
        default=(), examples=[[{"roles": ["operator"], "handlers": ["ACME/*"], "allow": True}]]
    )
    """Rules of who may do what; the first that matches decides, those of this file first."""

    LIVE: ClassVar[frozenset[Place]] = frozenset(
        {
            *(
                ("permission",),
                ("zones",),
                ("hosts",),
                ("limits",),
                ("http",),
                ("log",),
                ("handlers",),
            ),
            *(("audit", name) for name in ("requests", "payloads", "redact", "retain_days")),
        }
    )
    """Places of what can change while the gateway runs."""

    def flat(self) -> dict[Place, Any]:
        """Return all values by place, as JSON knows them."""
        return dict(flatten(self.model_dump(mode="json")))

    @classmethod
    def is_live(cls, place: Place) -> bool:
        """Whether a value can change while the gateway runs."""
        return any(place[:depth] in cls.LIVE for depth in (1, 2))

    def changed_to(self, other: Settings) -> Settings:
        """Return these settings with all of another's that can change while the gateway runs."""
        tables = {str(place[0]): getattr(other, str(place[0])) for place in self.LIVE}
        audit = {str(key): getattr(other.audit, str(key)) for _, *keys in self.LIVE for key in keys}
        return self.model_copy(update={**tables, "audit": replace(self.audit, **audit)})


@dataclass(frozen=True)
class Configuration:
    """Settings, and where each of them comes from."""

    settings: Settings
    file: Path | None = None
    """The file that was read."""
    text: str = field(default="", repr=False)
    """The file's text."""
    strangers: tuple[str, ...] = ()
    """Names of environment variables that begin as settings do, and are none."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment variables that were read."""
    arguments: tuple[Layer, ...] = ()
    """What wins over file and environment."""
    owners: Mapping[Place, Layer] | None = field(default=None, repr=False)
    """Where each value comes from that is no default; None for settings that a program made."""

    @staticmethod
    def load(
        file: Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        arguments: Iterable[Layer] = (),
    ) -> Configuration:
        """
        Read settings: defaults, over them the file, the environment, the arguments.

        Args:
            file: The file. Default: none.
            environment: Environment variables. Default: none.
            arguments: What is given on a command line or in a program.

        Raises:
            ConfigurationError: Something is wrong; with file and line or the variable's name, and
                with all other mistakes that there are.
        """
        fields = _fields()
        file, arguments = None if file is None else file.absolute(), tuple(arguments)
        from_file = [] if file is None else [read_file(file, fields)]
        environment = own_variables(environment or {})
        variables, mistakes, strangers = read_environment(environment, fields)
        values, owners = merge([*from_file, *variables, *arguments])
        settings, wrong = _validated(values, fields)
        mistakes += (_at(_nearest(owners, place), problem, cure) for place, problem, cure in wrong)
        if mistakes:
            raise _together(mistakes)
        assert settings is not None
        return Configuration(
            settings,
            file=file,
            text=from_file[0].text if from_file else "",
            strangers=tuple(strangers),
            environment=environment,
            arguments=arguments,
            owners=owners,
        )

    @staticmethod
    def of(settings: Settings) -> Configuration:
        """
        Return settings that a program made itself.

        Raises:
            ConfigurationError: Something is wrong with them.
        """
        mistakes = [
            _at(Origin("argument", dotted(place)), problem, cure)
            for place, problem, cure in mistakes_of(settings)
        ]
        if mistakes:
            raise _together(mistakes)
        return Configuration(settings)

    def again(self) -> Configuration:
        """Read the same sources again; raises what `load` does."""
        if self.owners is None:
            return self
        return self.load(self.file, environment=self.environment, arguments=self.arguments)

    def under(self, arguments: Iterable[Layer]) -> Configuration:
        """Return this configuration with further arguments over it."""
        more = tuple(arguments)
        if not more:
            return self
        if self.owners is not None:
            replaced = replace(self, arguments=(*self.arguments, *more))
            return replaced.again()
        given = Settings.model_validate(merge(more)[0])
        update = {name: getattr(given, name) for name in given.model_fields_set}
        return self.of(self.settings.model_copy(update=update))

    def origin(self, place: Place) -> Origin:
        """Return where a value comes from."""
        return _origin(self.owners or {}, place)

    def folder_of_projects(self) -> Path | None:
        """Return the folder that holds the projects; None if all of them have a path."""
        if self.settings.projects is not None or self.named_projects():
            return self.settings.projects
        return (Path() if self.file is None else self.file.parent) / "projects"

    def named_projects(self) -> dict[str, Path]:
        """Return the projects with a path of their own, by name."""
        found = {name: project.path for name, project in self.settings.project.items()}
        return {name: path for name, path in found.items() if path is not None}

    def options(self) -> tuple[str, ...]:
        """Return what commands in the working folder need to mean this gateway."""
        settings = self.settings
        given = {self.origin((name,)).kind for name in ("name", "data")}
        if self.file is not None and "argument" not in given:
            usual = self.file == Path(SETTINGS_FILE).absolute()
            return () if usual else ("--config", str(self.file))
        if settings.data is not None:
            return ("--data", str(settings.data))
        return ("--name", settings.name)


@cache
def _fields() -> Fields:
    return Fields(Settings.model_json_schema())


Mistake = tuple[Place, str, str]
"""Where a mistake is, what is wrong, and the cure."""


def _origin(owners: Mapping[Place, Layer], place: Place) -> Origin:
    """Return where a value comes from; an item of an array comes from where the array does."""
    for depth in range(len(place), 0, -1):
        if (layer := owners.get(place[:depth])) is not None:
            return layer.origin(place)
    return Origin()


def _nearest(owners: Mapping[Place, Layer], place: Place) -> Origin:
    """Return where a mistake is: something missing, where its table is."""
    origin = _origin(owners, place)
    for depth in range(len(place), 0, -1) if origin.kind == "default" else ():
        for other, layer in owners.items():
            if other[:depth] == place[:depth]:
                return layer.origin(place)
    return origin


def _at(origin: Origin, problem: str, cure: str) -> ConfigurationError:
    if origin.kind == "file":
        return ConfigurationError(problem, cure=cure, file=origin.name, line=origin.line)
    prefix = "" if origin.kind == "default" else f"{origin.name}: "
    return ConfigurationError(f"{prefix}{problem}", cure=cure)


def _together(mistakes: Iterable[ConfigurationError]) -> ConfigurationError:
    """Return the first mistake with all others in it."""
    first, *others = sorted(mistakes, key=lambda each: (each.file, each.line or 0))
    return ConfigurationError(
        first.problem, cure=first.cure, file=first.file, line=first.line, others=others
    )


# --- what is wrong -----------------------------------------------------------------------------


def _validated(values: Mapping[str, Any], fields: Fields) -> tuple[Settings | None, list[Mistake]]:
    """Return the settings that values are, if they are of the right types, and all mistakes."""
    try:
        # As JSON, strictly: a text is no number, and 1 is not true.
        settings = Settings.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        found = {}
        for each in error.errors(include_url=False, include_context=False, include_input=False):
            place = _place_in(values, each["loc"], fields)
            if each["type"] == "value_error":
                mistake = _contradiction(place, str(each["msg"]))
            else:
                mistake = _misfit(place, str(each["type"]), values, fields)
            found[mistake[0]] = mistake
        return None, list(found.values())
    return settings, list(mistakes_of(settings))


def _place_in(values: Any, location: tuple[str | int, ...], fields: Fields) -> Place:
    """Return the part of a location that is in the values; the rest names the types tried."""
    place: Place = ()
    for key in location:
        inside = isinstance(values, Mapping) and key in values
        inside = inside or (isinstance(values, list) and isinstance(key, int))
        if not inside and not fields.at((*place, key)):
            break
        place += (key,)
        values = values[key] if inside else None
    return place


def _contradiction(place: Place, text: str) -> Mistake:
    """Return what a section says of itself, such as ``limits.burst is 0.5: write 1 or more``."""
    text = text.removeprefix("Value error, ")
    setting = text.partition(" ")[0]
    if setting.startswith(f"{dotted(place)}."):
        place = (*place, *setting.split(".")[len(place) :])
    problem, _, cure = text.partition(": write ")
    return place, problem, f"Write {cure}" if cure else ""


def _misfit(place: Place, kind: str, values: Any, fields: Fields) -> Mistake:
    """Say what is wrong with a value, or a name, that does not fit."""
    table, name = place[:-1], str(place[-1]) if place else ""
    if not fields.at(place):
        where = f" of {dotted(table)}" if table else ""
        return place, f"{name!r} is no setting{where}", known_names(name, fields.names(table))
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        problem = f"{dotted(table)} has no {name}"
        return place, problem, f"Write {name} = and {fields.wanted(place)}"
    for key in place:
        values = values[key]
    shown = "this" if is_secret(place) else json.dumps(values, default=str)
    shown = shown if len(shown) <= 100 else shown[:100] + "…"
    return place, f"{dotted(place)} cannot be {shown}", f"Write {fields.wanted(place)}"


def mistakes_of(settings: Settings) -> Iterator[Mistake]:
    """Find what is of the right type and has no meaning, or another one than it seems to have."""
    name = settings.name
    # With an @, which stands before the gateway in role@gateway, it would seem to be two.
    if not name or name[0] == "." or {"/", "\\", "@"} & set(name) or not name.isprintable():
        cure = "Write letters, digits and dashes: a folder is named after it"
        yield ("name",), f"{settings.name!r} is no name for a gateway", cure
    if settings.tls.key is not None and settings.tls.certificate is None:
        yield ("tls", "key"), "tls.key is the key of no certificate", "Write tls.certificate, too"
    yield from _mistakes_in_http(settings.http)
    for name, zone in settings.zones.items():
        yield from _mistakes_in_networks(("zones", name, "addresses"), zone.addresses)
        yield from _empty_patterns(("zones", name, "hosts"), zone.hosts)
        if not zone.addresses and not zone.hosts:
            yield ("zones", name), f"Nobody is in the zone {name!r}", "Write addresses or hosts"
    for name, pin in settings.hosts.items():
        yield from _mistakes_in_networks(("hosts", name, "addresses"), pin.addresses)
    for number, rule in enumerate(settings.permission):
        yield from _mistakes_in_rule(("permission", number), rule, settings.zones)


def _mistakes_in_http(http: Http) -> Iterator[Mistake]:
    for number, host in enumerate(http.hosts):
        if not host or re.search(r"[/\s]|:\d+$", host):
            cure = "Write the name alone, such as hub.example.org"
            yield ("http", "hosts", number), f"{host!r} is no host name", cure
    for number, origin in enumerate(http.origins):
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            cure = "Write scheme, name and port without a path, such as https://hmi.example.org"
            yield ("http", "origins", number), f"{origin!r} is no origin of a page", cure


def _mistakes_in_networks(place: Place, networks: Iterable[str]) -> Iterator[Mistake]:
    for number, text in enumerate(networks):
        try:
            ip_network(text)
        except ValueError:
            yield (*place, number), f"{text!r} is no network", _network_cure(text)


def _network_cure(text: str) -> str:
    try:
        meant = ip_interface(text)
    except ValueError:
        return "Write an address or a network, such as 10.1.4.7 or 10.1.0.0/16"
    return f"Write {meant.network} for the network, or {meant.ip} for the one address"


def _empty_patterns(place: Place, patterns: Iterable[str]) -> Iterator[Mistake]:
    for number, pattern in enumerate(patterns):
        if not pattern.strip():
            cure = "Write a name or a pattern, such as *"
            yield (*place, number), "An empty text matches nothing", cure


def _mistakes_in_rule(
    place: Place, rule: Permission, zones: Mapping[str, Zone]
) -> Iterator[Mistake]:
    for key in ("users", "roles", "gateways", "handlers"):
        yield from _empty_patterns((*place, key), getattr(rule, key))
    for number, zone in enumerate(rule.zones):
        if zone not in zones:
            yield (*place, "zones", number), f"There is no zone {zone!r}", known_names(zone, zones)
    for number, pattern in enumerate(rule.handlers):
        if pattern.strip() and not {"/", "*"} & set(pattern):
            cure = f"Write {pattern + '/*'!r} for all handlers of a project"
            yield (*place, "handlers", number), f"{pattern!r} matches no project/handler", cure
