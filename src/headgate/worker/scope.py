"""The requests that scripts make in a worker: the gateway answers them, over the link."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING, Any

from headgate.deadlines import Deadlines
from headgate.errors import (
    GatewayUnreachable,
    RequestError,
    RequestTimeout,
)
from headgate.invocation import NOBODY, Caller, Fate, Invocation, current_invocation
from headgate.outcome import Encoded, Failure, Outcome
from headgate.request import Request
from headgate.runtimes.link import NestedAnswer, NestedCall, NestedCancel, NestedEvent, NestedGrant
from headgate.scope import Delivery, Route, Scope
from headgate.threads import CallbackThread
from headgate.wire.frames import FINISHES

if TYPE_CHECKING:
    from headgate.system import System
    from headgate.worker.speaking import Link

__all__ = ["Home", "WorkerScope"]

GRACE = 2.0
"""Seconds after its deadline at which a request ends of itself, if the gateway has said nothing."""

FATE_SECONDS = 60.0
"""Seconds for which it is kept who wants to know what became of a handler."""

MOST_FATES = 4096
"""Requests of which that is kept, at most."""

MOST_PAUSES = 100
"""Requests of a worker that may wait for another try at once, for each has a thread."""

UNNUMBERED = "0" * 20
"""The session of a request that was sent, until the gateway tells its id."""

_ITSELF = Caller("")


class Home:
    """
    The gateway, as a worker's scripts see it: they call from here, and answers come here.

    Args:
        link: The way to the gateway.
    """

    def __init__(self, link: Link) -> None:
        self.name = ""
        """Name of the gateway."""
        self.origin = ""
        """The session that numbers requests; empty if the gateway numbers them."""
        self.globals: dict[str, Any] = {}
        """What `system.util.getGlobals` gives: one dictionary for the life of this process."""
        self._link = link
        self._callbacks = CallbackThread("headgate-callbacks")
        self._numbers = itertools.count(1)
        self._open: dict[int, Request] = {}
        self._over: OrderedDict[int, tuple[Request, float]] = OrderedDict()
        self._deadlines = Deadlines(GRACE)
        self.pausing: set[Request] = set()
        """Requests that wait for another try."""

    def scope(self, project: str) -> WorkerScope:
        """Return the scope of a project's scripts."""
        return WorkerScope(self, project)

    # --- for scripts, on any thread ---------------------------------------------------------------

    def ask(
        self,
        request: Request,
        payload: bytes,
        *,
        route: Route,
        scope: str = "",
        filters: dict[str, str] | None = None,
    ) -> None:
        """Have the gateway answer a request, or with a scope deliver a message."""
        if self._link.is_dead:
            text = "Not sent: this is a child of a worker process, and only that can make requests"
            request.end(Failure(GatewayUnreachable(text, started=False)))
            return
        running, number = current_invocation.get(), next(self._numbers)
        caller = running.caller if running is not None else None
        request.invocation = Invocation(
            caller or _ITSELF,
            request.project,
            request.handler,
            b"",
            request.deadline,
            NOBODY,
            tag=number,
        )
        request.hand_over(self.origin or UNNUMBERED, number if self.origin else 0)
        self._open[number] = request
        self._deadlines.add(request.deadline)

        def made(parent: int) -> NestedCall:
            return NestedCall(
                number,
                parent,
                request.project,
                request.handler,
                payload,
                request.deadline,
                route.remote_server,
                route.host_name,
                priority=route.priority,
                finishes=bool(route.flags & FINISHES),
                streams=request.streams,
                scope=scope,
                filters=filters or {},
                caller=None if parent else caller,
                ancestors=() if parent else route.ancestors,
            )

        self._link.send_within(running, made)
        if request.done:
            # Cancelled as it was sent again: it may have found nothing to cancel.
            self.cancel(request)

    def cancel(self, request: Request) -> None:
        """Tell the gateway that a request is cancelled."""
        if request.invocation is not None and request.invocation.tag in self._open:
            self._link.send(NestedCancel(request.invocation.tag))

    def grant(self, request: Request, total: int) -> None:
        """Tell the gateway how many bytes of a request's stream are taken in all."""
        if request.invocation is not None and request.invocation.tag in self._open:
            self._link.send(NestedGrant(request.invocation.tag, total))

    def invoke(self, function: Callable[[], None]) -> None:
        """Run a callback on the callback thread."""
        self._callbacks.invoke(function)

    def leave(self) -> None:
        """In a child of the worker: callbacks run on a thread of its own."""
        self._callbacks = CallbackThread("headgate-callbacks")

    # --- for the thread that reads the link -------------------------------------------------------

    def answered(self, answer: NestedAnswer) -> None:
        """Take the end of a request."""
        request = self._open.pop(answer.number, None)
        if request is None:
            return
        outcome: Outcome = Encoded(answer.payload)
        if answer.code:
            outcome = Failure(_error(answer))
        if not self.origin and len(answer.request_id) == 32:
            request.session = answer.request_id[:20]
            request.sequence = int(answer.request_id[20:], 16)
        if not request.end(outcome):
            request.note_late(outcome)
        if request.fate not in Fate.FINAL:
            self._keep(answer.number, request)

    def heard(self, event: NestedEvent) -> None:
        """Take what else the gateway says of a request."""
        request = self._open.get(event.number)
        if request is None:
            request, _ = self._over.get(event.number, (None, 0.0))
        if request is None:
            return
        if event.started:
            request.note_started()
        if event.parts:
            request.note_yielded(event.parts)
        if event.progress:
            request.note_progress(event.progress)
        if event.fate:
            request.note_fate(event.fate)
            if event.fate in Fate.FINAL:
                self._over.pop(event.number, None)

    def look(self, now: float) -> None:
        """End what the gateway should have ended, and forget what is kept no longer."""
        for number in self._deadlines.overdue(dict(self._open), now):
            request = self._open.pop(number)
            text = f"The gateway gave no result of {request.project}/{request.handler} in time"
            request.end(Failure(RequestTimeout(text)))
            self._keep(number, request)
        while self._over and next(iter(self._over.values()))[1] <= now:
            self._over.popitem(last=False)

    def _keep(self, number: int, request: Request) -> None:
        self._over[number] = (request, monotonic() + FATE_SECONDS)
        if len(self._over) > MOST_FATES:
            self._over.popitem(last=False)


