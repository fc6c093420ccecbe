"""Puts requests to another handler of the same gateway in flight, and tells how many a second."""

from benchmarks.load import IN_FLIGHT, flood
from headgate import system


async def handleMessage(payload):
    def call(inner):
        return system.util.sendRequestAsync("ACME", "sync", inner)

    return await flood([call] * IN_FLIGHT, payload["seconds"])
