"""Patterns of names in rules: ``*`` stands for any text, ``?`` for one character."""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

__all__ = ["folded", "matcher"]


def folded(name: str) -> str:
    """Return what two names have in common that are the same but for case and its encoding."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def matcher(patterns: Iterable[str], *, fold: bool) -> Callable[[str], object]:
    """
    Return what tells, by its truth, whether a name matches one of some patterns as a whole.

    A ``*`` also stands for slashes and for nothing. All other characters stand for themselves,
    the bracket ``[`` too. Time grows with the name's length as it does for text search: no name
    makes it slow.

    Args:
        patterns: The patterns.
        fold: Compare without case; the names that are asked about must be `folded` already.
    """
    return _matcher(tuple(patterns), fold)


# A change of one rule makes all of them anew on the event loop: their patterns are still known.
@lru_cache(4096)
def _matcher(patterns: tuple[str, ...], fold: bool) -> Callable[[str], object]:
    texts = [folded(pattern) if fold else pattern for pattern in patterns]
    # fnmatch gives a meaning to brackets alone beside the two; `[[]` is a bracket itself.
    parts = [fnmatch.translate(text.replace("[", "[[]")) for text in texts]
    return re.compile("|".join(parts)).match