class WorkerScope(Scope):
    """
    The scope of a project's scripts in a worker process.

    Requests that a handler makes are nested in the handler's own, as on the gateway itself.

    Args:
        home: The gateway, as it is seen from here.
        project: The project.
    """

    def __init__(self, home: Home, project: str) -> None:
        self.home = home
        self.project = project

    @property
    def system(self) -> System:
        """The manual's functions, bound to this scope."""
        from headgate.system import System

        return System(self)

    @property
    def gateway(self) -> str:
        """Name of the gateway."""
        return self.home.name

    @property
    def globals(self) -> dict[str, Any]:
        """What `system.util.getGlobals` gives: one dictionary for the life of this process."""
        return self.home.globals

    def invoke(self, function: Callable[[], None]) -> None:
        self.home.invoke(function)

    def withdraw(self, request: Request) -> None:
        self.home.cancel(request)

    def grant(self, request: Request, total: int) -> None:
        self.home.grant(request, total)

    def _submit(self, request: Request, payload: bytes, route: Route) -> None:
        self.home.ask(request, payload, route=route)

    def _resubmit(self, request: Request, payload: bytes, route: Route, pause: float) -> bool:
        if len(self.home.pausing) >= MOST_PAUSES:
            return False
        self.home.pausing.add(request)
        timer = Timer(pause, self._try_again, (request, payload, route))
        timer.daemon = True
        timer.start()
        return True

    def _try_again(self, request: Request, payload: bytes, route: Route) -> None:
        self.home.pausing.discard(request)
        current_invocation.set(request.made_in)
        if not request.done:
            self._submit(request, payload, route)

    def _deliver(self, request: Request, payload: bytes, delivery: Delivery) -> None:
        route = Route(ancestors=delivery.ancestors)
        self.home.ask(request, payload, route=route, scope=delivery.scope, filters=delivery.filters)


def _error(answer: NestedAnswer) -> RequestError:
    return RequestError.from_wire(
        answer.code,
        answer.message,
        answer.details,
        started=answer.started,
        request_id=answer.request_id,
    )
