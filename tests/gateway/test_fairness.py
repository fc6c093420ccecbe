"""One client's thousands of requests do not stand before another one's single one."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from headgate import Client
from headgate.channel.server import TURN_FRAMES
from headgate.invocation import Caller
from headgate.security.policy import Action, RulePolicy

if TYPE_CHECKING:
    from conftest import Rig

NOTE = """
{settings}
def handleMessage(payload):
    system.util.globals["order"].append(payload)
"""

CROWD = 600


def crowd(client: Client, handler: str, count: int = CROWD) -> list[Any]:
    """Ask many times; each payload is its number."""
    return [client.request("ACME", handler, number) for number in range(count)]


def hold_all_threads(rig: Rig, client: Client, hub: Any) -> list[Any]:
    """Occupy the 8 threads of the pool until ``go``."""
    held = [client.request("ACME", "hold", number) for number in range(8)]
    for _ in held:
        hub.globals["running"].get(timeout=20)
    return held


def plant(rig: Rig, settings: str = "") -> Any:
    scripts = {"ACME/hold": rig.HOLD, "ACME/note": NOTE.format(settings=settings)}
    hub = rig.gateway(scripts)
    hub.globals["order"] = []
    return hub


class TestThePool:
    def test_a_crowd_does_not_stand_before_another_session(self, rig: Rig) -> None:
        """What another session asks for begins after a few of the crowd, not after all."""
        hub = plant(rig)
        noisy, quiet = rig.client(hub), rig.client(hub)
        held = hold_all_threads(rig, noisy, hub)
        handles = crowd(noisy, "note")
        rig.until(lambda: hub.stats()["handlers_queued"] == CROWD)
        one = quiet.request("ACME", "note", "quiet")
        rig.until(lambda: hub.stats()["handlers_queued"] == CROWD + 1)
        hub.globals["go"].set()
        for handle in (*held, *handles, one):
            handle.get()
        order = hub.globals["order"]
        assert len(order) == CROWD + 1
        assert order.index("quiet") < CROWD / 4

    def test_each_sessions_own_order_stays(self, rig: Rig) -> None:
        """Requests of one session begin in the order in which they were made."""
        hub = plant(rig, "import headgate\n@headgate.handler(concurrency=1)")
        first, second = rig.client(hub), rig.client(hub)
        held = hold_all_threads(rig, first, hub)
        handles = [
            client.request("ACME", "note", (name, number))
            for number in range(300)
            for name, client in (("first", first), ("second", second))
        ]
        hub.globals["go"].set()
        for handle in (*held, *handles):
            handle.get()
        for name in ("first", "second"):
            numbers = [number for who, number in hub.globals["order"] if who == name]
            assert numbers == list(range(300))

    def test_what_waits_in_the_crowd_can_be_taken_back(self, rig: Rig) -> None:
        """A request that waits behind those of others is cancelled without having begun."""
        hub = plant(rig)
        noisy, quiet = rig.client(hub), rig.client(hub)
        held = hold_all_threads(rig, noisy, hub)
        handles = crowd(noisy, "note")
        quiet_ones = crowd(quiet, "note", 5)
        rig.until(lambda: hub.stats()["handlers_queued"] == CROWD + 5)
        for handle in (*handles[::2], quiet_ones[3]):
            assert handle.cancel()
            assert handle.wait_fate(20) == "not started"
        assert hub.stats()["handlers_queued"] == CROWD // 2 + 4
        hub.globals["go"].set()
        for handle in (*held, *handles[1::2], *quiet_ones[:3], quiet_ones[4]):
            handle.get()
        assert len(hub.globals["order"]) == CROWD // 2 + 4

    def test_nested_requests_stand_in_the_line_of_their_session(self, rig: Rig) -> None:
        """A handler's own requests count for the session that its chain began with."""
        hub = rig.gateway(
            {
                "ACME/spread": """
                def handleMessage(payload):
                    handles = [
                        system.util.sendRequestAsync("ACME", "note", {"n": n}) for n in range(400)
                    ]
                    system.util.globals["asked"].set()
                    return len(handles)
                """,
                "ACME/hold": rig.HOLD,
                "ACME/note": NOTE.format(settings=""),
            }
        )
        hub.globals.update(order=[], asked=threading.Event())
        noisy, quiet = rig.client(hub), rig.client(hub)
        held = [noisy.request("ACME", "hold", number) for number in range(7)]
        for _ in held:
            hub.globals["running"].get(timeout=20)
        spread = noisy.request("ACME", "spread")
        late = noisy.request("ACME", "hold", "late")
        assert hub.globals["asked"].wait(20)
        hub.globals["running"].get(timeout=20)
        rig.until(lambda: hub.stats()["handlers_queued"] == 400)
        one = quiet.request("ACME", "note", "quiet")
        rig.until(lambda: hub.stats()["handlers_queued"] == 401)
        hub.globals["go"].set()
        for handle in (*held, late, spread, one):
            handle.get()
        rig.until(lambda: len(hub.globals["order"]) == 401)
        assert hub.globals["order"].index("quiet") < 150


