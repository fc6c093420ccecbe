"""
Freezes what this release sends: its frames and payloads, as bytes beside what they mean.

    python tests/protocol/freeze.py     writes tests/protocol/corpus/<version>/

Every later release decodes these bytes to the same, so a folder is never written again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from described import FOLDER, description_of, frame_of, made, vectors

import headgate
from headgate.wire import frames
from headgate.wire.codec import encode

CORPUS = FOLDER / "corpus"


def freeze(folder: Path) -> None:
    """
    Write the corpus of this release.

    Args:
        folder: Where; it must not exist.
    """
    if folder.exists():
        sys.exit(
            f"{folder} is frozen: it holds what a release sent, and later ones must decode it as "
            "it is. Raise the version in src/headgate/__init__.py to freeze what is sent now."
        )
    folder.mkdir(parents=True)
    _write(folder / "payloads.json", values=_payloads())
    _write(folder / "frames.json", batches=_batches(), greetings=_greetings())


def _payloads() -> list[dict[str, Any]]:
    return [
        {**_named(vector), "value": vector["value"], "bytes": encode(made(vector["value"])).hex()}
        for vector in vectors("payloads")["values"]
    ]


def _batches() -> list[dict[str, Any]]:
    found = []
    for vector in vectors("frames")["batches"]:
        batch = frames.Batch(vector["sent"], list(map(frame_of, vector["frames"])))
        means = {"sent": batch.sent, "frames": list(map(description_of, batch.frames))}
        found.append({**_named(vector), **means, "bytes": frames.encode(batch).hex()})
    return found


def _greetings() -> list[dict[str, Any]]:
    found = []
    for vector in vectors("frames")["greetings"]:
        frame = frame_of(vector["frame"])
        means = {"frame": description_of(frame)}
        found.append({**_named(vector), **means, "bytes": frames.encode(frame).hex()})
    return found


def _named(vector: dict[str, Any]) -> dict[str, Any]:
    return {"name": vector["name"]}


def _write(file: Path, **lists: list[dict[str, Any]]) -> None:
    """Write lists of objects, one object a line."""
    parts = []
    for name, items in lists.items():
        lines = ",\n".join(f"  {json.dumps(item)}" for item in items)
        parts.append(f' "{name}": [\n{lines}\n ]')
    file.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


if __name__ == "__main__":
    freeze(CORPUS / headgate.__version__)
