"""The gateway: its life, its parts, and how they are put together."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from headgate import __version__
from headgate.channel.local import data_folder, read_or_make_token
from headgate.channel.protocol import Channel
from headgate.channel.server import Logins, Peer, ServerChannel
from headgate.channel.site import Site
from headgate.errors import (
    ConnectionLost,
    GatewayUnreachable,
    PermissionDenied,
    RequestError,
)
from headgate.gateway.builtins import builtins
from headgate.gateway.config import Settings
from headgate.gateway.dispatch import Dispatch
from headgate.gateway.hosted import Hosted
from headgate.gateway.hosting import Hosting, Reloaded
from headgate.gateway.port import Listening, Port
from headgate.gateway.project import Problem, Project
from headgate.gateway.requests import Requests
from headgate.gateway.running import Running
from headgate.gateway.scope import GatewayScope
from headgate.gateway.sessions import ClientSession, Sessions
from headgate.gateway.source import ProjectFolders
from headgate.invocation import Invocation
from headgate.network.memory import Network, NoNetwork
from headgate.outcome import Failure, Outcome
from headgate.request import refuse_on_event_loop
from headgate.runtimes.thread import ThreadRuntime
from headgate.security.administration import Administration
from headgate.security.audit import LogRecorder, Record, Recorder
from headgate.security.identities import Identities, Login
from headgate.security.identity import gateway_itself
from headgate.security.policy import OwnerPolicy, Policy
from headgate.store import Store
from headgate.threads import CallbackThread, LoopThread, Mailbox
from headgate.wire.chunks import Allowance
from headgate.wire.handshake import Credentials, welcome
from headgate.wire.session import MAX_MESSAGE, Credit, Session

if TYPE_CHECKING:
    from headgate.system import System

__all__ = ["Gateway"]

logger = logging.getLogger("headgate.gateway")

STOP_SECONDS = 5.0
"""Seconds that requests in flight have to finish when the gateway stops."""


class Gateway:
    """
    A gateway in this process: it hosts projects and answers requests to their handlers.

    ::

        with headgate.Gateway("hub", projects="examples/plant/projects") as gateway:
            gateway.system.util.sendRequest("ACME", "test", {"number": 55})

    ``with`` and ``start()``/``stop()`` run it on a thread of its own, ``async with`` on the
    running event loop. ``headgate run`` is the same as a process.

    Args:
        name: The gateway's name in the Gateway Network.
        projects: The folder of the projects, or a mapping of project names to folders.
        host: The address to listen on. Beyond loopback there must be TLS and a user.
        port: The port to listen on; 0 takes a free one.
        data: The gateway's own folder. Default: one for its name among the user's data.
        config: The sections ``[tls]`` and ``[http]``, and ``insecure``. Default: no TLS on
            loopback, beyond it the certificate of ``headgate cert init``.
        network: The Gateway Network that it joins. Default: none.
        policy: Decides who may do what. Default: the owner may do everything, nobody else anything.
        recorder: Is told of logins, refusals and failures. Default: the log ``headgate.audit``.
        reload: Whether edits of the projects' files take effect by themselves; ``"poll"`` to look
            for them where the system does not tell. ``headgate run`` does that, a program has
            `reload()`.
    """

    def __init__(
        self,
        name: str = "gateway",
        *,
        projects: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | ProjectFolders,
        host: str = "127.0.0.1",
        port: int = 8188,
        data: str | os.PathLike[str] | None = None,
        config: Settings | None = None,
        network: Network | None = None,
        policy: Policy | None = None,
        recorder: Recorder | None = None,
        reload: bool | Literal["poll"] = False,
    ) -> None:
        self.name = name
        """The gateway's name."""
        self.token = b""
        """The owner's local token, once the gateway has started."""
        self.logins = Logins()
        """Who asks to be let in at this moment."""
        self.globals: dict[str, Any] = {}
        """What `system.util.getGlobals` gives to every script of this gateway."""
        self.caller = gateway_itself(name)
        self._folders = ProjectFolders.of(projects)
        self._data = Path(data) if data is not None else data_folder(name)
        settings = config or Settings()
        listening = Listening(
            host=host,
            port=port,
            tls=settings.tls,
            http=settings.http,
            insecure=settings.insecure,
            connections_per_address=settings.limits.connections_per_address,
            options=("--name", name) if data is None else ("--data", str(data)),
        )
        self._port = Port(
            listening, data=self._data, make_channel=self._new_channel, refused=self.refused
        )
        self._network = network or NoNetwork()
        self._policy = policy or OwnerPolicy()
        self._recorder = recorder or LogRecorder()
        self._store = Store(self._data)
        self._identities: Identities | None = None
        self._sessions = Sessions()
        self._arriving = Allowance()
        self._hosting: Hosting | None = None
        self._running = Running(name, dict)
        self._reload = reload
        self._callbacks = CallbackThread(f"headgate-{name}-callbacks")
        self._session_numbers = itertools.count(1)
        self._sequence = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: LoopThread | None = None
        self._thread_id = 0
        self._serves = False
        self._stopping = False
        self.origin = ""

    # --- its life --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL that clients connect to."""
        return self._port.url

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port.number

    @property
    def site(self) -> Site:
        """The names by which it may be called, and the pages that may call it."""
        return self._port.site

    @property
    def insecure(self) -> str:
        """What its port lacks to be safe beyond this machine, and the cure; mostly empty."""
        return self._port.insecure

    @property
    def data(self) -> Path:
        """The gateway's own folder."""
        return self._data

    @property
    def _url_file(self) -> Path:
        # Where commands for this folder find the gateway while it runs.
        return self._data / "url"

    @property
    def problems(self) -> list[Problem]:
        """What could not be loaded, and why."""
        return self._hosting.problems if self._hosting is not None else []

    @property
    def projects(self) -> Mapping[str, Project]:
        """The projects that serve, by name."""
        return self._hosting.projects if self._hosting is not None else {}

    @property
    def system(self) -> System:
        """The manual's functions, called from the gateway's own scope."""
        return self.scope("").system

    def scope(self, project: str) -> GatewayScope:
        """Return the scope of a project's scripts; without a project, the gateway's own."""
        return GatewayScope(self, project)

    def start(self) -> Self:
        """
        Start it on a thread of its own.

        Raises:
            ConfigurationError: A port, a folder or a file is not as it must be.
            RuntimeError: An event loop runs on this thread: use ``async with`` there.
        """
        refuse_on_event_loop("Gateway.start()", "async with headgate.Gateway(...) as gateway")
        if self._loop_thread is not None:
            return self
        thread = self._loop_thread = LoopThread(f"headgate-{self.name}")
        thread.start()
        try:
            thread.run(self._start())
        except BaseException:
            self._loop_thread = None
            thread.run(self._stop(0.0))
            thread.stop()
            raise
        return self

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """
        Stop it: nothing new is taken, requests in flight may finish, then the rest ends.

        Args:
            grace: Seconds that requests in flight have.
        """
        thread = self._loop_thread
        if thread is None:
            return
        self._loop_thread = None
        thread.run(self._stop(grace))
        thread.stop()
        for invocation, _ in self._asked.take_all():
            self._refuse(invocation)
        self._callbacks.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop(0.0)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop(STOP_SECONDS)
        await asyncio.to_thread(self._callbacks.close)

    async def _start(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._thread_id = threading.get_ident()
        running = self._running = Running(self.name, self._hosted)
        self._requests = Requests(
            recorder=self._recorder, later=loop.call_later, on_work=running.watchdog.wake
        )
        hosting = self._hosting = Hosting(
            self._folders,
            system=lambda project: self.scope(project).system,
            runtime=self._make_runtime,
            requests=self._requests,
        )
        identities = self._identities = Identities(self._store, on_change=self._review_sessions)
        self._dispatch = Dispatch(
            self,
            hosted=hosting.hosted,
            policy=self._policy,
            requests=self._requests,
            network=self._network,
            recorder=self._recorder,
            builtins=builtins(self, hosting, running, Administration(identities, self._recorder)),
        )
        self._finished = Mailbox(loop, self._dispatch.finished)
        self._asked = Mailbox(loop, self._take_asked)
        await asyncio.to_thread(self._open_files)
        await self._port.prepare(users=self._count_users)
        await hosting.open()
        await self._port.open()
        self._serves = True
        self._url_file.write_text(self._port.own_url, encoding="utf-8")
        self._network.join(self)
        if self._reload:
            hosting.watch(polling=self._reload == "poll")
        self._recorder.record(Record(event="started", detail=f"{self.name} at {self.url}"))

    async def _stop(self, grace: float) -> None:
        self._stopping = True
        ends: list[Callable[[], None]] = []
        self._network.leave(self)
        self._port.close()
        if self._serves:
            await self._let_finish(grace)
            self._end_sessions()
            await self._port.over()
            self._url_file.unlink(missing_ok=True)
            self._serves = False
            self._recorder.record(Record(event="stopped", detail=self.name))
        if self._hosting is not None:
            ends += self._hosting.close()
            self._hosting = None
        await asyncio.to_thread(self._close_files, ends)

    async def _let_finish(self, grace: float) -> None:
        end = monotonic() + grace
        while (len(self._requests) or self._sessions.are_sending()) and monotonic() < end:
            await asyncio.sleep(0.01)
        for invocation in self._requests.on_this_node():
            error = ConnectionLost(f"The gateway {self.name!r} stopped")
            self._requests.stop(invocation, error)

    def _end_sessions(self) -> None:
        self.logins.cancel()
        for session in self._sessions.on_this_node():
            session.close("the gateway stops")

    def _open_files(self) -> None:
        assert self._loop is not None
        self._store.open()
        # Ids of 128 bits: node, boot and the session's number here, the request's number in it.
        self._prefix = f"{self._store.node_id:08x}{self._store.boot % (1 << 24):06x}"
        self.origin = f"{self._prefix}{0:06x}"
        self.token = read_or_make_token(self._data)
        if self._identities is not None:
            self._identities.load()

    def _hosted(self) -> Mapping[str, Hosted]:
        return self._hosting.all if self._hosting is not None else {}

    def _close_files(self, ends: Iterable[Callable[[], None]]) -> None:
        self._running.watchdog.close()
        for end in ends:
            end()
        if self._identities is not None:
            self._identities.close()
        self._store.close()

    def _make_runtime(self, project: str) -> ThreadRuntime:
        assert self._loop is not None
        return ThreadRuntime(
            project, ends=self._finished, loop=self._loop, on_wait=self._handler_waits
        )

    def _count_users(self) -> int:
        """Return how many can log in, beside the owner on this machine."""
        assert self._identities is not None
        return len(self._identities.accounts.users)

    # --- what is asked of it, from any thread -----------------------------------------------------

    def ask(self, invocation: Invocation) -> None:
        """Have an invocation of this process answered."""
        self._post_asked((invocation, None))

    def tell(self, invocation: Invocation, scope: str, filters: dict[str, str]) -> None:
        """Have a message of this process delivered."""
        self._post_asked((invocation, (scope, filters)))

    def call(self, function: Callable[[], None]) -> None:
        """Run a function on the gateway's event loop, soon."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def cancel(self, invocation: Invocation) -> None:
        """Stop an invocation of this process."""
        self.call(lambda: self._requests.cancel(invocation, "its caller cancelled it"))

    def invoke(self, function: Callable[[], None]) -> None:
        """Run a callback on the gateway's callback thread."""
        self._callbacks.invoke(function)

    def reload(self, *, everything: bool = False) -> Reloaded:
        """
        Let what changed in the projects' files serve, and wait until it does.

        What has a problem is tried again, also if nothing was edited.

        Args:
            everything: Load all projects anew, changed or not: with new state of their modules.

        Returns:
            Names of projects that were added, changed, removed, or kept as they were because of a
            mistake, and all problems that there are.

        Raises:
            RuntimeError: The gateway does not run, or an event loop runs on this thread.
        """
        refuse_on_event_loop("Gateway.reload()", "await asyncio.to_thread(gateway.reload)")
        if self._hosting is None or self._loop is None:
            raise RuntimeError(f"The gateway {self.name!r} does not run")
        work = self._hosting.reload(everything=everything)
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise RuntimeError(f"The gateway {self.name!r} stopped") from None

    def next_sequence(self) -> int:
        """Return the next number of a request of the gateway's own scripts."""
        return next(self._sequence)

    def remote_servers(self) -> list[str]:
        """Return the names of the other gateways that can be reached."""
        return [name for name in self._network.servers() if name != self.name]

    def running(self) -> dict[str, Any]:
        """Return what runs and what waits to begin, as ``headgate ps --json`` prints it."""
        return self._running.table()

    def stats(self) -> dict[str, int]:
        """
        Return the size of every table of this gateway.

        When nothing is open all are 0; a gateway that was never started has none.
        """
        if self._loop is None:
            return {}
        sizes = {
            **self._requests.stats(),
            "posted": len(self._finished) + len(self._asked),
            "callbacks": len(self._callbacks),
            "sessions": len(self._sessions),
            "logins": len(self.logins),
            "bytes_arriving": self._arriving.taken,
        }
        for session in self._sessions.on_this_node():
            for name, size in session.stats().items():
                sizes[f"session_{name}"] = sizes.get(f"session_{name}", 0) + size
        return sizes | (self._hosting.stats() if self._hosting is not None else {})

    def _post_asked(self, item: tuple[Invocation, tuple[str, dict[str, str]] | None]) -> None:
        # While it stops, what is in flight may still ask for what it needs.
        nested = item[0].parent is not None
        serves = self._serves and (nested or not self._stopping)
        if not serves or not self._asked.post(item):
            self._refuse(item[0])

    def _refuse(self, invocation: Invocation) -> None:
        error = GatewayUnreachable(f"The gateway {self.name!r} does not run", started=False)
        invocation.asker.ended(invocation, Failure(error))

    # --- the network's side -----------------------------------------------------------------------

    def receive(self, invocation: Invocation) -> None:
        """Take an invocation of another gateway."""
        self.call(lambda: self.dispatch(invocation))

    def stop_received(self, invocation: Invocation) -> None:
        """Stop an invocation of another gateway."""
        self.call(lambda: self._requests.cancel(invocation, "its gateway cancelled it"))

    def end(self, invocation: Invocation, outcome: Outcome) -> None:
        """End an invocation that another gateway answered."""
        self._requests.end(invocation, outcome)

    # --- on the event loop ------------------------------------------------------------------------

    def dispatch(self, invocation: Invocation) -> None:
        """Have a client's invocation answered."""
        if self._stopping:
            self._refuse(invocation)
        else:
            self._dispatch.request(invocation)

    def deliver(self, invocation: Invocation, scope: str, filters: dict[str, str]) -> None:
        """Have a client's message delivered."""
        if self._stopping:
            self._refuse(invocation)
        else:
            self._dispatch.deliver(invocation, scope, filters)

    def stop_invocation(self, invocation: Invocation, error: RequestError) -> None:
        """End an invocation and its handler."""
        self._requests.stop(invocation, error)

    def _take_asked(self, item: tuple[Invocation, tuple[str, dict[str, str]] | None]) -> None:
        invocation, delivery = item
        if not self._serves:
            self._refuse(invocation)
        elif delivery is None:
            self._dispatch.nested(invocation)
        else:
            self._dispatch.deliver(invocation, *delivery)

    def _handler_waits(self, invocation: Invocation) -> None:
        self.call(lambda: self._dispatch.break_deadlocks(invocation))

    # --- the port's side --------------------------------------------------------------------------

    def ticket_key(self, ticket: bytes, peer: Peer) -> bytes:
        """Return the key of a ticket; raises PermissionDenied, with the reason, if it is bad."""
        identities = self._identities
        assert identities is not None
        key = identities.ticket_key(ticket, peer)
        if key is None:
            raise PermissionDenied(identities.ticket_problem(ticket, peer), started=False)
        return key

    async def log_in(
        self, channel: ServerChannel, credentials: Credentials
    ) -> tuple[bytes, Session]:
        """Make the session of a client whose credentials are good."""
        assert self._identities is not None
        login = await self._identities.log_in(credentials, channel.peer)
        if self._stopping:
            raise GatewayUnreachable(f"The gateway {self.name!r} stops", started=False)
        return self._admit(channel, credentials, login)

    def _admit(
        self, channel: ServerChannel, credentials: Credentials, login: Login
    ) -> tuple[bytes, Session]:
        identities = self._identities
        assert identities is not None
        id = f"{self._prefix}{next(self._session_numbers):06x}"
        caller = identities.current(login, session=id)
        if caller is None:
            raise PermissionDenied(identities.problem(login), started=False)
        # Where others can read along a ticket's key is no secret.
        ticket = identities.ticket(login) if channel.peer.private else None
        message, state = welcome(
            monotonic(),
            session=caller.session,
            gateway=self.name,
            user=caller.user,
            credit=Credit(),
            max_message=MAX_MESSAGE,
            allowance=self._arriving,
            ticket=ticket,
        )
        session = ClientSession(
            channel, state, caller=caller, login=login, hello=credentials.hello, switchboard=self
        )
        channel.attach(session.received, lambda c, reason: self._session_lost(session, c, reason))
        self._sessions.add(session)
        self._sessions.watch(session, identities, self._login_ended)
        self._recorder.record(
            Record(
                event="login",
                user=caller.user,
                host=caller.host,
                address=caller.address,
                session=caller.session,
                detail=f"{credentials.method} from {channel.peer}",
            )
        )
        return message, state

    def _review_sessions(self) -> None:
        assert self._identities is not None
        self._sessions.review(self._identities, self._login_ended)

    def _login_ended(self, session: ClientSession, reason: str) -> None:
        caller = session.caller
        self._recorder.record(
            Record(
                event="refused",
                user=caller.user,
                host=caller.host,
                address=caller.address,
                session=session.id,
                detail=f"the session ends: {reason}",
            )
        )

    def refused(self, peer: Peer, reason: str) -> None:
        """Record that somebody was not let in."""
        self._recorder.record(
            Record(event="refused", address=peer.address, detail=f"{peer}: {reason}")
        )

    def page(self, path: str) -> tuple[HTTPStatus, str]:
        """Answer a plain HTTP request."""
        if path == "/health":
            return HTTPStatus.OK, "ok\n"
        if path == "/":
            return HTTPStatus.OK, (
                f"Headgate {__version__}, gateway {self.name!r}.\n"
                f"Connect with: headgate.connect({self.url!r})\n"
            )
        return HTTPStatus.NOT_FOUND, "There is nothing here. The channel is at /channel\n"

    def _new_channel(self) -> ServerChannel:
        return ServerChannel(self)

    def _session_lost(self, session: ClientSession, channel: Channel, reason: str) -> None:
        self._sessions.remove(session)
        session.lost(channel, reason)
        self._recorder.record(
            Record(
                event="logout", user=session.caller.user, host=session.caller.host, detail=reason
            )
        )
