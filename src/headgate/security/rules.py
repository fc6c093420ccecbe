"""The rules in the database: added, removed and undone while the gateway runs, or while not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import Connection, Row, Select, delete, exists, func, insert, select, update

from headgate.errors import ConfigurationError, PayloadError
from headgate.invocation import Caller
from headgate.scope import GATEWAY_PROJECT
from headgate.security.audit import Record, Recorder
from headgate.security.identity import owner
from headgate.security.policy import (
    Action,
    Decision,
    Permission,
    Rule,
    RulePolicy,
    permission_fields,
    permission_text,
)
from headgate.store import Store
from headgate.store.tables import permissions, policy_changes
from headgate.threads import to_its_end

__all__ = ["Change", "Operation", "Rules", "operations", "stored_rules"]

MOST_RULES = 1_000
"""Rules in the database."""

MOST_CHANGES = 10_000
"""Changes that are remembered, the last ones."""

_UNDO: tuple[Action, str, str] = ("administer", GATEWAY_PROJECT, "permission_undo")
"""What whoever changes the rules, and the owner, must still be allowed to do afterwards."""

T = TypeVar("T")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the rules."""

    number: int
    at: datetime
    user: str
    """Who made it."""
    kind: Literal["added", "removed"]
    rule: int
    """The rule's number."""
    permission: Permission
    undoes: int | None = None
    """The change that was undone with this one."""


