"""The sessions of a gateway: who is connected, and what they asked for."""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from headgate.channel.protocol import Channel
from headgate.channel.server import ServerChannel
from headgate.errors import CancellationException, RequestError
from headgate.invocation import Caller, Fate, Invocation
from headgate.outcome import Encoded, Failure, Outcome
from headgate.scope import MAX_TIMEOUT
from headgate.wire.frames import Call, Cancel, Cast, Hello
from headgate.wire.session import Event, Session

__all__ = ["ClientSession", "Sessions", "Switchboard"]


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
        hello: Hello,
        switchboard: Switchboard,
    ) -> None:
        self.id = caller.session
        self.caller = caller
        self.project = hello.project
        self.kind = hello.kind
        self.peer = channel.peer
        self._channel = channel
        self._switchboard = switchboard
        self._session = session

    def received(self, channel: Channel, events: list[Event]) -> None:
        """Act on what the client sent."""
        now = monotonic()
        longest = now + MAX_TIMEOUT
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
                if frame.extensions:
                    invocation.remote_server = str(frame.extensions.get("remote", ""))
                    invocation.host_name = str(frame.extensions.get("host", ""))
                serving[frame.id] = invocation
                dispatch(invocation)
            elif isinstance(frame, Cast):
                invocation = self._invocation(frame, min(deadline, longest))
                serving[frame.id] = invocation
                self._switchboard.deliver(invocation, frame.scope, frame.filters)
            elif isinstance(frame, Cancel):
                self._cancelled(subject)

    def _cancelled(self, invocation: Invocation) -> None:
        outcome = invocation.outcome
        if outcome is None:
            error = CancellationException("The caller cancelled the request")
            self._switchboard.stop_invocation(invocation, error)
        else:
            # It ended while the cancellation waited for its turn: the answer was not sent any more.
            self.learned(invocation, Fate.of(outcome))

    def _invocation(self, frame: Call | Cast, deadline: float) -> Invocation:
        invocation = Invocation(
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
        if frame.extensions:
            invocation.remote_server = str(frame.extensions.get("remote", ""))
            invocation.host_name = str(frame.extensions.get("host", ""))
        return invocation

    def lost(self, channel: Channel, reason: str) -> None:
        """Stop what the client asked for: nobody waits for it any more."""
        _, serving = self._session.close()
        # What is no invocation yet had no turn, and gets none.
        for invocation in (each for each in serving if isinstance(each, Invocation)):
            error = CancellationException(f"The caller is gone: {reason}")
            self._switchboard.stop_invocation(invocation, error)

    def close(self, reason: str) -> None:
        """Say good-bye and close the connection."""
        self._channel.close(reason)

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
            error = outcome.error
            session.fault(
                invocation.sequence,
                error.code,
                error.message,
                started=error.started,
                details=error.details(),
            )
        self._channel.flush_soon()

    def started(self, invocation: Invocation) -> None:
        """Tell that the handler runs."""
        self._session.started(invocation.sequence)
        self._channel.flush_soon()

    def progressed(self, invocation: Invocation, data: bytes) -> None:
        """Send a progress value."""
        self._session.progress(invocation.sequence, data)
        self._channel.flush_soon()

    def learned(self, invocation: Invocation, fate: str) -> None:
        """Tell what became of the handler."""
        self._session.fate(invocation.sequence, fate)
        self._channel.flush_soon()


class Sessions:
    """Who is connected to a gateway."""

    def __init__(self) -> None:
        self._by_id: dict[str, ClientSession] = {}

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
