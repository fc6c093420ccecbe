"""A pool of threads: who takes what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import Rig

MEET = """
import threading
met = threading.Barrier(8)
def handleMessage(payload):
    met.wait(20)
    return payload
"""


class TestSlowHandlers:
    def test_all_threads_serve_a_crowd_of_several_sessions(self, rig: Rig) -> None:
        """Handlers that wait for each other get all 8 threads, whoever asked for them."""
        hub = rig.gateway({"ACME/meet": MEET})
        noisy, quiet = rig.client(hub), rig.client(hub)
        handles: list[Any] = [noisy.request("ACME", "meet", n, timeout=20) for n in range(39)]
        handles.append(quiet.request("ACME", "meet", 39, timeout=20))
        assert [handle.get() for handle in handles] == list(range(40))
