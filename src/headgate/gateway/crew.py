"""
The first worker of a generation: it loads the project's ``process`` handlers, which the gateway
never does, and tells what they are.
"""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import msgspec

from headgate.errors import ConfigurationError
from headgate.handler import Signature
from headgate.projects.project import Problem
from headgate.runtimes.forkserver import ForkServer, WorkerProcess
from headgate.runtimes.link import Loaded, WorkerCode

__all__ = ["Crew", "FirstWorker", "Workers", "lowest_log_level"]

DUMP_MILLISECONDS = 250
"""Milliseconds in which a worker that is loading something tells where it is."""

_FRAME = re.compile(r'^  File "(.+)", line (\d+) in ', flags=re.MULTILINE)


@dataclass(frozen=True)
class Workers:
    """Where the worker processes of a gateway come from."""

    gateway: str
    """The gateway's name."""
    forkserver: Callable[[], ForkServer]
    """Gives what starts them, and starts that before if need be; on any thread."""


@dataclass(frozen=True)
class Crew:
    """What the first worker of a generation has found."""

    code: WorkerCode | None = None
    """What the workers after it load; None if there is nothing that serves."""
    first: WorkerProcess | None = None
    """The worker, ready to run handlers; None likewise."""
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    """How the handlers that serve are called."""
    problems: Sequence[Problem] = ()


class FirstWorker:
    """
    Loads the process handlers of one generation.

    Args:
        code: What is to be loaded.
        workers: Where its process comes from.
        deadline: When it is given up, as a moment of `time.monotonic`.
    """

    def __init__(self, code: WorkerCode, workers: Workers, *, deadline: float) -> None:
        self._code = code
        self._workers = workers
        self._deadline = deadline
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._given_up = False

    def load(self) -> Crew:
        """
        Load what can be loaded.

        A script that ends its process is left out, and the others are loaded without it. If none
        is to blame, or time is up, nothing serves.
        """
        code, problems = self._code, list[Problem]()
        while code.scripts:
            try:
                process, loaded = self._load(code)
            except ConfigurationError as error:
                blamed = [name for name, file in code.scripts.items() if file == error.file]
                if not blamed or self._given_up or monotonic() >= self._deadline:
                    return Crew(problems=[*problems, Problem.of(error, project=code.project)])
                for name in blamed:
                    problems.append(Problem.of(error, project=code.project, handler=name))
                code = _without(code, blamed)
            else:
                return self._crew(code, process, loaded, problems)
        return Crew(problems=problems)

    def give_up(self) -> None:
        """End it, from another thread; `load` then returns soon."""
        with self._lock:
            self._given_up = True
            if self._process is not None:
                self._process.kill()

    def _load(self, code: WorkerCode) -> tuple[WorkerProcess, Loaded]:
        process = self._workers.forkserver().spawn(code.environment)
        with self._lock:
            self._process = process
            if self._given_up:
                process.kill()
        try:
            return process, process.load(code, self._deadline)
        except ConfigurationError as error:
            file, line = _place(process, code)
            process.close()
            raise ConfigurationError(error.problem, cure=error.cure, file=file, line=line) from None
        except BaseException:
            process.close()
            raise
        finally:
            with self._lock:
                self._process = None

    def _crew(
        self,
        code: WorkerCode,
        process: WorkerProcess,
        loaded: Loaded,
        problems: Sequence[Problem],
    ) -> Crew:
        found = [*problems, *(_problem(problem, code.project) for problem in loaded.problems)]
        if not loaded.handlers:
            process.close()
            return Crew(problems=found)
        signatures = {name: _signature(told) for name, told in loaded.handlers.items()}
        code = _without(code, code.scripts.keys() - signatures.keys())
        return Crew(code=code, first=process, signatures=signatures, problems=found)


def _place(process: WorkerProcess, code: WorkerCode) -> tuple[str, int | None]:
    """Where a worker is, or was when it died: a file of the project, and perhaps the line."""
    process.signal(signal.SIGUSR2)
    found = _FRAME.findall(_dumped(process))
    own = [(file, int(line)) for file, line in found if file in code.files]
    if own:
        # The innermost is the first of them.
        return own[0]
    scripts = list(code.scripts.values())
    return process.loading or (scripts[0] if len(scripts) == 1 else ""), None


def _dumped(process: WorkerProcess) -> str:
    """Return the stack that a worker tells, or told when it crashed; empty if it does not."""
    text = b""
    poll = select.poll()
    poll.register(process.dump, select.POLLIN)
    while poll.poll(DUMP_MILLISECONDS if process.status is None else 0):
        piece = os.read(process.dump, 65536)
        text += piece
        if not piece:
            break
    return text.decode("utf-8", "replace")


def lowest_log_level() -> int:
    """Return the lowest level that anything is logged at, as in `logging`."""
    loggers = list(logging.root.manager.loggerDict.values())
    levels = [logger.level for logger in loggers if isinstance(logger, logging.Logger)]
    return min(filter(None, [logging.root.level, *levels]), default=logging.WARNING)


def _without(code: WorkerCode, handlers: Collection[str]) -> WorkerCode:
    scripts = {name: file for name, file in code.scripts.items() if name not in handlers}
    return msgspec.structs.replace(code, scripts=scripts)


def _problem(told: Mapping[str, Any], project: str) -> Problem:
    return Problem(
        project=project,
        handler=told.get("handler", ""),
        file=told.get("file", ""),
        line=told.get("line"),
        what=told["problem"],
        cure=told.get("cure", ""),
    )


def _signature(told: Mapping[str, Any]) -> Signature:
    return Signature(is_async=told["is_async"], streams=told["streams"], schema=told.get("schema"))
