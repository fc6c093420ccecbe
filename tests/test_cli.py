"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from queue import Queue
from textwrap import dedent
from typing import Any
from uuid import UUID

import numpy
import pytest
from typer.testing import CliRunner

import headgate
from headgate import Dataset, errors
from headgate.channel.address import DEFAULT_PORT, DEFAULT_URL
from headgate.cli.app import app
from headgate.cli.ends import EXIT_CODES, ExitCode, exit_code
from headgate.cli.output import jsonable
from headgate.cli.ps import duration
from headgate.gateway.config import Configuration, Settings
from headgate.gateway.limits import Limits

HANDLERS = {
    "double": """
        def handleMessage(payload):
            return {"double": payload["number"] * 2}
        """,
    "echo": """
        def handleMessage(payload):
            return payload
        """,
    "types": """
        import datetime, decimal

        def handleMessage(payload):
            return {"at": datetime.date(2024, 2, 29), "price": decimal.Decimal("1.10"), 5: b"hi"}
        """,
    "table": """
        def handleMessage(payload):
            return system.dataset.toDataSet(["tank", "level"], [["T1", 1.5], ["T2", None]])
        """,
    # Works until nobody waits for it any more, or for the seconds that it is told.
    "long": """
        import time

        def handleMessage(payload, context):
            end = time.monotonic() + payload.get("seconds", 30)
            context.progress({"step": 1})
            while not context.cancelled and time.monotonic() < end:
                time.sleep(0.005)
            return "done"
        """,
    "single": """
        import time
        import headgate

        @headgate.handler(concurrency=1, queue=0)
        def handleMessage(payload, context):
            context.progress("busy")
            while not context.cancelled:
                time.sleep(0.005)
        """,
    "count": """
        def handleMessage(payload):
            for number in range(payload["n"]):
                yield {"number": number}
            if payload.get("fails"):
                raise ValueError("no more")
        """,
    "fast": """
        async def handleMessage(payload):
            return None
        """,
    "typed": """
        def handleMessage(payload: list[int]) -> dict[str, float]:
            return {"mean": sum(payload) / len(payload)}
        """,
}


@dataclass(frozen=True)
class Plant:
    """A running gateway process on the handlers above."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    environment: dict[str, str]
    log: Path

    @property
    def url(self) -> str:
        """The URL in the gateway's ready line."""
        return str(self.ready["url"])


def command(*arguments: str) -> list[str]:
    """The command line of a process of `headgate`."""
    return [sys.executable, "-m", "headgate", *arguments]


def invoke(*arguments: str, stdin: str = "") -> Any:
    """Run a command in this process."""
    return CliRunner().invoke(app, arguments, input=stdin)


@contextmanager
def started(
    *arguments: str, environment: dict[str, str], **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A process of `headgate` that Ctrl-C reaches, also where pytest runs in the background."""
    # Whoever waits for a line gets it also where Python buffers what goes into a pipe.
    environment = {k: v for k, v in environment.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command(*arguments),
        env=environment,
        stdin=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Plant]:
    """A gateway process that is ready."""
    messages = folder / "projects" / "P" / "messages"
    if not messages.exists():
        messages.mkdir(parents=True)
        for name, script in HANDLERS.items():
            (messages / f"{name}.py").write_text(dedent(script))
        (messages / "broken.py").write_text("def handleMessage(:\n")
    environment = {**os.environ, "HEADGATE_HOME": str(folder / "home")}
    options = ["--projects", str(folder / "projects"), "--port", "0", "--json", *arguments]
    log = folder / "log"
    with (
        log.open("w") as stderr,
        started("run", *options, environment=environment, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield Plant(process, ready, {**environment, "HEADGATE_URL": ready["url"]}, log)


@pytest.fixture(scope="module")
def module_plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """One gateway process for this module."""
    with running(tmp_path_factory.mktemp("plant")) as plant:
        yield plant


@pytest.fixture
def plant(module_plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """The module's gateway process; commands in this process call it."""
    for name in ("HEADGATE_HOME", "HEADGATE_URL"):
        monkeypatch.setenv(name, module_plant.environment[name])
    return module_plant


def error_of(result: Any) -> dict[str, Any]:
    """The error in the JSON document that a command printed."""
    document = json.loads(result.stdout)
    assert list(document) == ["error"]
    return dict(document["error"])


# --- request: results ----------------------------------------------------------------------------


def test_request_prints_the_result(plant: Plant) -> None:
    """The result is JSON that is good to read, alone on stdout; exit code 0."""
    result = invoke("request", "P", "double", '{"number": 55}')
    assert (result.stdout, result.exit_code) == ('{\n  "double": 110\n}\n', 0)


def test_request_for_machines(plant: Plant) -> None:
    """With --json, stdout is one line with the result under its name."""
    result = invoke("request", "P", "double", '{"number": 55}', "--json")
    assert (result.stdout, result.exit_code) == ('{"result": {"double": 110}}\n', 0)


def test_request_prints_values_as_they_come(plant: Plant) -> None:
    """A handler that yields: a line for each value, and with --json the end in another one."""
    result = invoke("request", "P", "count", '{"n": 2}')
    assert (result.stdout, result.exit_code) == ('{"number": 0}\n{"number": 1}\n', 0)
    assert invoke("request", "P", "count", '{"n": 0}').stdout == ""
    result = invoke("request", "P", "count", '{"n": 1}', "--json")
    assert result.stdout == '{"value": {"number": 0}}\n{"result": null}\n'
    result = invoke("request", "P", "count", '{"n": 1, "fails": true}', "--json")
    first, last = map(json.loads, result.stdout.splitlines())
    assert first == {"value": {"number": 0}}
    assert last["error"]["code"] == "handler_error"
    assert result.exit_code == 1


def test_result_that_looks_like_an_error(plant: Plant) -> None:
    """A result cannot be taken for an error, whatever it holds."""
    result = invoke("request", "P", "echo", '{"error": "none"}', "--json")
    assert json.loads(result.stdout) == {"result": {"error": "none"}}


def test_request_with_priority_and_retries(plant: Plant) -> None:
    """A request may be urgent, and sent again."""
    options = ("--priority", "high", "--retries", "3")
    result = invoke("request", "P", "double", '{"number": 55}', *options)
    assert (result.stdout, result.exit_code) == ('{\n  "double": 110\n}\n', 0)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--priority", "urgent", "priority is one of low, normal, high, not 'urgent'"),
        ("--retries", "101", "retries is a whole number from 0 to 100, not 101"),
    ],
)
def test_wishes_that_cannot_be(plant: Plant, option: str, value: str, text: str) -> None:
    """They are errors of use that say what can be."""
    result = invoke("request", "P", "double", option, value, "--json")
    assert result.exit_code == 2
    assert text in error_of(result)["message"]


