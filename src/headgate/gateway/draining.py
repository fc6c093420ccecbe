"""A gateway that finishes what is under way and takes nothing new."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any

from headgate.errors import GatewayUnreachable, PayloadError
from headgate.gateway.running import Running
from headgate.invocation import Caller, Invocation
from headgate.scope import GATEWAY_PROJECT
from headgate.security.audit import Record, Recorder

__all__ = ["Draining"]

logger = logging.getLogger("headgate.gateway")

LOOK_SECONDS = 0.05
"""Seconds between two looks whether anything is still under way."""


class Draining:
    """
    Whether a gateway takes anything new; it belongs to the event loop.

    While it drains, new requests and messages are refused, ``.started`` False, so that who may
    tries elsewhere. What waits in a queue begins, what runs ends and may ask for what it needs,
    and the gateway's own handlers answer.

    Args:
        gateway: Name of the gateway.
        running: Knows what is under way.
        recorder: Is told when it begins and ends.
    """

    def __init__(self, gateway: str, running: Running, recorder: Recorder) -> None:
        self._gateway = gateway
        self._running = running
        self._recorder = recorder

    @property
    def is_on(self) -> bool:
        """Whether the gateway takes nothing new."""
        return self._running.draining

    def turn(self, *, on: bool, caller: Caller) -> None:
        """Begin to drain, or take up service again; nothing if that is so already."""
        if on == self.is_on:
            return
        self._running.draining = on
        what = "drains: it takes nothing new" if on else "takes up service again"
        logger.warning("The gateway %s %s (%s)", self._gateway, what, caller.user)
        self._recorder.record(
            Record.by(
                caller,
                "administered",
                target=f"{GATEWAY_PROJECT}/drain",
                outcome="ok",
                detail=f"the gateway {what}",
                action="administer",
            )
        )

    def answer(self, payload: Any, caller: Caller) -> dict[str, Any]:
        """
        Do what an administrator asks for, and tell how much is under way.

        Args:
            payload: ``{"on": True}`` to begin, ``{"on": False}`` to take up service again; without
                it nothing changes.
            caller: Who asks.
        """
        on = payload.get("on") if isinstance(payload, dict) else payload
        if on is not None:
            if not isinstance(on, bool):
                raise PayloadError('It takes {"on": true} or {"on": false}', place="payload['on']")
            self.turn(on=on, caller=caller)
        return self.state()

    def state(self) -> dict[str, Any]:
        """Return whether it drains, how much is under way, and how much of that is abandoned."""
        found = self._running.under_way()
        abandoned = sum(invocation.outcome is not None for invocation in found)
        return {"draining": self.is_on, "under_way": len(found), "abandoned": abandoned}

    def refusal(self, invocation: Invocation) -> GatewayUnreachable | None:
        """Return why an invocation is not taken, None for one that is."""
        if not self.is_on or invocation.project == GATEWAY_PROJECT:
            return None
        # What runs here may ask for what it needs, by way of other gateways, too.
        if invocation.parent is not None:
            return None
        ancestors = invocation.ancestors
        if ancestors and any(i.request_id in ancestors for i in self._running.under_way()):
            return None
        return GatewayUnreachable(
            f"The gateway {self._gateway!r} is draining: it finishes what is under way, and takes "
            "nothing new",
            started=False,
        )

    async def over(self, seconds: float | None) -> bool:
        """Wait until nothing is under way, or service is taken up again; True if nothing is."""
        end = None if seconds is None else monotonic() + seconds
        while self._running.under_way():
            if not self.is_on or (end is not None and monotonic() >= end):
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True
