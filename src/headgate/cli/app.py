"""The commands with their arguments."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Literal

import typer

from headgate import __version__
from headgate.channel.address import DEFAULT_PORT
from headgate.cli import audit, cert, permission, users
from headgate.cli.access import Access, calls
from headgate.cli.ends import EXIT_CODES, reporting
from headgate.cli.options import Config, Data, GatewayName, Json, Place
from headgate.errors import ConfigurationError

__all__ = ["app"]

EPILOG = "\n\n".join(
    [
        "\n".join(["Exit codes", *(f"{code:>4}  {text}" for code, text in EXIT_CODES.items())]),
        "With --json, stdout is one JSON document, an object. An error that ends the\n"
        'command is one too: {"error": {"code", "type", "message", "started", "fate"}},\n'
        "with the same exit code. Only what is wrong with the arguments themselves is\n"
        "text on stderr.",
        "HEADGATE_URL is the gateway to call, HEADGATE_CA the file with the authority\n"
        "of its certificate, HEADGATE_HOME the folder of your data. You log in with\n"
        "HEADGATE_USER and HEADGATE_PASSWORD_FILE, or HEADGATE_TOKEN_FILE, or\n"
        "HEADGATE_TOKEN, or HEADGATE_CERTIFICATE and HEADGATE_KEY; without any of\n"
        "them as the gateway's owner, on its own machine. All settings of a gateway\n"
        "have variables, too: headgate config example.",
    ]
)

app = typer.Typer(
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RUN, CALL, ACCESS = "Gateways and projects", "Call a gateway", "Who may what"
"""Where commands stand in the help."""

settings = typer.Typer(no_args_is_help=True)
app.add_typer(
    settings,
    name="config",
    help="Settings: show and check them, and what there is.",
    rich_help_panel=RUN,
)

for _group in (users.user, users.token, users.certificate, permission.permission, cert.cert):
    app.add_typer(_group, rich_help_panel=ACCESS)
app.add_typer(audit.app, name="audit", rich_help_panel=ACCESS)

ProjectName = Annotated[str, typer.Argument(metavar="PROJECT", help="Name of the project.")]
HandlerName = Annotated[str, typer.Argument(metavar="HANDLER", help="Name of the handler.")]
Payload = Annotated[
    str | None,
    typer.Argument(
        metavar="PAYLOAD",
        help="JSON, @FILE with JSON, or - for JSON on stdin. Default: an empty dictionary.",
        show_default=False,
    ),
]
Projects = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Holds a folder for each project. Default: as the settings say, else projects.",
        show_default=False,
    ),
]
Named = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PATH", help="One project more, wherever it stands. Repeatable."),
]
ActionName = Literal["request", "message", "see", "administer", "host"]
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


@app.command(rich_help_panel=RUN)
def demo() -> None:
    """See it work: a gateway, a client, and the manual page's requests as they happen."""
    from headgate.cli.demo import demo

    demo()


@app.command(rich_help_panel=RUN)
def run(
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The gateway's name, which its own folder has. Default: as the settings say, else "
            "gateway.",
            show_default=False,
        ),
    ] = None,
    projects: Projects = None,
    project: Named = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The address to listen on; other machines need TLS. Default: as the settings say, "
            "else 127.0.0.1.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="The port to listen on; 0 takes a free one. Default: as the settings say, else "
            f"{DEFAULT_PORT}.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    config: Config = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen beyond this machine without TLS or without users."),
    ] = False,
    reload: Annotated[
        bool | None,
        typer.Option(
            help="Let edits of projects and settings take effect while it runs. Default: yes.",
            show_default=False,
        ),
    ] = None,
    poll: Annotated[
        bool,
        typer.Option(
            "--poll", help="Look for edits where the system does not tell, as in some containers."
        ),
    ] = False,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(help="What to log, to stderr. Default: info.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The ready line and the log are JSON.")
    ] = False,
) -> None:
    """
    Run a gateway until SIGTERM or Ctrl-C.

    When it is ready it prints one line with its URL on stdout; the log goes to
    stderr. After the first signal requests in flight have 5 seconds to finish,
    a second one ends it at once. SIGHUP reads settings and projects again.

    Settings come from headgate.toml, from environment variables such as
    HEADGATE_PORT, and from these options; what comes later wins.
    """
    from headgate.cli.run import run

    with reporting(as_json=as_json):
        named = _named(project)
    options = {
        "--name": (("name",), name),
        "--host": (("host",), host),
        "--port": (("port",), port),
        "--data": (("data",), data and data.absolute()),
        "--poll" if poll else "--reload": (
            ("reload",),
            "poll" if poll and reload is not False else reload,
        ),
        "--insecure": (("insecure",), insecure or None),
        "--log-level": (("log", "level"), log_level),
    }
    run(config, options, projects=projects, named=named, as_json=as_json)


