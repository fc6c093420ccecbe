"""Which names a request may give, and whose pages may call the gateway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.channel.site import Site

SITE = Site(
    ["Hub.Plant.example", "10.1.2.3", "*.wild.example", "fd00::2"],
    ["https://hmi.example", "https://HMI2.example/"],
)


def taken(
    host: str, origin: str | None = None, *, local: str = "10.9.9.9", secure: bool = True
) -> bool:
    origins = [] if origin is None else [origin]
    return SITE.problem([host], origins, local=local, secure=secure) == ""


@pytest.mark.parametrize(
    "host",
    [
        "hub.plant.example",
        "HUB.plant.EXAMPLE:8188",
        "hub.plant.example.",
        "hub.plant.example.:8188",
        "10.1.2.3",
        "10.1.2.3:8188",
        "10.9.9.9:1",
        "[fd00::2]",
        "[fd00:0:0::2]:8188",
        "a.wild.example",
    ],
)
def test_its_names(host: str) -> None:
    """Configured names, those of the certificate, and the connection's own address."""
    assert taken(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8188",
        "evil.example",
        "hub.plant.example.evil.example",
        "xhub.plant.example",
        "plant.example",
        "wild.example",
        "a.b.wild.example",
        "*.wild.example:",
        "10.1.2.4",
        "10.9.9.90",
        "localhost",
        "127.0.0.1:8188",
        "[::1]",
        "fd00::3",
        "hub.plant.example:8188:8188",
        "hub.plant.example@evil.example",
        "hub.plant.example/",
    ],
)
def test_other_names(host: str) -> None:
    """Anything else, and loopback's names from beyond loopback, are no names of it."""
    assert not taken(host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]:8188", "127.9.9.9:1"])
def test_loopback_names_are_for_loopback(host: str) -> None:
    """On a connection to loopback they are known."""
    assert taken(host, local="127.0.0.1")
    assert taken(host, local="::1")


def test_an_address_that_ipv6_wraps() -> None:
    """A socket for both families shows an IPv4 address so."""
    assert taken("10.9.9.9", local="::ffff:10.9.9.9")


@pytest.mark.parametrize(
    ("origin", "secure", "expected"),
    [
        ("https://hub.plant.example:8188", True, True),
        ("https://HUB.plant.example:8188", True, True),
        ("http://hub.plant.example:8188", True, False),
        ("http://hub.plant.example:8188", False, True),
        ("https://hub.plant.example:8188", False, False),
        ("https://hub.plant.example", True, False),
        ("https://hub.plant.example:9", True, False),
        ("https://10.1.2.3:8188", True, False),
        ("https://hmi.example", True, True),
        ("https://hmi.example", False, True),
        ("https://hmi2.example", True, True),
        ("https://hmi.example:444", True, False),
        ("http://hmi.example", True, False),
        ("https://evil.example", True, False),
        ("null", True, False),
        ("", True, False),
    ],
)
def test_pages(origin: str, secure: bool, expected: bool) -> None:
    """Its own pages, by scheme, name and port, and those that are configured."""
    assert taken("hub.plant.example:8188", origin, secure=secure) is expected


def test_the_text_says_what_to_do() -> None:
    """It names the header, a name that would do, and the setting."""
    text = SITE.problem(["evil"], [], local="10.9.9.9", secure=True)
    assert "'evil'" in text
    assert "use 10.9.9.9" in text
    assert "hosts in [http]" in text
    text = SITE.problem(["10.9.9.9"], ["https://evil"], local="10.9.9.9", secure=True)
    assert "'https://evil'" in text
    assert "origins in [http]" in text


@given(host=st.text(), origin=st.none() | st.text())
def test_nothing_makes_it_fail(host: str, origin: str | None) -> None:
    """Whatever the headers hold, the answer is a text, and a foreign name is never taken."""
    known = ("plant.example", "10.1.2.3", "wild.example", "10.9.9.9", "::")
    assert not taken(host, origin) or any(name in host.lower() for name in known)
