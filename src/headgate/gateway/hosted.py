"""
One project that a gateway hosts, through its generations.

The runtime of a project stays, with its threads, its queues and its counts: a newer generation
brings other functions. A call that runs ends on the generation that it began on, which is closed
when its last call is over. A call that waits runs the newer one, or ends if its handler is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from headgate.errors import HandlerNotFound, ProjectNotFound, RequestError
from headgate.gateway.plan import Key
from headgate.gateway.requests import Requests
from headgate.invocation import Invocation
from headgate.outcome import Failure
from headgate.projects.project import Problem, Project
from headgate.runtimes.gate import Gate
from headgate.runtimes.project import ProjectRuntime

__all__ = ["Hosted"]


@dataclass
class _Left:
    """A generation that serves nothing new any more."""

    project: Project
    running: frozenset[Invocation]
    """What may run on it."""


class Hosted:
    """
    A project that the gateway hosts; it belongs to the gateway's event loop.

    Args:
        runtime: Runs its handlers.
        requests: The open requests.
        project: The generation that is to serve.
        key: What that was made of.
    """

    def __init__(
        self, runtime: ProjectRuntime, requests: Requests, project: Project, key: Key
    ) -> None:
        self.runtime = runtime
        self.project = project
        """The generation that serves."""
        self.key = key
        """What that was made of."""
        self.endpoints: Mapping[str, Gate] = {}
        """The endpoints of its handlers by name."""
        self.refused: tuple[Key, list[Problem]] | None = None
        """What a newer generation was made of that does not serve, and why."""
        self._requests = requests
        self._left: list[_Left] = []
        self._exchange(project)

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with what stands in its files."""
        return self.refused[1] if self.refused is not None else list(self.project.problems)

    @property
    def left(self) -> int:
        """How many generations wait for the end of their last calls."""
        return len(self._left)

    def serve(self, project: Project, key: Key) -> None:
        """Let a newer generation take the place of the one that serves."""
        before, self.project = self.project, project
        self.key, self.refused = key, None
        self._exchange(project, before=before)

    def refuse(self, project: Project, key: Key) -> None:
        """Go on as it is, and keep in mind what is wrong with a newer generation."""
        problems = [msgspec.structs.replace(each, kept=True) for each in project.problems]
        self.refused = (key, problems)
        project.close()

    def leave(self) -> None:
        """Serve nothing any more: the project was removed."""
        self._exchange(None, before=self.project, error=_no_project)

    def tidy(self) -> bool:
        """Close what is not needed any more; False if something still is."""
        tidy = self.runtime.tidy()
        running = frozenset(self.runtime.running) if self._left else frozenset()
        for left in self._left:
            left.running &= running
            if not left.running:
                left.project.close()
        self._left = [left for left in self._left if left.running]
        return tidy and not self._left

    def end(self) -> None:
        """Tidy up for ever, on a thread: it may have to wait for another one to end."""
        name = f"headgate-{self.project.name}-end"
        threading.Thread(target=self.runtime.close, name=name, daemon=True).start()

    def ends(self) -> list[Callable[[], None]]:
        """Return what is to be called when the gateway stops."""
        return [
            self.runtime.close,
            self.project.close,
            *(left.project.close for left in self._left),
        ]

    def _exchange(
        self,
        project: Project | None,
        *,
        before: Project | None = None,
        error: Callable[[Invocation], RequestError] | None = None,
    ) -> None:
        if project is None:
            successors = self.runtime.exchange({})
        else:
            successors = self.runtime.exchange(
                project.handlers,
                workers=project.workers,
                first=project.take_worker(),
                pools=project.pools,
            )
        self.endpoints = self.runtime.endpoints
        if successors:
            self._move(successors, error or _no_handler)
        if before is not None:
            # After the exchange: a thread shows what it runs before it looks which function to
            # call, so whatever may have seen the old function is among these.
            self._left.append(_Left(before, frozenset(self.runtime.running)))

    def _move(
        self,
        successors: Mapping[Gate, Gate | None],
        error: Callable[[Invocation], RequestError],
    ) -> None:
        """Let calls that wait at a gate which was left go where they belong now."""
        for invocation in self._requests.on_this_node():
            gate = invocation.place
            if not isinstance(gate, Gate) or gate not in successors or not gate.take(invocation):
                continue
            successor = successors[gate]
            if successor is None:
                self._requests.end(invocation, Failure(error(invocation)))
                continue
            try:
                successor.adopt(invocation)
            except RequestError as refusal:
                # Its payload lacks what the newer handler's calls are ordered by.
                self._requests.end(invocation, Failure(refusal))


def _no_handler(invocation: Invocation) -> RequestError:
    return HandlerNotFound(
        f"The message handler of {invocation.target} was removed while the call was waiting",
        started=False,
    )


def _no_project(invocation: Invocation) -> RequestError:
    return ProjectNotFound(
        f"The project of {invocation.target} was removed while the call was waiting",
        started=False,
    )
