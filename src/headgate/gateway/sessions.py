"""The sessions of a gateway: who is connected, and what they asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic, time
from typing import Protocol

from headgate.channel.protocol import Channel
from headgate.channel.server import ServerChannel
from headgate.errors import (
    CancellationException,
    ClientNotFound,
    GatewayUnreachable,
    Overloaded,
    PayloadError,
    RequestError,
)
from headgate.gateway.limits import Admission
from headgate.invocation import HIGH, LOW, NOBODY, UNLIMITED, Caller, Fate, Invocation
from headgate.outcome import Encoded, Failure, Outcome
from headgate.runtimes.gate import Gate
from headgate.scope import MAX_TIMEOUT
from headgate.security.identities import Identities, Login
from headgate.wire.frames import FINISHES, STREAMS, Call, Cancel, Cast, Grant, Hello
from headgate.wire.session import Event, Session

__all__ = ["LAST_SECONDS", "ClientSession", "Sessions", "Switchboard"]

LOOK_SECONDS = 3600.0
"""Seconds after which a login that ends by itself is looked at again at the latest."""

LAST_SECONDS = 0.5
"""Seconds that a client whose session is ended has to read why."""


class Switchboard(Protocol):
    """What a session needs of its gateway."""

    def dispatch(self, invocation: Invocation) -> None:
        """Have an invocation answered."""

    def deliver(self, invocation: Invocation, scope: str, filters: dict[str, str]) -> None:
        """Have a message delivered; the outcome is the report."""

    def stop_invocation(self, invocation: Invocation, error: RequestError) -> None:
        """End an invocation and its handler."""


class ClientSession:
    """One connected client; it is the asker of what the client calls."""

    def __init__(
        self,
        channel: ServerChannel,
        session: Session,
        *,
        caller: Caller,
        login: Login,
        hello: Hello,
        switchboard: Switchboard,
        admission: Admission,
    ) -> None:
        self.id = caller.session
        self.caller = caller
        """Who is behind the requests that come from now on."""
        self.login = login
        """What the session rests on."""
        self.project = hello.project
        self.kind = hello.kind
        self.admission = admission
        self._channel = channel
        self._switchboard = switchboard
        self._session = session
        self.ended_by_gateway = False
        """Whether its login holds no longer."""

    def received(self, channel: Channel, events: list[Event]) -> None:
        """Act on what the client sent."""
        if self.ended_by_gateway:
            return
        now = monotonic()
        longest = now + MAX_TIMEOUT
        # What is no request is given back: to charge for all is quicker than to count.
        take = self.admission.take
        if take is not None and not take(len(events), now):
            events = self._within_rates(events, now)
        dispatch, serving = self._switchboard.dispatch, self._session.serving
        caller, origin = self.caller, self.id
        for frame, subject, deadline in events:
            if type(frame) is Call:
                # Written out, as in `_invocation`: a call less for each request.
                invocation = Invocation(
                    caller,
                    frame.project,
                    frame.handler,
                    frame.payload,
                    deadline if deadline < longest else longest,
                    self,
                    origin,
                    frame.id,
                    frame.ancestors,
                )
                invocation.arrived = now
                if frame.priority or frame.flags & FINISHES:
                    _take_wishes(invocation, frame)
                if frame.flags & STREAMS:
                    invocation.streams = True
                if frame.extensions and not self._is_routed(invocation, frame):
                    continue
                serving[frame.id] = invocation
                dispatch(invocation)
            elif isinstance(frame, Cast):
                invocation = self._invocation(frame, min(deadline, longest))
                if not self._is_routed(invocation, frame):
                    continue
                serving[frame.id] = invocation
                self._switchboard.deliver(invocation, frame.scope, frame.filters)
            else:
                if take is not None:
                    self.admission.give_back(1, now)
                if isinstance(frame, Cancel):
                    self._cancelled(subject)
                elif isinstance(frame, Grant):
                    # Looked up: it may have come in one message with its call.
                    granted = serving.get(frame.id)
                    if isinstance(granted, Invocation):
                        granted.grant(frame.total)

    def _cancelled(self, invocation: Invocation) -> None:
        outcome = invocation.outcome
        if outcome is None:
            error = CancellationException("The caller cancelled the request")
            self._switchboard.stop_invocation(invocation, error)
        else:
            # It ended while the cancellation waited for its turn: the answer was not sent any more.
            self.learned(invocation, Fate.of(outcome))

    def _invocation(self, frame: Call | Cast, deadline: float) -> Invocation:
        return Invocation(
            self.caller,
            frame.project,
            frame.handler,
            frame.payload,
            deadline,
            self,
            self.id,
            frame.id,
            frame.ancestors,
        )

    def _is_routed(self, invocation: Invocation, frame: Call | Cast) -> bool:
        """Take from a frame where else it is to go; False if a name is too long: it is refused."""
        longest = self.admission.name_length
        invocation.remote_server = str(frame.extensions.get("remote", ""))
        invocation.host_name = str(frame.extensions.get("host", ""))
        filters = frame.filters if isinstance(frame, Cast) else {}
        kind: type[RequestError]
        if len(invocation.remote_server) > longest:
            kind = GatewayUnreachable
        elif len(invocation.host_name) > longest:
            kind = ClientNotFound
        elif any(len(text) > longest for pair in filters.items() for text in pair):
            kind = RequestError
        else:
            return True
        self.admission.exceeded("name_length")
        self._refuse(
            frame,
            kind(f"No name has more than {longest} characters: limits.name_length", started=False),
        )
        return False

    def _within_rates(self, events: list[Event], now: float) -> list[Event]:
        """Leave out requests and messages beyond the rates; the last ones are refused."""
        asked = [frame for frame, _, _ in events if isinstance(frame, Call | Cast)]
        granted = self.admission.take_some(len(asked), now)
        refused = asked[granted:]
        if refused:
            error = self.admission.refuse(len(refused), now)
            for frame in refused:
                self._refuse(frame, error)
        self.admission.give_back(len(asked) - len(events), now)
        gone = set(map(id, refused))
        return [event for event in events if id(event[0]) not in gone]

    def _refuse(self, frame: Call | Cast, error: RequestError) -> None:
        """Answer a call that nothing is made of."""
        self._fault(frame.id, error)
        self._channel.flush_soon()

    def lost(self, channel: Channel, reason: str) -> None:
        """Stop what the client asked for, as nobody waits for it any more, or let it finish."""
        _, serving = self._session.close()
        # What is no invocation yet had no turn, and gets none.
        for invocation in (each for each in serving if isinstance(each, Invocation)):
            if _finishes(invocation) and not self.ended_by_gateway:
                invocation.asker = NOBODY
                # Nobody reads what it yields, so nothing may hold it up.
                invocation.grant(UNLIMITED)
                continue
            error = CancellationException(f"The caller is gone: {reason}")
            self._switchboard.stop_invocation(invocation, error)

    def close(self, reason: str) -> None:
        """Say good-bye and close the connection."""
        self._channel.close(reason)

    def abort(self, reason: str) -> None:
        """Cut the connection, though not all that was written has left."""
        self._channel.abort(reason)

    def end(self, reason: str) -> None:
        """
        End it at once, because the client may ask for nothing any more.

        What it sent and nobody looked at yet is dropped, what it asked for is cancelled.
        """
        self.ended_by_gateway = True
        self.close(reason)
        self.lost(self._channel, reason)
        # A client that does not read would keep the connection open.
        asyncio.get_running_loop().call_later(LAST_SECONDS, self._channel.abort, reason)

    @property
    def is_sending(self) -> bool:
        """Whether answers wait to be sent."""
        return self._session.has_data

    def stats(self) -> dict[str, int]:
        """Return the sizes of the session's tables."""
        return self._session.stats()

    # --- the asker of the client's calls ----------------------------------------------------------

    def ended(self, invocation: Invocation, outcome: Outcome) -> None:
        """Send the answer."""
        session = self._session
        if type(outcome) is Encoded:
            session.result(invocation.sequence, outcome.data)
        elif isinstance(outcome, Failure):
            self._fault(invocation.sequence, outcome.error)
        self._channel.flush_soon()

    def _fault(self, number: int, error: RequestError) -> None:
        self._session.fault(
            number, error.code, error.message, started=error.started, details=error.details()
        )

    def started(self, invocation: Invocation) -> None:
        """Tell that the handler runs."""
        self._session.started(invocation.sequence)
        self._channel.flush_soon()

    def progressed(self, invocation: Invocation, data: bytes) -> None:
        """Send a progress value."""
        self._session.progress(invocation.sequence, data)
        self._channel.flush_soon()

    def yielded(self, invocation: Invocation, parts: list[bytes]) -> None:
        """Send values; a stream with one that cannot be sent ends."""
        try:
            self._session.items(invocation.sequence, parts)
        except (Overloaded, PayloadError) as error:
            # Without the traceback, which would keep the values.
            self._switchboard.stop_invocation(invocation, error.with_traceback(None))
        self._channel.flush_soon()

    def learned(self, invocation: Invocation, fate: str) -> None:
        """Tell what became of the handler."""
        self._session.fate(invocation.sequence, fate)
        self._channel.flush_soon()