@app.command(rich_help_panel=RUN)
def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Where to make it; it need not exist. Default: the working folder.",
            show_default=False,
        ),
    ] = Path(),
    project: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the project. Default: the folder's name."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where the gateway is to listen, such as 0.0.0.0 for all of the network. "
            "Default: on this machine only.",
        ),
    ] = None,
) -> None:
    """
    Make a folder with a gateway's settings and a first project; nothing is overwritten.

    The gateway has the folder's name. Commands that are given in the folder mean it.
    """
    from headgate.cli.projects import init

    init(folder, project=project, host=host)


@app.command(rich_help_panel=RUN)
def check(
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="FOLDER|PROJECT/HANDLER",
            help="The same as --projects; with --user, the handler to ask for.",
            show_default=False,
        ),
    ] = None,
    projects: Projects = None,
    project: Named = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="May this user call PROJECT/HANDLER?")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--from", metavar="ADDRESS", help="The user's IP address.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="NAME", help="The user's host name, verified.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE", help="A role of the user, instead of those in the database. Repeatable."
        ),
    ] = None,
    gateway: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A gateway that the request comes through. Repeatable, the first first.",
        ),
    ] = None,
    action: Annotated[ActionName, typer.Option(help="What the user wants to do.")] = "request",
    config: Config = None,
    data: Data = None,
    name: GatewayName = None,
    as_json: Json = False,
) -> None:
    """
    Load projects without a gateway: list their handlers, and every problem.

    A problem has file, line and cure; the exit code is 1 if there are any.

    --json prints {"handlers": […], "problems": […]}.

    With --user: tell whether a user may do something, and which rule decides, from the
    configuration and the database, whether the gateway runs or not. The exit code is 5
    if not. --json prints {"allow": …, "where": …, "rule": {…}, "roles": […]}.
    """
    with reporting(as_json=as_json):
        if user is None and any((address, host, role, gateway, data, name)):
            raise ConfigurationError(
                "--from, --host, --role, --gateway, --data and --name need --user",
                cure="Add --user NAME, or leave them out to check projects",
            )
        if user is not None and (folder is None or projects is not None or project):
            raise ConfigurationError(
                "With --user, PROJECT/HANDLER is asked for, and no project is loaded",
                cure="Write: headgate check --user NAME PROJECT/HANDLER",
            )
        if folder is not None and projects is not None:
            raise ConfigurationError("FOLDER and --projects are the same", cure="Give one of them")
        named = _named(project)
    if user is None:
        from headgate.cli.projects import check

        check(Path(folder) if folder else projects, named, config=config, as_json=as_json)
        return
    from headgate.cli.allowed import Asked, check_access

    asked = Asked(
        user=user,
        address=address,
        host=host,
        roles=role or None,
        gateways=gateway or [],
        action=action,
        target=folder or "",
    )
    check_access(asked, Place(config=config, data=data, name=name), as_json=as_json)


@app.command(rich_help_panel=CALL)
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
    priority: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which of those that wait begins first: low, normal or high.",
            show_default=False,
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            help="How often to send it again if it certainly did not begin.",
            show_default=False,
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """
    Send a request to a message handler and print its result as JSON.

    Progress goes to stderr. Ctrl-C cancels the request, and tells what became of
    the handler. What JSON has not is text: times in ISO 8601, bytes in Base64.

    A handler that yields has each value printed on a line, as it comes.

    --json prints {"result": …} or {"error": …}, and before it {"value": …} for each
    value of a handler that yields.
    """
    from headgate.cli import call

    call.request(
        call.Target(access=access, project=project, handler=handler, as_json=as_json),
        payload,
        call.Wishes(
            timeout=timeout,
            remote_server=remote_server,
            host_name=host_name,
            priority=priority,
            retries=retries,
        ),
    )


@app.command(rich_help_panel=CALL)
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


@app.command(rich_help_panel=CALL)
@calls
def handlers(
    *,
    project: Annotated[
        str | None, typer.Argument(metavar="PROJECT", help="Only this one.", show_default=False)
    ] = None,
    handler: Annotated[
        str | None, typer.Argument(metavar="HANDLER", help="Only this one.", show_default=False)
    ] = None,
    access: Access,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schemas of typed handlers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """
    List the message handlers of a gateway, and what is wrong with its projects.

    --schema prints {PROJECT: {HANDLER: {"payload": …, "result": …}}}, as far as
    they are annotated.

    --json prints {"handlers": […], "problems": […]}.
    """
    from headgate.cli import call

    named = {"project": project, "handler": handler}
    call.handlers(
        call.Target(access=access, as_json=as_json),
        {what: name for what, name in named.items() if name is not None},
        schema=schema,
    )


@app.command(rich_help_panel=CALL)
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
    queued: Annotated[
        bool, typer.Option("--queued", help="Show the requests that wait to begin, too.")
    ] = False,
    access: Access,
    as_json: Json = False,
) -> None:
    """
    Show what runs on a gateway: handler, state, for how long, where and for whom.

    A run is running, waiting for a request of its own, stopping, or abandoned: its
    request is over, but a thread cannot be stopped. 8 abandoned threads of one
    project make its thread handlers answer Overloaded.

    A run is on a thread of the gateway or in a worker process, whose memory and
    processor time are shown. --queued lists 1,000 requests that wait at most.

    Of other people's runs only an administrator is shown whose they are, and which
    worker processes there are.

    --json prints {"running": […], "queued": […], "workers": […], "draining": …}, with
    --queued "queue": […] too; with --stack the run with its stack, a list of lines.
    Times are in seconds, memory in bytes.
    """
    from headgate.cli import ps
    from headgate.cli.call import Target

    target = Target(access=access, as_json=as_json)
    if stack is None:
        ps.ps(target, queue=queued)
    else:
        ps.stack(target, stack)


