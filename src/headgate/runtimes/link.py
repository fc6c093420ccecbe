"""
What the gateway and a worker process say to each other.

Each is a frame: four bytes of length, big-endian, and a MessagePack array whose first member tells
what it is. Both ends are of one release and one machine, so the moments in it are those of the
clock that all processes of the machine share.

The gateway may write several `Run` frames ahead; a worker begins none of them before it has taken a
*permit* for it, one from the eventfd that the two share, in order. So whoever takes a permit knows:
the gateway, which takes back all that are left, that what was to begin with them has not begun and
never will. It then names those in `Void` and sends nothing to be run before the worker's `Voided`.
A worker sends the end of one run before it takes the permit of the next: what a worker that died
has left unsaid was one run, or none.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from headgate.invocation import Caller

__all__ = [
    "MAX_FRAME",
    "FromWorker",
    "Granted",
    "Load",
    "Loaded",
    "Loading",
    "Logged",
    "NestedAnswer",
    "NestedCall",
    "NestedCancel",
    "NestedEvent",
    "NestedGrant",
    "Reader",
    "Reported",
    "Returned",
    "Run",
    "Stop",
    "ToWorker",
    "Void",
    "Voided",
    "Waits",
    "WorkerCode",
    "Yielded",
    "decode_from_worker",
    "decode_to_worker",
    "framed",
]


# --- to the worker -------------------------------------------------------------------------------


class Load(msgspec.Struct, tag=1, array_like=True):
    """The first frame: what the worker is to load. `Loaded` answers it."""

    gateway: str
    """Name of the gateway."""
    project: str
    library: list[str]
    """The project's library folder, then those of its parents; they need not exist."""
    scripts: dict[str, str]
    """The scripts of its process handlers, by the handlers' names."""
    log_level: int
    """The lowest level that the gateway logs, as in `logging`."""
    origin: str = ""
    """
    The session that numbers the requests of its scripts, as 20 hex digits: their ids are this and
    the numbers of their `NestedCall`. Empty if the gateway numbers them: it tells at their end.
    """
    files: dict[str, bytes] = {}
    """
    The scripts and library modules by their paths, as they were when the generation was loaded:
    whatever stands on the disk by now, these are what is loaded.
    """