class Rules:
    """
    The rules in a gateway's database, and the history of their changes.

    A change is checked, stored with who made it, and once they were loaded it takes effect for all
    sessions at once, before the method returns. The methods belong to the policy's event loop.

    Args:
        store: The open database.
        policy: Decides by them.
        recorder: Is told of changes.
        on_change: Called on the event loop after every change that took effect.
    """

    def __init__(
        self,
        store: Store,
        policy: RulePolicy,
        recorder: Recorder,
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._policy = policy
        self._recorder = recorder
        self._on_change = on_change
        self._loaded = False

    def load(self) -> None:
        """
        Let the rules that are stored take effect; it waits for the database.

        Raises:
            ConfigurationError: One of them names a zone that is not there any more.
        """
        self._policy.replace_stored(self._store.read(stored_rules).result())
        self._loaded = True

    async def add(self, permission: Permission, *, by: Caller, before: int | None = None) -> Change:
        """
        Add a rule.

        Args:
            permission: The rule.
            by: Who adds it.
            before: The number of the rule that it is to stand before. Default: behind all others.

        Raises:
            PayloadError: The rule is wrong, there is none of that number, there are too many, or
                whoever adds it, or the owner, could not undo that.
        """

        try:
            self._policy.check([Rule("the new rule", permission)])
        except ConfigurationError as error:
            raise PayloadError(str(error)) from error

        def write(connection: Connection) -> Change:
            if len(stored_rules(connection)) >= MOST_RULES:
                raise PayloadError(f"The database has {MOST_RULES:,} rules already")
            position = _place(connection, before)
            row = {"position": position, "active": True, "rule": permission_fields(permission)}
            number = connection.scalar(
                insert(permissions).values(row).returning(permissions.c.number)
            )
            assert number is not None
            return _note(connection, "added", number, by=by)

        return await self._change(write, by)

    async def remove(self, number: int, *, by: Caller) -> Change:
        """
        Remove a rule.

        Raises:
            PayloadError: There is no rule of this number, or whoever removes it, or the owner,
                could not undo that.
        """

        def write(connection: Connection) -> Change:
            _switch(connection, number, active=False)
            return _note(connection, "removed", number, by=by)

        return await self._change(write, by)

    async def undo(self, number: int | None, *, by: Caller) -> Change:
        """
        Undo a change: an added rule goes, a removed one comes back to its place.

        Args:
            number: The change. Default: the last one that was not undone yet.
            by: Who undoes it.

        Raises:
            PayloadError: There is no such change, it was undone already, it is an undo itself, or
                a later change stands against it.
        """

        def write(connection: Connection) -> Change:
            undone = _undoable(connection, number)
            added = undone.kind == "added"
            _switch(connection, undone.rule, active=not added)
            kind: Literal["added", "removed"] = "removed" if added else "added"
            return _note(connection, kind, undone.rule, by=by, undoes=undone.number)

        return await self._change(write, by)

    async def history(self) -> list[Change]:
        """Return the changes, the last one first."""
        query = _changes().order_by(policy_changes.c.number.desc())
        rows = await self._read(lambda connection: connection.execute(query).all())
        return [_read_change(row) for row in rows]

    def listed(self) -> list[dict[str, Any]]:
        """Return all rules as they are looked at, with those of the configuration and built in."""
        return [
            {"where": rule.where, **permission_fields(rule.permission)}
            for rule in self._policy.rules
        ]

    async def _read(self, function: Callable[[Connection], T]) -> T:
        return await asyncio.wrap_future(self._store.read(function))

    async def _change(self, write: Callable[[Connection], Change], by: Caller) -> Change:
        return await to_its_end(self._changed(write, by))

    async def _changed(self, write: Callable[[Connection], Change], by: Caller) -> Change:
        # Who helps to administer the gateway takes it from nobody, least of all from its owner.
        both = (by, owner(host="", session="")) if self._loaded else ()
        able = [each for each in both if self._policy.decide(each, *_UNDO).allow]

        def checked(connection: Connection) -> tuple[Change, list[Rule]]:
            change = write(connection)
            if change.kind == "added":
                self._policy.check([Rule(_where(change.rule), change.permission)])
            rules = stored_rules(connection)
            later = self._policy.with_stored(rules) if able else self._policy
            for caller in able:
                if not (decision := later.decide(caller, *_UNDO)).allow:
                    raise _locked_out(caller, decision)
            return change, rules

        try:
            change, rules = await asyncio.wrap_future(self._store.write(checked))
            if self._loaded:
                self._policy.replace_stored(rules)
                self._on_change()
        except ConfigurationError as error:
            raise PayloadError(str(error)) from error
        self._recorder.record(_record(change, by))
        return change


def stored_rules(connection: Connection) -> list[Rule]:
    """Read the rules that are in force, in their order."""
    query = select(permissions.c.number, permissions.c.rule).where(permissions.c.active)
    rows = connection.execute(query.order_by(permissions.c.position, permissions.c.number))
    return [Rule(_where(number), _permission(rule)) for number, rule in rows]


def _where(number: int) -> str:
    return f"database, rule {number}"


Operation = Callable[[Any, Caller], Awaitable[Any]]


def operations(rules: Rules | None) -> dict[str, Operation]:
    """
    Return what administers the rules, by name; each gets a payload and who asks.

    All raise PayloadError for a payload that they cannot take. Without rules there is none.
    """
    if rules is None:
        return {}

    async def listed(payload: Any, by: Caller) -> Any:
        return {"rules": rules.listed()}

    async def add(payload: Any, by: Caller) -> Any:
        asked = _asked(payload, _Add)
        fields = {name: getattr(asked, name) for name in _PERMISSION_FIELDS}
        change = await rules.add(Permission(**fields), by=by, before=asked.before)
        return _told(change)

    async def remove(payload: Any, by: Caller) -> Any:
        return _told(await rules.remove(_asked(payload, _Remove).rule, by=by))

    async def undo(payload: Any, by: Caller) -> Any:
        return _told(await rules.undo(_asked(payload, _Undo).change, by=by))

    async def history(payload: Any, by: Caller) -> Any:
        return {"changes": [_told(change) for change in await rules.history()]}

    return {
        "permission_add": add,
        "permission_history": history,
        "permission_list": listed,
        "permission_remove": remove,
        "permission_undo": undo,
    }


class _Add(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    allow: bool
    users: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    handlers: tuple[str, ...] = ()
    # Any text: what is no action is told with the nearest one.
    actions: tuple[Any, ...] = ()
    before: int | None = None


class _Remove(msgspec.Struct, forbid_unknown_fields=True):
    rule: int


class _Undo(msgspec.Struct, forbid_unknown_fields=True):
    change: int | None = None


_PERMISSION_FIELDS = [name for name in _Add.__struct_fields__ if name != "before"]


def _asked(payload: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise PayloadError(f"This cannot be done with the rules: {error}", started=False) from None


def _told(change: Change) -> dict[str, Any]:
    fields = msgspec.structs.asdict(change)
    return fields | {
        "at": change.at.isoformat(),
        "permission": permission_fields(change.permission),
        "text": permission_text(change.permission),
    }


def _record(change: Change, by: Caller) -> Record:
    undone = f", undoing change {change.undoes}" if change.undoes else ""
    text = permission_text(change.permission)
    detail = f"change {change.number}{undone}: {text}"
    return Record.by(
        by, "administered", target=_where(change.rule), outcome=change.kind, detail=detail
    )


# --- on the store's threads ----------------------------------------------------------------------


def _permission(rule: Mapping[str, Any]) -> Permission:
    return msgspec.convert(rule, Permission)


def _place(connection: Connection, before: int | None) -> int:
    """Return the position of a new rule, and make room for it."""
    position = permissions.c.position
    if before is None:
        return 1 + (connection.scalar(select(func.max(position))) or 0)
    found = select(position).where(permissions.c.number == before, permissions.c.active)
    place: int | None = connection.scalar(found)
    if place is None:
        raise _no_rule(before)
    connection.execute(
        update(permissions).where(position >= place).values({position: position + 1})
    )
    return place


def _switch(connection: Connection, number: int, *, active: bool) -> None:
    """Put a rule in force or out of force."""
    change = update(permissions).where(
        permissions.c.number == number, permissions.c.active != active
    )
    if not connection.execute(change.values(active=active)).rowcount:
        raise (
            _no_rule(number)
            if not active
            else PayloadError(f"The database has the rule {number} again already")
        )


def _note(
    connection: Connection,
    kind: Literal["added", "removed"],
    number: int,
    *,
    by: Caller,
    undoes: int | None = None,
) -> Change:
    row = {
        "at": datetime.now(UTC),
        "user": " via ".join([by.user, *reversed(by.gateway)]),
        "kind": kind,
        "permission": number,
        "undoes": undoes,
    }
    change = connection.scalar(
        insert(policy_changes).values(row).returning(policy_changes.c.number)
    )
    assert change is not None
    _forget(connection, change - MOST_CHANGES)
    return _read_change(
        connection.execute(_changes().where(policy_changes.c.number == change)).one()
    )


def _forget(connection: Connection, last: int) -> None:
    """Forget changes up to a number, and removed rules that none speaks of any more."""
    if connection.execute(delete(policy_changes).where(policy_changes.c.number <= last)).rowcount:
        spoken_of = exists().where(policy_changes.c.permission == permissions.c.number)
        connection.execute(delete(permissions).where(~permissions.c.active, ~spoken_of))


def _changes() -> Select[Any]:
    columns = policy_changes.c
    return select(*columns, permissions.c.rule).join(
        permissions, permissions.c.number == columns.permission
    )


def _read_change(row: Row[Any]) -> Change:
    return Change(
        number=row.number,
        at=row.at,
        user=row.user,
        kind=row.kind,
        rule=row.permission,
        permission=_permission(row.rule),
        undoes=row.undoes,
    )


def _undoable(connection: Connection, number: int | None) -> Change:
    """Return the change of a number, or the last one, if it can be undone."""
    columns = policy_changes.c
    changes = [_read_change(row) for row in connection.execute(_changes().order_by(columns.number))]
    undone = {change.undoes: change.number for change in changes if change.undoes is not None}
    if number is None:
        open_ones = [c for c in changes if c.undoes is None and c.number not in undone]
        if not open_ones:
            raise PayloadError("There is no change that could be undone")
        return open_ones[-1]
    found = next((change for change in changes if change.number == number), None)
    if found is None:
        raise PayloadError(f"There is no change {number}. See: headgate permission history")
    if number in undone:
        raise PayloadError(f"Change {number} was undone already, by change {undone[number]}")
    if found.undoes is not None:
        raise PayloadError(f"Change {number} undid change {found.undoes}: make that one again")
    return found


def _locked_out(by: Caller, decision: Decision) -> PayloadError:
    return PayloadError(
        f"{by.user} could not undo this: {decision.where} would refuse it. First add a rule that "
        "allows it, such as: headgate permission add --allow --role owner --action administer"
    )


def _no_rule(number: int) -> PayloadError:
    return PayloadError(f"The database has no rule {number}. See: headgate permission list")
