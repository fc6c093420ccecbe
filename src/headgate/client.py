"""A program's connection to a gateway."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

import msgspec

from headgate import exchange
from headgate.channel.address import DEFAULT_URL, Address, Certificate, FilePath
from headgate.channel.client import ClientChannel, open_channel
from headgate.channel.login import ClientLogin, Secret
from headgate.channel.protocol import Channel
from headgate.errors import (
    GatewayUnreachable,
    HeadgateError,
    Overloaded,
    PermissionDenied,
    RequestTimeout,
)
from headgate.exchange import overdue_text
from headgate.outcome import Failure
from headgate.request import Request, refuse_on_event_loop
from headgate.scope import NEARBY, Delivery, Route, Scope, entered, left
from headgate.threads import BURST, CallbackThread, LoopThread, Mailbox
from headgate.wire.frames import Bye, Call, Cast
from headgate.wire.session import Event

if TYPE_CHECKING:
    from headgate.system import System

__all__ = ["Client", "connect"]

logger = logging.getLogger("headgate.client")

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
"""Seconds between two tries to connect again, the first and the longest."""

LONGEST_WISH = 60.0
"""Seconds at most for which the client stays away because a gateway asks for that."""

MAX_HELD = 1000
"""Requests that wait for a connection at most, and as many that wait for their next try."""


class _Held(msgspec.Struct):
    """A request that waits for a connection."""

    until: float
    request: Request
    frame: Call | Cast


class Client(Scope):
    """
    A connection to a gateway, which is kept: when it breaks, the client connects again.

    `headgate.connect` makes it. Every method may be called from any thread.
    """

    def __init__(
        self,
        address: Address,
        login: ClientLogin,
        *,
        project: str,
        host_name: str,
        kind: str,
        connect_wait: float,
    ) -> None:
        self.project = project
        self.host_name = host_name
        """The host name that this client claims."""
        self._address = address
        self._login = login
        self._kind = kind
        self._connect_wait = connect_wait
        self._channel: ClientChannel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: LoopThread | None = None
        self._thread_id = 0
        self._mailbox: Mailbox[tuple[Request, Call | Cast | None]] | None = None
        self._callbacks: CallbackThread | None = None
        self._held: deque[_Held] = deque()
        self._held_timer: asyncio.TimerHandle | None = None
        self._held_until = math.inf
        self._pausing: dict[Request, asyncio.TimerHandle] = {}
        """Requests that wait for their next try."""
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed_for = "the client is not open: use `with` or `async with`"

    # --- its life --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The gateway's URL."""
        return self._address.url

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment."""
        return self._channel is not None

    @property
    def gateway(self) -> str:
        """Name of the gateway; empty while there is no connection."""
        channel = self._channel
        return channel.welcome.gateway if channel is not None else ""

    @property
    def session_id(self) -> str:
        """Id of the session, as hex digits; empty while there is no connection."""
        channel = self._channel
        return channel.welcome.session if channel is not None else ""

    @property
    def system(self) -> System:
        """The manual's functions, bound to this client."""
        from headgate.system import System

        return System(self)

    def open(self) -> Self:
        """
        Connect, with the channel on a thread of its own. `headgate.connect` does this.

        Raises:
            GatewayUnreachable: Nothing answers, or what answers is no gateway.
            RequestError: The gateway refused.
            RuntimeError: An event loop runs on this thread: use ``async with`` there.
        """
        if self._loop is not None:
            return self
        refuse_on_event_loop("connect()", "async with headgate.connect(...) as client")
        self._callbacks = CallbackThread("headgate-callbacks")
        thread = self._loop_thread = LoopThread("headgate-client")
        thread.start()
        try:
            thread.run(self._start())
        except BaseException:
            self._loop = self._loop_thread = None
            thread.stop()
            raise
        return self

    def close(self) -> None:
        """
        Close the connection; requests in flight end with `ConnectionLost`.

        Callbacks that are due run before this returns; but on the client's own event loop, where
        a collection of garbage may call it, it returns at once and the client closes soon.
        """
        thread = self._loop_thread
        if thread is None:
            self._require_own_loop()
            return
        self._loop_thread = None
        if get_ident() == self._thread_id:
            thread.loop.call_soon(self._close_here, thread)
            return
        thread.run(self._stop())
        thread.stop()
        self._end_leftovers()
        assert self._callbacks is not None
        self._callbacks.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        if self._loop is None:
            await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop_thread is not None:
            await asyncio.to_thread(self.close)
            return
        await self._stop()
        self._end_leftovers()

    def _close_here(self, thread: LoopThread) -> None:
        """Close on the loop's own thread, which waits for nobody."""
        self._shut()
        self._end_leftovers()
        assert self._callbacks is not None
        self._callbacks.close(timeout=0.0)
        thread.stop()

    def _leave_to_parent(self) -> None:
        """Refuse requests in a forked process, which has a copy of the client but no thread."""
        self._closed_for = "its connection stayed in the parent process: connect after the fork"
        # Kept: to free them would take the parent's sockets out of the poll that both share.
        _inherited.append((self._loop, self._channel))
        self._channel = self._loop_thread = None
        self._callbacks = CallbackThread("headgate-callbacks")
        left(self)

    def stats(self) -> dict[str, int]:
        """Return the size of every table of this client; after all requests ended, all are 0."""
        channel = self._channel
        session = channel.session if channel is not None else None
        return {
            **(session.stats() if session is not None else {}),
            "held": len(self._held),
            "pausing": len(self._pausing),
            "posted": len(self._mailbox) if self._mailbox is not None else 0,
            "callbacks": len(self._callbacks) if self._callbacks is not None else 0,
        }

    # --- what the handles need -------------------------------------------------------------------

    def invoke(self, function: Callable[[], None]) -> None:
        if self._callbacks is not None:
            self._callbacks.invoke(function)
            return
        try:
            # A client that is not open yet was made on a loop: the one that will be its own.
            loop = self._loop or asyncio.get_running_loop()
            if get_ident() == self._thread_id:
                loop.call_soon(function)
            else:
                loop.call_soon_threadsafe(function)
        except RuntimeError:
            logger.debug("A callback is dropped: the event loop of its client is closed")

    def future(self) -> asyncio.Future[None]:
        # To ask asyncio for the running loop costs a system call.
        if get_ident() == self._thread_id and self._loop is not None:
            return self._loop.create_future()
        return super().future()

    def withdraw(self, request: Request) -> None:
        self._hand_on(request, None)

    def _submit(self, request: Request, payload: bytes, route: Route) -> None:
        frame = Call(0, request.project, request.handler, payload, 0)
        if route is not NEARBY:
            _send_along(frame, route)
        if get_ident() != self._thread_id:
            self._hand_on(request, frame)
            return
        # On the event loop nothing is handed on, and nobody else has the handle yet.
        channel = self._channel
        if channel is None:
            self._hold(request, frame)
            return
        exchange.send(channel.open_session, request, frame)
        channel.flush_soon()

    def _resubmit(self, request: Request, payload: bytes, route: Route, pause: float) -> bool:
        # A request that fails on another thread fails because the client is closed.
        if get_ident() != self._thread_id or self._loop is None or self._closed_for:
            return False
        if len(self._pausing) >= MAX_HELD:
            return False
        frame = Call(0, request.project, request.handler, payload, 0)
        _send_along(frame, route)
        self._pausing[request] = self._loop.call_later(pause, self._try_again, request, frame)
        return True

    def _try_again(self, request: Request, frame: Call) -> None:
        del self._pausing[request]
        self._send((request, frame))
        self._flush()

    def _deliver(self, request: Request, payload: bytes, delivery: Delivery) -> None:
        frame = Cast(
            0,
            request.project,
            request.handler,
            payload,
            0,
            scope=delivery.scope,
            filters=delivery.filters,
            ancestors=delivery.ancestors,
        )
        self._hand_on(request, frame)

    def _hand_on(self, request: Request, frame: Call | Cast | None) -> None:
        """Bring a request, or with None its cancellation, to the event loop."""
        mailbox = self._mailbox
        if mailbox is None or self._closed_for:
            self._end_unreachable(request)
        elif get_ident() == self._thread_id:
            self._send((request, frame))
            self._flush()
        elif not mailbox.post((request, frame)):
            self._end_leftovers()
        elif len(mailbox) >= BURST:
            mailbox.give_way()

    # --- on the event loop -----------------------------------------------------------------------

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = get_ident()
        self._mailbox = Mailbox(self._loop, self._send, self._flush)
        try:
            await self._connect()
        except BaseException:
            self._loop = self._mailbox = None
            raise
        self._closed_for = ""
        _open_clients.add(self)
        entered(self)

    async def _stop(self) -> None:
        channel = self._channel
        self._shut()
        if channel is not None:
            await channel.over()

    def _shut(self) -> None:
        left(self)
        _open_clients.discard(self)
        self._closed_for = self._closed_for or "the client is closed"
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._mailbox is not None:
            self._mailbox.drain()
            self._mailbox.close()
        self._end_waiting()
        if self._channel is not None:
            self._channel.close("the client closed")
            self._lost(self._channel, "the client closed it")

    async def _connect(self) -> None:
        self._channel = await open_channel(
            self._address,
            self._login,
            project=self.project,
            host_name=self.host_name,
            kind=self._kind,
            on_events=self._received,
            on_closed=self._lost,
        )

    def _send_held(self) -> None:
        held, self._held = self._held, deque()
        for waiting in held:
            self._send((waiting.request, waiting.frame))
        self._flush()

    def _send(self, item: tuple[Request, Call | Cast | None]) -> None:
        request, frame = item
        channel = self._channel
        if frame is None:
            self._cancel(request)
        elif channel is None:
            self._hold(request, frame)
        else:
            exchange.hand_over(channel.open_session, request, frame)

    def _cancel(self, request: Request) -> None:
        timer = self._pausing.pop(request, None)
        if timer is not None:
            timer.cancel()
        elif self._channel is not None:
            exchange.cancel(self._channel.open_session, request, time.monotonic())
        else:
            # Cancelled while it was held: it makes room at once.
            self._drop_held(time.monotonic())

    def _flush(self) -> None:
        channel = self._channel
        if channel is not None:
            channel.flush_soon()

    def _received(self, channel: Channel, events: list[Event]) -> None:
        exchange.take(events, channel.loop)
        if type(events[-1][0]) is Bye:
            # It is the last of its session, whether or not the gateway closes the connection.
            self._lost(channel, "the gateway closed it")
            channel.close()

    def _lost(self, channel: Channel, reason: str) -> None:
        """End every request of a connection that is over, and connect again."""
        if channel is not self._channel or channel.session is None:
            return
        self._channel = None
        text = f"The connection to {self.url} ended before the answer came: {reason}"
        exchange.lose(channel.session, text)
        if not self._closed_for and self._loop is not None:
            logger.warning("The connection to %s ended: %s", self.url, reason)
            self._reconnecting = self._loop.create_task(self._connect_again())

    async def _connect_again(self) -> None:
        longest, asked_for = FIRST_PAUSE, 0.0
        while True:
            # Full jitter: clients that lost one gateway do not come back all at once.
            await asyncio.sleep(asked_for + random.uniform(0, longest))
            asked_for = 0.0
            longest = min(longest * 2, LONGEST_PAUSE)
            try:
                await self._connect()
            except PermissionDenied as error:
                self._closed_for = str(error)
                logger.error("The client gives up: %s", error)
                self._end_waiting()
                return
            except HeadgateError as error:
                logger.info("Not connected yet: %s", error)
                asked_for = _retry_after(error)
            except Exception:
                # Whatever it is, it may pass: nobody else would ever try again.
                logger.exception("Not connected yet, for a reason that should not occur")
            else:
                logger.info("Connected to %s again", self.url)
                self._send_held()
                return

    # --- requests that wait for a connection -----------------------------------------------------

    def _hold(self, request: Request, frame: Call | Cast) -> None:
        if not self._connect_wait or self._closed_for:
            self._end_unreachable(request)
            return
        if len(self._held) >= MAX_HELD:
            text = f"{MAX_HELD} requests wait for a connection to {self.url} already"
            request.end(Failure(Overloaded(text, started=False)))
            return
        until = min(time.monotonic() + self._connect_wait, request.deadline)
        self._held.append(_Held(until, request, frame))
        if self._held_timer is None or until < self._held_until:
            self._arm_held()

    def _arm_held(self) -> None:
        assert self._loop is not None
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
        if self._held:
            self._held_until = min(held.until for held in self._held)
            pause = self._held_until - time.monotonic()
            self._held_timer = self._loop.call_later(max(0.005, pause), self._look_at_held)

    def _look_at_held(self) -> None:
        self._drop_held(time.monotonic())
        self._arm_held()

    def _drop_held(self, now: float) -> None:
        kept: deque[_Held] = deque()
        for held in self._held:
            if held.request.done:
                continue
            if held.until > now:
                kept.append(held)
            elif held.request.deadline <= now < math.inf:
                held.request.end(Failure(RequestTimeout(overdue_text(held.request), started=False)))
            else:
                self._end_unreachable(held.request)
        self._held = kept

    def _end_waiting(self) -> None:
        """End what waits for a connection or for its next try, now that there is none to come."""
        self._drop_held(math.inf)
        pausing, self._pausing = self._pausing, {}
        for request, timer in pausing.items():
            timer.cancel()
            self._end_unreachable(request)

    def _end_unreachable(self, request: Request) -> None:
        text = self._closed_for or "there is no connection at the moment; the client keeps trying"
        error = GatewayUnreachable(f"Not sent to {self.url}: {text}", started=False)
        request.end(Failure(error))

    def _end_leftovers(self) -> None:
        """End what was posted when nothing takes it any more."""
        if self._mailbox is not None:
            for request, _ in self._mailbox.take_all():
                self._end_unreachable(request)

    def _require_own_loop(self) -> None:
        if self._loop is not None and not self._closed_for:
            raise RuntimeError("This client belongs to an event loop: leave its `async with` block")