@pytest.mark.parametrize("argument", ["text", "file", "stdin"])
def test_payload_comes_from_anywhere(plant: Plant, tmp_path: Path, argument: str) -> None:
    """A payload is JSON in the argument, in a file or on stdin; UTF-8 in any of them."""
    text = '{"name": "Käse", "list": [1, 2.5, null]}'
    (tmp_path / "payload.json").write_text(text, encoding="utf-8")
    given = {"text": text, "file": f"@{tmp_path / 'payload.json'}", "stdin": "-"}[argument]
    result = invoke("request", "P", "echo", given, stdin=text)
    assert json.loads(result.stdout) == json.loads(text)
    assert "Käse" in result.stdout


def test_no_payload_is_an_empty_dictionary(plant: Plant) -> None:
    """Without a payload the handler gets an empty dictionary."""
    assert json.loads(invoke("request", "P", "echo").stdout) == {}


def test_types_that_json_has_not(plant: Plant) -> None:
    """What JSON has no type for is shown as text."""
    result = invoke("request", "P", "types", "--json")
    assert json.loads(result.stdout)["result"] == {"at": "2024-02-29", "price": "1.10", "5": "aGk="}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, True),
        (2**70, 2**70),
        pytest.param(10**5000, hex(10**5000), id="10**5000"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ((1, (2,)), [1, [2]]),
        ({3, 1, 2}, [1, 2, 3]),
        (datetime(2024, 1, 2, 3, 4, tzinfo=UTC), "2024-01-02T03:04:00+00:00"),
        (date(2024, 1, 2), "2024-01-02"),
        (time(3, 4), "03:04:00"),
        (timedelta(minutes=1.5), 90.0),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\xff", "/w=="),
        (
            Dataset(["a", "b"], [[1, b"\xff"], [None, b""]]),
            {
                "columns": [{"name": "a", "type": "int"}, {"name": "b", "type": "bytes"}],
                "rows": [[1, "/w=="], [None, ""]],
            },
        ),
        (numpy.array([[1.5, float("nan")]]), [[1.5, "nan"]]),
        (numpy.array(["2026-01-02"], "M8[D]"), ["2026-01-02"]),
        ({None: 1, (1, "a"): 2, date(2024, 1, 2): 3, True: 4}, None),
    ],
)
def test_jsonable(value: Any, shown: Any) -> None:
    """Each type of a payload has a form that is strict JSON."""
    if shown is None:
        shown = {"null": 1, '[1, "a"]': 2, "2024-01-02": 3, "true": 4}
    assert jsonable(value) == shown
    json.dumps(jsonable(value), allow_nan=False)


def test_table_on_a_terminal(plant: Plant) -> None:
    """A table that is the result is shown as one on a terminal, and is JSON everywhere else."""
    result = invoke("request", "P", "table")
    assert json.loads(result.stdout)["rows"] == [["T1", 1.5], ["T2", None]]
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    subprocess.run(
        command("request", "P", "table"),
        env={**plant.environment, "NO_COLOR": "1", "TERM": "dumb"},
        stdout=slave,
        timeout=30,
        check=True,
    )
    os.close(slave)
    lines = read_terminal(master).decode().splitlines()
    os.close(master)
    assert [line.split() for line in lines if "─" not in line] == [
        ["tank", "level"],
        ["T1", "1.5"],
        ["T2", "null"],
    ]


def test_progress_goes_to_stderr(plant: Plant) -> None:
    """Progress values are shown as they come, and stdout keeps the result alone."""
    result = invoke("request", "P", "long", '{"seconds": 0}')
    assert result.stderr == 'progress: {"step": 1}\n'
    assert result.stdout == '"done"\n'


def test_spinner_on_a_terminal(plant: Plant) -> None:
    """On a terminal, what is awaited is shown with the time that has passed; not on stdout."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    with started(
        "request", "P", "long", '{"seconds": 0.05}', environment=plant.environment, stderr=slave
    ) as process:
        os.close(slave)
        shown = b""
        while chunk := read_terminal(master):
            shown += chunk
        assert process.stdout is not None
        assert process.stdout.read() == '"done"\n'
    os.close(master)
    assert b"P/long" in shown
    assert b"0:00:0" in shown
    assert b'progress: {"step": 1}' in shown


def read_terminal(descriptor: int) -> bytes:
    """What was written to a terminal; empty at its end, which Linux reports as an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


# --- the exit codes, one by one ------------------------------------------------------------------


def test_exit_code_handler_error(plant: Plant) -> None:
    """1: the handler raised; its traceback, type and message are shown."""
    result = invoke("request", "P", "double", "{}")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "double.py" in result.stderr
    assert result.stderr.endswith("HandlerError: KeyError: 'number'\n")


