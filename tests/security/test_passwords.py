"""Passwords: right and wrong ones, in turn, delayed, and what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from argon2 import Parameters, Type, extract_parameters

from headgate.errors import Overloaded, PayloadError
from headgate.security import passwords as module
from headgate.security.passwords import PARAMETERS, Passwords, check_password
from headgate.security.throttle import Curve, Throttle

CHEAP = Parameters(Type.ID, 19, 16, 32, time_cost=1, memory_cost=8, parallelism=1)
STEEP = Curve(free=0, first=60.0, longest=60.0, forget=60.0)
FLAT = Curve(free=10_000, first=1.0, longest=1.0, forget=60.0)

Make = Callable[..., Passwords]


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Make]:
    """Passwords with cheap hashes, closed at the end."""
    made = []

    def make(**options: object) -> Passwords:
        options = {"parameters": CHEAP, **options}
        made.append(Passwords(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def attempt(
    passwords: Passwords, stored: str | None, password: str, user: str = "ada"
) -> Awaitable[bool]:
    """Try a password from one address."""
    return passwords.verify(stored, password, user=user, address="10.1.0.1")


async def test_right_and_wrong(make: Make) -> None:
    """The password that was hashed is right, others are wrong, and so is any for nobody."""
    passwords = make()
    stored = await passwords.hash("correct horse")
    assert "correct" not in stored
    assert await attempt(passwords, stored, "correct horse")
    assert not await attempt(passwords, stored, "correct horse ")
    assert not await attempt(passwords, None, "correct horse")
    assert not await attempt(passwords, "no hash at all", "correct horse")


async def test_lone_surrogates_are_wrong(make: Make) -> None:
    """A password that is no Unicode text is wrong, not an error."""
    passwords = make()
    assert not await attempt(passwords, await passwords.hash("correct horse"), "\udc80")


async def test_unicode_is_normalised(make: Make) -> None:
    """Keyboards write é in two ways: both are the same password."""
    passwords = make()
    stored = await passwords.hash("cafe\u0301 au lait")
    assert await attempt(passwords, stored, "caf\u00e9 au lait")


async def test_parameters(make: Make) -> None:
    """A hash has the parameters that are documented, and one with others is outdated."""
    passwords = make(parameters=PARAMETERS)
    stored = await passwords.hash("correct horse")
    assert extract_parameters(stored) == PARAMETERS
    assert (PARAMETERS.type, PARAMETERS.memory_cost) == (Type.ID, 46 * 1024)
    assert not passwords.is_outdated(stored)
    assert make().is_outdated(stored)


async def test_nobody_costs_as_much(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash that stands for a user who does not exist has the same parameters as any other."""
    passwords = make(parameters=PARAMETERS)
    seen = []
    matches = passwords._matches
    monkeypatch.setattr(
        passwords, "_matches", lambda stored, given: seen.append(stored) or matches(stored, given)
    )
    assert not await attempt(passwords, None, "correct horse")
    assert [extract_parameters(stored) for stored in seen] == [PARAMETERS]


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("", "too short"),
        ("seven77", "too short"),
        ("e\u0301" * 7, "too short"),
        ("x" * 1025, "too long"),
        ("Operator1", "the user's name"),
        ("passwort\udc80", "not Unicode"),
    ],
)
def test_new_password_is_refused(password: str, problem: str) -> None:
    """A new password has a length, and is not the user's name; the error does not repeat it."""
    with pytest.raises(PayloadError, match=problem) as caught:
        check_password(password, "operator1")
    assert not password or password not in str(caught.value)


async def test_delay_is_waited_for(make: Make) -> None:
    """A password that comes too soon after a wrong one waits, and is then looked at."""
    passwords = make(throttle=Throttle(of_user=Curve(0, 0.05, 0.05, 60.0), of_address=FLAT))
    stored = await passwords.hash("correct horse")
    assert not await attempt(passwords, stored, "wrong")
    begun = asyncio.get_running_loop().time()
    assert await attempt(passwords, stored, "correct horse")
    assert asyncio.get_running_loop().time() - begun >= 0.04
    assert len(passwords) == 0


async def test_long_delay_is_refused(make: Make) -> None:
    """A delay that is longer than a login may take is refused at once, with its seconds."""
    passwords = make(throttle=Throttle(of_user=STEEP, of_address=FLAT))
    stored = await passwords.hash("correct horse")
    assert not await attempt(passwords, stored, "wrong")
    with pytest.raises(Overloaded) as caught:
        await attempt(passwords, stored, "correct horse")
    assert caught.value.retry_after == pytest.approx(60.0, abs=30.0)
    elsewhere = passwords.verify(stored, "correct horse", user="ada", address="10.1.0.2")
    assert await elsewhere


async def test_guesses_at_once_are_delayed_too(make: Make) -> None:
    """Of many wrong passwords that come together, few are looked at; the others are refused."""
    passwords = make(throttle=Throttle(of_user=STEEP, of_address=FLAT))
    stored = await passwords.hash("correct horse")
    tries = (attempt(passwords, stored, f"wrong {number}") for number in range(30))
    results = await asyncio.gather(*tries, return_exceptions=True)
    looked_at = [result for result in results if result is False]
    assert 1 <= len(looked_at) <= 2
    assert all(isinstance(result, Overloaded) for result in results if result is not False)


