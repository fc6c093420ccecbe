"""Options that many commands share: which gateway is meant, and whether machines read along."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "WHERE",
    "WHERE_OR_URL",
    "Config",
    "Data",
    "GatewayName",
    "Json",
    "Place",
    "options_of",
    "placed",
    "spread",
]

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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which gateway is meant; one of them is enough."""

    url: Url = None
    """Where it runs; what names its folder is stronger."""
    data: Data = None
    """Its own folder."""
    name: GatewayName = None
    """Its name, which its folder has by default."""
    config: Config = None
    """Its configuration. Default: ``headgate.toml`` in the working folder, if it is there."""


def placed(*, url: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Give a command the options of `Place`, in place of its parameter ``place``.

    Args:
        url: Whether the gateway can be named by its URL, too.
    """
    names = ["url"] * url + ["data", "gateway_name", "config"]

    def make(given: dict[str, Any]) -> Place:
        # A command may have a NAME of its own.
        return Place(name=given.pop("gateway_name"), **given)

    options = options_of(Place)
    options["gateway_name"] = options.pop("name").replace(name="gateway_name")
    return lambda command: spread(command, "place", options, names, make)


Parameters = dict[str, inspect.Parameter]


def spread(
    command: Callable[..., None],
    parameter: str,
    options: Parameters,
    names: Iterable[str],
    make: Callable[[dict[str, Any]], object],
) -> Callable[..., None]:
    """
    Give a command several options in place of one parameter.

    Args:
        command: The command.
        parameter: The parameter that they are put together for.
        options: Options by name.
        names: Those that the command is to have.
        make: Makes the parameter's value from those that were given.
    """
    chosen = list(names)

    @wraps(command)
    def called(**given: Any) -> None:
        values = {name: given.pop(name) for name in chosen}
        command(**{parameter: make(values)}, **given)

    own = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for each in own.parameters.values():
        if each.name == parameter:
            parameters += [options[name] for name in chosen]
        else:
            parameters.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return called


def options_of(kind: type) -> Parameters:
    """Return the options that the fields of a dataclass state, by name."""
    return dict(inspect.signature(kind, eval_str=True).parameters)
