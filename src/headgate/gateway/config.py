"""The configuration of a gateway: ``headgate.toml``, the environment and flags over it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from headgate.gateway.limits import Limits
from headgate.security.audit import AuditSettings
from headgate.security.policy import Permission
from headgate.security.zones import HostPin, Zone

__all__ = ["Http", "Log", "ProjectSettings", "Settings", "Tls"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Tls(_Section):
    """The section ``[tls]``."""

    certificate: Path | None = None
    """The server's certificate and its chain, PEM. Default: what ``headgate cert init`` made."""

    key: Path | None = None
    """Its private key, PEM."""

    client_ca: Path | None = None
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
    """The section ``[log]``."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged."""

    levels: dict[str, Literal["debug", "info", "warning", "error"]] = {}
    """Levels of single loggers, such as ``"headgate.audit" = "warning"``."""


class ProjectSettings(_Section):
    """A section ``[project.NAME]``."""

    path: Path | None = None
    """Where the project stands. Default: in the folder of the projects."""


class Settings(_Section):
    """All of a gateway's settings."""

    name: str = "gateway"
    """The gateway's name in the Gateway Network."""

    projects: Path | None = None
    """The folder of the projects."""

    project: dict[str, ProjectSettings] = {}
    """What is said of single projects."""

    host: str = "127.0.0.1"
    """The address to listen on."""

    port: int = 8188
    """The port to listen on; 0 takes a free one."""

    data: Path | None = None
    """The gateway's own folder. Default: one for its name among the user's data."""

    reload: bool | Literal["poll"] = True
    """Whether edits of the projects take effect while it runs."""

    insecure: bool = False
    """Whether to listen beyond loopback without TLS or without users."""

    tls: Tls = Tls()
    http: Http = Http()
    log: Log = Log()
    limits: Limits = Limits()
    audit: AuditSettings = AuditSettings()
    zones: dict[str, Zone] = {}
    hosts: dict[str, HostPin] = {}
    permission: tuple[Permission, ...] = ()