@app.command(rich_help_panel=CALL)
@calls
def cancel(
    *,
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The request: its ID in headgate ps, its whole ID, or how only one begins.",
        ),
    ],
    access: Access,
    as_json: Json = False,
) -> None:
    """
    Cancel a request that runs or waits, and stop its handler as far as that goes.

    Its caller gets CancellationException. It waits up to a second for what becomes of
    the handler: not started, stopped, finished, or still running. The exit code is 0 if
    nothing of it runs any more, 1 if it may, and 6 if there is no such request.

    Everybody may cancel their own requests, an administrator those of others.

    --json prints {"id", "request_id", "project", "handler", "cancelled", "fate"}.
    """
    from headgate.cli import ps
    from headgate.cli.call import Target

    ps.cancel(Target(access=access, handler="cancel", as_json=as_json), request_id)


@app.command(rich_help_panel=CALL)
@calls
def drain(
    *,
    off: Annotated[bool, typer.Option("--off", help="Take up service again.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="How long to wait; the gateway goes on draining. Default: as long as it takes.",
            show_default=False,
        ),
    ] = None,
    access: Access,
    as_json: Json = False,
) -> None:
    """
    Let a gateway finish what is under way and take nothing new, and wait for that.

    New requests end with GatewayUnreachable, which has not started anything. What
    waits begins, what runs may ask for what it needs, sessions stay connected. When
    the command ends with 0 nothing is under way, and the gateway may be stopped. 3: the
    time is up; 1: somebody let it take up service again.

    --json prints {"draining": …, "under_way": …, "abandoned": …}.
    """
    from headgate.cli import ps
    from headgate.cli.call import Target

    target = Target(access=access, handler="drain", as_json=as_json)
    ps.drain(target, off=off, timeout=timeout)


@app.command(rich_help_panel=CALL)
@calls
def stats(*, access: Access, as_json: Json = False) -> None:
    """
    Show a gateway's numbers: how much there is of what, and what limits refused.

    The counters of the limits go up only, from 0 when the gateway started; each has
    the name of its setting.

    --json prints {"stats": {…}, "counters": {…}}.
    """
    from headgate.cli import stats
    from headgate.cli.call import Target

    stats.stats(Target(access=access, as_json=as_json))


@app.command(rich_help_panel=CALL)
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
    Let a gateway load what changed in its projects and settings, and say what came of it.

    It returns when the new handlers serve. What has a problem is tried again. The
    exit code is 1 if there are problems; what served before them goes on.

    --json prints {"added": […], "changed": […], "removed": […], "kept": […],
    "problems": […], "settings": {"changed": […], "restart": […], "mistakes": […]}}.
    """
    from headgate.cli import call

    target = call.Target(access=access, handler="reload", as_json=as_json)
    call.reload(target, everything=everything)


@settings.command()
def show(
    config: Config = None,
    origin: Annotated[bool, typer.Option("--origin", help="Where each value comes from.")] = False,
    url: Annotated[
        str | None,
        typer.Option(help="Those that are in force on a gateway that runs.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """
    Show the settings that a gateway started here would have.

    --json prints {"file": …, "settings": [{"key", "value", "origin", "line"}, …]}.
    """
    from headgate.cli.config import show, show_running

    if url is None:
        show(config, origins=origin, as_json=as_json)
    else:
        show_running(url, as_json=as_json)


@settings.command("check")
def check_config(config: Config = None, as_json: Json = False) -> None:
    """
    Check settings: the file, and the environment variables over it.

    A mistake has file, line and cure; the exit code is 1 if there are any.

    --json prints {"file": …, "mistakes": […], "unknown": […]}.
    """
    from headgate.cli.config import check

    check(config, as_json=as_json)


@settings.command()
def schema() -> None:
    """Print the JSON Schema of headgate.toml, for editors."""
    from headgate.cli import config

    config.schema()


@settings.command()
def example() -> None:
    """Print a headgate.toml with every setting, its meaning and its default."""
    from headgate.cli import config

    config.example()


def _named(pairs: list[str] | None) -> dict[str, Path]:
    named = {}
    for pair in pairs or []:
        name, separator, path = pair.partition("=")
        if not (name and separator and path):
            raise ConfigurationError(f"{pair!r} names no project", cure="Write --project NAME=PATH")
        named[name] = Path(path)
    return named


def _flow(group: typer.Typer) -> None:
    """Make each paragraph of the help one line: the terminal breaks it where it is full."""
    for command in group.registered_commands:
        if command.callback is not None:
            paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
            command.help = "\n\n".join(" ".join(text.split()) for text in paragraphs)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _flow(inner.typer_instance)


_flow(app)
