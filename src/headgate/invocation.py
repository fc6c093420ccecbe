"""
One run of a message handler: what is asked, by whom, until when, and what became of it.

An `Endpoint` is whatever can answer an invocation: a handler of this gateway, a client that hosts
one, another gateway. Choosing the endpoint is routing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from headgate.errors import HandlerError, HandlerKilled, PayloadError
from headgate.outcome import Failure, Outcome, Success

__all__ = [
    "FIRST_GRANT",
    "HIGH",
    "LOW",
    "MAX_CHAIN",
    "NOBODY",
    "NORMAL",
    "UNLIMITED",
    "VALUE_COST",
    "Asker",
    "Caller",
    "Context",
    "Endpoint",
    "Fate",
    "Flow",
    "Invocation",
    "Slot",
    "Withdrawable",
    "current_invocation",
]

MAX_CHAIN = 16
"""How many handlers may stand in one chain of requests that call each other."""


LOW, NORMAL, HIGH = -1, 0, 1
"""The priorities of a request."""

FIRST_GRANT = 256 * 1024
"""Bytes of yielded values that every asker of a stream takes to begin with."""

UNLIMITED = 2**62
"""What is granted to a stream that goes on and has no reader any more."""

VALUE_COST = 64
"""What a yielded value counts beside its own bytes: what it takes in memory."""


class Fate:
    """What is known of a handler whose request was cancelled or timed out."""

    NOT_STARTED = "not started"
    STOPPED = "stopped"
    STILL_RUNNING = "still running"
    FINISHED = "finished"
    UNKNOWN = "unknown"

    FINAL = frozenset({NOT_STARTED, STOPPED, FINISHED})
    """Those after which nothing of the handler goes on."""

    @staticmethod
    def of(outcome: Outcome) -> str:
        """Return the fate that an outcome implies by itself, ``UNKNOWN`` if it implies none."""
        if not isinstance(outcome, Failure):
            return Fate.FINISHED
        return Fate.of_failure(outcome.error.code, outcome.error.started)

    @staticmethod
    def of_failure(error_code: str, started: bool | None) -> str:
        """Return the fate that an error implies by itself, ``UNKNOWN`` if it implies none."""
        returned = error_code == PayloadError.code and started
        if error_code == HandlerError.code or returned:
            return Fate.FINISHED
        if error_code == HandlerKilled.code and started:
            return Fate.STOPPED
        return Fate.NOT_STARTED if started is False else Fate.UNKNOWN


class Caller(msgspec.Struct, frozen=True, cache_hash=True):
    """
    Who calls, as the gateway verified it; made by a login, never by the sender's word.

    Rules are decided on it, so two callers with equal fields may do the same.
    """

    user: str
    """Name of the user."""

    roles: frozenset[str] = frozenset()
    """Names of the user's roles."""

    host: str = ""
    """The host name that the session claims; it selects, it never authorises."""

    gateway: tuple[str, ...] = ()
    """The gateways that the request came through, the first one first; empty for a local caller."""

    session: str = ""
    """The session it came from, as hex digits; empty for the gateway itself."""

    address: str = ""
    """The IP address that the session connects from; empty for the gateway itself."""

    verified_host: str = ""
    """The host name that the gateway verified: by certificate, user, token or ``[hosts]``."""

    method: str = ""
    """How it logged in: ``local``, ``password``, ``token``, ``certificate`` or ``anonymous``."""

    only: tuple[str, ...] = ()
    """Patterns of ``project/handler`` to which an API token narrows it; empty for no such limit."""


class Slot(Protocol):
    """The place in a runtime that a running invocation holds."""

    def leave(self, nested: Invocation | None) -> bool:
        """
        Give the place back while the handler waits for another request.

        Returns:
            False if this thread holds no place, so that there is none to take again.
        """

    def enter(self) -> None:
        """Take the place again."""