HOLD_AND_NOTE = """
import headgate
@headgate.handler({settings})
def handleMessage(payload):
    if payload == "hold":
        system.util.globals["running"].put(payload)
        system.util.globals["go"].wait(20)
    system.util.globals["order"].append(payload)
"""


class TestAHandlersOwnLimit:
    def order_of(self, rig: Rig, settings: str) -> list[Any]:
        """The order in which a crowd, another session's one and one more of the crowd ran."""
        hub = rig.gateway({"ACME/note": HOLD_AND_NOTE.format(settings=settings)})
        hub.globals["order"] = []
        noisy, quiet = rig.client(hub), rig.client(hub)
        held = noisy.request("ACME", "note", "hold")
        hub.globals["running"].get(timeout=20)
        handles = [held, *crowd(noisy, "note", 50)]
        for number, client in enumerate((quiet, noisy), 51):
            rig.until(lambda number=number: hub.stats()["handlers_queued"] == number - 1)
            handles.append(client.request("ACME", "note", "quiet" if client is quiet else "last"))
        rig.until(lambda: hub.stats()["handlers_queued"] == 52)
        hub.globals["go"].set()
        for handle in handles:
            handle.get()
        order: list[Any] = hub.globals["order"]
        return order

    def test_a_crowd_does_not_stand_before_another_session(self, rig: Rig) -> None:
        """Sessions take turns at a handler with a concurrency of its own too."""
        order = self.order_of(rig, "concurrency=1")
        assert order.index("quiet") <= 2
        assert order[-1] == "last"

    def test_a_dedicated_handler_keeps_the_order_of_arrival(self, rig: Rig) -> None:
        """Dedicated is strictly in order, whoever asks."""
        order = self.order_of(rig, 'threading="Dedicated"')
        assert order == ["hold", *range(50), "quiet", "last"]


class Turns(RulePolicy):
    """Counts what the gateway takes in each turn of its event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.most = self._now = 0
        self.counting = True

    def authorise(self, caller: Caller, action: Action, project: str, handler: str) -> None:
        super().authorise(caller, action, project, handler)
        if project == "ACME":
            if not self.total:
                asyncio.get_running_loop().call_soon(self._turn)
            self.total += 1
            self._now += 1
            self.most = max(self.most, self._now)

    def _turn(self) -> None:
        self._now = 0
        if self.counting:
            asyncio.get_running_loop().call_soon(self._turn)


class TestTheEventLoop:
    def test_a_few_frames_of_a_session_in_one_turn(self, rig: Rig) -> None:
        """However much a client sends at once, others have their turns in between."""
        policy = Turns()
        hub = rig.gateway({"ACME/note": NOTE.format(settings="")}, policy=policy)
        hub.globals["order"] = []
        handles = crowd(rig.client(hub), "note", 3000)
        for handle in handles:
            handle.get()
        policy.counting = False
        assert policy.total == 3000
        # Between two counted turns a rest and a new read may lie.
        assert policy.most <= 2 * TURN_FRAMES
        assert sorted(hub.globals["order"]) == list(range(3000))

    def test_cancelled_by_one_that_goes_at_once(self, rig: Rig) -> None:
        """Cancellations that had no turn before the connection closed stop their handlers, too."""
        hub = rig.gateway(
            {
                "ACME/nap": """
                import asyncio
                async def handleMessage(payload):
                    system.util.globals["running"].put(payload)
                    await asyncio.sleep(60)
                """
            }
        )
        client = rig.client(hub)
        handles = [client.request("ACME", "nap", number) for number in range(500)]
        for _ in handles:
            hub.globals["running"].get(timeout=20)
        for handle in handles:
            handle.cancel()
        client.close()
        rig.until(lambda: hub.stats()["sessions"] == 0)
        rig.until(lambda: hub.stats()["open"] == hub.stats()["handlers_under_way"] == 0)

    def test_a_client_that_goes_in_the_middle(self, rig: Rig) -> None:
        """What of its calls had no turn yet is not run, and nothing is left of them."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub)
        handles = crowd(client, "hold", 3000)
        hub.globals["running"].get(timeout=20)
        client.close()
        rig.until(lambda: hub.stats()["sessions"] == 0)
        hub.globals["go"].set()
        assert not any(handle.block() for handle in handles)
        rig.until(lambda: hub.stats()["open"] == hub.stats()["handlers_under_way"] == 0)
