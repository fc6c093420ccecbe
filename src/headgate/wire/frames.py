"""
The frames of the channel, declared once; msgspec reads and writes them as MessagePack.

A frame is an array whose first member is its tag and whose last one is an open map of extensions,
in which unknown keys are ignored. A `Batch` is what one WebSocket message holds: the sender's clock
and the frames that one turn of its event loop produced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from headgate.errors import RemoteProtocolError
from headgate.invocation import FIRST_GRANT, VALUE_COST

__all__ = [
    "FINISHES",
    "FIRST_GRANT",
    "MAX_FRAMES",
    "STREAMS",
    "VALUE_COST",
    "Batch",
    "Bye",
    "Call",
    "Cancel",
    "Cast",
    "Challenge",
    "Chunk",
    "FateFrame",
    "Fault",
    "Frame",
    "Grant",
    "Hello",
    "Item",
    "Ping",
    "Pong",
    "Progress",
    "Proof",
    "Refuse",
    "Result",
    "Started",
    "Welcome",
    "cost",
    "decode_batch",
    "decode_greeting",
    "encode",
]

MAX_FRAMES = 16 * 1024
"""
Frames of one message at most, and numbers or values in one frame; more are not even decoded.

A credit of 4,096 calls gives a side 4,096 each of four frames: that is a call's start, a report,
an answer and a fate, or two calls that are cancelled at once. A sender that has more waiting sends
several messages.
"""

STREAMS = 1
"""Flag of a `Call`: its sender takes the values of a generator one by one, as `Item`."""

FINISHES = 2
"""Flag of a `Call`: it is to go on when the connection of its sender ends."""

Extensions = dict[str, Any]
Numbers = Annotated[list[int], msgspec.Meta(max_length=MAX_FRAMES)]
Values = Annotated[list[bytes], msgspec.Meta(max_length=MAX_FRAMES)]


class Call(msgspec.Struct, tag=1, array_like=True, gc=False):
    """A request: run this handler and answer with `Result` or `Fault`."""

    id: int
    """Number of the request, counted up by the sender from 1; each is used once."""
    project: str
    handler: str
    payload: bytes
    """The encoded payload, in a format of its own (see the codec): routing does not read it."""
    deadline: float
    """When it must be over: milliseconds on the sender's clock, as `Batch.sent`."""
    priority: int = 0
    """-1 for low, 0 for normal, 1 for high; further ones are as the nearest of them."""
    flags: int = 0
    """`STREAMS` and `FINISHES`, added up; others are ignored."""
    key: str | None = None
    ancestors: tuple[str, ...] = ()
    """Ids of the requests whose handlers led to this one, the outermost first."""
    trace: bytes | None = None
    size: int = 0
    """Bytes of the whole payload if `Chunk` frames bring the rest; 0 if there is no rest."""
    extensions: Extensions = {}


class Cast(msgspec.Struct, tag=2, array_like=True, gc=False):
    """A message: deliver it, and answer with `Result`, whose payload is the delivery report."""

    id: int
    project: str
    handler: str
    payload: bytes
    deadline: float
    scope: str
    """Which kinds of receivers: letters of ``CGS``."""
    filters: dict[str, str] = {}
    ancestors: tuple[str, ...] = ()
    size: int = 0
    extensions: Extensions = {}


class Cancel(msgspec.Struct, tag=3, array_like=True, gc=False):
    """The sender gave up this call of its own; `FateFrame` answers what became of it."""

    id: int
    extensions: Extensions = {}


class Started(msgspec.Struct, tag=4, array_like=True, gc=False):
    """The handlers of these calls run, and have for some time."""

    ids: Numbers
    extensions: Extensions = {}


class Progress(msgspec.Struct, tag=5, array_like=True, gc=False):
    """A value that the running handler reports."""

    id: int
    payload: bytes
    size: int = 0
    extensions: Extensions = {}


class Result(msgspec.Struct, tag=6, array_like=True, gc=False):
    """The handler returned."""

    id: int
    payload: bytes
    size: int = 0
    extensions: Extensions = {}


class Fault(msgspec.Struct, tag=7, array_like=True, gc=False):
    """The call failed."""

    id: int
    code: str
    message: str
    started: bool | None
    details: dict[str, Any] = {}
    extensions: Extensions = {}


