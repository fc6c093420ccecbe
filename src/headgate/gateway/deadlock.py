"""Finding requests that wait for something that one of their own callers holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from headgate.errors import DeadlockError
from headgate.invocation import Invocation
from headgate.runtimes.gate import Gate

__all__ = ["find_deadlock"]


def find_deadlock(
    start: Invocation, open_invocations: Callable[[], Iterable[Invocation]]
) -> tuple[Invocation, DeadlockError] | None:
    """
    Return the request deepest in a chain that can never begin, and the error that names the cycle.

    Theory of operation: a queued invocation waits for *one* of those who hold the places it could
    have; a running one waits for the request that its handler is blocked on. Whoever waits for
    nothing can go on, and so can, in the end, all that wait for it. If nobody whom an invocation
    waits for, however indirectly, can go on, it never begins. A deadlock closes when something
    is queued or begins to wait, so it is looked for from there.

    Args:
        start: What was queued, or is waited for, just now.
        open_invocations: Gives what is open on this gateway.
    """
    chain = _stuck_with(start, open_invocations)
    queued = [i for i in chain if not i.started_at and isinstance(i.place, Gate) and i.ancestors]
    # With nobody queued, handlers that run wait for each other.
    candidates = queued or chain
    if not candidates:
        return None
    deepest = max(candidates, key=lambda i: len(i.ancestors))
    return deepest, _error(deepest, chain)


def _stuck_with(
    invocation: Invocation, open_invocations: Callable[[], Iterable[Invocation]]
) -> list[Invocation]:
    """Return all that an invocation waits for, if none of it can go on; else nothing."""
    seen: dict[Invocation, None] = {}
    ahead = [invocation]
    while ahead:
        waiting = ahead.pop()
        if waiting in seen:
            continue
        seen[waiting] = None
        needed = _needed(waiting, open_invocations)
        if not needed:
            return []
        ahead.extend(other for other in needed if other not in seen)
    return list(seen)


def _needed(
    invocation: Invocation, open_invocations: Callable[[], Iterable[Invocation]]
) -> list[Invocation]:
    """Return whom an invocation waits for; nobody means that it can go on."""
    if invocation.outcome is not None:
        return []
    waits_for = invocation.waits_for
    if waits_for is not None:
        return [waits_for]
    if invocation.place is None:
        return []
    if isinstance(invocation.place, Gate):
        return [] if invocation.started_at else invocation.place.holders(invocation)
    # It was sent to another gateway. If it came back from there, its descendant is here, and the
    # handlers in between are taken to wait for it: their gateway cannot be asked.
    request_id = invocation.request_id
    return [i for i in open_invocations() if request_id in i.ancestors]


def _error(invocation: Invocation, chain: list[Invocation]) -> DeadlockError:
    cycle = " → ".join(i.target for i in chain[:16])
    cure = "give it more concurrency"
    place = invocation.place
    if isinstance(place, Gate) and place.handler.settings.order_by is not None:
        cure += f" (calls of one {place.handler.settings.order_by!r} run one after the other)"
    return DeadlockError(
        f"{invocation.target} would wait for ever: every place that it can run in is held by "
        f"handlers that wait for it ({cycle}). Let the handler call without waiting, or {cure}",
        started=False,
    )
