"""Answers that take the event loop long are made in turn, with rests in between."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from headgate.gateway.turns import REST, Turns
from headgate.invocation import Caller

if TYPE_CHECKING:
    from conftest import Rig

ADA, BEN = Caller("ada", session="1"), Caller("ben", session="2")


async def test_sessions_take_turns() -> None:
    """Who asks once is not behind all that another one asked for before."""
    turns, order = Turns(), ""

    async def ask(caller: Caller) -> None:
        nonlocal order
        async with turns.turn(caller):
            order += caller.session

    async with turns.turn(ADA):
        waiting = [asyncio.ensure_future(ask(caller)) for caller in [ADA] * 5 + [BEN] * 2]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    # The first one of a session comes to the line of all when the one before it has left.
    assert order == "2121111"


async def test_the_event_loop_rests() -> None:
    """After a long turn everything else goes on for some time."""
    turns, began, lasted = Turns(), time.monotonic(), 0.02
    for _ in range(2):
        async with turns.turn(ADA):
            time.sleep(lasted)
    assert time.monotonic() - began >= lasted * (REST + 2)


async def test_a_turn_that_is_not_taken() -> None:
    """One that fails, or is cancelled while it waits, keeps nobody."""
    turns = Turns()

    async def ask(caller: Caller) -> str:
        async with turns.turn(caller):
            return caller.user

    async def fail() -> None:
        async with turns.turn(ADA):
            await asyncio.sleep(0)
            raise RuntimeError

    failing = asyncio.ensure_future(fail())
    waiting = [asyncio.ensure_future(ask(each)) for each in (ADA, BEN, BEN)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    with pytest.raises(RuntimeError):
        await failing
    assert await asyncio.gather(waiting[0], waiting[2]) == ["ada", "ben"]


@pytest.mark.parametrize("handler", ["ps", "cancel"])
def test_a_flood_keeps_nobody_else_from_the_table(rig: Rig, handler: str) -> None:
    """Another session is answered while thousands of questions of the first one wait."""
    hub = rig.gateway({})
    flooder, other = rig.client(hub), rig.client(hub)
    flood = [flooder.request("@gateway", handler, {"id": "1"}) for _ in range(3000)]
    other.request("@gateway", "ps").get()
    assert not all(each.done for each in flood)
    flooder.close()
    rig.settle(hub)
