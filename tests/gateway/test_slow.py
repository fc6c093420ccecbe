"""Runs that go on for longer than their `warn_after` are named in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from headgate.gateway.config import Handlers, Settings

if TYPE_CHECKING:
    from conftest import Rig

SLOW = """
    import headgate

    def waits():
        system.util.globals["go"].wait(20)

    @headgate.handler(warn_after=0.05)
    def handleMessage(payload, context):
        waits()
    """

SLOW_TASK = """
    import asyncio

    async def handleMessage(payload, context):
        while not system.util.globals["go"].is_set():
            await asyncio.sleep(0.01)
    """


def named(caplog: pytest.LogCaptureFixture, target: str) -> list[str]:
    """The texts in the log that name runs of a handler."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "headgate.watchdog"
        and record.levelno == logging.WARNING
        and f"The handler {target} has run for " in record.getMessage()
    ]


def test_a_run_is_named_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """With request, user, place and stack; and once, however long it goes on."""
    hub = rig.gateway({"ACME/slow": SLOW, "ACME/hold": rig.HOLD})
    client = rig.client(hub)
    client.request("ACME", "hold", {})
    hub.globals["running"].get(timeout=20)
    first = client.request("ACME", "slow", {})
    (text,) = rig.until(lambda: named(caplog, "ACME/slow"))
    assert f"its warn_after is 0.05 s. (Request {first.request_id} of " in text
    assert ", headgate-ACME-2, running.)" in text
    assert 'slow.py", line ' in text
    assert "in waits" in text
    second = client.request("ACME", "slow", {})
    rig.until(lambda: len(named(caplog, "ACME/slow")) > 1)
    assert [second.request_id in each for each in named(caplog, "ACME/slow")] == [False, True]
    assert named(caplog, "ACME/hold") == []


def test_an_abandoned_run(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """It is named as well, though nobody waits for it and nothing else is under way."""
    hub = rig.gateway({"ACME/slow": SLOW.replace("0.05", "0.6")})
    handle = rig.client(hub).request("ACME", "slow", {}, timeout=0.1)
    assert handle.getError() is not None
    (text,) = rig.until(lambda: named(caplog, "ACME/slow"))
    assert ", abandoned.)" in text


def test_a_task(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """What waits is named with what it awaits; a project's setting holds for its handlers."""
    toml = "[defaults]\nwarn_after = 0.05\n"
    hub = rig.gateway({"ACME/task": SLOW_TASK, "ACME/project.toml": toml})
    rig.client(hub).request("ACME", "task", {})
    (text,) = rig.until(lambda: named(caplog, "ACME/task"))
    assert "headgate-ACME-async, running.)" in text


def test_the_gateways_setting(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """It holds for handlers that say nothing themselves, and can change while they run."""
    hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/slow": SLOW.replace("0.05", "600")})
    client = rig.client(hub)
    client.request("ACME", "slow", {})
    client.request("ACME", "hold", {})
    hub.globals["running"].get(timeout=20)
    hub.call(lambda: hub.apply(Settings(handlers=Handlers(warn_after=0.01))) and None)
    rig.until(lambda: named(caplog, "ACME/hold"))
    assert named(caplog, "ACME/slow") == []


def test_many_at_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Some are named with their stacks, of the others is told how many there are."""
    toml = "[defaults]\nwarn_after = 0.5\n"
    hub = rig.gateway({"ACME/task": SLOW_TASK, "ACME/project.toml": toml})
    client = rig.client(hub)
    for _ in range(60):
        client.request("ACME", "task", {})
    rig.until(lambda: "So have " in caplog.text)
    counted = [r.args[0] for r in caplog.records if r.msg.startswith("So have ") and r.args]
    rig.until(lambda: len(named(caplog, "ACME/task")) + sum(map(int, counted)) == 60)
