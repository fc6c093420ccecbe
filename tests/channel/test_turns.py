"""What comes in thousands leaves turns of the event loop to everything else."""

from __future__ import annotations

import asyncio
import gc
import weakref
from itertools import pairwise
from typing import TYPE_CHECKING

from headgate.channel.turns import Turns

if TYPE_CHECKING:
    from conftest import Rig


class TestTurns:
    async def test_so_many_in_a_turn_and_in_order(self) -> None:
        """The first ones run at once, the others in later turns, none before its predecessor."""
        turns, ran = Turns(3), list[int]()
        for number in range(8):
            turns.run(lambda number=number: ran.append(number))  # type: ignore[misc]
        seen = [len(ran)]
        while len(turns):
            await asyncio.sleep(0)
            seen.append(len(ran))
        assert ran == list(range(8))
        assert seen[0] == 3
        assert all(after - before <= 3 for before, after in pairwise(seen))
        assert len(seen) > 2

    async def test_a_turn_has_room_again(self) -> None:
        """What comes after a pause need not wait."""
        turns, ran = Turns(1), list[str]()
        turns.run(lambda: ran.append("first"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        turns.run(lambda: ran.append("second"))
        assert ran == ["first", "second"]

    async def test_finish(self) -> None:
        """At the end all that waits runs, and none twice."""
        turns, ran = Turns(1), list[int]()
        for number in range(4):
            turns.run(lambda number=number: ran.append(number))  # type: ignore[misc]
        turns.finish()
        await asyncio.sleep(0)
        assert ran == [0, 1, 2, 3]


def test_what_a_session_held_is_free_at_once(rig: Rig) -> None:
    """A session that is over leaves nothing for the collector of garbage."""
    gateway = rig.gateway({"ACME/echo": rig.ECHO})
    client = rig.client(gateway)
    (session,) = gateway._reception.sessions.on_this_node()
    gone = weakref.finalize(session, lambda: None)
    del session
    gc.disable()
    try:
        client.close()
        rig.until(lambda: not gone.alive, 8)
    finally:
        gc.enable()
