"""Edits of the handlers' files while they serve."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

__all__ = ["Edits"]

SOURCE = Path(__file__).parent / "projects"

GENERATION = re.compile(r"^GENERATION = .*$", re.MULTILINE)


class Edits:
    """
    Someone who works on the projects all day.

    Some files get a new generation, which their answers show; one is broken now and then, one is
    removed and comes back. Files of which much is asked are replaced in one step, so that a gateway
    that starts in between finds a whole one.

    Args:
        folder: Where the projects are copied to.
        seed: Of what is edited.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.count = 0
        """Edits so far."""
        self._folder = folder
        self._dice = random.Random(f"{seed}/edits")
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("ruff.toml", "__pycache__"))

    def one(self) -> None:
        """Edit one file."""
        self.count += 1
        choice = self._dice.random()
        if choice < 0.6:
            name = self._dice.choice(("prompt/messages/echo.py", "prompt/messages/echo_async.py"))
            self._replace(name, self._next_generation(name))
        elif choice < 0.8:
            whole = self._next_generation(
                "edited/messages/brittle.py", of="prompt/messages/echo.py"
            )
            broken = self._dice.random() < 0.5
            text = whole.replace("return {", "return {{{") if broken else whole
            (self._folder / "edited/messages/brittle.py").write_text(text)
        else:
            file = self._folder / "edited/messages/fleeting.py"
            if file.exists():
                file.unlink()
            else:
                file.write_text(self._next_generation("edited/messages/fleeting.py"))

    def _next_generation(self, name: str, *, of: str = "prompt/messages/echo.py") -> str:
        source = SOURCE / (name if name.startswith("prompt") else of)
        return GENERATION.sub(f"GENERATION = {self.count}", source.read_text())

    def _replace(self, name: str, text: str) -> None:
        file = self._folder / name
        # A name with a point in front is no handler.
        beside = file.with_name(f".{file.name}")
        beside.write_text(text)
        os.replace(beside, file)
