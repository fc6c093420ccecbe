"""Headgate passes the conformance vectors, as clients in other languages must."""

from __future__ import annotations

from typing import Any

import pytest
from described import description_of, form, frame_of, made, shared, vectors
from players import Client, Gateway, Login

from headgate.errors import PayloadError, RemoteProtocolError
from headgate.wire import frames
from headgate.wire.codec import decode, encode
from headgate.wire.handshake import Meeting, prove

PAYLOADS = vectors("payloads")
FRAMES = vectors("frames")
PROOFS = vectors("proofs")["proofs"]
SESSIONS = vectors("sessions")


def each(*lists: list[dict[str, Any]]) -> Any:
    """Run a test for each vector of these lists."""
    cases = [pytest.param(vector, id=vector["name"]) for vectors in lists for vector in vectors]
    return pytest.mark.parametrize("vector", cases)


def bytes_of(vector: dict[str, Any]) -> bytes:
    """A vector's bytes; ``then`` adds a part so many times."""
    part, times = vector.get("then", ("", 0))
    return bytes.fromhex(vector["bytes"] + part * times)


@each(PAYLOADS["values"])
def test_payload(vector: dict[str, Any]) -> None:
    """A payload is read as the value that it means, and the value is written as these bytes."""
    value = made(vector["value"])
    for data in (vector["bytes"], *vector.get("also", ())):
        assert form(decode(bytes.fromhex(data))) == form(value)
    written = encode(value)
    if vector.get("unordered"):
        assert form(decode(written)) == form(value)
    else:
        assert written.hex() == vector["bytes"]


@each(PAYLOADS["refused"], PAYLOADS["refused_by_python_types"])
def test_refused_payload(vector: dict[str, Any]) -> None:
    """What is no payload is refused."""
    with pytest.raises(PayloadError):
        decode(bytes.fromhex(vector["bytes"]))


@each(FRAMES["batches"])
def test_batch(vector: dict[str, Any]) -> None:
    """A batch is read as the frames that it means, and they arrive again when they are written."""
    batch = frames.decode_batch(bytes_of(vector))
    assert batch.sent == vector["sent"]
    described = vector["frames"]
    assert list(map(shared, batch.frames, described)) == described
    again = frames.encode(frames.Batch(batch.sent, list(map(frame_of, described))))
    assert list(map(shared, frames.decode_batch(again).frames, described)) == described


@each(FRAMES["greetings"])
def test_greeting(vector: dict[str, Any]) -> None:
    """A message of the login is read as the frame that it means."""
    described = vector["frame"]
    assert description_of(frames.decode_greeting(bytes_of(vector))) == described
    assert description_of(frames.decode_greeting(frames.encode(frame_of(described)))) == described


@each(FRAMES["refused_batches"])
def test_refused_batch(vector: dict[str, Any]) -> None:
    """What is no batch breaks the protocol."""
    session = Gateway(SESSIONS)
    session.step({"in": bytes_of(vector).hex()})
    session.step({"closes": 1002})


@each(FRAMES["refused_greetings"])
def test_refused_greeting(vector: dict[str, Any]) -> None:
    """What is no message of the login breaks the protocol."""
    with pytest.raises(RemoteProtocolError):
        frames.decode_greeting(bytes_of(vector))


@each(PROOFS)
def test_proof(vector: dict[str, Any]) -> None:
    """Both proofs of a login are the HMAC of its parts."""
    nonces = [bytes.fromhex(vector[f"{side}_nonce"]) for side in ("client", "gateway")]
    meeting = Meeting(vector["address"], *nonces)
    token = bytes.fromhex(vector["token"])
    for label in ("gateway", "client"):
        assert prove(token, label, meeting).hex() == vector[f"{label}_proof"]


@each(SESSIONS["sessions"])
def test_session(vector: dict[str, Any]) -> None:
    """A session goes as its script says."""
    player: Login | Client | Gateway
    if vector["role"] == "gateway":
        player = Gateway(SESSIONS)
    else:
        player = Login({**SESSIONS, **vector}) if vector.get("login") else Client()
    for step in vector["steps"]:
        player.step(step)
