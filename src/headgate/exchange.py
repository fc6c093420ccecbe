"""
Handles and a session together: calls go out, answers end handles, and a lost session ends them all.

It is pure, as the session is, so that every order of events can be played through in a test.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop

from headgate.errors import (
    ConnectionLost,
    GatewayUnreachable,
    LocalProtocolError,
    Overloaded,
    PayloadError,
    RequestError,
    RequestTimeout,
)
from headgate.outcome import Encoded, Failure, Outcome
from headgate.request import Request
from headgate.wire.frames import (
    Call,
    Cast,
    FateFrame,
    Fault,
    Frame,
    Item,
    Progress,
    Result,
    Started,
)
from headgate.wire.session import Event, Session

__all__ = ["cancel", "grant", "hand_over", "lose", "overdue_text", "send", "take"]


def send(session: Session, request: Request, frame: Call | Cast) -> None:
    """Send a request whose handle nobody has yet; it ends at once if the session refuses it."""
    try:
        request.sequence = session.call(request, frame)
    except (Overloaded, PayloadError, LocalProtocolError) as error:
        request.end(Failure(_refusal(error)))
    else:
        request.session = session.id


def hand_over(session: Session, request: Request, frame: Call | Cast) -> None:
    """Send a request whose handle is out already, unless it is over."""
    if request.hand_over(session.id, session.next_number):
        try:
            session.call(request, frame)
        except (Overloaded, PayloadError, LocalProtocolError) as error:
            # The next call gets the number: a late cancellation of this one must not stop that.
            request.session, request.sequence = "", 0
            request.end(Failure(_refusal(error)))


def cancel(session: Session, request: Request, now: float) -> None:
    """Tell the other side that a request is cancelled, if it was sent in this session."""
    if request.session == session.id:
        session.cancel(request.sequence, now)


def grant(session: Session, request: Request, total: int) -> None:
    """Take more values of a stream, if its request was sent in this session."""
    if request.session == session.id:
        session.grant(request.sequence, total)


def take(events: list[Event], loop: AbstractEventLoop | None = None) -> None:
    """
    Bring what the session received to the handles.

    Args:
        events: What it received.
        loop: The event loop that runs on this thread, if there is one.
    """
    for frame, request, _ in events:
        outcome: Outcome
        if type(frame) is Result:
            outcome = Encoded(frame.payload)
        elif isinstance(frame, Fault):
            outcome = Failure(_error(frame, request))
        else:
            _note(frame, request)
            continue
        if not request.end(outcome, loop):
            # It was cancelled a moment before; what the answer says of the handler is still true.
            request.note_late(outcome)


def _note(frame: Frame, request: Request) -> None:
    if isinstance(frame, Item):
        request.note_yielded(frame.parts)
    elif isinstance(frame, Started):
        request.note_started()
    elif isinstance(frame, Progress):
        request.note_progress(frame.payload)
    elif isinstance(frame, FateFrame):
        request.note_fate(frame.fate)


def lose(session: Session, text: str) -> None:
    """End every request of a session that is over."""
    calls, _ = session.close()
    for number, request in calls:
        # A call of which something was not handed to the transport certainly did not start.
        started = None if session.was_handed_over(number) else False
        request.end(Failure(ConnectionLost(text, started=started)))


def overdue_text(request: Request) -> str:
    """Return the text of a timeout."""
    return f"{request.project}/{request.handler} gave no result before the request's deadline"


def _refusal(error: RequestError | LocalProtocolError) -> RequestError:
    if isinstance(error, RequestError):
        return error
    return GatewayUnreachable("Not sent: the connection is being closed", started=False)


def _error(fault: Fault, request: Request) -> RequestError:
    late = fault.code == RequestTimeout.code
    return RequestError.from_wire(
        fault.code,
        fault.message or (overdue_text(request) if late else ""),
        fault.details,
        started=fault.started,
        request_id=request.request_id,
    )
