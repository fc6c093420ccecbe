"""The audit log: one line for one record, whatever the names in it are."""

from __future__ import annotations

import logging
import shlex

import pytest

from headgate.security.audit import LogRecorder, Record


def told(record: Record, caplog: pytest.LogCaptureFixture) -> str:
    """Return what the log says of a record."""
    with caplog.at_level(logging.INFO, "headgate.audit"):
        LogRecorder().record(record)
    return caplog.messages[-1]


def test_fields_that_are_set_are_written(caplog: pytest.LogCaptureFixture) -> None:
    """A line holds the event and the fields that are set; those with spaces in quotes."""
    record = Record(event="login", user="Jörg Müller", detail="127.0.0.1:5000")
    assert told(record, caplog) == 'login user="Jörg Müller" detail=127.0.0.1:5000'


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x85", "\u2028", "\x1b[2K", "\x00", "\udc80"])
@pytest.mark.parametrize("field", ["user", "host", "target", "detail"])
def test_no_field_forges_a_line(caplog: pytest.LogCaptureFixture, field: str, end: str) -> None:
    """Control characters, line ends and lone surrogates in a field are escaped."""
    text = told(Record(event="refused", **{field: f"x{end}login user=owner"}), caplog)
    assert text.isprintable()
    escaped = end.encode("unicode_escape").decode()
    assert text == f'refused {field}="x{escaped}login user=owner"'


@pytest.mark.parametrize("value", ["x user=owner", 'x" user=owner "', "x=y", 'x\\" user="owner'])
def test_no_field_forges_another(caplog: pytest.LogCaptureFixture, value: str) -> None:
    """Read as a shell reads words, there is one field, with its value."""
    text = told(Record(event="refused", host=value), caplog)
    assert shlex.split(text) == ["refused", f"host={value}"]
