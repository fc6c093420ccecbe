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
from headgate.channel.local import (
    data_folder,
    forget_port,
    is_loopback,
    publish_port,
    read_or_make_token,
)
from headgate.channel.protocol import Channel
from headgate.channel.server import ServerChannel, listen
from headgate.errors import (
    ConfigurationError,
    ConnectionLost,
    GatewayUnreachable,
    RequestError,
)
from headgate.gateway.builtins import builtins
from headgate.gateway.dispatch import Dispatch
from headgate.gateway.hosted import Hosted
from headgate.gateway.hosting import Hosting, Reloaded
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
from headgate.security.audit import (
    AuditLog,
    AuditSettings,
    LogRecorder,
    Record,
    Recorder,
    Recorders,
)
from headgate.security.identity import gateway_itself, owner
from headgate.security.policy import OwnerPolicy, Policy
from headgate.store import Store
from headgate.threads import CallbackThread, LoopThread, Mailbox
from headgate.wire.chunks import Allowance
from headgate.wire.frames import Hello
from headgate.wire.handshake import welcome
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
        host: The address to listen on. Only addresses of loopback are allowed: this release
            knows no users and no TLS yet.
        port: The port to listen on; 0 takes a free one.
        data: The gateway's own folder. Default: one for its name among the user's data.
        network: The Gateway Network that it joins. Default: none.
        policy: Decides who may do what. Default: the owner may do everything, nobody else anything.
        recorder: Is told of logins, refusals and failures. Default: the audit log in the data
            folder, and the log ``headgate.audit``.
        audit: What is recorded, for how long, and what happens when nothing can be written.
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
        network: Network | None = None,
        policy: Policy | None = None,
        recorder: Recorder | None = None,
        audit: AuditSettings | None = None,
        reload: bool | Literal["poll"] = False,
    ) -> None:
        self.name = name
        """The gateway's name."""
        self.token = b""
        """The owner's local token, once the gateway has started."""
        self.port = port
        """The port that it listens on."""
        self.globals: dict[str, Any] = {}
        """What `system.util.getGlobals` gives to every script of this gateway."""
        self.caller = gateway_itself(name)
        self._folders = ProjectFolders.of(projects)
        self._host = host
        self._data = Path(data) if data is not None else data_folder(name)
        self._network = network or NoNetwork()
        self._policy = policy or OwnerPolicy()
        self._audit_settings = audit or AuditSettings()
        self._audit = AuditLog(self._data, self._audit_settings) if recorder is None else None
        self._recorder = recorder or Recorders(filter(None, (LogRecorder(), self._audit)))
        self._store = Store(self._data)
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
        self._server: asyncio.Server | None = None
        self._stopping = False
        self.origin = ""

    # --- its life --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL that clients connect to."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"ws://{host}:{self.port}"

    @property
    def data(self) -> Path:
        """The gateway's own folder."""
        return self._data

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
        self._require_loopback()
        loop = self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._thread_id = threading.get_ident()
        running = self._running = Running(self.name, self._hosted)
        self._requests = Requests(
            recorder=self._recorder,
            audit=self._audit_settings,
            later=loop.call_later,
            on_work=running.watchdog.wake,
        )
        hosting = self._hosting = Hosting(
            self._folders,
            system=lambda project: self.scope(project).system,
            runtime=self._make_runtime,
            requests=self._requests,
        )
        self._dispatch = Dispatch(
            self,
            hosted=hosting.hosted,
            policy=self._policy,
            requests=self._requests,
            network=self._network,
            recorder=self._recorder,
            builtins=builtins(self, hosting, running),
            audit=self._audit,
        )
        self._finished = Mailbox(loop, self._dispatch.finished)
        self._asked = Mailbox(loop, self._take_asked)
        await asyncio.to_thread(self._open_files)
        await hosting.open()
        self._server = await listen(self._new_channel, host=self._host, port=self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        publish_port(self.port, self._data)
        self._network.join(self)
        if self._reload:
            hosting.watch(polling=self._reload == "poll")
        self._recorder.record(Record(event="started", detail=f"{self.name} at {self.url}"))

    async def _stop(self, grace: float) -> None:
        self._stopping = True
        ends: list[Callable[[], None]] = []
        self._network.leave(self)
        if self._server is not None:
            self._server.close()
            await self._let_finish(grace)
            self._end_sessions()
            forget_port(self.port, self._data)
            self._server = None
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
        for session in self._sessions.on_this_node():
            session.close("the gateway stops")

    def _open_files(self) -> None:
        assert self._loop is not None
        self._store.open()
        # Ids of 128 bits: node, boot and the session's number here, the request's number in it.
        self._prefix = f"{self._store.node_id:08x}{self._store.boot % (1 << 24):06x}"
        self.origin = f"{self._prefix}{0:06x}"
        self.token = read_or_make_token(self._data)
        if self._audit is not None:
            self._audit.open()

    def _hosted(self) -> Mapping[str, Hosted]:
        return self._hosting.all if self._hosting is not None else {}

    def _close_files(self, ends: Iterable[Callable[[], None]]) -> None:
        self._running.watchdog.close()
        for end in ends:
            end()
        if self._audit is not None:
            self._audit.close()
        self._store.close()

    def _make_runtime(self, project: str) -> ThreadRuntime:
        assert self._loop is not None
        return ThreadRuntime(
            project, ends=self._finished, loop=self._loop, on_wait=self._handler_waits
        )

    def _require_loopback(self) -> None:
        if not is_loopback(self._host):
            raise ConfigurationError(
                f"This release listens on loopback only, not on {self._host!r}: it knows no users "
                "and no TLS yet",
                cure="Use --host 127.0.0.1",
            )

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
            "bytes_arriving": self._arriving.taken,
        }
        for session in self._sessions.on_this_node():
            for name, size in session.stats().items():
                sizes[f"session_{name}"] = sizes.get(f"session_{name}", 0) + size
        return sizes | (self._hosting.stats() if self._hosting is not None else {})

    def _post_asked(self, item: tuple[Invocation, tuple[str, dict[str, str]] | None]) -> None:
        # While it stops, what is in flight may still ask for what it needs.
        nested = item[0].parent is not None
        serves = self._server is not None and (nested or not self._stopping)
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
        if self._server is None:
            self._refuse(invocation)
        elif delivery is None:
            self._dispatch.nested(invocation)
        else:
            self._dispatch.deliver(invocation, *delivery)

    def _handler_waits(self, invocation: Invocation) -> None:
        self.call(lambda: self._dispatch.break_deadlocks(invocation))

    # --- the port's side --------------------------------------------------------------------------

    def admit(self, channel: ServerChannel, hello: Hello) -> tuple[bytes, Session]:
        """Make the session of a client that has proven to be the owner."""
        number = next(self._session_numbers)
        caller = owner(host=hello.host_name, session=f"{self._prefix}{number:06x}")
        message, state = welcome(
            monotonic(),
            session=caller.session,
            gateway=self.name,
            user=caller.user,
            credit=Credit(),
            max_message=MAX_MESSAGE,
            allowance=self._arriving,
        )
        session = ClientSession(channel, state, caller=caller, hello=hello, switchboard=self)
        channel.attach(session.received, lambda c, reason: self._session_lost(session, c, reason))
        self._sessions.add(session)
        self._recorder.record(Record.by(caller, "login", outcome="ok", detail=session.peer))
        return message, state

    def refused(self, peer: str, reason: str) -> None:
        """Record that somebody was not let in."""
        self._recorder.record(Record(event="refused", detail=f"{peer}: {reason}"))

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
        self._recorder.record(Record.by(session.caller, "logout", detail=reason))