def _take_wishes(invocation: Invocation, frame: Call) -> None:
    """Take from a call how it is to be run."""
    invocation.priority = max(LOW, min(frame.priority, HIGH))
    invocation.finishes = bool(frame.flags & FINISHES)


def _finishes(invocation: Invocation) -> bool:
    """Tell whether an invocation goes on without its caller: by its own wish or its handler's."""
    place = invocation.place
    if isinstance(place, Gate) and place.handler.settings.on_disconnect == "finish":
        return True
    return invocation.finishes


class Sessions:
    """Who is connected to a gateway."""

    def __init__(self) -> None:
        self._by_id: dict[str, ClientSession] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    async def all(self) -> list[ClientSession]:
        """Return the sessions of the gateway."""
        return list(self._by_id.values())

    def on_this_node(self) -> list[ClientSession]:
        """Return the sessions of this node."""
        return list(self._by_id.values())

    def are_sending(self) -> bool:
        """Whether answers wait to be sent to a client of this node."""
        return any(session.is_sending for session in self._by_id.values())

    def add(self, session: ClientSession) -> None:
        """Note a new session."""
        self._by_id[session.id] = session

    def remove(self, session: ClientSession) -> None:
        """Note that a session is over."""
        self._by_id.pop(session.id, None)
        if (end := self._ends.pop(session.id, None)) is not None:
            end.cancel()

    # --- does its login still hold? ---------------------------------------------------------------

    def review(self, identities: Identities, ended: Callable[[ClientSession, str], None]) -> None:
        """
        Let each session have the roles of now, and close those whose login holds no longer.

        Args:
            identities: Tells what holds now.
            ended: Told of each session that is closed, and why.
        """
        for session in self.on_this_node():
            self._review(session, identities, ended)

    def watch(
        self,
        session: ClientSession,
        identities: Identities,
        ended: Callable[[ClientSession, str], None],
    ) -> None:
        """Close a session when its login ends by itself, as an API token does."""
        end = identities.expires_at(session.login)
        if end is not None:
            loop = asyncio.get_running_loop()
            # Clocks are set: the time that is left is looked at again.
            seconds = min(max(0.0, end - time()), LOOK_SECONDS)
            self._ends[session.id] = loop.call_later(
                seconds, self._look_again, session, identities, ended
            )

    def _look_again(
        self,
        session: ClientSession,
        identities: Identities,
        ended: Callable[[ClientSession, str], None],
    ) -> None:
        del self._ends[session.id]
        if self._review(session, identities, ended):
            self.watch(session, identities, ended)

    def _review(
        self,
        session: ClientSession,
        identities: Identities,
        ended: Callable[[ClientSession, str], None],
    ) -> bool:
        """Return whether the session goes on."""
        if session.ended_by_gateway:
            return False
        caller = identities.current(session.login, session=session.id)
        if caller is None:
            ended(session, identities.problem(session.login))
            session.end("the login holds no longer: log in again")
            return False
        if caller != session.caller:
            session.caller = caller
        return True
