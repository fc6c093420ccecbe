"""The commands with their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from headgate import __version__
from headgate.channel.address import DEFAULT_PORT
from headgate.cli import cert, users
from headgate.cli.access import Access, calls
from headgate.cli.ends import EXIT_CODES, reporting
from headgate.errors import ConfigurationError

__all__ = ["app"]

EPILOG = "\n\n".join(
    [
        "\n".join(["Exit codes", *(f"{code:>4}  {text}" for code, text in EXIT_CODES.items())]),
        "With --json, stdout is one JSON document, an object. An error that ends the\n"
        'command is one too: {"error": {"code", "type", "message", "started", "fate"}},\n'
        "with the same exit code. Only what is wrong with the arguments themselves is\n"
        "text on stderr.",
        "HEADGATE_URL is the gateway to call, HEADGATE_CA the authority of its certificate\n"
        "(for wss://), HEADGATE_HOME the folder of your data. HEADGATE_USER with\n"
        "HEADGATE_PASSWORD_FILE, or HEADGATE_TOKEN_FILE, HEADGATE_TOKEN, or\n"
        "HEADGATE_CERTIFICATE with HEADGATE_KEY are what you log in with.",
    ]
)

app = typer.Typer(
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _group in (users.user, users.token, users.certificate, cert.cert):
    app.add_typer(_group)

Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON document on stdout.")]
ProjectName = Annotated[str, typer.Argument(help="Name of the project.")]
HandlerName = Annotated[str, typer.Argument(help="Name of the handler.")]
Payload = Annotated[
    str | None,
    typer.Argument(
        help="JSON, @FILE with JSON, or - for JSON on stdin. Default: an empty dictionary.",
        show_default=False,
    ),
]
Projects = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Holds a folder for each project. Default: projects, if no --project is given.",
        show_default=False,
    ),
]
Named = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PATH", help="One project more, wherever it stands. Repeatable."),
]
GatewayName = Annotated[str, typer.Option(help="Its name in the Gateway Network.")]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The gateway's own folder. Default: one for its name among your data.",
        show_default=False,
    ),
]
LogLevel = Literal["debug", "info", "warning", "error"]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headgate {__version__}")
        raise typer.Exit


@app.callback()
def _headgate(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """A gateway for request/response messaging, with the scripting interface of Ignition."""


@app.command()
def demo() -> None:
    """See it work: a gateway, a client, and the manual page's requests as they happen."""
    from headgate.cli.demo import demo

    demo()


@app.command()
def run(
    name: GatewayName = "gateway",
    projects: Projects = None,
    project: Named = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")
    ] = DEFAULT_PORT,
    data: Data = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen beyond this machine without TLS or without users."),
    ] = False,
    reload: Annotated[
        bool, typer.Option(help="Let edits of the projects take effect while it runs.")
    ] = True,
    poll: Annotated[
        bool,
        typer.Option(
            "--poll", help="Look for edits where the system does not tell, as in some containers."
        ),
    ] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What to log, to stderr.")] = "info",
    as_json: Annotated[
        bool, typer.Option("--json", help="The ready line and the log are JSON.")
    ] = False,
) -> None:
    """
    Run a gateway until SIGTERM or Ctrl-C.

    When it is ready it prints one line with its URL on stdout; the log goes to
    stderr. After the first signal requests in flight have 5 seconds to finish,
    a second one ends it at once.
    """
    from headgate.cli.run import run

    with reporting(as_json=as_json):
        named = _named(project)
    run(
        name,
        projects=projects,
        named=named,
        host=host,
        port=port,
        data=data,
        insecure=insecure,
        reload="poll" if reload and poll else reload,
        log_level=log_level,
        as_json=as_json,
    )


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to make it; it need not exist.")],
    project: Annotated[
        str | None, typer.Option(help="Name of the project. Default: the folder's name.")
    ] = None,
) -> None:
    """Make a folder with a first project in it; nothing is overwritten."""
    from headgate.cli.projects import init

    init(folder, project=project)


