"""Calls that are made on the gateway itself: by its scripts, and by the program that hosts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from headgate.invocation import Caller, Invocation, current_invocation
from headgate.outcome import Outcome
from headgate.request import Request
from headgate.scope import NEARBY, Delivery, Route, Scope
from headgate.wire.frames import FINISHES

if TYPE_CHECKING:
    from headgate.system import System

__all__ = ["GatewayScope", "Host"]


class Host(Protocol):
    """What the scope needs of its gateway; everything may be called from any thread."""

    name: str
    origin: str
    caller: Caller
    globals: dict[str, Any]

    def ask(self, invocation: Invocation) -> None:
        """Have an invocation of this process answered."""

    def may_wait(self, parent: Invocation | None) -> bool:
        """Tell whether something that this invocation's handler asks for may wait for a try."""

    def ask_later(self, invocation: Invocation, pause: float, begin: Callable[[], bool]) -> None:
        """Have an invocation answered after so many seconds, if `begin` then says that it may."""

    def tell(self, invocation: Invocation, scope: str, filters: dict[str, str]) -> None:
        """Have a message of this process delivered."""

    def call(self, function: Callable[[], None]) -> None:
        """Run a function on the gateway's event loop, soon."""

    def cancel(self, invocation: Invocation) -> None:
        """Stop an invocation of this process."""

    def invoke(self, function: Callable[[], None]) -> None:
        """Run a callback on the gateway's callback thread."""

    def next_sequence(self) -> int:
        """Return the next number of a request of the gateway's own scripts."""


class GatewayScope(Scope):
    """
    The scope of a project's scripts on a gateway; no socket is between them and the handlers.

    A request that a handler makes is nested in the handler's own: it has the same caller, ends no
    later while the handler runs, and is cancelled when the handler ends without success.
    """

    def __init__(self, host: Host, project: str) -> None:
        self.host = host
        self.project = project

    @property
    def system(self) -> System:
        """The manual's functions, bound to this scope."""
        from headgate.system import System

        return System(self)

    @property
    def gateway(self) -> str:
        """Name of the gateway."""
        return self.host.name

    @property
    def globals(self) -> dict[str, Any]:
        """What `system.util.getGlobals` gives: one dictionary for the life of the gateway."""
        return self.host.globals

    def invoke(self, function: Callable[[], None]) -> None:
        self.host.invoke(function)

    def withdraw(self, request: Request) -> None:
        if request.invocation is not None:
            self.host.cancel(request.invocation)

    def grant(self, request: Request, total: int) -> None:
        if request.invocation is not None:
            request.invocation.grant(total)

    def _submit(self, request: Request, payload: bytes, route: Route) -> None:
        invocation = self._invocation(request, payload, route.ancestors, request.made_in)
        if route is not NEARBY:
            _take(route, invocation)
        invocation.streams = True
        request.invocation = invocation
        request.hand_over(self.host.origin, invocation.sequence)
        self.host.ask(invocation)

    def _resubmit(self, request: Request, payload: bytes, route: Route, pause: float) -> bool:
        running, before = request.made_in, request.invocation
        if not self.host.may_wait(running):
            return False
        invocation = self._invocation(request, payload, route.ancestors, running)
        _take(route, invocation)
        invocation.streams = True
        if running is not None and running.waits_for is before:
            # Whoever looks for circles follows what the handler waits for now.
            running.waits_for = invocation
        origin, sequence = self.host.origin, invocation.sequence
        self.host.ask_later(invocation, pause, lambda: request.hand_over(origin, sequence))
        # Not before: whoever cancels from now on comes behind it.
        request.invocation = invocation
        if request.done:
            self.host.cancel(invocation)
        return True

    def _deliver(self, request: Request, payload: bytes, delivery: Delivery) -> None:
        running = current_invocation.get()
        invocation = self._invocation(request, payload, delivery.ancestors, running)
        request.invocation = invocation
        request.hand_over(self.host.origin, invocation.sequence)
        self.host.tell(invocation, delivery.scope, delivery.filters)

    def _invocation(
        self,
        request: Request,
        payload: bytes,
        ancestors: tuple[str, ...],
        running: Invocation | None,
    ) -> Invocation:
        host = self.host
        return Invocation(
            running.caller if running is not None else host.caller,
            request.project,
            request.handler,
            payload,
            request.deadline,
            HANDLES,
            host.origin,
            host.next_sequence(),
            ancestors,
            running,
            tag=request,
        )


def _take(route: Route, invocation: Invocation) -> None:
    """Note where else an invocation goes and how."""
    invocation.remote_server = route.remote_server
    invocation.host_name = route.host_name
    invocation.priority = route.priority
    invocation.finishes = bool(route.flags & FINISHES)


class _Handles:
    """The asker of requests whose handles are in this process."""

    def ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """End the handle; one that was cancelled at this moment learns what it came to."""
        if not invocation.tag.end(outcome):
            invocation.tag.note_late(outcome)

    def started(self, invocation: Invocation) -> None:
        """Tell the handle."""
        invocation.tag.note_started()

    def progressed(self, invocation: Invocation, data: bytes) -> None:
        """Tell the handle."""
        invocation.tag.note_progress(data)

    def yielded(self, invocation: Invocation, parts: list[bytes]) -> None:
        """Tell the handle."""
        invocation.tag.note_yielded(parts)

    def learned(self, invocation: Invocation, fate: str) -> None:
        """Tell the handle, unless it speaks of an earlier try."""
        if invocation.tag.invocation is invocation:
            invocation.tag.note_fate(fate)


HANDLES = _Handles()