_open_clients: WeakSet[Client] = WeakSet()

_inherited: list[object] = []
"""What a forked process has of its parent's clients."""


def _after_fork() -> None:
    for client in list(_open_clients):
        client._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _send_along(frame: Call, route: Route) -> None:
    """Write into a call where else it goes and how."""
    frame.ancestors = route.ancestors
    frame.priority, frame.flags = route.priority, route.flags
    where = {"remote": route.remote_server, "host": route.host_name}
    frame.extensions = {name: value for name, value in where.items() if value}


def _retry_after(error: HeadgateError) -> float:
    """Return the seconds for which a gateway asks to be left alone, within reason."""
    seconds = error.retry_after if isinstance(error, Overloaded) else None
    return min(seconds, LONGEST_WISH) if seconds is not None and seconds > 0 else 0.0


def connect(
    url: str = DEFAULT_URL,
    *,
    username: str | None = None,
    password: Secret | None = None,
    token: Secret | None = None,
    certificate: Certificate | None = None,
    anonymous: bool = False,
    ca: FilePath | None = None,
    project: str = "",
    host_name: str | None = None,
    kind: str = "client",
    connect_wait: float = 0.0,
) -> Client:
    """
    Connect to a gateway and log in.

    ``with headgate.connect() as client:`` runs the channel on a thread of its own;
    ``async with headgate.connect() as client:`` runs it on the running event loop. Requests and
    their handles are the same in both. Where no event loop runs the connection is there when this
    returns.

    The login takes one kind of credentials. Without any it uses the owner's local token, so the
    gateway must run on this machine as the same user. A password or a token is never sent where
    others could read it: to another machine only over ``wss://``, and over ``ws://`` on this one
    only to a gateway of the same user, which proves to be that first. After a login with either
    the client connects again with a ticket, which the gateway gives for some hours, and takes the
    full credentials again when that is over.

    Args:
        url: The gateway's URL: ``wss://…`` for TLS. To a gateway of this user on this machine TLS
            is spoken whenever it does.
        username: The user to log in as, with a password.
        password: The password; or a function that returns it, called on a thread of its own each
            time it is needed.
        token: An API token, or a function that returns it, likewise.
        certificate: The client certificate to log in with: the path of a PEM file that holds its
            key too, or the paths of the two. Beside a password or a token the login is by that, and
            the certificate is for a gateway that asks for one.
        anonymous: Whether to log in as nobody, which a gateway must allow.
        ca: The authorities that may vouch for the gateway's certificate: a PEM file, such as the
            ``ca.pem`` of ``headgate cert init``. Default: those that this system trusts.
        project: The project that this program belongs to, for `system.util.getProjectName`.
        host_name: The host name to claim. Default: this machine's.
        kind: The kind of session.
        connect_wait: Seconds for which a request waits, its deadline running, while there is no
            connection. Default: it fails at once.

    Returns:
        The client, which connects again by itself when the connection breaks.

    Raises:
        ConfigurationError: The URL or a file is wrong.
        GatewayUnreachable: Nothing answers there, or what answers is no gateway.
        Overloaded: Too many log in at this moment, or wrong passwords came before: see
            ``retry_after``.
        PermissionDenied: The credentials are wrong or may not be sent there, the gateway is
            another user's, or the program there is none of this user.
        TypeError: Credentials of several kinds, or a user without a password.
        ValueError: A name or a secret is empty.
    """
    login = ClientLogin(
        username=username,
        password=password,
        token=token,
        certificate=certificate is not None,
        anonymous=anonymous,
    )
    client = Client(
        Address(url, ca=ca, certificate=certificate),
        login,
        project=project,
        host_name=socket.gethostname() if host_name is None else host_name,
        kind=kind,
        connect_wait=connect_wait,
    )
    if asyncio._get_running_loop() is None:
        client.open()
    return client
