"""docs/protocol.md says what the code does: frames, errors, limits, bytes, and its client works."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import msgspec
import numpy
import pytest

import headgate
from headgate import errors
from headgate.channel import protocol, server
from headgate.gateway.limits import Limits
from headgate.invocation import Caller
from headgate.security.policy import RulePolicy
from headgate.wire import chunks, codec, extensions, frames, handshake, session, streams

if TYPE_CHECKING:
    from conftest import Rig

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "protocol.md").read_text("utf-8")

FRAMES = [*get_args(frames.Frame), *get_args(frames.Greeting)]

TYPES = {
    "int": "int",
    "float": "float",
    "str": "str",
    "bytes": "bin",
    "list[int]": "array of int",
    "Numbers": "array of int",
    "list[str]": "array of str",
    "Values": "array of bin",
    "bool": "bool",
    "tuple[str, ...]": "array of str",
    "dict[str, str]": "map of str to str",
    "dict[str, Any]": "map",
    "Extensions": "map",
    "str | None": "str or nil",
    "bytes | None": "bin or nil",
    "memoryview": "bin",
    "bool | None": "bool or nil",
}


class Field(NamedTuple):
    """A row of a frame's table."""

    position: int
    name: str
    type: str
    default: str


def rows(text: str) -> Iterator[list[str]]:
    """The rows of the first table in a text, without its head."""
    lines = text[text.index("\n|") + 1 :].split("\n\n")[0].splitlines()
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def documented() -> dict[int, tuple[str, list[Field]]]:
    """The frames of the page by tag: name and fields."""
    found = {}
    for section in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        name, tag = re.match(r"(\w+) · tag (\d+)\n", section).groups()
        fields = [Field(int(row[0]), *row[1:3], row[3].strip("`")) for row in rows(section)]
        found[int(tag)] = (name, fields)
    return found


def declared(frame: type[msgspec.Struct]) -> list[Field]:
    """The fields of a frame in the code."""
    return [
        Field(position, field.name, TYPES[frame.__annotations__[field.name]], default(field))
        for position, field in enumerate(msgspec.structs.fields(frame), 1)
    ]


def default(field: Any) -> str:
    """A field's default, as the page writes it."""
    if field.default_factory is not msgspec.NODEFAULT:
        return "{}"
    if field.default is msgspec.NODEFAULT:
        return ""
    if field.default is None:
        return "nil"
    return msgspec.json.encode(field.default).decode()


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_frame(frame: type[msgspec.Struct]) -> None:
    """Each frame stands there with its tag and all of its fields, in their positions."""
    name, fields = documented()[frame.__struct_config__.tag]
    assert name == frame.__name__.removesuffix("Frame")
    assert fields == declared(frame)


def test_no_frame_more() -> None:
    """The page has no frame that the code has not."""
    assert sorted(documented()) == sorted(frame.__struct_config__.tag for frame in FRAMES)


def test_errors() -> None:
    """Each error code stands there with its class, and no other does."""
    table = TEXT.partition("\n## Errors\n")[2]
    found = {row[0].strip("`"): row[1].strip("`") for row in rows(table)}
    kinds = [getattr(errors, name) for name in errors.__all__]
    requests = [kind for kind in kinds if issubclass(kind, errors.RequestError)]
    assert found == {kind.code: kind.__name__ for kind in requests}


