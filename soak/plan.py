"""What is asked of the gateway, how often, and how each of it may end."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import msgspec

from soak.payloads import Payloads

__all__ = ["BY_NAME", "KINDS", "Kind", "Order", "Plan", "Setup"]


class Kind(NamedTuple):
    """One kind of request."""

    name: str
    target: str
    """Project and handler, with a slash between."""
    weight: float
    slow: bool = False
    """Whether the handler takes its time, so that the request may time out."""
    succeeds: bool = True
    errors: tuple[str, ...] = ()
    """Codes of errors that are proper ends beside those of cuts, cancels and short timeouts."""
    options: tuple[str, ...] = ()
    """What is special: ``message``, ``sleep``, ``steps`` in the payload, ``many`` at once."""


NESTED = ("handler_error",)
"""A nested request that failed raises in its handler; `ledger` looks at the type."""

KINDS = (
    Kind("echo", "prompt/echo", 30),
    Kind("echo async", "prompt/echo_async", 15),
    Kind("raise", "prompt/fail", 5, succeeds=False, errors=("handler_error",)),
    Kind("unsendable", "prompt/unsendable", 2, succeeds=False, errors=("payload",)),
    Kind("progress", "prompt/progress", 5, options=("steps",)),
    Kind("message", "prompt/note", 5, options=("message",)),
    Kind("nested", "nest/outer", 5, errors=NESTED),
    Kind("nested async", "nest/outer_async", 5, errors=NESTED),
    Kind("detached", "nest/detached", 3),
    Kind("nap", "slow/nap", 4, slow=True, errors=("overloaded",), options=("sleep",)),
    Kind("nap async", "slow/nap_async", 8, slow=True, options=("sleep",)),
    Kind("stubborn", "slow/stubborn", 1, slow=True, errors=("overloaded",), options=("sleep",)),
    Kind("dedicated", "narrow/dedicated", 4, slow=True, errors=("overloaded",)),
    Kind("tight", "narrow/tight", 2, slow=True, errors=("overloaded",), options=("many",)),
    Kind("missing", "prompt/nothing", 2, succeeds=False, errors=("handler_not_found",)),
    Kind("no project", "nowhere/echo", 1, succeeds=False, errors=("project_not_found",)),
    Kind("broken file", "edited/brittle", 3, errors=("handler_not_found",)),
    Kind("fleeting", "edited/fleeting", 3, errors=("handler_not_found",)),
)

BY_NAME = {kind.name: kind for kind in KINDS}

LONGEST_PAUSE = 1.0
"""Seconds that a driver sleeps at most: it must see soon that it is to rest."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a client process is told when it starts."""

    url: str
    folder: str
    process: int
    """Its number; it stands in every payload."""
    form: str
    """``"with"`` or ``"async with"``."""
    clients: int
    seed: int
    rate: float
    """Requests a second of all its clients together, about."""
    cuts: float
    """Connections that it cuts a second."""
    patience: float
    """Timeout of requests that nothing should delay, in seconds."""
    plant: str = ""
    """A fault that is planted on purpose, to see that it is found."""


class Order(NamedTuple):
    """One request to be made."""

    kind: Kind
    payload: dict[str, Any]
    timeout: float
    cancel_after: float | None
    """Seconds after which it is cancelled."""
    wait: bool
    """Whether the driver waits for the end before it goes on."""
    callbacks: str
    """``"first"``: given with the call; ``"later"``: set when it may be over; ``"none"``."""
    dawdle: float
    """Seconds for which the callback holds its thread up."""


class Plan:
    """
    The random plan of one client.

    What is asked, in which order, depends on the seed alone; when, also on the machine.

    Args:
        setup: Of the client's process.
        client: The client's number in it.
        payloads: The stock of its process.
    """

    def __init__(self, setup: Setup, client: int, payloads: Payloads) -> None:
        self.dice = random.Random(f"{setup.seed}/{setup.process}/{client}")
        self._setup = setup
        self._payloads = payloads
        self._weights = [kind.weight for kind in KINDS]
        self._callback_holds = 0.4 if setup.form == "with" else 0.05

    def connect_wait(self) -> float:
        """Return for how many seconds the next client keeps what it cannot send."""
        return self.dice.choice((0.0, 0.0, 3.0))

    def burst(self) -> list[Order]:
        """Return what is asked at once."""
        (kind,) = self.dice.choices(KINDS, self._weights)
        count = self.dice.choice((1, 1, 1, 2, 5))
        if "many" in kind.options:
            count = 20
        return [self._order(kind) for _ in range(count)]

    def pause(self, asked: int) -> float:
        """Return how many seconds to wait after so many requests, to keep the rate."""
        pause = self.dice.expovariate(self._setup.rate / self._setup.clients / asked)
        return min(pause, LONGEST_PAUSE)

    def life(self) -> float:
        """Return after how many seconds the client is closed, and a new one takes its place."""
        return self.dice.uniform(5, 60)

    def _order(self, kind: Kind) -> Order:
        dice = self.dice
        payload: dict[str, Any] = {"body": self._payloads.pick(dice)}
        if "sleep" in kind.options:
            payload["sleep"] = min(3.0, dice.expovariate(4.0))
        if "steps" in kind.options:
            payload["steps"] = dice.choice((1, 3, 300))
        cancelled = dice.random() < 0.08 and "message" not in kind.options
        return Order(
            kind=kind,
            payload=payload,
            timeout=self._timeout(kind),
            cancel_after=dice.choice((0.0, dice.expovariate(50), 0.3)) if cancelled else None,
            wait=dice.random() < 0.3,
            callbacks=dice.choice(("first", "first", "first", "later", "none")),
            dawdle=self._callback_holds if dice.random() < 0.003 else 0.0,
        )

    def _timeout(self, kind: Kind) -> float:
        dice = self.dice
        if kind.slow:
            return dice.uniform(0.05, 2.0)
        return dice.uniform(0.001, 0.2) if dice.random() < 0.08 else self._setup.patience