async def test_right_ones_at_once_are_not_delayed(make: Make) -> None:
    """Many sessions of one user may log in from one address together."""
    passwords = make(throttle=Throttle(of_user=STEEP, of_address=STEEP))
    stored = await passwords.hash("correct horse")
    results = await asyncio.gather(
        *(attempt(passwords, stored, "correct horse") for _ in range(30))
    )
    assert results == [True] * 30


async def test_few_wait_at_an_address(make: Make) -> None:
    """Whoever guesses holds four places at most; a fifth is refused, others go on."""
    passwords = make(throttle=Throttle(of_user=Curve(0, 1.0, 1.0, 60.0), of_address=FLAT))
    stored = await passwords.hash("correct horse")
    assert not await attempt(passwords, stored, "wrong")
    waiting = [asyncio.ensure_future(attempt(passwords, stored, "wrong")) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await attempt(passwords, stored, "wrong")
    assert await attempt(passwords, stored, "correct horse", user="bob")
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(passwords) == 0


async def test_known_user_gets_in_beside_guessers(make: Make) -> None:
    """Twelve who guess behind an address hold up no user that logged in there before."""
    passwords = make(throttle=Throttle(of_user=Curve(1, 0.05, 0.05, 60.0), of_address=STEEP))
    stored = await passwords.hash("correct horse")
    assert await attempt(passwords, stored, "correct horse")
    assert not await attempt(passwords, stored, "wrong", user="bob")
    guesses = (attempt(passwords, None, "wrong", user=f"user{number}") for number in range(12))
    guessing = asyncio.gather(*guesses, return_exceptions=True)
    assert await attempt(passwords, stored, "correct horse")
    with pytest.raises(Overloaded):
        await attempt(passwords, stored, "correct horse", user="bob")
    assert all(isinstance(result, Overloaded) for result in await guessing)


async def test_known_user_has_places_of_its_own(make: Make) -> None:
    """While guessers hold all places of the address, one that is known waits for its own delay."""
    slow = Curve(0, 1.0, 1.0, 60.0)
    passwords = make(throttle=Throttle(of_user=Curve(0, 0.05, 0.05, 60.0), of_address=slow))
    stored = await passwords.hash("correct horse")
    assert await attempt(passwords, stored, "correct horse")
    assert not await attempt(passwords, stored, "wrong")
    guessing = [
        asyncio.ensure_future(attempt(passwords, None, "wrong", user=f"user{number}"))
        for number in range(4)
    ]
    await asyncio.sleep(0)
    assert len(passwords) == 4
    assert await attempt(passwords, stored, "correct horse")
    for each in guessing:
        each.cancel()
    await asyncio.gather(*guessing, return_exceptions=True)
    assert len(passwords) == 0


async def test_queue_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many may wait for their turn; one more is refused with a time to come again."""
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    passwords = make(parameters=PARAMETERS, throttle=Throttle(of_user=FLAT, of_address=FLAT))
    tries = [asyncio.ensure_future(attempt(passwords, None, "wrong")) for _ in range(10)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(refused) >= 5
    assert all(each.retry_after for each in refused)
    assert results[0] is False
    assert len(passwords) == 0


async def test_no_network_takes_the_whole_queue(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come from one network, half of the places are left for all others."""
    passwords = make(throttle=Throttle(of_user=FLAT, of_address=FLAT))
    assert await attempt(passwords, await passwords.hash("correct horse"), "correct horse")
    goes_on = threading.Event()
    monkeypatch.setattr(passwords, "_matches", lambda stored, given: goes_on.wait(60))

    async def tries(address: str, user: str = "bob") -> list[asyncio.Future[bool]]:
        checks = (passwords.verify(None, "?", user=user, address=address) for _ in range(100))
        begun = [asyncio.ensure_future(check) for check in checks]
        await asyncio.sleep(0)
        return begun

    try:
        flood = await tries("10.1.0.1")
        assert len(passwords) == module.MOST_WAITING // 2
        for number in range(2, 4):
            flood += await tries(f"10.1.0.{number}")
            assert len(passwords) == module.MOST_WAITING // 2 + (number - 1) * module.SHARE
        flood += await tries("10.1.0.1", "ada")  # who is known there
        assert len(passwords) == module.MOST_WAITING // 2 + 3 * module.SHARE
    finally:
        goes_on.set()
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert results.count(True) >= module.MOST_WAITING // 2 + 3 * module.SHARE
    assert len(passwords) == 0


async def test_leaving_does_not_save_the_delay(make: Make) -> None:
    """A wrong password counts also if its sender does not wait for the answer."""
    passwords = make(parameters=PARAMETERS, throttle=Throttle(of_user=STEEP, of_address=FLAT))
    leaver = asyncio.ensure_future(attempt(passwords, None, "wrong"))
    await asyncio.sleep(0)
    leaver.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaver
    # Another user's turn comes after the one that is still looked at.
    assert not await attempt(passwords, None, "wrong", user="bob")
    with pytest.raises(Overloaded):
        await attempt(passwords, None, "wrong")


async def test_loop_goes_on(make: Make) -> None:
    """While a password is looked at, the event loop does other things."""
    passwords = make(parameters=PARAMETERS)
    check = asyncio.ensure_future(attempt(passwords, None, "wrong"))
    turns = 0
    while not check.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20
