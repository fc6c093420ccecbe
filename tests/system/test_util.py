"""`system.util`: requests, messages, globals, threads and JSON."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

import headgate
from headgate.request import Request

from .conftest import ECHO, Plant

# --- sendRequestAsync -----------------------------------------------------------------------------


def test_manual_example(plant: Plant) -> None:
    """The manual's call gives a handle at once, and the handle gives the result."""
    hub = plant(test="def handleMessage(payload):\n    return payload['number'] * 2")
    with headgate.connect(hub.url) as client:
        system = client.system
        myHandle = system.util.sendRequestAsync(
            project="ACME", messageHandler="test", payload={"number": 55}
        )
        assert isinstance(myHandle, Request)
        assert myHandle.get() == 110


def test_positional_order(client: headgate.Client) -> None:
    """The arguments stand in the order of the manual's syntax line, callbacks last."""
    results: list[Any] = []
    called = threading.Event()

    def success(result: Any) -> None:
        results.append(result)
        called.set()

    send = client.system.util.sendRequestAsync
    send("ACME", "echo", {"a": 1}, None, 5, success, None)
    assert called.wait(5)
    assert results == [{"a": 1}]


def test_on_error_gets_the_error(client: headgate.Client) -> None:
    """The error callback gets the exception that the handler's request ended with."""
    errors: list[BaseException] = []
    called = threading.Event()

    def failure(error: BaseException) -> None:
        errors.append(error)
        called.set()

    client.system.util.sendRequestAsync("ACME", "fail", onError=failure)
    assert called.wait(5)
    assert isinstance(errors[0], headgate.HandlerError)


@pytest.mark.parametrize("payload", [{}, None])
def test_no_payload_is_an_empty_dictionary(client: headgate.Client, payload: Any) -> None:
    """A payload that is missing or None arrives as {}."""
    assert client.system.util.sendRequest("ACME", "echo") == {}
    assert client.system.util.sendRequest("ACME", "echo", payload) == {}


@pytest.mark.parametrize("payload", [[1], "text", 55, [], 0, False])
def test_payload_is_a_dictionary(client: headgate.Client, payload: Any) -> None:
    """A payload of another type, empty ones too, is refused at the call."""
    for send in (client.system.util.sendRequestAsync, client.system.util.sendRequest):
        with pytest.raises(TypeError, match="payload is a dictionary, not"):
            send("ACME", "echo", payload)
    with pytest.raises(TypeError, match="payload is a dictionary, not"):
        client.system.util.sendMessage("ACME", "echo", payload)


@pytest.mark.parametrize("name", ["sendRequestAsync", "sendRequest", "sendMessage"])
def test_missing_arguments(client: headgate.Client, name: str) -> None:
    """A call without project, even without any argument, says so as Ignition does."""
    send = getattr(client.system.util, name)
    with pytest.raises(ValueError, match=r"^Missing required argument project$"):
        send()
    with pytest.raises(ValueError, match=r"^Missing required argument project$"):
        send(messageHandler="echo")
    with pytest.raises(ValueError, match=r"^Missing required argument messageHandler$"):
        send("ACME")


@pytest.mark.parametrize("name", ["sendRequestAsync", "sendRequest", "sendMessage"])
def test_unknown_keyword(client: headgate.Client, name: str) -> None:
    """An unknown keyword is a TypeError that names it."""
    with pytest.raises(TypeError, match="'timeout'"):
        getattr(client.system.util, name)("ACME", "echo", timeout=5)


def test_scope_selects_nothing(client: headgate.Client) -> None:
    """The keyword scope is accepted by both forms and changes nothing."""
    util = client.system.util
    assert util.sendRequest("ACME", "echo", {"a": 1}, scope="C") == {"a": 1}
    assert util.sendRequestAsync("ACME", "echo", {"a": 1}, scope="CS").get() == {"a": 1}


def test_host_name_by_keyword_only(client: headgate.Client) -> None:
    """hostName goes by keyword, and means a client on that host."""
    with pytest.raises(TypeError, match="positional"):
        client.system.util.sendRequestAsync("ACME", "echo", {}, None, 5, None, None, "host")  # type: ignore[misc]
    for error in (
        client.system.util.sendRequestAsync("ACME", "echo", hostName="nobody").getError(),
        pytest.raises(
            headgate.ClientNotFound,
            client.system.util.sendRequest,
            "ACME",
            "echo",
            hostName="nobody",
        ).value,
    ):
        assert isinstance(error, headgate.ClientNotFound)


def test_remote_server_is_passed_on(client: headgate.Client) -> None:
    """remoteServer, the fourth argument, means that gateway: an unknown one is an error."""
    with pytest.raises(headgate.RequestError, match="elsewhere"):
        client.system.util.sendRequest("ACME", "echo", {}, "elsewhere")
    assert client.system.util.sendRequest("ACME", "echo", {"a": 1}, "hub") == {"a": 1}


@pytest.mark.parametrize("timeout", [0.05, "0.05"])
def test_timeout(plant: Plant, timeout: Any) -> None:
    """timeoutSec, a number or a numeric string, ends the request of either form."""
    hub = plant(slow="import time\ndef handleMessage(payload):\n    time.sleep(0.5)")
    with headgate.connect(hub.url) as client:
        with pytest.raises(headgate.RequestTimeout):
            client.system.util.sendRequest("ACME", "slow", {}, None, timeout)
        handle = client.system.util.sendRequestAsync("ACME", "slow", timeoutSec=timeout)
        assert isinstance(handle.getError(), headgate.RequestTimeout)


@pytest.mark.parametrize("timeout", [True, 0, -1, "soon", float("nan"), float("inf"), 1e9])
def test_bad_timeout(client: headgate.Client, timeout: Any) -> None:
    """A timeoutSec that is no time is refused at the call."""
    with pytest.raises(ValueError, match="timeoutSec"):
        client.system.util.sendRequestAsync("ACME", "echo", timeoutSec=timeout)


# --- on an event loop -----------------------------------------------------------------------------


async def test_blocking_calls_refuse_an_event_loop(plant: Plant) -> None:
    """On an event loop's thread the blocking calls name the awaitable form, and send nothing."""
    async with Started() as started, headgate.connect(started.url) as client:
        util = client.system.util
        with pytest.raises(RuntimeError, match=r"await system\.util\.sendRequestAsync"):
            util.sendRequest("ACME", "count")
        with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(system\.util\.sendMe"):
            util.sendMessage("ACME", "count")
        with pytest.raises(RuntimeError, match="await"):
            client.system.net.getRemoteServers()
        assert await util.sendRequestAsync("ACME", "count") == 1
        assert len(await asyncio.to_thread(util.sendMessage, "ACME", "count")) == 1