class Flow(Protocol):
    """Lets a handler yield as fast as its reader reads; called from any thread."""

    def grant(self, total: int) -> None:
        """
        Let the handler yield until its values have this many bytes in all, `VALUE_COST` included.

        A value is begun while those before it have fewer; it may be larger than what is left.
        """

    def close(self) -> None:
        """Let the handler yield nothing any more: its generator is closed at the next value."""


class Asker(Protocol):
    """
    Whoever an invocation is answered to; everything is called on the gateway's event loop.

    An asker is told of the end once. What became of the handler may be told after that.
    """

    def ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """Take the outcome; a success holds the encoded result."""

    def started(self, invocation: Invocation) -> None:
        """Take the word that the handler runs, and has for some time."""

    def progressed(self, invocation: Invocation, data: bytes) -> None:
        """Take an encoded progress value."""

    def yielded(self, invocation: Invocation, parts: list[bytes]) -> None:
        """Take the next encoded values of a stream; only if the invocation `streams`."""

    def learned(self, invocation: Invocation, fate: str) -> None:
        """Take what became of the handler, after a cancellation or a timeout."""


class _Nobody:
    """The asker of what nobody here waits for, as a message's handlers: nothing is sent back."""

    def ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """Drop it; a failure was recorded."""

    def started(self, invocation: Invocation) -> None:
        """Drop it."""

    def progressed(self, invocation: Invocation, data: bytes) -> None:
        """Drop it."""

    def yielded(self, invocation: Invocation, parts: list[bytes]) -> None:
        """Drop them."""

    def learned(self, invocation: Invocation, fate: str) -> None:
        """Drop it."""


NOBODY: Asker = _Nobody()
"""Takes the answers that nobody here waits for."""


class Invocation(msgspec.Struct, eq=False):
    """
    One run of a handler.

    It belongs to the gateway's event loop. The thread that runs the handler sets `started_at`,
    `waits_for` and `slot`, and reads `cancelled`.
    """

    caller: Caller
    project: str
    handler: str
    payload: bytes
    """The encoded payload; routing never decodes it."""

    deadline: float
    """When it must be over, on this process's monotonic clock, in seconds."""

    asker: Asker
    """Whoever gets the answer."""

    origin: str = ""
    """The session (node, boot, number) that gave the request its number, as 20 hex digits."""

    sequence: int = 0
    """The request's number in that session."""

    ancestors: tuple[str, ...] = ()
    """Ids of the requests whose handlers led to this one, the outermost first."""

    parent: Invocation | None = None
    """The invocation on this gateway whose handler asked for this one, while it runs."""

    own_deadline: float = 0.0
    """The deadline once the parent has returned; 0 where there is no parent."""

    tag: Any = None
    """What the asker attached for itself."""

    wants_result: bool = True
    """False for a message: what the handler returns is dropped."""

    outcome: Outcome | None = None
    """The answer that was given; None while the request is open."""

    started_at: float = 0.0
    """When the handler began, on the monotonic clock; 0 if it has not."""

    fits: bool = False
    """Whether its payload was found to be what a handler with annotations takes."""

    announced: bool = False
    """The asker was told that the handler runs."""

    cancelled: bool = False
    """The answer is not wanted any more; a cooperative handler looks at this and returns."""

    reported: bytes | None = None
    """The latest progress value, while it waits to be sent."""

    children: dict[int, Invocation] | None = None
    """Open requests that the handler itself made."""

    waits_for: Invocation | None = None
    """The nested request that the handler is blocked on at this moment."""

    slot: Slot | None = None
    """The place in the runtime that it runs in."""

    awaits: Callable[[Invocation, Invocation | None], None] | None = None
    """Told which request an ``async def`` handler awaits, and with None that it goes on."""

    remote_server: str = ""
    """The gateway that is to answer; empty for this one."""

    host_name: str = ""
    """The client on this host is to answer; empty for the gateway."""

    home: Any = None
    """The gateway that it is open on."""

    arrived: float = 0.0
    """When the gateway got it, on the monotonic clock."""

    priority: int = NORMAL
    """Whether it is to begin before others that wait: `LOW`, `NORMAL` or `HIGH`."""

    streams: bool = False
    """Whether the asker takes yielded values one by one; else a generator's make up a list."""

    finishes: bool = False
    """Whether it goes on when its caller's connection ends."""

    flow: Flow | None = None
    """What holds the handler up that yields; set when it is about to yield. See `grant`."""

    granted: int = FIRST_GRANT
    """Bytes of yielded values that the asker takes in all, as it last said."""

    yielded: list[bytes] | None = None
    """Values that wait to be sent. The handler's thread appends, the event loop takes."""

    action: str = "request"
    """What the caller wants to do, as in `headgate.security.policy.Action`."""

    place: Withdrawable | None = None
    """Where it waits or runs, for taking it back."""

    def grant(self, total: int) -> None:
        """Let the handler yield up to `total` bytes, also if it has not begun; any thread."""
        if total > self.granted:
            # Before the look: a flow that is set meanwhile looks at it after that.
            self.granted = total
            if self.flow is not None:
                self.flow.grant(total)

    def take_yielded(self) -> list[bytes]:
        """Take the values that wait; on the event loop."""
        taken: list[bytes] = []
        values = self.yielded or []
        # The handler tells of the first that waits, so none may be left.
        while following := values[:]:
            del values[: len(following)]
            taken += following
        return taken

    def detached(self) -> Invocation:
        """
        Return what stands for this invocation on a thread that may outlive the handler's run.

        Requests made there have its caller and ancestors, but their own deadlines, and its end
        does not touch them; nor does waiting there touch the handler's place in its runtime.
        """
        return Invocation(
            self.caller,
            self.project,
            self.handler,
            b"",
            self.deadline,
            self.asker,
            self.origin,
            self.sequence,
            self.ancestors,
            # The gateway lets requests of a handler that has returned go on by themselves.
            outcome=Success(None),
            home=self.home,
        )

    @property
    def request_id(self) -> str:
        """The request's id of 128 bits, as 32 hex digits: node, boot, sequence."""
        return f"{self.origin}{self.sequence:012x}"

    @property
    def target(self) -> str:
        """Project and handler, as ``project/handler``."""
        return f"{self.project}/{self.handler}"


