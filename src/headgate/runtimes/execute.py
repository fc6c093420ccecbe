"""One run of a handler: decode the payload, call the function, encode what it returns or yields."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from time import monotonic
from typing import Any, Protocol

from headgate.errors import CancellationException, HandlerError, PayloadError
from headgate.handler import HandlerSettings, Signature
from headgate.invocation import Context, Invocation, current_invocation
from headgate.outcome import LARGE, Encoded, Failure, Outcome
from headgate.runtimes.emitter import Emitter, Gathering
from headgate.wire.codec import decode, encode

__all__ = ["Outlet", "Runnable", "execute", "execute_async", "stream", "stream_async"]

logger = logging.getLogger("headgate.handlers")

MAX_TRACEBACK = 16 * 1024
"""Characters of a traceback that travel, counted from its end."""

MAX_TEXT = 16 * 1024
"""Characters of an exception's text that travel."""

NOTHING = Encoded(b"\xc0")
"""The outcome of a message's handler: what it returns is dropped."""

Check = Callable[[Any], None]
"""Looks at a value, as `Signature.check_result` does."""


class Outlet(Protocol):
    """Takes what a handler gives before its end; everything is called on the handler's thread."""

    def report(self, invocation: Invocation, value: Any) -> None:
        """Take a progress value; raises PayloadError if it cannot be sent."""

    def open_stream(self, invocation: Invocation) -> Emitter:
        """Return what takes the values of an invocation that `streams`."""


class Runnable(Protocol):
    """A message handler, as a runtime sees it."""

    @property
    def project(self) -> str:
        """Name of the project that it runs in."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def settings(self) -> HandlerSettings:
        """How it is run."""

    @property
    def function(self) -> Callable[..., Any]:
        """What is called."""

    @property
    def signature(self) -> Signature:
        """How it is called."""


def execute(invocation: Invocation, handler: Runnable, outlet: Outlet) -> Outcome:
    """Run a handler on this thread; whatever it raises becomes its outcome."""
    current_invocation.set(invocation)
    signature = handler.signature
    try:
        # As `_received`, without the price of a call.
        payload = decode(invocation.payload)
        if signature.check is not None:
            payload = signature.check(payload)
            invocation.fits = True
    except PayloadError as error:
        error.started = False
        return Failure(error)
    try:
        if signature.takes_context:
            context = Context(invocation, report=outlet.report, time=monotonic)
            value = handler.function(payload, context)
        else:
            value = handler.function(payload)
        if signature.streams:
            return stream(value, invocation, outlet, check=signature.check_result)
        if not invocation.wants_result:
            return NOTHING
        if signature.check_result is not None:
            signature.check_result(value)
        return Encoded(encode(value, root="result"))
    except BaseException as error:
        return failed(error, invocation)


async def execute_async(invocation: Invocation, handler: Runnable, outlet: Outlet) -> Outcome:
    """Run an ``async def`` handler as a task; whatever it raises becomes its outcome."""
    current_invocation.set(invocation)
    signature = handler.signature
    try:
        try:
            if len(invocation.payload) >= LARGE:
                payload = await asyncio.to_thread(_received, invocation, signature)
            else:
                # As `_received`, without the price of a call.
                payload = decode(invocation.payload)
                if signature.check is not None:
                    payload = signature.check(payload)
        except PayloadError as error:
            error.started = False
            return Failure(error)
        if signature.takes_context:
            context = Context(invocation, report=outlet.report, time=monotonic)
            value = handler.function(payload, context)
        else:
            value = handler.function(payload)
        if signature.streams:
            return await stream_async(value, invocation, outlet, check=signature.check_result)
        value = await value
        if not invocation.wants_result:
            return NOTHING
        if signature.check_result is not None:
            signature.check_result(value)
        return Encoded(encode(value, root="result"))
    except asyncio.CancelledError as error:
        if not invocation.cancelled:
            return failed(error, invocation)
        return interrupted()
    except BaseException as error:
        return failed(error, invocation)


def _received(invocation: Invocation, signature: Signature) -> Any:
    """Return the payload as the handler gets it; raises PayloadError."""
    payload = decode(invocation.payload)
    if signature.check is not None:
        payload = signature.check(payload)
        invocation.fits = True
    return payload


def stream(
    values: Generator[Any], invocation: Invocation, outlet: Outlet, *, check: Check | None = None
) -> Outcome:
    """
    Run a generator to its end, or close it when nobody wants its values any more.

    Args:
        values: The generator.
        invocation: What it answers.
        outlet: Takes its values.
        check: Looks at each value first; None for none.
    """
    emitter = _emitter(invocation, outlet)
    with closing(values):
        for value in values:
            if check is not None:
                check(value)
            if not emitter.put(encode(value, root="result")):
                return interrupted()
    return emitter.end()


async def stream_async(
    values: AsyncGenerator[Any],
    invocation: Invocation,
    outlet: Outlet,
    *,
    check: Check | None = None,
) -> Outcome:
    """Run an asynchronous generator, as `stream` does."""
    emitter = _emitter(invocation, outlet)
    async with aclosing(values):
        async for value in values:
            if check is not None:
                check(value)
            if not await emitter.give(encode(value, root="result")):
                return interrupted()
    return emitter.end()


def _emitter(invocation: Invocation, outlet: Outlet) -> Emitter | Gathering:
    if invocation.streams and invocation.wants_result:
        return outlet.open_stream(invocation)
    return Gathering(invocation)


def interrupted() -> Failure:
    """Return the outcome of a handler that was stopped before its end."""
    return Failure(CancellationException("The handler was interrupted", started=True))


def failed(error: BaseException, invocation: Invocation) -> Failure:
    """
    Return the outcome of a handler that raised, with type, message and traceback as text.

    The traceback is logged too: nobody else gets that of a message's handler.
    """
    if isinstance(error, KeyboardInterrupt) and invocation.cancelled:
        # A worker's signal: it is to stop.
        return interrupted()
    try:
        return _described(error, invocation)
    except BaseException as problem:
        # An exception whose text or traceback cannot be made must not end the thread.
        logger.error("The handler %s failed: %s", invocation.target, type(error).__name__)
        text = f"(its text cannot be made: {type(problem).__name__})"
        return Failure(HandlerError(remote_type=type(error).__name__, remote_message=text))


def _described(error: BaseException, invocation: Invocation) -> Failure:
    if isinstance(error, PayloadError) and error.place.startswith("result"):
        return Failure(PayloadError(error.message, place=error.place, started=True))
    text = _escaped(_script_traceback(error))
    logger.error(
        "The handler %s failed in request %s of %s\n%s",
        invocation.target,
        invocation.request_id,
        invocation.caller.user,
        text.rstrip(),
    )
    return Failure(
        HandlerError(
            remote_type=type(error).__name__,
            remote_message=_escaped(_text(error)[:MAX_TEXT]),
            remote_traceback=text,
        )
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:
        return f"(its text cannot be made: {type(problem).__name__})"


def _escaped(text: str) -> str:
    """Escape what is not Unicode, such as undecodable bytes in the name of a file."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _script_traceback(error: BaseException) -> str:
    """Format the traceback from the script's first frame on: what ran it is not its concern."""
    frames = error.__traceback__
    if frames is not None:
        frames = frames.tb_next
    if frames is not None and frames.tb_frame.f_code in (stream.__code__, stream_async.__code__):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return "".join(lines)[-MAX_TRACEBACK:]
