"""The frames of the channel: they survive the wire, and garbage is refused as garbage."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import RemoteProtocolError
from headgate.wire import frames
from headgate.wire.frames import (
    Batch,
    Call,
    Fault,
    Frame,
    Greeting,
    Hello,
    Ping,
    Result,
    decode_batch,
    decode_greeting,
    encode,
)

pack = msgspec.msgpack.encode

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBER = st.integers(-(2**63), 2**64 - 1)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBER | st.floats(allow_nan=False) | TEXT | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
MAPS = st.dictionaries(TEXT, ANYTHING, max_size=3)
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    "int": NUMBER,
    "str": TEXT,
    "bytes": st.binary(max_size=50),
    "memoryview": st.binary(max_size=50).map(memoryview),
    "float": st.floats(allow_nan=False),
    "bool | None": st.none() | st.booleans(),
    "str | None": st.none() | TEXT,
    "bytes | None": st.none() | st.binary(max_size=20),
    "tuple[str, ...]": st.lists(TEXT, max_size=3).map(tuple),
    "list[str]": st.lists(TEXT, max_size=3),
    "list[bytes]": st.lists(st.binary(max_size=20), max_size=3),
    "bool": st.booleans(),
    "list[int]": st.lists(NUMBER, max_size=3),
    "Values": st.lists(st.binary(max_size=20), max_size=3),
    "Numbers": st.lists(NUMBER, max_size=3),
    "dict[str, str]": st.dictionaries(TEXT, TEXT, max_size=3),
    "dict[str, Any]": MAPS,
    "Extensions": MAPS,
}
FRAMES: tuple[type[msgspec.Struct], ...] = get_args(Frame)
GREETINGS: tuple[type[msgspec.Struct], ...] = get_args(Greeting)


def filled(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    return st.builds(kind, *(FIELDS[kind.__annotations__[name]] for name in kind.__struct_fields__))


@given(
    sent=st.floats(allow_nan=False),
    members=st.lists(st.one_of(*map(filled, FRAMES)), max_size=6),
)
def test_a_batch_survives_the_wire(sent: float, members: list[Any]) -> None:
    """Every frame with every content arrives as it was sent, in order."""
    batch = Batch(sent, members)
    arrived = decode_batch(encode(batch))
    assert arrived == batch
    assert [type(frame) for frame in arrived.frames] == [type(frame) for frame in members]


@given(greeting=st.one_of(*map(filled, GREETINGS)))
def test_a_greeting_survives_the_wire(greeting: Any) -> None:
    """Every frame of the handshake arrives as it was sent."""
    arrived = decode_greeting(encode(greeting))
    assert arrived == greeting
    assert type(arrived) is type(greeting)


@pytest.mark.parametrize("kind", [*FRAMES, *GREETINGS])
def test_a_frame_is_an_array_with_extensions_last(kind: type[msgspec.Struct]) -> None:
    """A frame begins with its tag and ends with its open map of extensions."""
    assert kind.__struct_config__.array_like
    assert isinstance(kind.__struct_config__.tag, int)
    assert kind.__struct_fields__[-1] == "extensions"


def test_tags_are_unique() -> None:
    """No two frames share a tag."""
    tags = [kind.__struct_config__.tag for kind in [*FRAMES, *GREETINGS]]
    assert len(tags) == len(set(tags))


def test_every_frame_is_exported() -> None:
    """All words of the channel are public."""
    assert {kind.__name__ for kind in [*FRAMES, *GREETINGS]} < set(frames.__all__)


def test_unknown_extensions_are_ignored() -> None:
    """A key of a later release in the extensions changes nothing."""
    data = pack([1.0, [[16, {"later": [1, {"x": None}]}], [6, 5, b"value", 0, {"zip": True}]]])
    ping, result = decode_batch(data).frames
    assert isinstance(ping, Ping)
    assert isinstance(result, Result)
    assert (result.id, result.payload) == (5, b"value")


def test_members_that_later_releases_add_are_ignored() -> None:
    """Members after the extensions, and members of a batch after the frames, are passed over."""
    batch = decode_batch(pack([1.0, [[16, {}, "more"]], "and more"]))
    assert batch.frames == [Ping()]


def test_optional_members_may_be_left_out() -> None:
    """A short call is one with the defaults."""
    (call,) = decode_batch(pack([1.0, [[1, 7, "ACME", "test", b"", 500]]])).frames
    assert call == Call(7, "ACME", "test", b"", 500)
    (fault,) = decode_batch(pack([1.0, [[7, 7, "denied", "no", None]]])).frames
    assert fault == Fault(7, "denied", "no", None)


def test_defaults_are_not_shared() -> None:
    """Each frame has its own extensions and details."""
    first, second = Fault(1, "x", "", None), Fault(2, "x", "", None)
    first.details["a"] = first.extensions["b"] = 1
    assert second.details == second.extensions == {}


GARBAGE = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "a map": pack({"sent": 1.0, "frames": []}),
    "a number": pack(5),
    "a batch without frames": pack([1.0]),
    "frames that are no list": pack([1.0, 5]),
    "an unknown frame": pack([1.0, [[99, 1]]]),
    "a frame without a tag": pack([1.0, [[]]]),
    "a frame that is no array": pack([1.0, [{}]]),
    "a frame of the handshake": pack([1.0, [[34, b"proof"]]]),
    "a short frame": pack([1.0, [[1, 7, "ACME"]]]),
    "a text for a number": pack([1.0, [[6, "7", b""]]]),
    "a clock of text": pack(["now", []]),
    "extensions that are no map": pack([1.0, [[16, []]]]),
    "half a batch": pack([1.0, [[6, 7, b"result"]]])[:-4],
    "bytes after the batch": pack([1.0, []]) + b"\0",
    "text that is not UTF-8": b"\x92\x01\x91\x96\x01\x01\xa1\xff\xa0\xc4\x00\x00",
    "a map as a key": b"\x92\x01\x91\x92\x10\x81\xa1a\x81\x80\x01",
    "a list with a map as a key": b"\x92\x01\x91\x92\x10\x81\xa1a\x81\x91\x80\x01",
    "a timestamp that is none": b"\x92\x01\x91\x92\x10\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12,
    "a length that is a lie": b"\x92\x01\xdd\xff\xff\xff\xff",
    "bytes that are not there": b"\x92\x01\x91\x93\x06\x01\xc6\xff\xff\xff\xff",
    "the reserved byte": b"\xc1",
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("decoder", [decode_batch, decode_greeting])
def test_garbage_is_the_peers_mistake(name: str, decoder: Any) -> None:
    """What is no message raises RemoteProtocolError, nothing else."""
    with pytest.raises(RemoteProtocolError, match="The peer sent what is no"):
        decoder(GARBAGE[name])


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\x81", b"\xdc\x00\x01"])
@pytest.mark.parametrize("levels", [1_000, 100_000])
@pytest.mark.parametrize("decoder", [decode_batch, decode_greeting])
def test_deep_nesting_is_the_peers_mistake(opening: bytes, levels: int, decoder: Any) -> None:
    """A message that is nested too deeply is refused, and does not end the process."""
    inner = opening * levels + b"\xc0"
    for data in (inner, b"\x92\x01\x91\x92\x10\x81\xa1a" + inner, b"\x92\x10\x81\xa1a" + inner):
        with pytest.raises(RemoteProtocolError):
            decoder(data)


@settings(max_examples=400)
@given(data=st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    """Whatever the bytes, the decoders return a message or raise RemoteProtocolError."""
    for decoder in (decode_batch, decode_greeting):
        try:
            decoder(data)
        except RemoteProtocolError:
            pass


@settings(max_examples=400)
@given(
    members=st.lists(st.one_of(*map(filled, FRAMES)), min_size=1, max_size=3),
    place=st.floats(0.0, 1.0, exclude_max=True),
    junk=st.binary(min_size=1, max_size=4),
)
def test_damaged_messages_never_raise_anything_else(
    members: list[Any], place: float, junk: bytes
) -> None:
    """A real message with some bytes changed is a message or a RemoteProtocolError."""
    data = bytearray(encode(Batch(1.0, members)))
    start = int(place * len(data))
    data[start : start + len(junk)] = junk
    try:
        decode_batch(bytes(data))
    except RemoteProtocolError:
        pass


def test_a_frame_says_what_is_wrong_with_it() -> None:
    """The error names the place in the message."""
    with pytest.raises(RemoteProtocolError, match=r"Expected `int`, got `str`.*\$\[1\]\[0\]"):
        decode_batch(pack([1.0, [[6, "7", b""]]]))


def test_hello_has_room() -> None:
    """A greeting of a client with the longest names that make sense fits its limit."""
    hello = Hello([1], ["progress", "fate"], "local", bytes(32), "p" * 255, "h" * 255)
    assert len(encode(hello)) < 4096