class Withdrawable(Protocol):
    """Where an invocation waits or runs."""

    def withdraw(self, invocation: Invocation) -> str:
        """
        Take an invocation back, or stop it as far as that goes; on the event loop.

        Returns:
            Its `Fate` at this moment.
        """


class Endpoint(Protocol):
    """
    Whatever can answer an invocation; the outcome goes to `Requests.end`, once.

    Raises:
        RequestError: It does not take the invocation; nothing was started.
    """

    def __call__(self, invocation: Invocation) -> None: ...


current_invocation: ContextVar[Invocation | None] = ContextVar("headgate_invocation", default=None)
"""The invocation whose handler runs in this context; None outside of handlers."""


class Context:
    """What a handler that takes a second argument learns of its request."""

    __slots__ = ("_invocation", "_report", "_time")

    def __init__(
        self,
        invocation: Invocation,
        *,
        report: Callable[[Invocation, Any], None],
        time: Callable[[], float],
    ) -> None:
        self._invocation = invocation
        self._report = report
        self._time = time

    @property
    def caller(self) -> Caller:
        """Who asked, as the gateway verified it."""
        return self._invocation.caller

    @property
    def request_id(self) -> str:
        """The request's id, 32 hex digits."""
        return self._invocation.request_id

    @property
    def cancelled(self) -> bool:
        """True once nobody waits for the answer; a long handler looks at it and returns."""
        return self._invocation.cancelled

    def remaining(self) -> float:
        """Return the seconds until the deadline, 0.0 once it has passed."""
        return max(0.0, self._invocation.deadline - self._time())

    def progress(self, value: Any) -> None:
        """
        Send a progress value to the caller's `on_progress`.

        Args:
            value: Anything that a payload can hold. Values that come faster than they can be
                sent or taken are left out in favour of later ones.

        Raises:
            PayloadError: The value cannot be sent.
        """
        self._report(self._invocation, value)
