"""The settings in force: read again while the gateway runs, and changed as far as they can be."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec

from headgate.errors import ConfigurationError
from headgate.gateway.config import Configuration, Settings
from headgate.gateway.layers import dotted, is_secret
from headgate.gateway.watch import FileWatch
from headgate.projects.project import Problem
from headgate.security.audit import Record, Recorder

__all__ = ["Applied", "Change", "LiveSettings"]

logger = logging.getLogger("headgate.gateway")

SHOWN = 200
"""Characters of a value that are shown of a change."""

MOST_TOLD = 50
"""Changes that are told and recorded one by one."""


class Change(msgspec.Struct, frozen=True):
    """A setting that has changed; values as JSON, empty where there is none."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key}: {self.old or 'nothing'} → {self.new or 'nothing'}"


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What became of changed settings."""

    changed: tuple[Change, ...] = ()
    """What is in force now."""
    restart: tuple[Change, ...] = ()
    """What will be when the gateway is started again."""
    mistakes: tuple[Problem, ...] = ()
    """Why nothing of it is in force, if so."""


class LiveSettings:
    """
    The settings of a running gateway; they belong to its event loop.

    Args:
        configuration: The settings to begin with, and where they come from.
        apply: Lets the gateway's parts take settings.
        recorder: Is told of changes.
        user: Who changes what an edit of the file changes.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        apply: Callable[[Settings], None],
        recorder: Recorder,
        user: str,
    ) -> None:
        self.configuration = configuration
        """What was read last without a mistake; some of it may need a restart."""
        self.settings = configuration.settings
        """What is in force."""
        self._apply = apply
        self._recorder = recorder
        self._user = user
        self._mistakes: tuple[Problem, ...] = ()
        self._restart: tuple[Change, ...] = ()
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: FileWatch | None = None
        self._closed = False

    def watch(self) -> None:
        """Read the file again whenever it is another one, from now on."""
        if self.configuration.file is None:
            return
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(self.reload_soon)

        self._watch = FileWatch(
            self.configuration.file,
            tell,
            known=self.configuration.text,
        )
        self._watch.start()

    def reload_soon(self) -> None:
        """Begin to read everything again."""
        if self._closed:
            return
        task = asyncio.ensure_future(self._reload_logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_logged(self) -> None:
        try:
            await self.reload()
        except Exception:
            logger.exception("The settings could not be reloaded")

    async def reload(self) -> Applied:
        """Read everything again, and let what can change take effect."""
        async with self._turn:
            try:
                configuration = await asyncio.to_thread(self.configuration.again)
                applied = self.take(configuration.settings)
            except ConfigurationError as error:
                return self._refuse(error)
            self.configuration = configuration
            if self._mistakes:
                logger.info("corrected: the settings in %s", configuration.file)
                self._mistakes = ()
            return applied

    def take(self, settings: Settings) -> Applied:
        """
        Let of these settings take effect what can, at once.

        Raises:
            ConfigurationError: A part does not take them; everything is as it was.
        """
        wanted = self.settings.changed_to(settings)
        changed, restart = _changes(self.settings, wanted), _changes(wanted, settings)
        if changed:
            try:
                self._apply(wanted)
            except Exception:
                self._apply(self.settings)
                raise
            self.settings = wanted
            self._tell(changed)
        if restart and restart != self._restart:
            names = ", ".join(change.key for change in restart)
            logger.warning("settings that need a restart of the gateway have changed: %s", names)
        self._restart = restart
        return Applied(changed=changed, restart=restart)

    def in_force(self) -> Configuration:
        """Return the configuration with the settings that are in force."""
        return replace(self.configuration, settings=self.settings)

    def described(self) -> str:
        """Return what is in force and no default: a file may be edited while nothing runs."""
        return _listed(f"{each.key}: {each.new}" for each in _changes(Settings(), self.settings))

    def close(self) -> list[Callable[[], None]]:
        """Watch no more; returns what is to be called to end it all."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._watch is None:
            return []
        self._watch.stop()
        return [self._watch.join]

    def _tell(self, changed: tuple[Change, ...]) -> None:
        text = _listed(map(str, changed))
        logger.info("settings changed: %s", text)
        self._recorder.record(
            Record("administered", self._user, target="settings", outcome="changed", detail=text)
        )

    def _refuse(self, error: ConfigurationError) -> Applied:
        mistakes = tuple(
            Problem(
                project="",
                file=each.file,
                line=each.line,
                what=each.problem,
                cure=each.cure,
                kept=True,
            )
            for each in error.all()
        )
        if mistakes != self._mistakes:
            logger.error("The settings stay as they were: %s", error)
        self._mistakes = mistakes
        return Applied(mistakes=mistakes)


def _listed(changes: Iterable[str]) -> str:
    told = list(changes)
    more = [f"and {len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return "; ".join(told[:MOST_TOLD] + more)


def _changes(old: Settings, new: Settings) -> tuple[Change, ...]:
    # A table that is empty in one has its values in the other: they tell the change.
    was, now = (
        {place: value for place, value in each.flat().items() if value not in ({}, [])}
        for each in (old, new)
    )
    return tuple(
        Change(dotted(place), _shown(was, place), _shown(now, place))
        for place in {**was, **now}
        if place not in was or place not in now or was[place] != now[place]
    )


def _shown(values: dict[Any, Any], place: Any) -> str:
    if place not in values:
        return ""
    if is_secret(place):
        return "…"
    text = json.dumps(values[place], ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