class WorkerCode(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers of one generation of a project load."""

    gateway: str
    """Name of the gateway."""
    project: str
    library: list[str]
    """The project's library folder, then those of its parents; they need not exist."""
    scripts: dict[str, str]
    """The scripts of its process handlers, by the handlers' names."""
    log_level: int
    """The lowest level that the gateway logs, as in `logging`."""
    files: dict[str, bytes] = {}
    """What stood in the scripts and library modules, by path, when the generation was loaded."""
    environment: tuple[str, ...] = ()
    """Names of the gateway's environment variables that the workers may see."""

    def frame(self) -> Load:
        """Return what a worker is told to load."""
        return Load(
            self.gateway,
            self.project,
            self.library,
            self.scripts,
            self.log_level,
            files=self.files,
        )


class Run(msgspec.Struct, tag=2, array_like=True, gc=False):
    """A run of a handler; it begins when there is a permit for it. `Returned` ends it."""

    number: int
    """The run's number at this worker, counted up by one."""
    handler: str
    payload: bytes
    deadline: float
    caller: Caller
    origin: str
    sequence: int
    ancestors: tuple[str, ...] = ()
    wants_result: bool = True
    streams: bool = False
    priority: int = 0
    """What its own requests have, unless they give another."""


class Void(msgspec.Struct, tag=3, array_like=True, gc=False):
    """These runs have no permits and never will have: forget them, and say `Voided`."""

    numbers: list[int]


class Stop(msgspec.Struct, tag=4, array_like=True, gc=False):
    """
    Nobody waits for this run any more.

    `Context.cancelled` becomes True, a generator is closed at its next value, and what the gateway
    wants beside that (`interrupt`, `kill`) it does with a signal.
    """

    number: int


class Granted(msgspec.Struct, tag=5, array_like=True, gc=False):
    """The reader of this run's stream takes so many bytes in all."""

    number: int
    total: int


class NestedAnswer(msgspec.Struct, tag=6, array_like=True, gc=False):
    """The end of a request that a script of the worker made: a result or, with a code, an error."""

    number: int
    payload: bytes = b""
    code: str = ""
    message: str = ""
    started: bool | None = None
    details: dict[str, Any] = {}
    request_id: str = ""


class NestedEvent(msgspec.Struct, tag=7, array_like=True, gc=False):
    """What else is known of such a request; what does not apply is empty."""

    number: int
    started: bool = False
    progress: bytes = b""
    parts: list[bytes] = []
    fate: str = ""


# --- to the gateway ------------------------------------------------------------------------------


class Loaded(msgspec.Struct, tag=16, array_like=True):
    """What the worker has loaded, and what it could not: the texts of configuration errors."""

    handlers: dict[str, dict[str, Any]]
    """By name: ``is_async``, ``streams`` and ``schema`` (of payload and result, or None)."""
    problems: list[dict[str, Any]]
    """``handler`` (empty if it is about none), ``problem``, ``cure``, ``file`` and ``line``."""


class Returned(msgspec.Struct, tag=17, array_like=True, gc=False):
    """The end of a run: the encoded result or, with a code, an error."""

    number: int
    payload: bytes = b""
    code: str = ""
    message: str = ""
    started: bool | None = None
    details: dict[str, Any] = {}


class Voided(msgspec.Struct, tag=18, array_like=True, gc=False):
    """The runs of one `Void` are forgotten."""


class Reported(msgspec.Struct, tag=19, array_like=True, gc=False):
    """A progress value."""

    number: int
    payload: bytes


class Yielded(msgspec.Struct, tag=20, array_like=True, gc=False):
    """Values that a generator yielded, as in `headgate.wire.frames.Item`, never in parts."""

    number: int
    parts: list[bytes]


class NestedCall(msgspec.Struct, tag=21, array_like=True, gc=False):
    """A request, or with a scope a message, that a script of the worker makes."""

    number: int
    """Counted up by the worker from 1."""
    parent: int
    """
    The run that it is made in, whose `Returned` comes later; 0 on a thread that may outlive it, or
    that runs no handler.
    """
    project: str
    handler: str
    payload: bytes
    deadline: float
    remote_server: str = ""
    host_name: str = ""
    priority: int = 0
    streams: bool = False
    finishes: bool = False
    scope: str = ""
    filters: dict[str, str] = {}
    caller: Caller | None = None
    """Without a parent: on whose behalf; None for the gateway's own."""
    ancestors: tuple[str, ...] = ()
    """Without a parent: the ids of the requests whose handlers led to it."""


class NestedCancel(msgspec.Struct, tag=22, array_like=True, gc=False):
    """Such a request is cancelled."""

    number: int


class NestedGrant(msgspec.Struct, tag=23, array_like=True, gc=False):
    """The reader of such a request's stream takes so many bytes in all."""

    number: int
    total: int


class Waits(msgspec.Struct, tag=24, array_like=True, gc=False):
    """A run now blocks for this request of its own; with 0, it goes on."""

    number: int
    nested: int


class Loading(msgspec.Struct, tag=26, array_like=True, gc=False):
    """What the worker loads at this moment, told before `Loaded`: if it never comes, who is why."""

    file: str
    """The script or library module; empty between two of them."""


class Logged(msgspec.Struct, tag=25, array_like=True, gc=False):
    """A record for the gateway's log."""

    logger: str
    level: int
    message: str
    number: int = 0
    """The run that it was made in; 0 for none."""
    traceback: str = ""


ToWorker = Load | Run | Void | Stop | Granted | NestedAnswer | NestedEvent
FromWorker = (
    Loaded
    | Returned
    | Voided
    | Reported
    | Yielded
    | NestedCall
    | NestedCancel
    | NestedGrant
    | Waits
    | Logged
    | Loading
)

LENGTH: Final = 4

MAX_FRAME: Final = 256 * 1024 * 1024
"""Bytes of a frame, at most: a length beyond that is none."""

_encode = msgspec.msgpack.Encoder().encode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode


def framed(frame: ToWorker | FromWorker) -> bytes:
    """Return a frame as it is written."""
    data = _encode(frame)
    return len(data).to_bytes(LENGTH, "big") + data


class Reader:
    """Cuts what arrives into frames, whatever the pieces are."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._needed = LENGTH
        """Bytes that must wait before there is anything to do."""

    def feed(self, data: bytes) -> list[bytes | bytearray]:
        """
        Take a piece; return the frames that are complete now, without their lengths.

        Behind them stands an empty one if what follows is no frame: to decode it fails.
        """
        piece: bytes | bytearray = data
        if self._waiting:
            self._waiting += data
            if len(self._waiting) < self._needed:
                return []
            piece, self._waiting = self._waiting, bytearray()
        frames: list[bytes | bytearray] = []
        begin, end = 0, len(piece)
        self._needed = LENGTH
        while end - begin >= LENGTH:
            body = begin + LENGTH
            size = int.from_bytes(piece[begin:body], "big")
            if size > MAX_FRAME:
                frames.append(b"")
                break
            following = body + size
            if following > end:
                self._needed = following - begin
                break
            frames.append(piece[body:following])
            begin = following
        if begin < end:
            self._waiting += piece[begin:]
        return frames
