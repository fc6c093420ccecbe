"""The gateway's reception: who comes to its port, and the sessions that logins become."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from time import monotonic

from headgate import __version__
from headgate.channel.local import read_or_make_token
from headgate.channel.protocol import Channel
from headgate.channel.server import Logins, Peer, ServerChannel
from headgate.channel.site import Site
from headgate.channel.turns import Turns
from headgate.errors import GatewayUnreachable, Overloaded, PermissionDenied
from headgate.gateway.config import Settings
from headgate.gateway.excess import Excess, Timer
from headgate.gateway.limits import Limiter
from headgate.gateway.port import Listening, Port
from headgate.gateway.rows import Rows
from headgate.gateway.sessions import LAST_SECONDS, ClientSession, Sessions, Switchboard
from headgate.security.audit import Record, Recorder
from headgate.security.certificates import Certificate
from headgate.security.identities import Identities, Login
from headgate.security.identity import OWNER_ROLE, gateway_itself
from headgate.store import Store
from headgate.wire.chunks import Allowance
from headgate.wire.frames import Hello
from headgate.wire.handshake import Credentials, welcome
from headgate.wire.session import MAX_MESSAGE, Session

__all__ = ["Reception"]

TURN_SESSIONS = 16
"""Lost sessions that are seen to in one turn of the event loop."""


class Reception:
    """
    What stands between the network and the gateway; it belongs to the event loop.

    It is the door that `ServerChannel` knocks at: it decides on logins, makes sessions, holds them
    to the limits, and ends those whose login holds no longer.

    Args:
        settings: The gateway's settings.
        data: The gateway's own folder.
        store: Its database.
        recorder: Is told of logins, refusals and ends of sessions.
        switchboard: Answers what the sessions ask.
        anonymous_allowed: Whether somebody may log in without a name.
        options: How the command line names the gateway, for texts.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        data: Path,
        store: Store,
        recorder: Recorder,
        switchboard: Switchboard,
        anonymous_allowed: Callable[[], bool],
        options: tuple[str, ...],
    ) -> None:
        self.name = settings.name
        """The gateway's name."""
        self.token = b""
        """The owner's local token, once it is open."""
        self.logins = Logins()
        """Who asks to be let in at this moment."""
        self.sessions = Sessions()
        """Who has been let in."""
        self.limiter = Limiter(settings.limits, excess=Excess(recorder))
        """Holds clients to the limits."""
        self.arriving = Allowance()
        """What all sessions have received in part."""
        self.port = Port(
            Listening(
                host=settings.host,
                port=settings.port,
                tls=settings.tls,
                http=settings.http,
                insecure=settings.insecure,
                options=options,
            ),
            data=data,
            make_channel=lambda: ServerChannel(self),
            refused=self.refused,
            renewed=self._renewed,
        )
        """Where it listens."""
        self.identities: Identities
        """Users, tokens and certificates, once it is prepared."""
        self._settings = settings
        self._data = data
        self._store = store
        self._recorder = recorder
        self._switchboard = switchboard
        self._anonymous_allowed = anonymous_allowed
        self._refusals = Rows("refusals", self.limiter.excess)
        self._numbers = itertools.count(1)
        self._leaving = Turns(TURN_SESSIONS)
        self._prefix = ""
        self._open = False

    # --- its life --------------------------------------------------------------------------------

    def prepare(self, later: Callable[[float, Callable[[], None]], Timer]) -> None:
        """Get ready for `load`; `later` runs a function on the event loop after some seconds."""
        self.limiter.excess.start(later)
        self.identities = Identities(
            self._store,
            anonymous_allowed=self._anonymous_allowed,
            pins=lambda: self._settings.hosts,
            on_change=self.review,
        )

    def load(self, prefix: str) -> None:
        """
        Read what it needs from folder and database, which is open; this may block.

        Args:
            prefix: What the ids of sessions begin with: node and boot, as hex digits.
        """
        self._prefix = prefix
        self.token = read_or_make_token(self._data)
        self.identities.load()

    async def open(self) -> None:
        """
        Let clients come.

        Raises:
            ConfigurationError: It must not listen so, the port is taken, or a file is not as it
                must be.
        """
        self._open = True
        await self.port.open()
        self._url_file.write_text(self.port.own_url, encoding="utf-8")

    def close(self) -> None:
        """Let nobody in any more; the sessions go on."""
        self._open = False
        self.port.close()

    async def over(self) -> None:
        """End all sessions, and wait until their connections have ended."""
        self.logins.cancel()
        for session in self.sessions.on_this_node():
            session.close("the gateway stops")
        await self.port.over()
        if not await self._all_left():
            for session in self.sessions.on_this_node():
                session.abort("the client did not read")
            await self._all_left()
        self._leaving.finish()
        self._url_file.unlink(missing_ok=True)
        self.limiter.excess.stop()

    async def _all_left(self) -> bool:
        """Wait a moment for the connections that were closed to end; whether all of them did."""
        end = monotonic() + LAST_SECONDS
        while self.sessions and monotonic() < end:
            await asyncio.sleep(0.002)
        return not self.sessions

    def apply(self, settings: Settings) -> None:
        """Follow other settings from now on, as far as they can change."""
        self._settings = settings
        self.limiter.apply(settings.limits)
        self.port.apply(settings.http)
        self.review()

    def stats(self) -> dict[str, int]:
        """Return the sizes of the tables."""
        sizes = {
            "sessions": len(self.sessions),
            "logins": len(self.logins),
            "bytes_arriving": self.arriving.taken,
            **self.limiter.stats(),
        }
        for session in self.sessions.on_this_node():
            for name, size in session.stats().items():
                sizes[f"session_{name}"] = sizes.get(f"session_{name}", 0) + size
        return sizes

    @property
    def _url_file(self) -> Path:
        # Where commands for this folder find the gateway while it runs.
        return self._data / "url"

    # --- the door --------------------------------------------------------------------------------

    @property
    def site(self) -> Site:
        """The names by which it may be called, and the pages that may call it."""
        return self.port.site

    def ticket_key(self, ticket: bytes, peer: Peer) -> bytes:
        """Return the key of a ticket; raises PermissionDenied, with the reason, if it is bad."""
        key = self.identities.ticket_key(ticket, peer)
        if key is None:
            raise PermissionDenied(self.identities.ticket_problem(ticket, peer), started=False)
        return key

    async def log_in(
        self, channel: ServerChannel, credentials: Credentials
    ) -> tuple[bytes, Session]:
        """Make the session of a client whose credentials are good."""
        try:
            login = await self.identities.log_in(credentials, channel.peer)
        except Overloaded:
            self.limiter.crowded(channel.peer.address)
            raise
        if not self._open:
            raise GatewayUnreachable(f"The gateway {self.name!r} stops", started=False)
        return self._admit(channel, credentials, login)

    def refused(self, peer: Peer, reason: str, hello: Hello | None = None) -> None:
        """Record that somebody was not let in, and who it says it is; but not all of a flood."""
        if not self._refusals.take(address=peer.address):
            return
        user = "" if hello is None else hello.extensions.get("user", "")
        self._recorder.record(
            Record(
                event="refused",
                user=user if isinstance(user, str) else "",
                host="" if hello is None else hello.host_name,
                method="" if hello is None else hello.method,
                address=peer.address,
                detail=f"{peer}: {reason}",
            )
        )

    def _renewed(self, certificate: Certificate) -> None:
        """Record what new connections trust from now on: whoever changed the files is not known."""
        self._recorder.record(
            Record.by(
                gateway_itself(self.name),
                "administered",
                target="certificate",
                outcome="changed",
                detail=f"SHA-256 {certificate.fingerprint}, ends on {certificate.ends.isoformat()}",
            )
        )

    def page(self, path: str) -> tuple[HTTPStatus, str]:
        """Answer a plain HTTP request."""
        if path == "/health":
            return HTTPStatus.OK, "ok\n"
        if path == "/":
            return HTTPStatus.OK, (
                f"Headgate {__version__}, gateway {self.name!r}.\n"
                f"Connect with: headgate.connect({self.port.url!r})\n"
            )
        return HTTPStatus.NOT_FOUND, "There is nothing here. The channel is at /channel\n"

    # --- sessions --------------------------------------------------------------------------------

    def review(self) -> None:
        """Let each session have the roles of now, and end those whose login holds no longer."""
        self.sessions.review(self.identities, self._login_ended)

    def _admit(
        self, channel: ServerChannel, credentials: Credentials, login: Login
    ) -> tuple[bytes, Session]:
        identities = self.identities
        id = f"{self._prefix}{next(self._numbers):06x}"
        caller = identities.current(login, session=id)
        if caller is None:
            raise PermissionDenied(identities.problem(login), started=False)
        # Where others can read along a ticket's key is no secret.
        ticket = identities.ticket(login) if channel.peer.private else None
        admission = self.limiter.admit(
            caller.user, address=caller.address, is_owner=OWNER_ROLE in caller.roles
        )
        message, state = welcome(
            monotonic(),
            session=caller.session,
            gateway=self.name,
            user=caller.user,
            credit=self.limiter.credit(),
            max_message=MAX_MESSAGE,
            allowance=self.arriving,
            ticket=ticket,
            on_limit=admission.exceeded,
        )
        session = ClientSession(
            channel,
            state,
            caller=caller,
            login=login,
            hello=credentials.hello,
            switchboard=self._switchboard,
            admission=admission,
        )
        channel.attach(session.received, lambda c, reason: self._lost(session, c, reason))
        self.sessions.add(session)
        self.sessions.watch(session, identities, self._login_ended)
        self._recorder.record(
            Record.by(caller, "login", outcome="ok", detail=f"{_how(login)} from {channel.peer}")
        )
        return message, state

    def _lost(self, session: ClientSession, channel: Channel, reason: str) -> None:
        self.limiter.leave(session.admission)
        # When a network breaks, thousands go in one turn.
        self._leaving.run(partial(self._see_off, session, channel, reason))

    def _see_off(self, session: ClientSession, channel: Channel, reason: str) -> None:
        self.sessions.remove(session)
        session.lost(channel, reason)
        self._recorder.record(Record.by(session.caller, "logout", detail=reason))

    def _login_ended(self, session: ClientSession, reason: str) -> None:
        self._recorder.record(
            Record.by(session.caller, "refused", detail=f"the session ends: {reason}")
        )


def _how(login: Login) -> str:
    """Return what somebody has logged in with; of a token and a certificate, which one."""
    which = login.token or login.certificate
    shown = f"{login.method} {which}" if which else "" if login.ticketed else login.method
    return ", ".join(filter(None, (shown, "ticket" if login.ticketed else "")))
