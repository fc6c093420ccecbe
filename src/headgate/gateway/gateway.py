"""The gateway: its life, its parts, and how they are put together."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from headgate.channel.local import data_folder
from headgate.errors import (
    ConfigurationError,
    ConnectionLost,
    GatewayUnreachable,
    RequestError,
)
from headgate.gateway.builtins import builtins
from headgate.gateway.cancelling import Cancelling
from headgate.gateway.config import Configuration, Settings
from headgate.gateway.crew import Workers
from headgate.gateway.dispatch import Dispatch, Pause
from headgate.gateway.draining import Draining
from headgate.gateway.hosted import Hosted
from headgate.gateway.hosting import Hosting, Reloaded
from headgate.gateway.layers import Layer
from headgate.gateway.live import Applied, LiveSettings
from headgate.gateway.reception import Reception
from headgate.gateway.requests import Requests
from headgate.gateway.running import Running
from headgate.gateway.scope import GatewayScope
from headgate.gateway.slow import SlowRuns
from headgate.gateway.turns import Turns
from headgate.invocation import Invocation
from headgate.network.memory import Network, NoNetwork
from headgate.outcome import Failure, Outcome
from headgate.projects.project import Problem, Project
from headgate.projects.source import ProjectFolders
from headgate.request import refuse_on_event_loop
from headgate.runtimes.forkserver import ForkServer
from headgate.runtimes.process import INTERRUPT_SECONDS
from headgate.runtimes.project import ProjectRuntime
from headgate.security.administration import Administration
from headgate.security.audit import AuditLog, LogRecorder, Record, Recorder, Recorders
from headgate.security.identity import gateway_itself
from headgate.security.policy import Policy, RulePolicy
from headgate.security.rules import Operation, Rules, operations
from headgate.store import Store
from headgate.threads import CallbackThread, LoopThread, Mailbox

if TYPE_CHECKING:
    from headgate.system import System

__all__ = ["Gateway"]

T = TypeVar("T")

logger = logging.getLogger("headgate.gateway")

STOPPED_SECONDS = 2 * INTERRUPT_SECONDS
"""
Seconds that handlers which were stopped have to end when it stops, so that callers learn it: time
for those that take no interrupt, and are killed then.
"""

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

    What is not given here is as `config` says, and without it as by default.

    Args:
        name: The gateway's name in the Gateway Network. Default: ``gateway``.
        projects: The folder of the projects, or a mapping of project names to folders.
        host: The address to listen on. Beyond loopback there must be TLS and a user. Default:
            ``127.0.0.1``.
        port: The port to listen on; 0 takes a free one. Default: 8188.
        data: The gateway's own folder. Default: one for its name among the user's data.
        config: The path of a ``headgate.toml``, which is read with the environment over it and
            again with `reload()`; or settings.
        network: The Gateway Network that it joins. Default: none.
        policy: Decides who may do what. Default: the rules of `config`, of the database, and the
            built-in ones.
        recorder: Is told of logins, refusals and failures. Default: the audit
            log in the data folder, and the log ``headgate.audit``.
        reload: Whether edits of the projects' files, and of the one with the settings, take effect
            by themselves; ``"poll"`` to look for them where the system does not tell.
            ``headgate run`` does that, a program has `reload()`. Default: no, if there is no
            `config`.
        on_settings: Is called with the settings in force when it starts and after each change of
            them, on the event loop.

    Raises:
        ConfigurationError: Something is wrong in `config`, or there are no projects.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        projects: str
        | os.PathLike[str]
        | Mapping[str, str | os.PathLike[str]]
        | ProjectFolders
        | None = None,
        host: str | None = None,
        port: int | None = None,
        data: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | Settings | Configuration | None = None,
        network: Network | None = None,
        policy: Policy | None = None,
        recorder: Recorder | None = None,
        reload: bool | Literal["poll"] | None = None,
        on_settings: Callable[[Settings], None] | None = None,
    ) -> None:
        if config is None and reload is None:
            reload = False
        configuration = self._configuration = _configured(
            config, name=name, host=host, port=port, data=data, reload=reload
        )
        settings = configuration.settings
        name = self.name = settings.name
        """The gateway's name."""
        self.globals: dict[str, Any] = {}
        """What `system.util.getGlobals` gives to every script of this gateway."""
        self.caller = gateway_itself(name)
        self._folders = _folders(projects, configuration, required=config is None)
        self._data = settings.data or data_folder(name)
        self._network = network or NoNetwork()
        self._policy = policy or RulePolicy()
        self._has_own_policy = policy is not None
        self._audit = AuditLog(self._data, settings.audit) if recorder is None else None
        chosen = (LogRecorder(), self._audit) if recorder is None else (recorder,)
        self._recorder = Recorders(filter(None, chosen))
        self._store = Store(self._data)
        self._rules: Rules | None = None
        if isinstance(self._policy, RulePolicy):
            self._rules = Rules(
                self._store,
                self._policy,
                self._recorder,
                on_change=lambda: self._reception.review(),
            )
        self._reception = Reception(
            settings,
            data=self._data,
            store=self._store,
            recorder=self._recorder,
            switchboard=self,
            anonymous_allowed=self._anonymous_allowed,
            options=configuration.options(),
        )
        self._hosting: Hosting | None = None
        self._forking = threading.Lock()
        self._forks: ForkServer | None = None
        self._forks_over = False
        self._running = Running(name, dict)
        self.draining = Draining(name, self._running, self._recorder)
        """Whether it takes anything new; for its own event loop."""
        self._live: LiveSettings | None = None
        self._on_settings = on_settings
        self._callbacks = CallbackThread(f"headgate-{name}-callbacks")
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
        return self._reception.port.url

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._reception.port.number

    @property
    def token(self) -> bytes:
        """The owner's local token, once the gateway has started."""
        return self._reception.token

    @property
    def insecure(self) -> str:
        """What its port lacks to be safe beyond this machine, and the cure; mostly empty."""
        return self._reception.port.insecure

    @property
    def data(self) -> Path:
        """The gateway's own folder."""
        return self._data

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._configuration.settings if self._live is None else self._live.settings

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
        self._stopping = self._forks_over = False
        self._thread_id = threading.get_ident()
        self._reception.prepare(loop.call_later)
        running = self._running = Running(self.name, self._hosted, self._open_requests)
        self.draining = Draining(self.name, running, self._recorder)
        self._slow = SlowRuns(running.runs, later=loop.call_later)
        self._requests = Requests(
            recorder=self._recorder,
            audit=self.settings.audit,
            excess=self._reception.limiter.excess,
            later=loop.call_later,
            on_work=self._on_work,
        )
        hosting = self._hosting = Hosting(
            self._folders,
            system=lambda project: self.scope(project).system,
            workers=Workers(self.name, self._forkserver),
            runtime=self._make_runtime,
            requests=self._requests,
            zones=self._zones,
        )
        turns = Turns()
        cancelling = Cancelling(
            running,
            stop=self._requests.stop,
            recorder=self._recorder,
            policy=self._policy,
            turns=turns,
        )
        self._dispatch = Dispatch(
            self,
            hosted=hosting.hosted,
            policy=self._policy,
            requests=self._requests,
            network=self._network,
            recorder=self._recorder,
            builtins=builtins(
                self, hosting, running, cancelling, self._operations(), self._policy, turns
            ),
            refusal=self.draining.refusal,
            audit=self._audit,
        )
        self._finished = Mailbox(loop, self._dispatch.finished)
        self._asked = Mailbox(loop, self._take_asked)
        await asyncio.to_thread(self._open_files)
        await self._reception.port.prepare(users=self._count_users)
        live = self._live = LiveSettings(
            self._configuration,
            apply=self._apply,
            recorder=self._recorder,
            user=self.caller.user,
        )
        self._apply(live.settings)
        await hosting.open()
        await self._reception.open()
        self._serves = True
        self._network.join(self)
        if live.settings.reload:
            hosting.watch(polling=live.settings.reload == "poll")
            live.watch()
        key = f", audit key {self._audit.fingerprint}" if self._audit is not None else ""
        detail = f"{self.name} at {self.url}{key}, settings {live.described() or 'as by default'}"
        self._recorder.record(Record(event="started", detail=detail))

    async def _stop(self, grace: float) -> None:
        self._stopping = True
        ends: list[Callable[[], None]] = []
        self._network.leave(self)
        self._reception.close()
        if self._serves:
            await self._let_finish(grace)
            await self._reception.over()
            await self._dispatch.over()
            self._serves = False
            self._recorder.record(Record(event="stopped", detail=self.name))
        if self._live is not None:
            ends += self._live.close()
            # Started again, it begins with what was in force.
            self._configuration, self._live = self._live.in_force(), None
        if self._hosting is not None:
            ends += self._hosting.close()
            self._hosting = None
        await asyncio.to_thread(self._close_files, ends)

    async def _let_finish(self, grace: float) -> None:
        end = monotonic() + grace
        while (len(self._requests) or self._reception.sessions.are_sending()) and monotonic() < end:
            await asyncio.sleep(0.01)
        for invocation in self._requests.on_this_node():
            error = ConnectionLost(f"The gateway {self.name!r} stopped")
            self._requests.stop(invocation, error)
        end = monotonic() + STOPPED_SECONDS
        while any(h.runtime.is_stopping for h in self._hosted().values()) and monotonic() < end:
            await asyncio.sleep(0.002)

    def _open_files(self) -> None:
        assert self._loop is not None
        self._store.open()
        self._store.warn()
        if self._rules is not None:
            # The zones of the configuration first: rules of the database name them, too.
            self._configure_rules(self.settings)
            self._rules.load()
        # Ids of 128 bits: node, boot and the session's number here, the request's number in it.
        prefix = f"{self._store.node_id:08x}{self._store.boot % (1 << 24):06x}"
        self.origin = f"{prefix}{0:06x}"
        self._reception.load(prefix)
        if self._audit is not None:
            self._audit.open()

    def _operations(self) -> dict[str, Operation]:
        """Return what administers this gateway, by name."""
        administration = Administration(self._reception.identities, self._recorder)
        return {
            **operations(self._rules),
            **{name: partial(administration.administer, name) for name in administration.actions},
        }

    def _anonymous_allowed(self) -> bool:
        return isinstance(self._policy, RulePolicy) and self._policy.names_anonymous

    def _zones(self) -> Collection[str] | None:
        return self._policy.zones if isinstance(self._policy, RulePolicy) else None

    def _open_requests(self) -> Iterable[Invocation]:
        return self._requests.on_this_node()

    def _on_work(self) -> None:
        self._running.watchdog.wake()
        self._slow.wake()

    def _hosted(self) -> Mapping[str, Hosted]:
        return self._hosting.all if self._hosting is not None else {}

    def _close_files(self, ends: Iterable[Callable[[], None]]) -> None:
        self._running.watchdog.close()
        for end in ends:
            end()
        with self._forking:
            forks, self._forks, self._forks_over = self._forks, None, True
        if forks is not None:
            forks.close()
        self._reception.identities.close()
        if self._audit is not None:
            self._audit.close()
        self._store.close()

    def _forkserver(self) -> ForkServer:
        """
        Return what makes worker processes, on any thread; another one if it has died.

        Raises:
            ConfigurationError: The gateway has stopped.
        """
        with self._forking:
            if self._forks_over:
                raise ConfigurationError("The gateway has stopped: it makes no worker processes")
            if self._forks is None or self._forks.is_dead:
                self._forks = ForkServer(self.name, origins=self._reception.next_session)
            return self._forks

    def _make_runtime(self, project: str) -> ProjectRuntime:
        assert self._loop is not None
        return ProjectRuntime(
            project,
            ends=self._finished,
            loop=self._loop,
            on_wait=self._handler_waits,
            forkserver=self._forkserver,
            host=self,
        )

    def _count_users(self) -> int:
        """Return how many can log in, beside the owner on this machine."""
        return len(self._reception.identities.accounts.users)

    # --- what is asked of it, from any thread -----------------------------------------------------

    def ask(self, invocation: Invocation) -> None:
        """Have an invocation of this process answered."""
        self._post_asked((invocation, None))

    def may_wait(self, parent: Invocation | None) -> bool:
        """Tell whether something that this invocation's handler asks for may wait for a try."""
        return self._serves_within(parent) and not self._dispatch.pauses.is_full

    def ask_later(self, invocation: Invocation, pause: float, begin: Callable[[], bool]) -> None:
        """Have an invocation answered after so many seconds, if `begin` then says that it may."""
        self.call(lambda: self._dispatch.nested(invocation, Pause(pause, begin)))

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

        The settings are read again before that. What has a problem is tried again, also if nothing
        was edited.

        Args:
            everything: Load all projects anew, changed or not: with new state of their modules.

        Returns:
            Names of projects that were added, changed, removed, or kept as they were because of a
            mistake, and all problems that there are.

        Raises:
            RuntimeError: The gateway does not run, or an event loop runs on this thread.
        """
        refuse_on_event_loop("Gateway.reload()", "await asyncio.to_thread(gateway.reload)")
        return self._on_loop(self._reload_all(everything=everything))

    async def _reload_all(self, *, everything: bool) -> Reloaded:
        await self.reload_settings()
        if self._hosting is None:
            raise RuntimeError(f"The gateway {self.name!r} does not run")
        return await self._hosting.reload(everything=everything)

    def drain(self, timeout: float | None = None) -> bool:
        """
        Finish what is under way and take nothing new, and wait until nothing is.

        New requests, of the gateway's own scope too, end with `GatewayUnreachable`, ``.started``
        False. What waits in a queue begins, and what runs may ask for what it needs. Sessions stay
        connected, and whoever administers the gateway is answered. It lasts until `resume()`, or
        until the gateway stops.

        Args:
            timeout: Seconds to wait at most; 0 to begin only. Default: as long as it takes.

        Returns:
            True if nothing is under way any more, handlers included whose requests are over; False
            if the time is up or service was taken up again.

        Raises:
            RuntimeError: The gateway does not run, or an event loop runs on this thread.
        """
        refuse_on_event_loop("Gateway.drain()", "await asyncio.to_thread(gateway.drain)")

        async def drain() -> bool:
            self.draining.turn(on=True, caller=self.caller)
            return await self.draining.over(timeout)

        return self._on_loop(drain())

    def resume(self) -> None:
        """
        Take up service again after a `drain()`.

        Raises:
            RuntimeError: The gateway does not run, or an event loop runs on this thread.
        """
        refuse_on_event_loop("Gateway.resume()", "await asyncio.to_thread(gateway.resume)")

        async def resume() -> None:
            self.draining.turn(on=False, caller=self.caller)

        self._on_loop(resume())

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the gateway's event loop, and wait for what it returns."""
        if not self._serves or self._loop is None:
            work.close()
            raise RuntimeError(f"The gateway {self.name!r} does not run")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise RuntimeError(f"The gateway {self.name!r} stopped") from None

    def reload_soon(self) -> None:
        """Begin to reload settings and projects, from any thread and from a signal's handler."""

        def begin() -> None:
            if self._live is not None and self._hosting is not None:
                self._live.reload_soon()
                self._hosting.reload_soon()

        self.call(begin)

    def next_sequence(self) -> int:
        """Return the next number of a request of the gateway's own scripts."""
        return next(self._sequence)

    def remote_servers(self) -> list[str]:
        """Return the names of the other gateways that can be reached."""
        return [name for name in self._network.servers() if name != self.name]

    def running(self) -> dict[str, Any]:
        """Return what runs and how much waits to begin, as ``headgate ps --json`` prints it."""
        return self._running.table()

    def stats(self) -> dict[str, int]:
        """
        Return the size of every table of this gateway.

        When nothing is open all are 0; a gateway that was never started has none. ``draining`` is
        1 while it takes nothing new.
        """
        if self._loop is None:
            return {}
        sizes = {
            **self._requests.stats(),
            "posted": len(self._finished) + len(self._asked),
            "callbacks": len(self._callbacks),
            **self._reception.stats(),
            "draining": int(self.draining.is_on),
        }
        return sizes | (self._hosting.stats() if self._hosting is not None else {})

    def counters(self) -> dict[str, int]:
        """
        Return how often each limit was exceeded, by the name of its setting.

        They go up only, from 0 when the gateway was made.
        """
        return dict(self._reception.limiter.excess.counters)

    def _post_asked(self, item: tuple[Invocation, tuple[str, dict[str, str]] | None]) -> None:
        if not self._serves_within(item[0].parent) or not self._asked.post(item):
            self._refuse(item[0])

    def _serves_within(self, parent: Invocation | None) -> bool:
        # While it stops, what is in flight may still ask for what it needs.
        return self._serves and (parent is not None or not self._stopping)

    def _refuse(self, invocation: Invocation, error: RequestError | None = None) -> None:
        if error is None:
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

    async def reload_settings(self) -> Applied:
        """Read the settings again, and let what can change take effect."""
        if self._live is None:
            raise RuntimeError(f"The gateway {self.name!r} does not run")
        return await self._live.reload()

    def apply(self, settings: Settings) -> Applied:
        """
        Let of these settings take effect what can while the gateway runs, at once.

        Returns:
            What has changed, and what needs a restart.

        Raises:
            ConfigurationError: Something is wrong with them; everything is as it was.
            RuntimeError: The gateway does not run.
        """
        if self._live is None:
            raise RuntimeError(f"The gateway {self.name!r} does not run")
        return self._live.take(Configuration.of(settings).settings)

    def _apply(self, settings: Settings) -> None:
        """Let every part take the settings that may change; all of them in this one turn."""
        self._configure_rules(settings)
        self._reception.apply(settings)
        self._requests.follow(settings.audit)
        self._slow.warn_after = settings.handlers.warn_after or None
        if self._audit is not None:
            self._audit.configure(settings.audit)
        if self._on_settings is not None:
            self._on_settings(settings)

    def _configure_rules(self, settings: Settings) -> None:
        if isinstance(self._policy, RulePolicy) and not self._has_own_policy:
            file = self._configuration.file
            place = "the configuration" if file is None else file.name
            self._policy.configure(settings.permission, settings.zones, file=place)

    def dispatch(self, invocation: Invocation) -> None:
        """Have a client's invocation answered."""
        if self._stopping:
            self._refuse(invocation)
        elif not self._running.draining or self._takes(invocation):
            self._dispatch.request(invocation)

    def deliver(self, invocation: Invocation, scope: str, filters: dict[str, str]) -> None:
        """Have a client's message delivered."""
        if self._stopping:
            self._refuse(invocation)
        elif not self._running.draining or self._takes(invocation):
            self._dispatch.deliver(invocation, scope, filters)

    def _takes(self, invocation: Invocation) -> bool:
        """Whether an invocation is taken while the gateway drains; it is ended if not."""
        refusal = self.draining.refusal(invocation)
        if refusal is not None:
            self._refuse(invocation, refusal)
        return refusal is None

    def stop_invocation(self, invocation: Invocation, error: RequestError) -> None:
        """End an invocation and its handler."""
        self._requests.stop(invocation, error)

    def _take_asked(self, item: tuple[Invocation, tuple[str, dict[str, str]] | None]) -> None:
        invocation, delivery = item
        if not self._serves:
            self._refuse(invocation)
        elif self._running.draining and not self._takes(invocation):
            return
        elif delivery is None:
            self._dispatch.nested(invocation)
        else:
            self._dispatch.deliver(invocation, *delivery)

    def _handler_waits(self, invocation: Invocation) -> None:
        self.call(lambda: self._dispatch.break_deadlocks(invocation))


def _configured(
    config: str | os.PathLike[str] | Settings | Configuration | None, **given: Any
) -> Configuration:
    """Return the configuration that is meant, with the arguments that were given over it."""
    if given["data"] is not None:
        given["data"] = str(Path(given["data"]).absolute())
    arguments = [
        Layer.of("argument", name, (name,), value)
        for name, value in given.items()
        if value is not None
    ]
    if config is None:
        return Configuration.load(arguments=arguments)
    if isinstance(config, Settings):
        config = Configuration.of(config)
    if isinstance(config, Configuration):
        return config.under(arguments)
    return Configuration.load(Path(config), environment=os.environ, arguments=arguments)


def _folders(
    projects: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | ProjectFolders | None,
    configuration: Configuration,
    *,
    required: bool,
) -> ProjectFolders:
    """Return where the projects are that a program or the configuration names."""
    if projects is None and required:
        raise ConfigurationError("The gateway has no projects", cure="Give it projects= or config=")
    if projects is not None:
        return ProjectFolders.of(projects)
    folder = configuration.folder_of_projects()
    return ProjectFolders.of(ProjectFolders(folder, configuration.named_projects()))
