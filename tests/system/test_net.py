"""`system.net`."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

import headgate


def test_host_name(client: headgate.Client) -> None:
    """getHostName is the name of this machine."""
    assert client.system.net.getHostName() == socket.gethostname()


def test_no_network(hub: headgate.Gateway, client: headgate.Client) -> None:
    """Without a Gateway Network there are no remote servers."""
    assert client.system.net.getRemoteServers() == []
    assert hub.system.net.getRemoteServers() == []


def test_remote_servers(tmp_path: Path) -> None:
    """The names of the other gateways are the same for a client and for the gateway's scripts."""
    messages = tmp_path / "projects" / "ACME" / "messages"
    messages.mkdir(parents=True)
    script = "def handleMessage(payload):\n    return system.net.getRemoteServers(True)"
    (messages / "servers.py").write_text(script, "utf-8")
    network = headgate.MemoryNetwork()

    def gateway(name: str) -> headgate.Gateway:
        projects, data = tmp_path / "projects", tmp_path / name
        return headgate.Gateway(name, projects=projects, port=0, data=data, network=network)

    with gateway("hub") as hub, gateway("mill"), headgate.connect(hub.url) as client:
        assert client.system.net.getRemoteServers() == ["mill"]
        assert client.system.net.getRemoteServers(runningOnly=True) == ["mill"]
        assert client.system.util.sendRequest("ACME", "servers") == ["mill"]
        assert client.remote_servers() == hub.system.net.getRemoteServers() == ["mill"]


async def test_remote_servers_on_an_event_loop(hub: headgate.Gateway) -> None:
    """A client, which would have to ask, refuses on the thread of an event loop."""
    async with headgate.connect(hub.url) as client:
        with pytest.raises(RuntimeError, match="await"):
            client.system.net.getRemoteServers()
        assert await asyncio.to_thread(client.system.net.getRemoteServers) == []
