"""What ends a session and what does not: against a model that keeps account of what it rests on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headgate.errors import PermissionDenied
from headgate.security.identities import Login, Ticket
from headgate.security.tickets import TICKET_SECONDS
from tests.security.accounts import Desk, Peer, certificate

NAMES = ("ada", "bob")
ROLES = ("operator", "viewer")
DERS = {name: certificate(common_name=name) for name in NAMES}
HOUR = 3600.0
NOWHERE = Peer()


@dataclass(eq=False)
class Ground:
    """One thing that sessions rest on: a user with one password, a token, a certificate."""

    stands: bool = True
    ends: float = float("inf")
    roles: frozenset[str] = frozenset()
    id: Any = None
    text: str = ""


@dataclass
class Account:
    """A user in the model."""

    password: str
    roles: frozenset[str]
    ground: Ground = field(default_factory=Ground)
    tokens: list[Ground] = field(default_factory=list)
    certificates: list[Ground] = field(default_factory=list)


@dataclass
class Opened:
    """A session in the model, and the real login that it was given."""

    login: Login
    name: str
    grounds: list[Ground]
    token: Ground | None = None
    peer: Peer = NOWHERE
    ticket: Ticket | None = None
    since: float = 0.0


class SessionsMachine(RuleBasedStateMachine):
    """Administrators and clients at work."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = TemporaryDirectory()
        self.desk = Desk(Path(self.folder.name) / "data")
        self.users: dict[str, Account] = {}
        self.sessions: list[Opened] = []
        self.count = 0

    def teardown(self) -> None:
        self.desk.close()
        self.loop.close()
        self.folder.cleanup()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    # --- administration --------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), roles=st.frozensets(st.sampled_from(ROLES)))
    def add(self, name: str, roles: frozenset[str]) -> None:
        if name not in self.users:
            self.run(self.desk.user(name, password=f"password {name}", roles=sorted(roles)))
            self.users[name] = Account(f"password {name}", roles)

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = self.pick(data)
        self.run(self.desk.do("user_remove", name=name))
        account = self.users.pop(name)
        for ground in (account.ground, *account.tokens, *account.certificates):
            ground.stands = False

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def passwd(self, data: st.DataObject) -> None:
        account = self.users[name := self.pick(data)]
        self.count += 1
        account.password = f"password {self.count}"
        self.run(self.desk.do("user_passwd", name=name, password=account.password))
        account.ground.stands = False
        account.ground = Ground()

    @precondition(lambda self: self.users)
    @rule(data=st.data(), roles=st.frozensets(st.sampled_from(ROLES)))
    def change_roles(self, data: st.DataObject, roles: frozenset[str]) -> None:
        name = self.pick(data)
        self.run(self.desk.do("user_roles", name=name, roles=sorted(roles)))
        self.users[name].roles = roles

    @precondition(lambda self: self.users)
    @rule(data=st.data(), hours=st.sampled_from([None, 1, 20]))
    def make_token(self, data: st.DataObject, hours: int | None) -> None:
        account = self.users[name := self.pick(data)]
        narrowed = data.draw(st.frozensets(st.sampled_from(ROLES))) & account.roles
        seconds = None if hours is None else self.desk.clock.now - self.real() + hours * HOUR
        made = self.run(self.desk.token(name, roles=sorted(narrowed), seconds=seconds))
        ends = made["expires_at"].timestamp() if seconds is not None else float("inf")
        account.tokens.append(Ground(ends=ends, roles=narrowed, id=made["id"], text=made["token"]))

    @precondition(lambda self: any(account.tokens for account in self.users.values()))
    @rule(data=st.data())
    def revoke_token(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from([t for a in self.users.values() for t in a.tokens]))
        self.run(self.desk.do("token_revoke", id=token.id))
        token.stands = False

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def add_certificate(self, data: st.DataObject) -> None:
        account = self.users[name := self.pick(data)]
        if not any(each.stands for each in account.certificates):
            der = DERS[name]
            made = self.run(self.desk.do("certificate_add", user=name, certificate=der))
            account.certificates.append(Ground(id=made["id"]))

    @precondition(lambda self: any(self.standing(name) for name in self.users))
    @rule(data=st.data())
    def remove_certificate(self, data: st.DataObject) -> None:
        names = [name for name in self.users if self.standing(name)]
        (ground,) = self.standing(data.draw(st.sampled_from(names)))
        self.run(self.desk.do("certificate_remove", id=ground.id))
        ground.stands = False

    @rule(hours=st.sampled_from([0.5, 1.0, 11.0]))
    def wait(self, hours: float) -> None:
        self.desk.clock.now += hours * HOUR

    @rule()
    def restart(self) -> None:
        self.desk.restart()

    # --- clients ---------------------------------------------------------------------------------

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def log_in_by_password(self, data: st.DataObject) -> None:
        account = self.users[name := self.pick(data)]
        self.opened(
            self.attempt(self.desk.by_password(name, account.password)), name, [account.ground]
        )

    @precondition(lambda self: any(account.tokens for account in self.users.values()))
    @rule(data=st.data())
    def log_in_by_token(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([n for n, a in self.users.items() if a.tokens]))
        account = self.users[name]
        token = data.draw(st.sampled_from(account.tokens))
        login = self.attempt(self.desk.by_token(token.text))
        assert (login is not None) == self.holds([token])
        self.opened(login, name, [account.ground, token], token=token)

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def log_in_by_certificate(self, data: st.DataObject) -> None:
        name = self.pick(data)
        grounds = self.standing(name)
        login = self.attempt(self.desk.by_certificate(DERS[name]))
        assert (login is not None) == bool(grounds)
        grounds = [self.users[name].ground, *grounds]
        self.opened(login, name, grounds, peer=Peer(certificate=DERS[name]))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        former = data.draw(st.sampled_from(self.sessions))
        assert former.ticket is not None
        age = self.desk.clock.now - former.since
        good = self.holds(former.grounds) and age < TICKET_SECONDS
        key = self.desk.identities.ticket_key(former.ticket.blob, former.peer)
        assert key == (former.ticket.key if good else None)
        login = self.attempt(self.desk.by_ticket(former.ticket.blob, peer=former.peer))
        assert (login is not None) == good
        back = self.opened(login, former.name, former.grounds, former.token, former.peer)
        if back is not None:
            back.since = former.since

    def opened(
        self,
        login: Login | None,
        name: str,
        grounds: list[Ground],
        token: Ground | None = None,
        peer: Peer = NOWHERE,
    ) -> Opened | None:
        if login is None:
            return None
        ticket = self.desk.identities.ticket(login)
        now = self.desk.clock.now
        self.sessions.append(Opened(login, name, grounds, token, peer, ticket, now))
        return self.sessions[-1]

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def sessions_are_as_the_model_says(self) -> None:
        for session in self.sessions:
            caller = self.desk.identities.current(session.login)
            assert (caller is not None) == self.holds(session.grounds)
            assert bool(self.desk.identities.problem(session.login)) == (caller is None)
            if caller is not None:
                roles = self.users[session.name].roles
                narrowed = session.token.roles if session.token is not None else frozenset()
                assert caller.roles == (roles & narrowed if narrowed else roles)
                assert caller.user == session.name

    def holds(self, grounds: list[Ground]) -> bool:
        return all(each.stands and self.desk.clock.now < each.ends for each in grounds)

    def standing(self, name: str) -> list[Ground]:
        return [each for each in self.users[name].certificates if each.stands]

    def attempt(self, login: Any) -> Login | None:
        try:
            result: Login = self.run(login)
        except PermissionDenied:
            return None
        return result

    def pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.users)))

    @staticmethod
    def real() -> float:
        return datetime.now(UTC).timestamp()


TestSessions = SessionsMachine.TestCase
TestSessions.settings = settings(
    max_examples=6,
    stateful_step_count=25,
    deadline=None,
    # Each step writes to a disk: to make a failure shorter would take minutes.
    phases=(Phase.reuse, Phase.generate),
)
