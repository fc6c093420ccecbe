"""Passwords: Argon2id, on threads of their own, few at once."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import get_native_id
from time import monotonic

from argon2 import Parameters, PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from headgate.errors import Overloaded, PayloadError
from headgate.security.throttle import Throttle, network_of

__all__ = ["PARAMETERS", "Passwords", "check_password"]

# OWASP, Password Storage Cheat Sheet: "m=47104 (46 MiB), t=1, p=1 (Do not use with Argon2i)", the
# one with the most memory. One lane, so that a login takes one core and no more; salt and tag have
# the lengths of RFC 9106, section 4.
PARAMETERS = Parameters(
    type=Type.ID,
    version=19,
    salt_len=16,
    hash_len=32,
    time_cost=1,
    memory_cost=47104,
    parallelism=1,
)
"""Memory in KiB, passes and lanes of a hash."""

MIN_LENGTH = 8
"""Characters that a password has at least; NIST SP 800-63B asks for no rules beyond a length."""

MAX_BYTES = 1024
"""Bytes that it has at most, in UTF-8."""

PATIENCE = 5.0
"""Seconds that a login waits for its turn; the whole of it has 10."""

MOST_WAITING = 64
"""Logins that wait for their turn."""

SHARE = 8
"""
Of these, how many a network has for sure, and a user that is known at an address.

It gets more only while less than half of all places are taken: no network can take all of them.
"""

BACKGROUND = 5
"""How nice the threads are that hash passwords, of 19 at most."""

MOST_DELAYED = 4
"""
Logins from one address that wait for a delay to pass.

All others are refused at once, so that whoever guesses does not hold the places of those who know.
A user that is known at an address has as many of its own.
"""

Place = str | tuple[str, str]
"""For whom a login waits: its network, or the user there if it is known."""


def normal(password: str) -> str:
    """Return the form of a password that is hashed: keyboards differ in how they write é."""
    return unicodedata.normalize("NFC", password)


def check_password(password: str, user: str) -> str:
    """
    Return a new password in its normal form.

    Raises:
        PayloadError: It is too short, too long or the user's name.
    """
    password = normal(password)
    try:
        length = len(password.encode())
    except UnicodeEncodeError:
        raise PayloadError("The password is not Unicode text") from None
    if len(password) < MIN_LENGTH:
        raise PayloadError(f"The password is too short: it needs {MIN_LENGTH} characters")
    if length > MAX_BYTES:
        raise PayloadError(f"The password is too long: it may have {MAX_BYTES} bytes")
    if password.casefold() == user.casefold():
        raise PayloadError("The password is the user's name: choose another one")
    return password


class Passwords:
    """
    Hashes passwords and checks them, on the event loop and never in its way.

    Args:
        throttle: Delays those who guess.
        parameters: Those of a new hash.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        *,
        throttle: Throttle | None = None,
        parameters: Parameters = PARAMETERS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._throttle = Throttle() if throttle is None else throttle
        self._clock = clock
        self._hasher = PasswordHasher.from_parameters(parameters)
        self._nobody = _unmatched(parameters)
        workers = 1 if (os.cpu_count() or 1) < 4 else 2
        self._pool = ThreadPoolExecutor(workers, "headgate-passwords", _step_back)
        self._turns = asyncio.Semaphore(workers)
        self._hashing = asyncio.Lock()
        self._waiting: Counter[Place] = Counter()
        self._delayed: Counter[Place] = Counter()

    def __len__(self) -> int:
        return self._waiting.total() + self._delayed.total()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    async def hash(self, password: str) -> str:
        """Return the hash of a password."""
        loop = asyncio.get_running_loop()
        # One after the other, so that many do not stand before those who log in.
        async with self._hashing:
            return await loop.run_in_executor(self._pool, self._hasher.hash, normal(password))

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than one would be now."""
        return self._hasher.check_needs_rehash(stored)

    async def verify(self, stored: str | None, password: str, *, user: str, address: str) -> bool:
        """
        Tell whether a password is right.

        It takes as long for a user that does not exist, or has no password, as for one that has.

        Args:
            stored: The user's hash, None if there is none.
            password: What was given.
            user: The user's key, also if there is no such user.
            address: The IP address that it comes from.

        Raises:
            Overloaded: The delay is longer than `PATIENCE`, or too many wait.
        """
        end = self._clock() + PATIENCE
        place = self._place(user, address)
        while True:
            now = self._clock()
            delay = self._throttle.delay(user, address, now)
            if delay > 0:
                await self._pass_time(delay, place, end - now)
            elif await self._has_turn(place, end - now):
                if self._throttle.delay(user, address, self._clock()) <= 0:
                    break
                # While it waited for its turn, another password was wrong.
                self._turns.release()
        return await asyncio.shield(self._begin(stored or self._nobody, password, user, address))

    def _place(self, user: str, address: str) -> Place:
        network = network_of(address)
        known = self._throttle.is_known(user, address, self._clock())
        return (user, network) if known else network

    async def _pass_time(self, delay: float, place: Place, patience: float) -> None:
        if delay > patience or self._delayed[place] >= MOST_DELAYED:
            raise Overloaded(
                f"Wrong passwords came before: try again in {delay:.1f} seconds",
                retry_after=delay,
                started=False,
            )
        with _counted(self._delayed, place):
            await asyncio.sleep(delay)

    async def _has_turn(self, place: Place, patience: float) -> bool:
        """Wait for a place among those whose password is looked at."""
        taken = self._waiting.total()
        most = MOST_WAITING if self._waiting[place] < SHARE else MOST_WAITING // 2
        if taken >= most:
            raise _too_many()
        try:
            with _counted(self._waiting, place):
                async with asyncio.timeout(patience):
                    return await self._turns.acquire()
        except TimeoutError:
            raise _too_many() from None

    def _begin(self, stored: str, password: str, user: str, address: str) -> asyncio.Future[bool]:
        """Begin the check; its end is noted even if nobody waits for it any more."""

        def ended(check: asyncio.Future[bool]) -> None:
            self._turns.release()
            if check.cancelled() or check.exception() is not None:
                return
            if check.result():
                self._throttle.succeeded(user, address, self._clock())
            else:
                self._throttle.failed(user, address, self._clock())

        loop = asyncio.get_running_loop()
        check = loop.run_in_executor(self._pool, self._matches, stored, password)
        check.add_done_callback(ended)
        return check

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, normal(password))
        except VerifyMismatchError:
            return False
        except (InvalidHashError, VerificationError, UnicodeEncodeError):
            return False


@contextmanager
def _counted(places: Counter[Place], place: Place) -> Iterator[None]:
    """Hold a place; what nobody holds is not counted."""
    places[place] += 1
    try:
        yield
    finally:
        places[place] -= 1
        if not places[place]:
            del places[place]


def _step_back() -> None:
    """Leave the processor to those who are signed in; only on Linux a thread can say so."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), BACKGROUND)


def _too_many() -> Overloaded:
    return Overloaded("Too many logins wait: try again later", retry_after=PATIENCE, started=False)


def _unmatched(parameters: Parameters) -> str:
    """Return a hash that costs as much as any other, and that no password has."""

    def text(count: int) -> str:
        return base64.b64encode(secrets.token_bytes(count)).decode().rstrip("=")

    return (
        f"$argon2id$v={parameters.version}$m={parameters.memory_cost},t={parameters.time_cost},"
        f"p={parameters.parallelism}${text(parameters.salt_len)}${text(parameters.hash_len)}"
    )
