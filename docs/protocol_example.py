"""
The bytes of the worked example in protocol.md, made by the code that speaks the protocol.

    python docs/protocol_example.py            prints the section
    python docs/protocol_example.py --write    puts it into protocol.md

Random numbers, clocks and the token are fixed, so the bytes are always the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from headgate.wire.codec import decode, encode
from headgate.wire.frames import Call
from headgate.wire.handshake import Claim, ClientHandshake, Credentials, GatewayHandshake, welcome
from headgate.wire.session import MAX_MESSAGE, Credit, Session

DOCUMENT = Path(__file__).with_name("protocol.md")
BEGIN, END = "<!-- example: begin -->\n", "<!-- example: end -->\n"

ADDRESS = "127.0.0.1:8188"
TOKEN = bytes(range(0x00, 0x20))
CLIENT_NONCE = bytes(range(0x20, 0x40))
GATEWAY_NONCE = bytes(range(0x40, 0x60))
SESSION = "2a17c9e300000500000c"


class Waiting(NamedTuple):
    """What the client keeps of its call."""

    deadline: float


class Message(NamedTuple):
    """One WebSocket message of the example."""

    sender: str
    says: str
    data: bytes


def messages() -> list[Message]:
    """Play a login, a request and its response; return every message in order."""
    client = ClientHandshake(
        Claim.local(TOKEN), address=ADDRESS, nonce=CLIENT_NONCE, project="", host_name="panel-1"
    )
    gateway = GatewayHandshake(key=lambda hello: TOKEN, address=ADDRESS, nonce=GATEWAY_NONCE)
    hello = client.hello()
    challenge = gateway.receive(hello)
    assert isinstance(challenge, bytes)
    proof = client.receive(challenge, 5.0)
    assert isinstance(proof, bytes)
    assert isinstance(gateway.receive(proof), Credentials)
    opening, serving = welcome(
        700.0,
        session=SESSION,
        gateway="hub",
        user="operator",
        credit=Credit(),
        max_message=MAX_MESSAGE,
    )
    calling = client.receive(opening, 5.0)
    assert isinstance(calling, Session)
    call, result = _request(calling, serving)
    return [
        Message("client", "`Hello`", hello),
        Message("gateway", "`Challenge`", challenge),
        Message("client", "`Proof`", proof),
        Message("gateway", "`Welcome`: the session is open", opening),
        Message("client", '`Call` of `ACME/test` with `{"number": 55}`, 60 s allowed', call),
        Message("gateway", '`Result`: `{"double": 110}`', result),
    ]


def _request(calling: Session, serving: Session) -> tuple[bytes, bytes]:
    calling.call(Waiting(65.5), Call(0, "ACME", "test", encode({"number": 55}), 0))
    call = calling.data_to_send(5.5)
    [(frame, _, _)] = serving.receive(call, 700.5)
    serving.serve(frame.id, "the handler")
    serving.result(frame.id, encode({"double": decode(frame.payload)["number"] * 2}))
    result = serving.data_to_send(700.75)
    [(answer, waiting, _)] = calling.receive(result, 5.75)
    assert (waiting.deadline, decode(answer.payload)) == (65.5, {"double": 110})
    return call, result


def section() -> str:
    """Return the section as Markdown."""
    parts = [
        f"The token is `{TOKEN.hex()}`, the address {ADDRESS}. The HMAC-SHA256 under that token",
        "of the following bytes is the gateway's proof, and with `client` in place of `gateway`",
        "the client's:",
        "",
        "```text",
        _dump(f"headgate 1 gateway {ADDRESS} ".encode() + CLIENT_NONCE + GATEWAY_NONCE),
        "```",
    ]
    for number, message in enumerate(messages(), 1):
        parts += [
            "",
            f"**{number}. The {message.sender} sends {message.says}**, {len(message.data)} bytes:",
            "",
            "```text",
            _text(msgspec.msgpack.decode(message.data)),
            "",
            _dump(message.data),
            "```",
        ]
    return "\n".join(parts) + "\n"


def _dump(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), 16):
        line = data[start : start + 16]
        plain = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        lines.append(f"{start:04x}  {line.hex(' '):47}  {plain}")
    return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return msgspec.json.encode(value).decode()


def with_section(text: str) -> str:
    """Return the document's text with the section as it must be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{section()}\n{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        DOCUMENT.write_text(with_section(DOCUMENT.read_text("utf-8")), "utf-8")
    else:
        print(section())
