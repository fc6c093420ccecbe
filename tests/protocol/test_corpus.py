"""What earlier releases sent is decoded by this one to the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from described import KINDS, form, made, shared, vectors
from freeze import CORPUS, freeze

from headgate.wire.codec import decode
from headgate.wire.frames import decode_batch, decode_greeting

RELEASES = sorted(CORPUS.iterdir())

each_release = pytest.mark.parametrize("release", RELEASES, ids=lambda folder: folder.name)


def frozen(release: Path, name: str) -> Any:
    """A file of a release's corpus."""
    return json.loads((release / f"{name}.json").read_text("utf-8"))


@each_release
def test_payloads(release: Path) -> None:
    """Payloads of every release mean the same."""
    for vector in frozen(release, "payloads")["values"]:
        value = decode(bytes.fromhex(vector["bytes"]))
        assert form(value) == form(made(vector["value"])), vector["name"]


@each_release
def test_batches(release: Path) -> None:
    """Frames of every release mean the same."""
    for vector in frozen(release, "frames")["batches"]:
        batch = decode_batch(bytes.fromhex(vector["bytes"]))
        assert batch.sent == vector["sent"], vector["name"]
        assert list(map(shared, batch.frames, vector["frames"])) == vector["frames"], vector["name"]


@each_release
def test_greetings(release: Path) -> None:
    """Messages of the login of every release mean the same."""
    for vector in frozen(release, "frames")["greetings"]:
        frame = decode_greeting(bytes.fromhex(vector["bytes"]))
        assert shared(frame, vector["frame"]) == vector["frame"], vector["name"]


def test_every_frame_is_frozen() -> None:
    """The vectors, of which a release's corpus is made, have every frame."""
    found = vectors("frames")
    described = [frame for vector in found["batches"] for frame in vector["frames"]]
    described += [vector["frame"] for vector in found["greetings"]]
    assert {frame["frame"] for frame in described} == KINDS.keys()


def test_a_release_is_frozen_once(tmp_path: Path) -> None:
    """The corpus of a release is not written a second time."""
    freeze(tmp_path / "1.0")
    before = (tmp_path / "1.0" / "frames.json").read_bytes()
    with pytest.raises(SystemExit, match="is frozen"):
        freeze(tmp_path / "1.0")
    assert (tmp_path / "1.0" / "frames.json").read_bytes() == before