def test_exit_code_handler_error_for_machines(plant: Plant) -> None:
    """1: the document has code, type, message, started, and the handler's own exception."""
    result = invoke("request", "P", "double", "{}", "--json")
    assert result.exit_code == 1
    error = error_of(result)
    assert error["code"] == "handler_error"
    assert error["type"] == "HandlerError"
    assert error["message"] == "KeyError: 'number'"
    assert error["started"] is True
    assert len(error["request_id"]) == 32
    assert error["details"]["type"] == "KeyError"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("echo", '{"number": 55'), "The payload is not JSON"),
        (("echo", "@/no/such/file"), "/no/such/file cannot be read: No such file"),
        (("echo", "--timeout", "0"), "more than 0"),
        (("echo", "--timeout", "1e9"), "at most 86400 seconds"),
        (("echo", "--url", "http://127.0.0.1"), "'http://127.0.0.1' is not the URL"),
        (("",), "Missing required argument messageHandler"),
    ],
)
def test_exit_code_usage(plant: Plant, arguments: tuple[str, ...], text: str) -> None:
    """2: what is wrong with an argument is said in one line, also as a document."""
    result = invoke("request", "P", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    result = invoke("request", "P", *arguments, "--json")
    assert result.exit_code == 2
    assert error_of(result)["code"] == "usage"


def test_exit_code_usage_of_options(plant: Plant) -> None:
    """2: an argument that is missing, or an option that there is not, is text on stderr."""
    for arguments in (["request", "P"], ["request", "P", "echo", "--nothing"], ["nothing"]):
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Usage" in result.stderr


def test_exit_code_timeout(plant: Plant) -> None:
    """3: the timeout passed; what became of the handler is told."""
    result = invoke("request", "P", "long", "--timeout", "0.2")
    assert result.exit_code == 3
    assert "RequestTimeout: P/long" in result.stderr
    assert result.stderr.endswith("The handler: finished.\n")
    result = invoke("request", "P", "long", "--timeout", "0.2", "--json")
    assert result.exit_code == 3
    assert {"code": "timeout", "started": True, "fate": "finished"}.items() <= error_of(
        result
    ).items()


def test_exit_code_unreachable() -> None:
    """4: no gateway runs there; the error says how to start one."""
    result = invoke("request", "P", "echo", "--url", "ws://127.0.0.1:1")
    assert result.exit_code == 4
    assert "headgate run" in result.stderr
    result = invoke("handlers", "--url", "ws://127.0.0.1:1", "--json")
    assert result.exit_code == 4
    assert {"code": "unreachable", "started": False}.items() <= error_of(result).items()


def test_exit_code_denied() -> None:
    """5: another machine's gateway does not know this user."""
    result = invoke("request", "P", "echo", "--url", "ws://192.0.2.1:8188", "--json")
    assert result.exit_code == 5
    assert error_of(result)["code"] == "denied"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("Q", "echo"), "project_not_found"),
        (("P", "ecco"), "handler_not_found"),
        (("P", "echo", "--host-name", "nobody"), "client_not_found"),
    ],
)
def test_exit_code_not_found(plant: Plant, arguments: tuple[str, ...], code: str) -> None:
    """6: there is no such project, handler or client."""
    result = invoke("request", *arguments, "--json")
    assert result.exit_code == 6
    assert error_of(result)["code"] == code


def test_exit_code_not_found_names_the_nearest(plant: Plant) -> None:
    """6: people read what they may have meant."""
    result = invoke("request", "P", "ecco")
    assert result.exit_code == 6
    assert "Did you mean 'echo'?" in result.stderr


def test_remote_server_is_passed_on(plant: Plant) -> None:
    """4: a gateway that cannot be reached over the network; the gateway's own name is itself."""
    assert invoke("request", "P", "echo", "--remote-server", "nobody").exit_code == 4
    assert invoke("request", "P", "echo", "--remote-server", "gateway").exit_code == 0


def test_exit_code_overloaded(plant: Plant) -> None:
    """7: the handler's queue is full."""
    with headgate.connect(plant.url) as client:
        busy: Queue[Any] = Queue()
        first = client.request("P", "single", on_progress=busy.put)
        busy.get(timeout=20)
        result = invoke("request", "P", "single", "--json")
        first.cancel()
        first.wait_fate(20)
    assert result.exit_code == 7
    assert {"code": "overloaded", "started": False}.items() <= error_of(result).items()


@pytest.mark.parametrize("as_json", [False, True])
def test_exit_code_cancelled(plant: Plant, as_json: bool) -> None:
    """130: Ctrl-C cancels the request and tells what became of the handler."""
    flags = ["--json"] if as_json else []
    with started("request", "P", "long", *flags, environment=plant.environment) as process:
        assert process.stderr is not None
        assert "progress" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    if as_json:
        error = json.loads(out)["error"]
        assert {"code": "cancelled", "started": True, "fate": "finished"}.items() <= error.items()
    else:
        assert out == ""
        assert "CancellationException: The request to P/long was cancelled" in err
        assert err.endswith("The handler: finished.\n")