@app.command()
def check(
    folder: Annotated[
        Path | None, typer.Argument(help="The same as --projects.", show_default=False)
    ] = None,
    projects: Projects = None,
    project: Named = None,
    as_json: Json = False,
) -> None:
    """
    Load projects without a gateway: list their handlers, and every problem.

    A problem has file, line and cure; the exit code is 1 if there are any.

    --json prints {"handlers": […], "problems": […]}.
    """
    from headgate.cli.projects import check

    with reporting(as_json=as_json):
        if folder is not None and projects is not None:
            raise ConfigurationError("FOLDER and --projects are the same", cure="Give one of them")
        named = _named(project)
    check(folder or projects, named, as_json=as_json)


@app.command()
@calls
def request(
    *,
    project: ProjectName,
    handler: HandlerName,
    payload: Payload = None,
    access: Access,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Default: 60.", show_default=False),
    ] = None,
    remote_server: Annotated[
        str | None, typer.Option(metavar="NAME", help="The gateway of the Gateway Network to ask.")
    ] = None,
    host_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The client on this host is meant.")
    ] = None,
    as_json: Json = False,
) -> None:
    """
    Send a request to a message handler and print its result as JSON.

    Progress goes to stderr. Ctrl-C cancels the request, and tells what became of
    the handler. What JSON has not is text: times in ISO 8601, bytes in Base64.

    --json prints {"result": …} or {"error": …}.
    """
    from headgate.cli import call

    call.request(
        call.Target(access=access, project=project, handler=handler, as_json=as_json),
        payload,
        timeout=timeout,
        remote_server=remote_server,
        host_name=host_name,
    )


@app.command()
@calls
def message(
    *,
    project: ProjectName,
    handler: HandlerName,
    payload: Payload = None,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="LETTERS",
            help="To whom: C (clients), G (the gateway), S (web sessions). Default: CGS.",
            show_default=False,
        ),
    ] = None,
    access: Access,
    as_json: Json = False,
) -> None:
    """
    Send a message to handlers and print the report of its delivery.

    It is fine if anybody got the message; else the exit code is the first
    receiver's, and 6 if there is none.

    --json prints {"delivery": […]}.
    """
    from headgate.cli import call

    target = call.Target(access=access, project=project, handler=handler, as_json=as_json)
    call.message(target, payload, scope=scope)


@app.command()
@calls
def handlers(access: Access, as_json: Json = False) -> None:
    """
    List the message handlers of a gateway, and what is wrong with its projects.

    --json prints {"handlers": […], "problems": […]}.
    """
    from headgate.cli import call

    call.handlers(call.Target(access=access, as_json=as_json))


@app.command()
@calls
def ps(
    *,
    stack: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Show the Python stack of this run: its ID here, its request's ID, or how only "
            "one of them begins.",
            show_default=False,
        ),
    ] = None,
    access: Access,
    as_json: Json = False,
) -> None:
    """
    Show what runs on a gateway: handler, thread, for how long and for whom.

    A run is running, waiting for a request of its own, or abandoned: its request
    is over, but a thread cannot be stopped. 8 abandoned threads of one project
    make its thread handlers answer Overloaded.

    --json prints {"running": […], "queued": […]}; with --stack the run with its
    stack, a list of lines.
    """
    from headgate.cli import ps
    from headgate.cli.call import Target

    target = Target(access=access, as_json=as_json)
    if stack is None:
        ps.ps(target)
    else:
        ps.stack(target, stack)


@app.command()
@calls
def reload(
    *,
    access: Access,
    everything: Annotated[
        bool, typer.Option("--all", help="All projects, not only those that changed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """
    Let a gateway load what changed in its projects, and say what that came to.

    It returns when the new handlers serve. What has a problem is tried again. The
    exit code is 1 if there are problems; what served before them goes on.

    --json prints {"added": […], "changed": […], "removed": […], "kept": […],
    "problems": […]}.
    """
    from headgate.cli import call

    target = call.Target(access=access, handler="reload", as_json=as_json)
    call.reload(target, everything=everything)


def _named(pairs: list[str] | None) -> dict[str, Path]:
    named = {}
    for pair in pairs or []:
        name, separator, path = pair.partition("=")
        if not (name and separator and path):
            raise ConfigurationError(f"{pair!r} names no project", cure="Write --project NAME=PATH")
        named[name] = Path(path)
    return named
