"""Requests that somebody else than their caller cancels: what ``headgate cancel`` does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from headgate.errors import CancellationException, RequestError
from headgate.gateway.running import Running, find, short_id, wanted_id
from headgate.gateway.turns import Turns
from headgate.invocation import Asker, Caller, Fate, Invocation
from headgate.scope import GATEWAY_PROJECT
from headgate.security.audit import Record, Recorder
from headgate.security.identity import is_own
from headgate.security.policy import Policy, allows
from headgate.threads import to_its_end

__all__ = ["CANCEL", "Cancelling"]

CANCEL = "cancel"
"""Name of the gateway's own handler."""

FATE_SECONDS = 1.0
"""Seconds to wait for what becomes of the handler."""


class Cancelling:
    """
    Cancels requests by their ids, whether they wait or run.

    Whoever may ``administer`` ``@gateway/cancel`` cancels any, everybody else their own.

    Args:
        running: Knows what is under way.
        stop: Ends a request with an error, and its handler as far as that goes.
        recorder: Is told what administrators cancelled.
        policy: Tells who they are.
        turns: Those in which requests are looked for.
    """

    def __init__(
        self,
        running: Running,
        *,
        stop: Callable[[Invocation, RequestError], None],
        recorder: Recorder,
        policy: Policy,
        turns: Turns,
    ) -> None:
        self._running = running
        self._stop = stop
        self._recorder = recorder
        self._policy = policy
        self._turns = turns

    async def cancel(self, payload: Any, caller: Caller) -> dict[str, Any]:
        """
        Cancel a request, and wait up to a second for what becomes of its handler.

        Args:
            payload: ``{"id": …}``: the short id or the request's, or how only one of them begins.
            caller: Who cancels it.

        Returns:
            ``id``, ``request_id``, ``project``, ``handler``, ``cancelled`` (False if the request
            was over already, and its handler has not returned) and ``fate``.

        Raises:
            HandlerNotFound: The caller may cancel none with this id, or several begin with it.
            PayloadError: There is no id in the payload.
        """
        wanted = wanted_id(payload)
        administers = allows(self._policy, caller, "administer", GATEWAY_PROJECT, CANCEL)
        nothing = f"Nothing {'' if administers else 'of yours '}runs or waits here"
        async with self._turns.turn(caller):
            mine = (i for i in self._running.under_way() if administers or is_own(i.caller, caller))
            invocation = find(wanted, mine, nothing)
        is_open, fate = invocation.outcome is None, Fate.STILL_RUNNING
        if is_open:
            if administers:
                self._record(invocation, caller)
            # Whoever cancels this order, or does not wait for it, reads that it was carried out.
            fate = await to_its_end(self._end(invocation, caller))
        return {
            "id": short_id(invocation),
            "request_id": invocation.request_id,
            "project": invocation.project,
            "handler": invocation.handler,
            "cancelled": is_open,
            "fate": fate,
        }

    async def _end(self, invocation: Invocation, caller: Caller) -> str:
        ear = _Ear(invocation.asker)
        invocation.asker = cast(Asker, ear)
        why = f"{invocation.target} was cancelled by {self._named(caller, invocation.caller)}"
        self._stop(invocation, CancellationException(why))
        with suppress(TimeoutError):
            await asyncio.wait_for(ear.over.wait(), FATE_SECONDS)
        return ear.fate

    def _named(self, caller: Caller, told: Caller) -> str:
        """Return who cancels a request, as far as its own caller may know."""
        if is_own(told, caller):
            return f"its own user, {caller.user}"
        # Who else is at work only administrators are told.
        if allows(self._policy, told, "administer", GATEWAY_PROJECT, "ps"):
            return f"an administrator ({caller.user})"
        return "an administrator"

    def _record(self, invocation: Invocation, caller: Caller) -> None:
        whose = invocation.caller
        detail = (
            f"cancelled {invocation.target}, request {invocation.request_id} of "
            f"{'@'.join((whose.user, *whose.gateway))!r}"
        )
        self._recorder.record(
            Record.by(
                caller,
                "administered",
                target=f"{GATEWAY_PROJECT}/{CANCEL}",
                outcome="ok",
                detail=detail,
                action="administer",
            )
        )


class _Ear:
    """Stands before the asker of a request, and hears what becomes of the handler."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.fate = Fate.UNKNOWN
        self.over = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asker, name)

    def learned(self, invocation: Invocation, fate: str) -> None:
        self.fate = fate
        if fate in Fate.FINAL:
            self.over.set()
        self._asker.learned(invocation, fate)
