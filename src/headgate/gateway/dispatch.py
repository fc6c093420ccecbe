"""Routing: which endpoint answers an invocation, and whether its caller may ask it."""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
from bisect import bisect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple

from headgate.errors import (
    CancellationException,
    ClientNotFound,
    DeadlockError,
    GatewayUnreachable,
    HandlerKilled,
    HandlerNotFound,
    Overloaded,
    PayloadError,
    PermissionDenied,
    ProjectNotFound,
    RequestError,
    RequestTimeout,
)
from headgate.gateway.builtins import Builtin
from headgate.gateway.deadlock import find_deadlock
from headgate.gateway.hosted import Hosted
from headgate.gateway.requests import Requests
from headgate.invocation import MAX_CHAIN, NOBODY, Caller, Endpoint, Fate, Invocation
from headgate.network.memory import Network, Peer
from headgate.outcome import Encoded, Failure, Outcome
from headgate.projects.project import Problem
from headgate.runtimes.gate import Finished, Gate
from headgate.scope import GATEWAY_PROJECT, MAX_TIMEOUT
from headgate.security.audit import AuditLog, Record, Recorder
from headgate.security.audit.redaction import described
from headgate.security.identity import is_owner
from headgate.security.policy import Action, Policy, allows
from headgate.threads import Mailbox
from headgate.wire.codec import decode, encode

__all__ = ["GATEWAY_PROJECT", "Dispatch", "Pause"]

logger = logging.getLogger("headgate.gateway")

MAX_ASKED = 4096
"""Bytes of a payload for the gateway's own handlers, which are answered on its event loop."""


OVER_SECONDS = 5.0
"""Seconds that it may take to end what is being administered when the gateway stops."""

MOST_PAUSES = 1000
"""Requests of this process that wait for their next try, at most."""

NAMES_LOOKED_AT = 32
"""Names that are compared or told where one is not found."""


class _Answer:
    """
    What the gateway's own handlers are at work on.

    Args:
        task: Can be cancelled, which does nothing if it has begun; None for what goes on.
    """

    def __init__(self, task: asyncio.Future[None] | None) -> None:
        self._task = task

    def withdraw(self, invocation: Invocation) -> str:
        if self._task is not None:
            # Not in this turn: a task that is cancelled before its first step tells nobody.
            self._task.get_loop().call_soon(self._task.cancel)
        return Fate.UNKNOWN


class Pause(NamedTuple):
    """What an invocation waits for before it begins."""

    seconds: float
    may_begin: Callable[[], bool]
    """Asked when they are over; False if nobody wants it any more."""


class _Pauses:
    """
    Where invocations are between two tries.

    Args:
        go_on: Makes the next try.
        drop: Ends one that is not wanted any more.
    """

    def __init__(
        self, go_on: Callable[[Invocation], None], drop: Callable[[Invocation], None]
    ) -> None:
        self._go_on = go_on
        self._drop = drop
        self._timers: dict[Invocation, asyncio.TimerHandle] = {}

    @property
    def is_full(self) -> bool:
        """Whether as many wait as may."""
        return len(self._timers) >= MOST_PAUSES

    def add(self, invocation: Invocation, pause: Pause) -> None:
        """Let an invocation wait."""
        invocation.place = self
        later = asyncio.get_running_loop().call_later
        self._timers[invocation] = later(pause.seconds, self._over, invocation, pause)

    def withdraw(self, invocation: Invocation) -> str:
        """Let it end: nothing has begun."""
        self._timers.pop(invocation).cancel()
        return Fate.NOT_STARTED

    def _over(self, invocation: Invocation, pause: Pause) -> None:
        del self._timers[invocation]
        invocation.place = None
        if pause.may_begin():
            self._go_on(invocation)
        else:
            self._drop(invocation)


