"""The documented table of what arrives: each of its rows is sent."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from conversions import CARRIED, CONVERTED, Conversion, namespace
from sameness import same

from headgate.wire.codec import convert, decode, encode


def read(text: str) -> Any:
    """The value that a text of the table stands for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # numpy.matrix
        return eval(text, NAMES)


NAMES = namespace()


@pytest.mark.parametrize("row", [*CARRIED, *CONVERTED], ids=lambda row: row.sent[:60])
def test_arrives_as_documented(row: Conversion) -> None:
    """What the page says arrives, types included, also inside of something else."""
    sent, arrives = read(row.sent), read(row.arrives)
    assert same(convert(sent), arrives)
    assert same(decode(encode(sent)), arrives)
    assert same(decode(encode({"a": [sent], 1: (sent,)})), {"a": [arrives], 1: (arrives,)})


@pytest.mark.parametrize("row", CARRIED, ids=lambda row: row.sent[:60])
def test_carried_arrives_as_it_was(row: Conversion) -> None:
    """What the page calls carried is the same on both sides."""
    assert same(read(row.sent), read(row.arrives))


@pytest.mark.parametrize("row", CONVERTED, ids=lambda row: row.sent[:60])
def test_converted_is_not_what_was_sent(row: Conversion) -> None:
    """What the page calls converted would be carried otherwise."""
    assert not same(read(row.sent), read(row.arrives))
