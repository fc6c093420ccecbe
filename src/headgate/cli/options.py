"""Options that many commands share: which gateway is meant, and whether machines read along."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["WHERE", "WHERE_OR_URL", "Config", "Data", "GatewayName", "Json", "Url"]

WHERE = (
    "The gateway is that of headgate.toml in the working folder, else the one named gateway, "
    "whether it runs or not; --config, --name or --data choose another one."
)
"""What the help of commands for a gateway's folder ends with."""

WHERE_OR_URL = f"{WHERE} --url asks one that runs; log in there with HEADGATE_USER and so on."
"""The same for commands that a running gateway can be asked for, too."""

Url = Annotated[
    str | None,
    typer.Option(
        envvar="HEADGATE_URL", help="A gateway that runs, by its URL.", show_default=False
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The gateway's own folder. Default: as the settings say, else one for its name.",
        show_default=False,
    ),
]
GatewayName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="The gateway's name. Default: as the settings say, else gateway.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The settings. Default: headgate.toml in the working folder, if it is there.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON document on stdout.")]
