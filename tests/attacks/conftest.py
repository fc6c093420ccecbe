"""One gateway for each module of attacks, and a client that it has to go on serving."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacked import Attacked

import headgate


@pytest.fixture(scope="module")
def attacked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Attacked]:
    """The process that is attacked, with the `LIMITS` of the module, if it has some."""
    if sys.platform != "linux":
        pytest.skip("all of 127.0.0.0/8 is this machine's on Linux alone")
    limits = getattr(request.module, "LIMITS", "")
    gateway = Attacked(tmp_path_factory.mktemp("attacked"), limits=limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADGATE_HOME", str(gateway.home))
        gateway.prepare()
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.end()


@pytest.fixture(autouse=True)
def headgate_home(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the commands and clients of a test be those of the user that the gateway runs as."""
    monkeypatch.setenv("HEADGATE_HOME", str(attacked.home))
    return attacked.home


@pytest.fixture(scope="module")
def _signed_in(attacked: Attacked) -> Iterator[headgate.Client]:
    with attacked.client("bob") as client:
        yield client


@pytest.fixture
def signed_in(attacked: Attacked, _signed_in: headgate.Client) -> Iterator[headgate.Client]:
    """A client that was there before the attack; after it, the same session is served."""
    session = _signed_in.session_id
    attacked.forget()
    yield _signed_in
    assert _signed_in.request("ACME", "who", timeout=20).get() == "bob"
    assert _signed_in.session_id == session