class Dispatch:
    """
    Gives each invocation to the endpoint that answers it; it belongs to the event loop.

    `_endpoint` is the only way to an endpoint, and the first thing it does is to ask the policy.

    Args:
        gateway: The gateway, for the network.
        hosted: The projects by name.
        policy: May this caller do this?
        requests: The open requests.
        network: The way to other gateways.
        recorder: Is told of administration.
        builtins: The gateway's own handlers by name.
        refusal: Tells why another try is not taken now, None for one that is.
        audit: The log that may have to hold a request first; None where there is none.
    """

    def __init__(
        self,
        gateway: Peer,
        *,
        hosted: Mapping[str, Hosted],
        policy: Policy,
        requests: Requests,
        network: Network,
        recorder: Recorder,
        builtins: Mapping[str, Builtin],
        refusal: Callable[[Invocation], RequestError | None],
        audit: AuditLog | None = None,
    ) -> None:
        self._gateway = gateway
        self._hosted = hosted
        self._policy = policy
        self._requests = requests
        self._network = network
        self._recorder = recorder
        self._builtins = builtins
        self._answering: set[asyncio.Future[None]] = set()
        self._audit = audit
        self._committed = Mailbox(asyncio.get_running_loop(), self._resume)
        self._resumed: Invocation | None = None
        self._refusal = refusal
        self.pauses = _Pauses(self._try_again, lambda i: requests.cancel(i, "its caller did"))
        """Where requests of this process wait for their next try."""

    async def over(self) -> None:
        """Wait for what is being administered: it is done, or not, before the records end."""
        if self._answering:
            await asyncio.wait(self._answering, timeout=OVER_SECONDS)

    # --- requests --------------------------------------------------------------------------------

    def request(self, invocation: Invocation) -> None:
        """Have an invocation answered; it ends through `Requests`, whatever happens."""
        if self._begin(invocation, "request") is None and invocation.ancestors:
            self.break_deadlocks(invocation)

    def _begin(self, invocation: Invocation, action: Action) -> RequestError | None:
        """Give an invocation to its endpoint; if none takes it, end it and return why."""
        invocation.home = self._gateway
        self._requests.add(invocation)
        try:
            endpoint = self._endpoint(invocation, action)
            if self._audit is not None and self._audit.guards:
                endpoint = self._guarded(invocation, action, endpoint, self._audit)
            if isinstance(endpoint, Gate) and endpoint.timeout is not None:
                self._requests.shorten(invocation, monotonic() + endpoint.timeout)
            endpoint(invocation)
            return None
        except RequestError as error:
            refusal = error
        except Exception:
            # A bug, of a policy perhaps: it must not take the session and its other requests along.
            logger.exception("%s to %s failed", action, invocation.target)
            refusal = RequestError(f"The gateway failed at {invocation.target}; its log says more")
        if refusal.started is None:
            refusal.started = False
        self._requests.end(invocation, Failure(refusal))
        return refusal

    def _guarded(
        self, invocation: Invocation, action: Action, endpoint: Endpoint, audit: AuditLog
    ) -> Endpoint:
        """Return what holds an invocation until its record is on the disk, if it must be."""
        refusal = audit.refusal()
        administers = invocation.project == GATEWAY_PROJECT and is_owner(invocation.caller)
        if refusal is not None and not administers:
            raise refusal
        if not audit.settings.strict or self._resumed is invocation:
            return endpoint
        return lambda i: self._hold(i, action, audit)

    def _hold(self, invocation: Invocation, action: Action, audit: AuditLog) -> None:
        """Have an invocation recorded; it goes on in `_resume`."""
        invocation.place = HELD
        payload = audit.settings.payloads
        record = Record.of("begun", invocation, outcome="", payload=payload)
        audit.commit(record, lambda _: self._committed.post((invocation, action)))

    def _resume(self, held: tuple[Invocation, Action]) -> None:
        """
        Go on with an invocation whose record is on the disk, or cannot be.

        Whether it may be asked is decided again: much may have changed since then. If nothing can
        be written, the settings decide in `_guarded`.
        """
        invocation, action = held
        if invocation.outcome is not None:
            return
        invocation.place, self._resumed = None, invocation
        try:
            refusal = self._begin(invocation, action)
        finally:
            self._resumed = None
        if refusal is None and invocation.ancestors:
            self.break_deadlocks(invocation)

    def nested(self, invocation: Invocation, pause: Pause | None = None) -> None:
        """Have an invocation answered, after a pause, that this process asks for."""
        parent = invocation.parent
        if parent is not None and parent.home is self._gateway:
            if type(parent.outcome) is Failure:
                invocation.parent = None
                self._requests.add(invocation)
                why = f"{parent.target}, which asked for it, has ended"
                self._requests.stop(invocation, CancellationException(why))
                return
            if parent.outcome is None:
                invocation.own_deadline = invocation.deadline
                invocation.deadline = min(invocation.deadline, parent.deadline)
                if parent.children is None:
                    parent.children = {}
                parent.children[id(invocation)] = invocation
            else:
                invocation.parent = None
        else:
            invocation.parent = None
        if pause is None:
            self.request(invocation)
            return
        invocation.home = self._gateway
        self._requests.add(invocation)
        self.pauses.add(invocation, pause)

    def _try_again(self, invocation: Invocation) -> None:
        refusal = self._refusal(invocation)
        if refusal is None:
            self.request(invocation)
        else:
            self._requests.end(invocation, Failure(refusal))

    def break_deadlocks(self, start: Invocation) -> None:
        """End requests that can never begin, now that this one is queued or waited for."""
        while found := find_deadlock(start, self._requests.on_this_node):
            self._requests.stop(*found)

    def _endpoint(self, invocation: Invocation, action: Action) -> Endpoint:
        """Return whatever answers an invocation; raises RequestError if nothing may or can."""
        project, handler = invocation.project, invocation.handler
        if project == GATEWAY_PROJECT:
            builtin = self._builtins.get(handler)
            action = "see" if builtin is None else self._action(invocation.caller, builtin, handler)
            invocation.action = action
        self._policy.authorise(invocation.caller, action, project, handler)
        if len(invocation.ancestors) >= MAX_CHAIN:
            raise _too_long(invocation)
        if invocation.remote_server or invocation.host_name:
            remote = self._elsewhere(invocation)
            if remote is not None:
                return remote
        if project == GATEWAY_PROJECT:
            return self._builtin(handler)
        hosted = self._hosted.get(project)
        if hosted is None:
            raise self._no_project(invocation, action)
        endpoint = hosted.endpoints.get(handler)
        if endpoint is None:
            raise self._no_handler(invocation, action, hosted)
        if endpoint.narrows:
            self._narrow(invocation, endpoint)
        return endpoint

    def _action(self, caller: Caller, builtin: Builtin, name: str) -> Action:
        """Return what a caller must be allowed to do who asks one of the gateway's own handlers."""
        action, other = builtin.action, builtin.else_action
        if other is None or allows(self._policy, caller, action, GATEWAY_PROJECT, name):
            return action
        return other

    def _no_project(self, invocation: Invocation, action: Action) -> ProjectNotFound:
        caller, name = invocation.caller, invocation.project

        def is_shown(project: str) -> bool:
            handlers = islice(self._hosted[project].endpoints, NAMES_LOOKED_AT)
            return any(allows(self._policy, caller, action, project, each) for each in handlers)

        return ProjectNotFound(
            f"The gateway {self._gateway.name!r} has no project {name!r}. "
            f"{_nearest(name, self._hosted, is_shown)}See: headgate handlers"
        )

    def _no_handler(
        self, invocation: Invocation, action: Action, hosted: Hosted
    ) -> HandlerNotFound:
        caller, name, project = invocation.caller, invocation.handler, hosted.project
        in_full = allows(self._policy, caller, "administer", GATEWAY_PROJECT, "handlers")
        found = _not_loaded(hosted, name, in_full=in_full)
        if found is not None:
            return found

        def is_shown(handler: str) -> bool:
            return allows(self._policy, caller, action, project.name, handler)

        return HandlerNotFound(
            f'The message handler "{name}" could not be found in project {project.name!r}. '
            f"{_nearest(name, project.handlers, is_shown)}"
            f"Its scripts are in {project.path / 'messages' if in_full else 'its folder messages'}"
        )

    def _narrow(self, invocation: Invocation, gate: Gate) -> None:
        """Let the handler's own settings refuse; they come after the rules, and allow nothing."""
        settings = gate.handler.settings
        self._policy.narrow(
            invocation.caller,
            invocation.project,
            invocation.handler,
            roles=settings.roles,
            zones=settings.zones,
        )

    def _elsewhere(self, invocation: Invocation) -> Endpoint | None:
        target = invocation.remote_server
        if self._is_elsewhere(target):
            return lambda i: self._network.send(self._gateway, target, i)
        if invocation.host_name:
            raise ClientNotFound(
                f"No client on host {invocation.host_name!r} hosts the message handler "
                f"{invocation.target}",
                started=False,
            )
        return None

    def _is_elsewhere(self, gateway: str) -> bool:
        return bool(gateway) and gateway.casefold() != self._gateway.name.casefold()

    def _builtin(self, name: str) -> Endpoint:
        builtin = self._builtins.get(name)
        if builtin is None:
            known = ", ".join(sorted(self._builtins))
            raise HandlerNotFound(
                f"The gateway has no handler {name!r} of its own. It has: {known}"
            )
        return lambda i: self._answer(i, builtin)

    def _answer(self, invocation: Invocation, builtin: Builtin) -> None:
        if len(invocation.payload) > MAX_ASKED:
            raise PayloadError(f"The gateway's own handlers take {MAX_ASKED} bytes at most")
        payload, caller = decode(invocation.payload), invocation.caller
        value = builtin.answer(payload, caller) if builtin.for_caller else builtin.answer(payload)
        if builtin.action == "administer" and not builtin.for_caller:
            value = self._administered(invocation, payload, value)
        if not isinstance(value, Awaitable):
            self._requests.end(invocation, Encoded(encode(value, root="result")))
            return
        task = asyncio.ensure_future(self._answer_later(invocation, value))
        # The event loop itself does not hold on to its tasks.
        invocation.place = _Answer(task if builtin.for_caller else None)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _administered(self, invocation: Invocation, payload: Any, value: Any) -> Any:
        """Wait for what an administrator asked for, and record that it is done."""
        if isinstance(value, Awaitable):
            value = await value
        detail = described(payload)
        self._recorder.record(Record.of("administered", invocation, outcome="ok", detail=detail))
        return value

    async def _answer_later(self, invocation: Invocation, value: Awaitable[Any]) -> None:
        outcome: Outcome
        try:
            outcome = Encoded(encode(await value, root="result"))
        except RequestError as error:
            if error.started is None:
                error.started = False
            outcome = Failure(error)
        except Exception:
            logger.exception("%s failed", invocation.target)
            outcome = Failure(
                RequestError(f"The gateway failed at {invocation.target}; its log says more")
            )
        except asyncio.CancelledError:
            if invocation.outcome is None:
                raise
            invocation.asker.learned(invocation, Fate.NOT_STARTED)
            return
        if invocation.outcome is None:
            self._requests.end(invocation, outcome)
        else:
            fate = Fate.of(outcome)
            invocation.asker.learned(invocation, Fate.FINISHED if fate == Fate.UNKNOWN else fate)

    # --- messages --------------------------------------------------------------------------------

    def deliver(self, invocation: Invocation, scope: str, filters: dict[str, str]) -> None:
        """
        Deliver a message, and answer with the report.

        The gateway itself is selected by the letter ``G``. A message for another gateway or a host
        is refused: there is no way for it, and here it would come to the wrong handler.
        """
        # A message is no child of the handler that sends it: it is over before the handler goes on.
        invocation.parent = None
        invocation.action = "message"
        self._requests.add(invocation)
        try:
            self._require_here(invocation)
            report = [self._to_gateway(invocation)] if "G" in scope else []
        except RequestError as error:
            self._requests.end(invocation, Failure(error))
        else:
            self._requests.end(invocation, Encoded(encode(report)))

    def _require_here(self, message: Invocation) -> None:
        if self._is_elsewhere(message.remote_server):
            raise GatewayUnreachable(
                f"Messages cannot be sent to other gateways: the message {message.target} for "
                f"{message.remote_server!r} was not delivered. Send a request, with remoteServer",
                started=False,
            )
        if message.host_name:
            raise ClientNotFound(
                f"Messages cannot be sent to clients: the message {message.target} for the host "
                f"{message.host_name!r} was not delivered",
                started=False,
            )

    def _to_gateway(self, message: Invocation) -> str:
        copy = Invocation(
            message.caller,
            message.project,
            message.handler,
            message.payload,
            monotonic() + MAX_TIMEOUT,
            NOBODY,
            message.origin,
            message.sequence,
            message.ancestors,
            wants_result=False,
            action="message",
        )
        refusal = self._begin(copy, "message")
        if refusal is not None and type(refusal) not in _SEND_STATUS:
            raise refusal
        status = "SENT" if refusal is None else _SEND_STATUS[type(refusal)]
        fields = {
            "scope": "G",
            "gateway": self._gateway.name,
            "project": message.project,
            "handler": message.handler,
            "sendStatus": status,
        }
        return ",".join(f"{name}={_escaped(value)}" for name, value in fields.items())

    # --- ends ------------------------------------------------------------------------------------

    def finished(self, end: Finished) -> None:
        """Take the end of a handler's run, its progress, or what it yielded."""
        invocation, gate, outcome = end
        if outcome is None:
            self._tell(invocation)
            return
        gate.finished(invocation)
        if invocation.outcome is None:
            self._requests.end(invocation, outcome)
            if type(outcome) is Failure and type(outcome.error) is RequestTimeout:
                # It was too late to begin. Whoever waits for the fate of what timed out is told.
                invocation.asker.learned(invocation, Fate.NOT_STARTED)
        else:
            invocation.asker.learned(invocation, _fate(outcome))

    def _tell(self, invocation: Invocation) -> None:
        data, invocation.reported = invocation.reported, None
        values = invocation.take_yielded()
        if invocation.outcome is None:
            if data is not None:
                invocation.asker.progressed(invocation, data)
            if values:
                invocation.asker.yielded(invocation, values)


