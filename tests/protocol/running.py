"""What the tests of clients in other languages need: programs, and the handlers that they call."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

import headgate

CLIENT = Path(__file__).parents[2] / "clients" / "javascript"

HANDLERS = {
    "ACME/echo": "def handleMessage(payload):\n    return payload\n",
    "ACME/types": """
        def handleMessage(payload):
            return [type(value).__name__ for value in payload.values()]
        """,
    "ACME/bad": "def handleMessage(payload):\n    raise ValueError('the valve is stuck')\n",
    "ACME/steps": """
        def handleMessage(payload, context):
            for step in range(payload["count"]):
                context.progress(step)
            return "done"
        """,
    "ACME/patient": """
        import asyncio

        async def handleMessage(payload, context):
            context.progress("begun")
            await asyncio.sleep(60)
        """,
    "ACME/single": """
        import asyncio

        import headgate

        @headgate.handler(concurrency=1, queue=1)
        async def handleMessage(payload, context):
            context.progress("begun")
            await asyncio.sleep(60)
        """,
}


def required(program: str, package: str) -> str:
    """The path of a program; without it the test is skipped, but not where everything must run."""
    path = shutil.which(program)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{program} is missing: install the Debian package {package}")
        pytest.skip(f"{program} is not installed")
    return path


class Running(NamedTuple):
    """A gateway process."""

    url: str
    pid: int
    home: Path

    @property
    def token(self) -> str:
        """What its clients have to prove that they know."""
        port = self.url.rpartition(":")[2]
        return Path((self.home / "ports" / port).read_text()).read_text()


def user_of(gateway: Running) -> tuple[str, str]:
    """Add the user ada to a gateway, and return a password and a token of hers."""
    password = "correct horse \u00f6"
    with headgate.connect(gateway.url) as owner:
        user = {"name": "ada", "password": password, "roles": ["owner"]}
        owner.request("@gateway", "user_add", user, timeout=20).get()
        made = owner.request("@gateway", "token_create", {"user": "ada"}, timeout=20).get()
    return password, made["token"]
