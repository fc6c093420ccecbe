"""Gateways of one process that answer each other's ``remoteServer=``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import msgspec

from headgate.errors import ConfigurationError, GatewayUnreachable
from headgate.invocation import Fate, Invocation
from headgate.outcome import Outcome

__all__ = ["MemoryNetwork", "Network", "NoNetwork", "Peer"]


class Peer(Protocol):
    """A gateway, as the network sees it."""

    name: str

    def receive(self, invocation: Invocation) -> None:
        """Take an invocation of another gateway; callable from any thread."""

    def stop_received(self, invocation: Invocation) -> None:
        """Stop such an invocation; callable from any thread."""

    def call(self, function: Callable[[], None]) -> None:
        """Run a function on the gateway's event loop; callable from any thread."""

    def end(self, invocation: Invocation, outcome: Outcome) -> None:
        """End one of the gateway's own invocations; on its event loop."""


class Network(Protocol):
    """How a gateway reaches others."""

    def join(self, peer: Peer) -> None:
        """Become reachable."""

    def leave(self, peer: Peer) -> None:
        """Be unreachable again."""

    def servers(self) -> list[str]:
        """Return the names of the other gateways that can be reached now."""

    def send(self, source: Peer, target: str, invocation: Invocation) -> None:
        """
        Have another gateway answer an invocation.

        Raises:
            GatewayUnreachable: There is no such gateway, or it is down.
        """


class NoNetwork:
    """A gateway on its own."""

    def join(self, peer: Peer) -> None:
        """Nothing to join."""

    def leave(self, peer: Peer) -> None:
        """Nothing to leave."""

    def servers(self) -> list[str]:
        """Return no names."""
        return []

    def send(self, source: Peer, target: str, invocation: Invocation) -> None:
        """Raise GatewayUnreachable, always."""
        raise GatewayUnreachable(
            f"{source.name} is in no Gateway Network, so there is no remote server {target!r}",
            started=False,
        )


class MemoryNetwork:
    """
    Joins gateways of one process, for tests and for trying things out.

    ::

        network = MemoryNetwork()
        with Gateway("a", network=network, ...) as a, Gateway("b", network=network, ...) as b:
            a.system.util.sendRequest("ACME", "test", {"number": 55}, remoteServer="b")

    Callers from other gateways may do what a rule of theirs allows: here, b needs one with
    ``gateways = ["a"]``.
    """

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._lock = threading.Lock()

    def join(self, peer: Peer) -> None:
        """Become reachable under the gateway's name, compared without case."""
        with self._lock:
            if self._peers.setdefault(peer.name.casefold(), peer) is not peer:
                raise ConfigurationError(
                    f"The Gateway Network has a gateway named {peer.name!r} already",
                    cure="Give one of them another name",
                )

    def leave(self, peer: Peer) -> None:
        """Be unreachable again."""
        with self._lock:
            if self._peers.get(peer.name.casefold()) is peer:
                del self._peers[peer.name.casefold()]

    def servers(self) -> list[str]:
        """Return the names of all gateways that joined."""
        with self._lock:
            return sorted(peer.name for peer in self._peers.values())

    def send(self, source: Peer, target: str, invocation: Invocation) -> None:
        """Have another gateway answer an invocation; raises GatewayUnreachable."""
        with self._lock:
            peer = self._peers.get(target.casefold())
        if peer is None:
            known = ", ".join(name for name in self.servers() if name != source.name) or "none"
            raise GatewayUnreachable(
                f"There is no remote server {target!r} in the Gateway Network. Reachable now: "
                f"{known}",
                started=False,
            )
        _Passage(source, peer, invocation).begin()


class _Passage:
    """One invocation on its way through another gateway: each side on its own event loop."""

    def __init__(self, source: Peer, target: Peer, invocation: Invocation) -> None:
        self._source = source
        self._target = target
        self._here = invocation
        caller = msgspec.structs.replace(
            invocation.caller, gateway=(*invocation.caller.gateway, source.name), session=""
        )
        self._there = Invocation(
            caller=caller,
            project=invocation.project,
            handler=invocation.handler,
            payload=invocation.payload,
            deadline=invocation.own_deadline or invocation.deadline,
            asker=self,
            origin=invocation.origin,
            sequence=invocation.sequence,
            ancestors=invocation.ancestors,
            wants_result=invocation.wants_result,
            host_name=invocation.host_name,
            priority=invocation.priority,
            finishes=invocation.finishes,
        )

    def begin(self) -> None:
        self._here.place = self
        self._target.receive(self._there)

    def withdraw(self, invocation: Invocation) -> str:
        """Stop it on the other side; what becomes of it is learned from there."""
        self._target.stop_received(self._there)
        return Fate.UNKNOWN

    # The other gateway's event loop calls these; each is carried to this one's.

    def ended(self, invocation: Invocation, outcome: Outcome) -> None:
        here = self._here
        self._source.call(lambda: self._source.end(here, outcome))

    def started(self, invocation: Invocation) -> None:
        self._source.call(self._note_started)

    def progressed(self, invocation: Invocation, data: bytes) -> None:
        here = self._here
        self._source.call(lambda: here.asker.progressed(here, data))

    def learned(self, invocation: Invocation, fate: str) -> None:
        here = self._here
        self._source.call(lambda: here.asker.learned(here, fate))

    def _note_started(self) -> None:
        self._here.started_at = self._there.started_at
        if not self._here.announced:
            self._here.announced = True
            self._here.asker.started(self._here)