class FateFrame(msgspec.Struct, tag=8, array_like=True, gc=False):
    """What became of the handler of a call that was cancelled or timed out."""

    id: int
    fate: str
    extensions: Extensions = {}


class Chunk(msgspec.Struct, tag=9, array_like=True, gc=False):
    """The next part of a payload whose first part and size came before."""

    of: int
    """Tag of the frame that it continues: `Call`, `Cast`, `Progress` or `Result`."""
    id: int
    data: memoryview
    extensions: Extensions = {}


class Item(msgspec.Struct, tag=10, array_like=True, gc=False):
    """
    Values that the running handler yielded, in order.

    It is sent only for calls with the flag `STREAMS`, and never beyond what the peer granted.
    """

    id: int
    parts: Values
    """Encoded values; with `partial` the last one goes on as the first part of the next frame."""
    partial: bool = False
    extensions: Extensions = {}


class Grant(msgspec.Struct, tag=11, array_like=True, gc=False):
    """The sender of this call takes so many bytes of yielded values in all, see `cost`."""

    id: int
    total: int
    extensions: Extensions = {}


class Ping(msgspec.Struct, tag=16, array_like=True, gc=False):
    """Asks for a `Pong`."""

    extensions: Extensions = {}


class Pong(msgspec.Struct, tag=17, array_like=True, gc=False):
    """Answers a `Ping`."""

    sent: float
    """`Batch.sent` of the ping, which measures the round trip."""
    extensions: Extensions = {}


class Bye(msgspec.Struct, tag=18, array_like=True, gc=False):
    """The sender closes the session on purpose."""

    reason: str = ""
    extensions: Extensions = {}


class Hello(msgspec.Struct, tag=32, array_like=True):
    """First frame of a client: who it says it is and how it will prove it."""

    versions: list[int]
    features: list[str]
    method: str
    nonce: bytes
    project: str = ""
    host_name: str = ""
    kind: str = "client"
    software: str = ""
    extensions: Extensions = {}


class Challenge(msgspec.Struct, tag=33, array_like=True):
    """The gateway's answer to `Hello`: its own proof, and what the client must prove."""

    nonce: bytes
    proof: bytes
    extensions: Extensions = {}


class Proof(msgspec.Struct, tag=34, array_like=True):
    """The client's proof."""

    proof: bytes
    extensions: Extensions = {}

    def __repr__(self) -> str:
        return "Proof(…)"  # it may be a password


class Welcome(msgspec.Struct, tag=35, array_like=True):
    """The session is open."""

    version: int
    features: list[str]
    session: str
    """20 hex digits: node, boot and number of the session; ids of its requests begin with them."""
    gateway: str
    user: str
    in_flight: int
    unsent: int
    max_message: int
    extensions: Extensions = {}


class Refuse(msgspec.Struct, tag=36, array_like=True):
    """The gateway does not open a session; the connection closes."""

    code: str
    message: str
    extensions: Extensions = {}


Frame = (
    Call
    | Cast
    | Cancel
    | Started
    | Progress
    | Result
    | Fault
    | FateFrame
    | Chunk
    | Item
    | Grant
    | Ping
    | Pong
    | Bye
)
Greeting = Hello | Challenge | Proof | Welcome | Refuse


class Batch(msgspec.Struct, array_like=True):
    """What one WebSocket message holds."""

    sent: float
    """The sender's clock, in milliseconds from a moment of its own choice."""
    frames: Annotated[list[Frame], msgspec.Meta(max_length=MAX_FRAMES)]


def cost(parts: Sequence[bytes]) -> int:
    """Return what the parts of an `Item` take of what was granted."""
    return sum(map(len, parts)) + VALUE_COST * len(parts)


encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode
_decode_greeting: Callable[[bytes], Greeting] = msgspec.msgpack.Decoder(Greeting).decode


def decode_batch(data: bytes) -> Batch:
    """
    Read one WebSocket message of an open session.

    Raises:
        RemoteProtocolError: It is not a batch of frames.
    """
    try:
        return _decode_batch(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"The peer sent what is not a batch of frames: {error}") from None


def decode_greeting(data: bytes) -> Greeting:
    """
    Read one WebSocket message of the handshake.

    Raises:
        RemoteProtocolError: It is not a frame of the handshake.
    """
    try:
        return _decode_greeting(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"The peer sent what is no greeting: {error}") from None