class _Held:
    """Where an invocation is while its record is written."""

    def withdraw(self, invocation: Invocation) -> str:
        """Let it end: nothing has begun."""
        return Fate.NOT_STARTED


HELD = _Held()

_SEND_STATUS: dict[type[RequestError], str] = {
    ProjectNotFound: "NO_HANDLER",
    HandlerNotFound: "NO_HANDLER",
    PermissionDenied: "DENIED",
    Overloaded: "OVERLOADED",
}


def _escaped(value: str) -> str:
    """Keep the report's own separators out of a name, as URLs do."""
    return value.replace("%", "%25").replace(",", "%2C").replace("=", "%3D")


def _fate(outcome: Outcome) -> str:
    if isinstance(outcome, Failure):
        if outcome.error.started is False:
            return Fate.NOT_STARTED
        if isinstance(outcome.error, CancellationException | HandlerKilled):
            return Fate.STOPPED
    return Fate.FINISHED


def _too_long(invocation: Invocation) -> DeadlockError:
    return DeadlockError(
        f"{invocation.target} would be number {len(invocation.ancestors) + 1} in a chain of "
        f"handlers that call each other, and a chain has at most {MAX_CHAIN}: do they call in a "
        "circle?",
        started=False,
    )


def _not_loaded(hosted: Hosted, name: str, *, in_full: bool) -> HandlerNotFound | None:
    """
    Return the error for a handler that is in the files and does not serve, None without one.

    Args:
        hosted: The project.
        name: The handler.
        in_full: Whether to name folders.
    """
    project = hosted.project
    subject = f"The message handler {name!r} of project {project.name!r}"
    # A problem without a handler is the project's own: nothing of it may serve.

    def told(problem: Problem) -> Problem:
        return problem if in_full else problem.without_folders()

    problems = [p for p in hosted.problems if p.handler in (name, "")]
    # It may be that of its workers, while the handlers in threads serve.
    whole = not project.handlers or name in project.scripts
    broken = next((p for p in problems if p.handler or whole), None)
    if broken is not None:
        return HandlerNotFound(f"{subject} could not be loaded: {told(broken)}")
    script = os.path.join(project.path, "messages", f"{name}.py")
    if ".." not in name and not os.path.isabs(name) and os.path.exists(script):
        if hosted.refused is not None:
            return HandlerNotFound(f"{subject} waits for a correction: {told(hosted.problems[0])}")
        return HandlerNotFound(f"{subject} came after the project was loaded. See: headgate reload")
    return None


def _nearest(name: str, known: Iterable[str], is_shown: Callable[[str], bool]) -> str:
    """Return a hint at the names that there are, but for those that are not to be shown."""
    names = sorted(known)
    # Its neighbours in the alphabet: to compare a name with thousands would hold up the loop.
    begin = max(0, bisect(names, name) - NAMES_LOOKED_AT // 2)
    neighbours = names[begin : begin + NAMES_LOOKED_AT]
    near = next(filter(is_shown, difflib.get_close_matches(name, neighbours)), "")
    if near:
        return f"Did you mean {near!r}? "
    shown = ", ".join(filter(is_shown, names[:NAMES_LOOKED_AT]))
    return f"There is: {shown}. " if shown else "There is none. "