def test_ctrl_c_while_the_request_is_made(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """However early it comes, the request is cancelled and its end is told."""
    make = headgate.Client.request

    def interrupted(*arguments: Any, **options: Any) -> headgate.Request:
        signal.raise_signal(signal.SIGINT)
        return make(*arguments, **options)

    monkeypatch.setattr(headgate.Client, "request", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = invoke("request", "P", "long")
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert "CancellationException: The request to P/long was cancelled" in result.stderr


@pytest.mark.parametrize("kind", [getattr(errors, name) for name in errors.__all__])
def test_every_error_has_an_exit_code(kind: type[errors.HeadgateError]) -> None:
    """Every error has one of the documented codes, and one that is not known is not fine."""
    assert exit_code(kind("text")) in set(EXIT_CODES) - {ExitCode.FINE, ExitCode.CANCELLED}


def test_exit_codes_are_documented() -> None:
    """`headgate --help` tells all of them."""
    shown = invoke("--help").stdout
    for code, meaning in EXIT_CODES.items():
        line = next(line for line in shown.splitlines() if line.split()[:1] == [str(int(code))])
        assert meaning in line
    assert set(EXIT_CODES) == set(ExitCode)


# --- message and handlers ------------------------------------------------------------------------


def test_message_prints_the_report(plant: Plant) -> None:
    """One line for each receiver; fine if somebody got it."""
    result = invoke("message", "P", "fast")
    assert result.exit_code == 0
    assert result.stdout == "scope=G,gateway=gateway,project=P,handler=fast,sendStatus=SENT\n"


def test_message_for_machines(plant: Plant) -> None:
    """The report is a document too."""
    result = invoke("message", "P", "fast", '{"a": 1}', "--scope", "G", "--json")
    fields = {"scope": "G", "gateway": "gateway", "project": "P", "handler": "fast"}
    assert json.loads(result.stdout) == {"delivery": [{**fields, "sendStatus": "SENT"}]}


def test_message_that_nobody_gets(plant: Plant) -> None:
    """6: no handler, or no receiver at all."""
    result = invoke("message", "P", "nothing")
    assert result.exit_code == 6
    assert "sendStatus=NO_HANDLER" in result.stdout
    result = invoke("message", "P", "fast", "--scope", "C")
    assert (result.exit_code, result.stdout) == (6, "Nobody was addressed.\n")


def test_handlers_are_listed(plant: Plant) -> None:
    """A table of project, handler, threading, runtime and file; nothing is cut to fit."""
    result = invoke("handlers")
    assert result.exit_code == 0
    table, _, problems = result.stdout.partition("\nProblem with ")
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["project", "handler", "threading", "runtime", "file"]
    assert [row[1] for row in rows[2:]] == sorted(HANDLERS)
    assert next(row[:3] for row in rows if row[1:2] == ["fast"]) == ["P", "fast", "async"]
    assert {row[3] for row in rows[2:]} == {"thread"}
    assert all(Path(row[4]).is_file() for row in rows[2:])
    assert problems.startswith("P/broken")


def test_handlers_for_machines(plant: Plant) -> None:
    """The list is a document too."""
    found = json.loads(invoke("handlers", "--json").stdout)["handlers"]
    assert [each["handler"] for each in found] == sorted(HANDLERS)
    assert {"project", "handler", "threading", "runtime", "file"} <= found[0].keys()


def test_handlers_of_a_name(plant: Plant) -> None:
    """A project and a handler narrow the list, and its problems; an unknown name is not found."""
    found = json.loads(invoke("handlers", "P", "fast", "--json").stdout)
    assert [each["handler"] for each in found["handlers"]] == ["fast"]
    assert found["problems"] == []
    found = json.loads(invoke("handlers", "P", "broken", "--json").stdout)
    assert (found["handlers"], len(found["problems"])) == ([], 1)
    assert len(json.loads(invoke("handlers", "P", "--json").stdout)["handlers"]) == len(HANDLERS)
    result = invoke("handlers", "P", "nope", "--json")
    assert (result.exit_code, error_of(result)["code"]) == (6, "handler_not_found")


def test_schemas(plant: Plant) -> None:
    """--schema prints JSON Schemas by project and handler, with and without --json the same."""
    typed = {
        "payload": {"type": "array", "items": {"type": "integer"}},
        "result": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    assert json.loads(invoke("handlers", "--schema").stdout) == {
        "P": {name: typed if name == "typed" else {} for name in HANDLERS}
    }
    result = invoke("handlers", "--schema", "P", "typed", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"P": {"typed": typed}})
    assert list(json.loads(result.stdout)["P"]["typed"]) == ["payload", "result"]


def test_payload_that_does_not_fit(plant: Plant) -> None:
    """The error names the place in the payload; the handler has not begun."""
    result = invoke("request", "P", "typed", '[1, "2"]', "--json")
    error = error_of(result)
    assert (result.exit_code, error["code"], error["started"]) == (1, "payload", False)
    assert error["details"] == {"place": "payload[1]"}


# --- reload --------------------------------------------------------------------------------------


def test_reload_tells_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 while there are problems, 0 when all is fine; what serves goes on meanwhile."""
    with running(tmp_path, "--no-reload") as plant:
        monkeypatch.setenv("HEADGATE_URL", plant.url)
        monkeypatch.setenv("HEADGATE_HOME", plant.environment["HEADGATE_HOME"])
        messages = tmp_path / "projects" / "P" / "messages"
        (messages / "broken.py").unlink()
        (messages / "echo.py").write_text("def handleMessage(payload): return 1 +")
        result = invoke("reload")
        assert result.exit_code == 1
        assert result.stdout.startswith("kept as before: P\n\nProblem with P/echo: SyntaxError")
        assert f"{messages / 'echo.py'}:1" in result.stdout
        assert "until then all of P serves as it was before the change" in result.stdout
        assert json.loads(invoke("request", "P", "echo", "5", "--json").stdout) == {"result": 5}
        document = json.loads(invoke("handlers", "--json").stdout)
        assert [problem["handler"] for problem in document["problems"]] == ["echo"]
        (messages / "echo.py").write_text("def handleMessage(payload): return 1 + payload")
        result = invoke("reload", "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["changed"] == ["P"]
        assert json.loads(invoke("request", "P", "echo", "5", "--json").stdout) == {"result": 6}
        assert invoke("reload").stdout == "Nothing has changed.\n\nNo problems.\n"
        assert invoke("reload", "--all").stdout.startswith("changed: P\n")


def test_run_sees_edits_and_new_projects(plant: Plant) -> None:
    """Without a word to it; what was wrong before an edit is told until it is corrected."""
    projects = Path(json.loads(invoke("handlers", "--json").stdout)["handlers"][0]["file"]).parents[
        2
    ]
    new = projects / "Q" / "messages" / "echo.py"
    new.parent.mkdir(parents=True)
    new.write_text("def handleMessage(payload): return payload")
    while (result := invoke("request", "Q", "echo", "5")).exit_code == 6:
        pass
    assert result.stdout == "5\n"
    new.unlink()
    while invoke("request", "Q", "echo", "5").exit_code == 0:
        pass


# --- run -----------------------------------------------------------------------------------------


def environment_of(folder: Path) -> dict[str, str]:
    """The environment of a process with a home of its own."""
    return {**os.environ, "HEADGATE_HOME": str(folder / "home")}


@pytest.fixture
def restored() -> Iterator[None]:
    """Undo what `headgate run` does to the process that it runs in."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with one project in it."""
    messages = tmp_path / "projects" / "P" / "messages"
    messages.mkdir(parents=True)
    (messages / "long.py").write_text(dedent(HANDLERS["long"]))
    return tmp_path


def test_run_announces_itself_and_stops(project: Path) -> None:
    """One line with the URL on stdout, the log on stderr; SIGTERM ends it with exit code 0."""
    arguments = ["run", "--name", "hub", "--port", "0", "--data", str(project / "data")]
    arguments += ["--project", f"Q={project / 'projects' / 'P'}"]
    with started(*arguments, environment=environment_of(project), cwd=project) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        rest, log = process.communicate(timeout=30)
    assert line.startswith("The gateway 'hub' is ready: ws://127.0.0.1:")
    assert rest == ""
    assert process.returncode == 0
    assert "stopping" in log
    assert "\x1b" not in log, "no colours where there is no terminal"
    assert (project / "data" / "local-token").exists()
    assert not list((project / "home" / "ports").iterdir()), "the port's pointer is gone"


def test_run_lets_requests_finish(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first signal, what is in flight gets its answer."""
    with running(project) as plant:
        monkeypatch.setenv("HEADGATE_HOME", plant.environment["HEADGATE_HOME"])
        with headgate.connect(plant.url) as client:
            begun: Queue[Any] = Queue()
            handle = client.request("P", "long", {"seconds": 0.2}, on_progress=begun.put)
            begun.get(timeout=20)
            plant.process.send_signal(signal.SIGINT)
            assert handle.get() == "done"
        assert plant.process.wait(30) == 0


def test_run_ends_at_once_on_the_second_signal(tmp_path: Path) -> None:
    """
    A second signal does not wait for anybody; the exit code says which one it was.

    Whoever asked meanwhile ends with 4: the connection was lost.
    """
    with (
        running(tmp_path) as plant,
        started("request", "P", "long", "--json", environment=plant.environment) as asking,
    ):
        assert asking.stderr is not None
        assert "progress" in asking.stderr.readline()
        plant.process.send_signal(signal.SIGINT)
        plant.process.send_signal(signal.SIGTERM)
        assert plant.process.wait(30) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        out, _ = asking.communicate(timeout=30)
    assert asking.returncode == 4
    assert json.loads(out)["error"]["code"] == "connection_lost"


def test_run_for_machines(plant: Plant) -> None:
    """With --json the ready line is a document, and so is every line of the log."""
    assert {"name": "gateway", "pid": plant.process.pid, "problems": 1}.items() <= (
        plant.ready.items()
    )
    assert plant.url.startswith("ws://127.0.0.1:")
    lines = [json.loads(line) for line in plant.log.read_text().splitlines()]
    assert any(line["level"] == "error" and "broken.py:1" in line["event"] for line in lines)


@pytest.mark.usefixtures("restored")
def test_run_on_a_taken_port(plant: Plant, project: Path) -> None:
    """2: a taken port is one clear line that names --port 0."""
    port = plant.url.rpartition(":")[2]
    arguments = ["--name", "other", "--projects", str(project / "projects"), "--port", port]
    result = invoke("run", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Port {port} " in result.stderr
    assert "--port 0" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--projects", "nowhere"], "nowhere cannot be read"),
        (["--projects", "empty"], "There is no project in"),
        (["--project", "P=nowhere"], "'P' is not in nowhere"),
        (["--project", "P"], "--project NAME=PATH"),
        (["--projects", "projects", "--host", "0.0.0.0"], "headgate cert init"),
    ],
)
def test_run_with_wrong_arguments(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    """2: what is wrong is one line, with --json one document."""
    (project / "empty").mkdir()
    monkeypatch.chdir(project)
    result = invoke("run", "--port", "0", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    result = invoke("run", "--port", "0", *arguments, "--json")
    assert result.exit_code == 2
    assert text in error_of(result)["message"]


def test_run_needs_the_gateway_packages(project: Path) -> None:
    """2: in a client's installation, `headgate run` says what to install."""
    program = "import sys; sys.modules['sqlalchemy'] = None; from headgate.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program, "run"],
        env=environment_of(project),
        cwd=project,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    assert "sqlalchemy is not installed" in result.stderr
    assert "pip install '.[gateway]'" in result.stderr
    assert "Traceback" not in result.stderr


# --- init and check ------------------------------------------------------------------------------


def test_init_makes_a_project_that_works(tmp_path: Path) -> None:
    """The starter project loads without a problem, and says how to run it."""
    result = invoke("init", str(tmp_path / "line4"))
    assert result.exit_code == 0
    assert f"  cd {tmp_path / 'line4'}\n  headgate check\n  headgate run\n" in result.stdout
    home = tmp_path / "line4" / "projects" / "line4"
    assert (home / "project.toml").exists()
    assert (tmp_path / "line4" / "README.md").exists()
    checked = json.loads(invoke("check", str(tmp_path / "line4" / "projects"), "--json").stdout)
    assert [row["handler"] for row in checked["handlers"]] == ["hello"]
    assert checked["problems"] == []
    with headgate.Gateway("g", projects=home.parent, port=0, data=tmp_path / "data") as gateway:
        greeting = gateway.scope("").request("line4", "hello", {"name": "Ada"}).get()
    assert greeting == {"greeting": "Hello, Ada!"}


def test_init_names_the_gateway_and_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder it is the working one; its name is the gateway's, --host the address."""
    folder = tmp_path / 'a "mill"'
    folder.mkdir()
    monkeypatch.chdir(folder)
    told = invoke("init", "--project", "HOST", "--host", "0.0.0.0").stdout
    assert "cd " not in told
    assert "headgate cert init NAME\n  headgate user add NAME" in told
    settings = Configuration.load(folder / "headgate.toml").settings
    assert (settings.name, settings.host) == ('a "mill"', "0.0.0.0")
    checked = json.loads(invoke("check", "--json").stdout)
    assert [row["project"] for row in checked["handlers"]] == ["HOST"]
    assert "There was a gateway of this name" not in told
    invoke("user", "add", "ann", "--no-password")
    told = invoke("init", "--project", "Q").stdout
    assert f"There was a gateway of this name: its users and certificates are in {tmp_path}" in told


def test_commands_find_the_gateway_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What headgate.toml in the working folder says of name, port and projects holds for all."""
    monkeypatch.delenv("HEADGATE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    invoke("init", "mill")
    monkeypatch.chdir("mill")
    with headgate.Gateway(config="headgate.toml", port=0):
        assert "mill" in invoke("handlers").stdout
        assert invoke("request", "mill", "hello", "--json").exit_code == 0
        rows = json.loads(invoke("audit", "list", "--json").stdout)["rows"]
        assert rows[0]["detail"].startswith("mill at ")
        file = Path("headgate.toml")
        file.write_text(file.read_text() + "[limits]\nwrong = 1\n")
        told = invoke("reload")
        assert (told.exit_code, "wrong" in told.stdout) == (1, True)
        file.write_text("name = mill")
        assert "headgate.toml cannot be read" in invoke("handlers").stderr
    file.write_text('name = "mill"\nport = 1\n')
    assert "127.0.0.1:1." in invoke("handlers").stderr


def test_check_takes_the_projects_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments `check` looks at what `headgate run` would serve."""
    invoke("init", str(tmp_path / "a"))
    (tmp_path / "headgate.toml").write_text('[project.P]\npath = "a/projects/a"\n')
    monkeypatch.chdir(tmp_path)
    checked = json.loads(invoke("check", "--json").stdout)
    assert [row["project"] for row in checked["handlers"]] == ["P"]


def test_init_comments_are_settings(tmp_path: Path) -> None:
    """The commented settings of the starter project are right once they are uncommented."""
    invoke("init", str(tmp_path), "--project", "P")
    file = tmp_path / "projects" / "P" / "project.toml"
    settings = re.findall(r"^(?:# )?(\w+ = .*|\[.*)$", file.read_text(), re.MULTILINE)
    assert "[handlers.hello]" in settings
    # There is no such parent here, and Dedicated is one at a time already.
    wanted = [line for line in settings if not line.startswith(("parent", "concurrency"))]
    file.write_text("\n".join(wanted))
    assert (
        json.loads(invoke("check", str(tmp_path / "projects"), "--json").stdout)["problems"] == []
    )


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    """A file that is there stays as it is, and a project that is there is refused."""
    (tmp_path / "README.md").write_text("mine")
    assert "Kept" in invoke("init", str(tmp_path), "--project", "P").stdout
    assert (tmp_path / "README.md").read_text() == "mine"
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    result = invoke("init", str(tmp_path), "--project", "P")
    assert result.exit_code == 2
    assert "--project" in result.stderr
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["@gateway", "a/b", "a\\b", ".hidden", "_private"])
def test_init_refuses_names_that_are_none(tmp_path: Path, name: str) -> None:
    """A name that no project can have is refused before anything is made."""
    assert invoke("init", str(tmp_path / "new"), "--project", name).exit_code == 2
    assert not (tmp_path / "new").exists()


def test_check_lists_handlers_and_problems(project: Path) -> None:
    """1: every problem is there with file, line and cure, and what serves is listed."""
    messages = project / "projects" / "P" / "messages"
    (messages / "broken.py").write_text("x = 1\ndef handleMessage(payload)\n    return 1\n")
    (messages / "empty.py").write_text("")
    result = invoke("check", str(project / "projects"))
    assert result.exit_code == 1
    assert "long" in result.stdout
    assert f"Problem with P/broken: SyntaxError: expected ':'\n  at   {messages}" in result.stdout
    assert "broken.py:2\n  cure Correct the script" in result.stdout
    assert "Problem with P/empty: empty.py does not define handleMessage" in result.stdout
    assert "cure Write def handleMessage(payload)" in result.stdout


def test_check_for_machines(project: Path) -> None:
    """1: handlers and problems are one document."""
    (project / "projects" / "P" / "project.toml").write_text('titel = "P"\n')
    result = invoke("check", str(project / "projects"), "--json")
    assert result.exit_code == 1
    [problem] = json.loads(result.stdout)["problems"]
    assert {"project": "P", "line": 1}.items() <= problem.items()
    assert "title" in problem["cure"]


def test_check_takes_projects_in_every_way(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of projects, one project, or named ones; without any, the folder `projects`."""
    monkeypatch.chdir(project)
    for arguments, name in [
        ([], "P"),
        (["projects"], "P"),
        (["--projects", "projects"], "P"),
        (["projects/P"], "P"),
        (["--project", "Q=projects/P"], "Q"),
    ]:
        result = invoke("check", *arguments, "--json")
        assert result.exit_code == 0, result.stdout
        assert [row["project"] for row in json.loads(result.stdout)["handlers"]] == [name]
    assert invoke("check", "projects", "--projects", "projects").exit_code == 2


def test_check_starts_nothing(project: Path) -> None:
    """A check leaves no folder and no file behind."""
    before = set(project.rglob("*"))
    assert invoke("check", str(project / "projects")).exit_code == 0
    assert set(project.rglob("*")) == before


# --- the whole -----------------------------------------------------------------------------------


def test_version() -> None:
    """`headgate --version` is one line, and the module is the same command line."""
    assert invoke("--version").stdout == f"headgate {headgate.__version__}\n"
    result = subprocess.run(command("--version"), capture_output=True, text=True, check=True)
    assert result.stdout == f"headgate {headgate.__version__}\n"


def test_default_url_is_the_default_port() -> None:
    """The command line calls the port that gateways take, as `connect` does."""
    assert f"ws://127.0.0.1:{DEFAULT_PORT}" == DEFAULT_URL
    assert inspect.signature(headgate.connect).parameters["url"].default == DEFAULT_URL


@pytest.mark.parametrize("words", ["ps", "cancel", "permission add"])
def test_help_fills_its_lines(words: str) -> None:
    """A paragraph of a command's help is broken where the terminal ends, and nowhere else."""
    shown = CliRunner(env={"COLUMNS": "70"}).invoke(app, [*words.split(), "--help"]).stdout
    lines = [line.strip() for line in shown.partition("╭")[0].splitlines()]
    assert all(len(line) <= 68 for line in lines)
    for line, following in pairwise(lines):
        if line and following:
            assert len(line) + 1 + len(following.split()[0]) > 68


def test_help_imports_little() -> None:
    """`headgate --help` needs neither the client nor the server."""
    program = """
import sys
import threading
from headgate.cli import main
sys.argv[1:] = ["--help"]
try:
    main()
except SystemExit:
    print(*sys.modules)
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    modules = out.stdout.splitlines()[-1].split()
    assert "headgate.cli.app" in modules
    heavy = ["asyncio", "websockets", "sqlalchemy", "structlog", "pydantic"]
    assert [name for name in heavy if name in modules] == []


def test_output_that_the_terminal_cannot_show(plant: Plant) -> None:
    """A character that stdout has no code for is written as an escape; the command goes on."""
    result = subprocess.run(
        command("request", "P", "echo", '{"a": "→"}'),
        env={**plant.environment, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"a": "→"}


@contextmanager
def busy(plant: Plant) -> Iterator[str]:
    """A handler that runs; gives the ID of its request."""
    with headgate.connect(plant.url, host_name="panel-7") as client:
        handle = client.request("P", "long")
        while not any(
            row["request_id"] == handle.request_id
            for row in client.request("@gateway", "ps").get()["running"]
        ):
            pass
        yield handle.request_id
        handle.cancel()


def test_stats(project: Path) -> None:
    """`headgate stats` shows sizes and what each limit refused, also for machines."""
    limits = Limits(requests_per_second=0.001, burst=2)
    with headgate.Gateway(projects=project, port=0, config=Settings(limits=limits)) as gateway:
        with headgate.connect(gateway.url) as client:
            for _ in range(5):
                client.request("@gateway", "stats").block()
        result = invoke("stats", "--url", gateway.url)
        document = json.loads(invoke("stats", "--url", gateway.url, "--json").stdout)
    assert result.exit_code == 0
    assert re.search(r"^requests_per_second +3 *$", result.stdout, flags=re.MULTILINE)
    assert re.search(r"^sessions +1 *$", result.stdout, flags=re.MULTILINE)
    assert document.keys() == {"stats", "counters"}
    assert document["counters"]["requests_per_second"] == 3


def test_ps_without_a_run(project: Path) -> None:
    """`headgate ps` says so when nothing runs."""
    with headgate.Gateway(projects=project, port=0) as gateway:
        result = invoke("ps", "--url", gateway.url)
    assert (result.exit_code, result.stdout) == (0, "Nothing runs.\n")


def test_ps_lists_what_runs(plant: Plant) -> None:
    """`headgate ps` shows handler, state, time, thread and caller of a run."""
    with busy(plant):
        result = invoke("ps")
    assert result.exit_code == 0
    head, _, *lines = result.stdout.splitlines()
    columns = "id project handler state for cpu memory pid place caller"
    assert head.split() == columns.split()
    line = next(line for line in lines if " at panel-7" in line)
    assert re.match(r"\d+-1 +P +long +running +\d+\.\d\d s ", line)


def test_ps_for_machines(plant: Plant) -> None:
    """`headgate ps --json` prints the runs and the queues."""
    with busy(plant) as request_id:
        document = json.loads(invoke("ps", "--json").stdout)
    assert document.keys() == {"running", "queued", "workers", "draining"}
    assert request_id in {row["request_id"] for row in document["running"]}


def test_ps_shows_abandoned_runs_and_queues(project: Path) -> None:
    """Below the table stands how many were abandoned, and what waits to begin."""
    messages = project / "A" / "messages"
    messages.mkdir(parents=True)
    (messages / "hold.py").write_text(
        "import headgate\n\n@headgate.handler(concurrency=1)\n"
        "def handleMessage(payload, context):\n    system.util.globals['go'].wait(20)\n"
    )
    with (
        headgate.Gateway(projects=project, port=0) as gateway,
        headgate.connect(gateway.url) as client,
    ):
        go = gateway.globals["go"] = threading.Event()
        handles = [client.request("A", "hold", timeout=1) for _ in range(2)]
        handles.append(client.request("A", "hold"))
        assert all(handle.getError() for handle in handles[:2])
        shown = invoke("ps", "--url", gateway.url).stdout
        go.set()
        handles[2].get()
    assert " abandoned " in shown
    assert "A/hold: 1 waiting to begin.\n" in shown
    assert shown.endswith("1 abandoned: the request is over, the handler has not returned.\n")


def test_ps_lists_what_waits(project: Path) -> None:
    """`headgate ps --queued` has a second table, of the requests that wait to begin."""
    with holding(project) as (gateway, client):
        handles = [client.request("A", "hold") for _ in range(2)]
        while not gateway.running()["running"] or not gateway.running()["queued"]:
            pass
        shown = invoke("ps", "--queued", "--url", gateway.url).stdout
        document = json.loads(invoke("ps", "--queued", "--json", "--url", gateway.url).stdout)
        gateway.globals["go"].set()
        assert all(handle.block() for handle in handles)
    head = next(line for line in shown.splitlines() if " waits " in line)
    assert head.split() == ["id", "project", "handler", "priority", "waits", "caller"]
    assert re.search(r"^1-2 +A +hold +normal +\d+\.\d\d s ", shown, flags=re.MULTILINE)
    assert [row["request_id"] for row in document["queue"]] == [handles[1].request_id]


def test_cancel(plant: Plant) -> None:
    """`headgate cancel` ends a request by its ID; the exit code tells whether it still runs."""
    with headgate.connect(plant.url) as client:
        handle = client.request("P", "long")
        while not any(
            row["request_id"] == handle.request_id
            for row in client.request("@gateway", "ps").get()["running"]
        ):
            pass
        result = invoke("cancel", handle.request_id)
        error = handle.getError()
    assert re.fullmatch(
        r"P/long, request \d+-1, was cancelled\.\nThe handler: finished\.\n", result.stdout
    )
    assert result.exit_code == ExitCode.FINE
    assert isinstance(error, headgate.CancellationException)


def test_cancel_of_what_cannot_be_stopped(project: Path) -> None:
    """1: the handler runs on. 6: there is no such request."""
    with holding(project) as (gateway, client):
        handle = client.request("A", "hold")
        while not gateway.running()["running"]:
            pass
        result = invoke("cancel", handle.request_id, "--json", "--url", gateway.url)
        again = invoke("cancel", handle.request_id, "--url", gateway.url)
        none = invoke("cancel", "9-9", "--url", gateway.url)
    document = json.loads(result.stdout)
    assert (result.exit_code, document["fate"]) == (ExitCode.HANDLER_ERROR, "still running")
    assert document["cancelled"] is True
    assert again.stdout.endswith(" was over already.\nThe handler: still running.\n")
    assert (none.exit_code, none.stdout) == (ExitCode.NOT_FOUND, "")


def test_drain(project: Path) -> None:
    """`headgate drain` waits until nothing is under way; 3: the time is up. --off ends it."""
    with holding(project) as (gateway, client):
        handle = client.request("A", "hold")
        while not gateway.running()["running"]:
            pass
        url = ("--url", gateway.url)
        early = invoke("drain", "--timeout", "0.2", *url)
        listed = invoke("ps", *url).stdout
        refused = invoke("request", "A", "hold", *url)
        gateway.globals["go"].set()
        assert handle.block()
        over = invoke("drain", *url)
        off = invoke("drain", "--off", "--json", *url)
        assert client.request("A", "hold").block()
    assert (early.exit_code, early.stdout) == (ExitCode.TIMEOUT, "")
    assert early.stderr.splitlines() == [
        "1 under way.",
        "The time is up: 1 under way. The gateway goes on draining.",
    ]
    assert listed.startswith("The gateway is draining: it takes nothing new.\n")
    assert refused.exit_code == ExitCode.UNREACHABLE
    assert over.exit_code == ExitCode.FINE
    assert over.stdout.startswith("Nothing is under way. ")
    assert json.loads(off.stdout) == {"draining": False, "under_way": 0, "abandoned": 0}


@contextmanager
def holding(project: Path) -> Iterator[tuple[headgate.Gateway, headgate.Client]]:
    """A gateway whose handler A/hold waits for ``go``, one call at a time; and a client."""
    messages = project / "A" / "messages"
    messages.mkdir(parents=True)
    (messages / "hold.py").write_text(
        "import headgate\n\n@headgate.handler(concurrency=1)\n"
        "def handleMessage(payload, context):\n    system.util.globals['go'].wait(20)\n"
    )
    with (
        headgate.Gateway(projects=project, port=0) as gateway,
        headgate.connect(gateway.url) as client,
    ):
        go = gateway.globals["go"] = threading.Event()
        try:
            yield gateway, client
        finally:
            go.set()


def test_lists_for_who_may_not_administer(project: Path, tmp_path: Path) -> None:
    """Others than administrators see runs without names, and files without folders."""
    messages = project / "A" / "messages"
    messages.mkdir(parents=True)
    (messages / "hold.py").write_text(
        "def handleMessage(payload, context):\n    system.util.globals['go'].wait(20)\n"
    )
    (tmp_path / "password").write_text("correct horse")
    log_in = ("--user", "ben", "--password-file", str(tmp_path / "password"))
    with (
        headgate.Gateway(projects=project, port=0) as gateway,
        headgate.connect(gateway.url, host_name="panel-7") as client,
    ):
        go = gateway.globals["go"] = threading.Event()
        order = {"name": "ben", "password": "correct horse"}
        client.request("@gateway", "user_add", order).get()
        handle = client.request("A", "hold")
        while not gateway.running()["running"]:
            pass
        shown = {
            who: [
                invoke(command, "--url", gateway.url, *options).stdout
                for command in ("ps", "handlers")
            ]
            for who, options in {"owner": (), "ben": log_in}.items()
        }
        go.set()
        handle.get()
    runs, handlers = shown["owner"]
    assert " at panel-7" in runs
    assert str(messages) in "".join(handlers.split())
    runs, handlers = shown["ben"]
    assert re.search(r"^ +A +hold +running .* another user *$", runs, flags=re.MULTILINE)
    assert "panel-7" not in runs
    assert re.search(r"A +hold +Shared +thread +hold\.py *$", handlers, flags=re.MULTILINE)
    assert str(tmp_path) not in handlers


def test_ps_shows_a_stack(plant: Plant) -> None:
    """`headgate ps --stack ID` prints where a handler is, also for machines."""
    with busy(plant) as request_id:
        text = invoke("ps", "--stack", request_id).stdout
        document = json.loads(invoke("ps", "--json", "--stack", request_id).stdout)
    assert re.match(r"P/long, running, for \d+\.\d\d s:\n  File ", text)
    assert "in handleMessage\n" in text
    assert document["request_id"] == request_id
    assert document["stack"][0].endswith("in handleMessage")


def test_ps_of_an_unknown_id(plant: Plant) -> None:
    """The exit code is 6, and the text says where to look."""
    result = invoke("ps", "--stack", "999-1")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "Nothing runs here that has the id '999-1'. See: headgate ps" in result.stderr
    assert error_of(invoke("ps", "--stack", "999-1", "--json"))["code"] == "handler_not_found"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.254, "0.25 s"), (12.9, "12 s"), (187, "3 min 07 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    """Times are written as people read them."""
    assert duration(seconds) == shown