class Asked(RulePolicy):
    """A policy that lets everybody do everything, and keeps what was asked first."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: dict[str, str] = {}

    def authorise(self, caller: Caller, action: str, project: str, handler: str) -> None:
        self.actions.setdefault(handler, action)


def test_the_gateways_own_handlers(rig: Rig) -> None:
    """Each handler of the gateway stands there with its action, and no other does."""
    policy = Asked()
    client = rig.client(rig.gateway({}, policy=policy))
    known = str(client.request("@gateway", "?").getError()).rpartition("It has: ")[2].split(", ")
    for name in known:
        client.request("@gateway", name).block()
    section = TEXT.partition("\n## The gateway's own handlers\n")[2]
    documented = {row[0].strip("`"): row[1] for row in rows(section)}
    assert documented == {name: policy.actions[name] for name in known}


def test_the_keys_of_a_run(rig: Rig) -> None:
    """What `ps` tells of a run stands there."""
    hub = rig.gateway({"P/hold": rig.HOLD})
    client = rig.client(hub)
    client.request("P", "hold", {})
    hub.globals["running"].get(timeout=20)
    (run,) = client.request("@gateway", "ps").get()["running"]
    table = rows(TEXT.partition("A run is a map:\n")[2])
    assert set(run) == {key for row in table for key in re.findall(r"`(\w+)`", row[0])}


def test_extension_types() -> None:
    """The table of extension types is that of the code."""
    table = {row[0]: row[1] for row in rows(TEXT.partition("\n## Payloads\n")[2])}
    documentation = extensions.__doc__ or ""
    assert table == dict(re.findall(r"^(\d+) +(\w+) ", documentation, flags=re.MULTILINE))


@pytest.mark.parametrize(
    "value",
    [
        headgate.Dataset(["tag", "value"], [["a", 1.5], ["b", None]]),
        numpy.array([[1, 2], [3, 4]], "int16"),
    ],
    ids=["Dataset", "array"],
)
def test_bytes_of_tables(value: Any) -> None:
    """The bytes of a Dataset and of an array stand there as they are sent."""
    dumps = re.findall(r"^```text\n(c7 .*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    found = ["".join(re.findall(r"^(?:[0-9a-f]{2} ?)+", dump, flags=re.M)) for dump in dumps]
    assert codec.encode(value) in [bytes.fromhex(each) for each in found]


def test_login_methods() -> None:
    """The page lists the methods to log in, and which of them send the secret itself."""
    found = list(rows(TEXT[TEXT.index("**The methods.**") :]))
    assert [row[0].strip("`") for row in found] == list(handshake.METHODS)
    sending = {row[0].strip("`") for row in found if "in UTF-8" in row[3]}
    assert sending == handshake.SECRET_METHODS


@pytest.mark.parametrize(
    "words",
    [
        f"at most {handshake.MAX_GREETING} bytes",
        f"{handshake.NONCE_BYTES} random bytes or more",
        f"1 to {handshake.MAX_SECRET} bytes",
        f"{handshake.KEY_BYTES} bytes, the key of the proofs",
        f"is the text `{handshake.OVER_TLS}` instead",
        f"there within {server.HEAD_SECONDS:g} s and has at most {server.HEAD_BYTES >> 10} KiB",
        f"done within {Limits().login_seconds:g} s",
        f"`Welcome.in_flight`, {session.FULL_CREDIT.in_flight}",
        f"`Welcome.unsent`, {session.FULL_CREDIT.unsent >> 20} MiB",
        f"`Welcome.max_message`, {session.MAX_MESSAGE >> 20} MiB",
        f"{codec.DEFAULT.max_bytes >> 20} MiB, {codec.DEFAULT.max_depth} levels",
        f"{session.BATCH_BYTES >> 10} KiB of payload",
        f"A payload of up to {chunks.CHUNK_BYTES >> 10} KiB stands in its frame",
        f"payloads that have arrived in part | {chunks.MAX_PAYLOAD >> 20} MiB",
        f"at least one byte of each | {chunks.MAX_PARTIAL} |",
        f"in part at a gateway | {chunks.MAX_GATEWAY_PARTIAL >> 20} MiB",
        f"client does not read | {session.MAX_ANSWERS // 2}, or",
        f"with more than {session.MAX_ANSWERS} the connection",
        f"array of frames | up to {frames.MAX_FRAMES};",
        f"`parts` of an `Item` | {frames.MAX_FRAMES} |",
        f"were granted: {frames.FIRST_GRANT} from the beginning",
        f"its bytes and {frames.VALUE_COST} more",
        f"at most {streams.MAX_AHEAD} beyond what was sent",
        f"beyond what was sent to it | {streams.MAX_AHEAD >> 20} MiB",
        f"a handler | {session.MAX_NAME} characters",
        f"each of `details`) | {session.MAX_TEXT >> 10} KiB",
        f"write for {protocol.STALLED_AFTER:g} s",
        f"After {session.PING_AFTER:g} s without one the client",
        f"after {session.PING_AFTER * 1.5:g} s the gateway",
        f"nothing for {session.DEAD_AFTER:g} s",
        f"by itself {session.ANSWER_GRACE * 1000:g} ms after the deadline",
        f"wait {session.FATE_SECONDS:g} s for such words",
    ],
)
def test_limit(words: str) -> None:
    """Limits and times are those of the code."""
    assert words in TEXT.replace("\n", " ").replace("  ", " ")


def test_worked_example() -> None:
    """The bytes of the example are what the code sends: docs/protocol_example.py --write."""
    example = runpy.run_path(str(DOCS / "protocol_example.py"))
    assert example["with_section"](TEXT) == TEXT


def test_whole_client(rig: Rig, tmp_path: Path) -> None:
    """The client on the page logs in, calls a handler and gets its answer."""
    block = TEXT.partition("<!-- client: begin -->")[2].partition("<!-- client: end -->")[0]
    script = tmp_path / "client.py"
    script.write_text(re.search(r"```python\n(.*)```", block, flags=re.DOTALL)[1], "utf-8")
    gateway = rig.gateway({"ACME/test": "def handleMessage(payload):\n    return payload\n"})
    command = [sys.executable, str(script), str(gateway.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "result {'number': 55}"
    assert done.stdout.startswith("session ")
    assert done.stdout.splitlines()[0].endswith(" of gateway hub")
