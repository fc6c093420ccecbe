"""The client in JavaScript, in a page of a real browser that comes from the gateway's origin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from described import FOLDER
from running import CLIENT, Running, required, user_of

import headgate

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page, Route

    from conftest import Rig

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP rebound.example 127.0.0.1",
]

TYPES = {".mjs": "text/javascript", ".json": "application/json"}

VECTORS = ("payloads", "frames", "proofs", "sessions")

RUN_VECTORS = """
async (names) => {
    const { cases } = await import("/client/test/conformance.mjs");
    const read = async (name) => [name, await (await fetch(`/vectors/${name}.json`)).json()];
    const all = cases(Object.fromEntries(await Promise.all(names.map(read))));
    const failed = [];
    for (const [name, run] of all) {
        try { await run(); } catch (error) { failed.push(`${name}: ${error.message}`); }
    }
    return { passed: all.length - failed.length, failed };
}
"""

RUN_LIVE = """
async ([url, token]) => {
    const { connect } = await import("/client/headgate.mjs");
    const { CASES } = await import("/client/test/live.mjs");
    const client = await connect(url, { localToken: token });
    const failed = [];
    for (const [name, run] of CASES) {
        try { await run(client); } catch (error) { failed.push(`${name}: ${error.message}`); }
    }
    await client.close();
    return { passed: CASES.length - failed.length, failed };
}
"""

LOG_IN = """
async ([url, password]) => {
    const { connect } = await import("/client/headgate.mjs");
    try {
        const first = await connect(url, { user: "ada", password });
        const second = await connect(url, { ticket: first.ticket });
        return first.user + " " + second.user;
    } catch (error) { return error.code; }
}
"""

CONNECT = """
async ([url, token]) => {
    const { connect } = await import("/client/headgate.mjs");
    return await connect(url, { localToken: token }).then(() => "it got in", (error) => error.code);
}
"""


@pytest.fixture
def two(rig: Rig, headgate_home: Path) -> tuple[Running, headgate.Gateway]:
    """Two gateways; they must be there before a browser, whose event loop takes the thread."""
    gateway, other = (rig.gateway({}, name=name) for name in ("hub", "other"))
    return Running(gateway.url, os.getpid(), headgate_home), other


@pytest.fixture
def password(two: tuple[Running, headgate.Gateway]) -> str:
    """The password of the first gateway's user."""
    return user_of(two[0])[0]


@pytest.fixture
def pages() -> Iterator[Any]:
    """Give a function that opens a page of an origin, which serves the client and the vectors."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = required("chromium", "chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=FLAGS)

        def open_page(origin: str) -> Page:
            page = browser.new_page()
            for folder in ("client", "vectors"):
                page.route(f"{origin}/{folder}/**", serve)
            # The page itself is the gateway's own line for people.
            page.goto(f"{origin}/")
            return page

        yield open_page
        browser.close()


def serve(route: Route) -> None:
    """Give the page a module or the vectors: a gateway serves none of them."""
    folder, _, path = urlsplit(route.request.url).path.strip("/").partition("/")
    file = (CLIENT if folder == "client" else FOLDER / "vectors") / path
    route.fulfill(content_type=TYPES[file.suffix], body=file.read_text("utf-8"))


def origin_of(url: str) -> str:
    """The origin of a gateway's pages."""
    return url.replace("ws:", "http:")


def test_browser(gateway: Running, pages: Any) -> None:
    """In a page of the gateway's origin the client passes the vectors and calls handlers."""
    page = pages(origin_of(gateway.url))
    vectors = page.evaluate(RUN_VECTORS, VECTORS)
    assert vectors["failed"] == []
    assert vectors["passed"] > 300
    live = page.evaluate(RUN_LIVE, [gateway.url, gateway.token])
    assert live["failed"] == []
    assert live["passed"] > 10


def test_other_origin(two: tuple[Running, headgate.Gateway], pages: Any) -> None:
    """A page of another origin does not get in, even with the token."""
    gateway, other = two
    page = pages(origin_of(other.url))
    assert page.evaluate(CONNECT, [gateway.url, gateway.token]) == "unreachable"
    page = pages(origin_of(gateway.url))
    assert page.evaluate(CONNECT, [gateway.url, gateway.token]) == "it got in"
    # A name that was made to lead here is none of the gateway's, whatever the page's origin.
    rebound = page.goto(f"http://rebound.example:{urlsplit(gateway.url).port}/")
    assert rebound is not None
    assert rebound.status == 403
    assert "rebound.example" in rebound.text()


def test_login(two: tuple[Running, headgate.Gateway], password: str, pages: Any) -> None:
    """A page logs in with a password to the gateway that it came from, and to no other."""
    gateway, other = two
    page = pages(origin_of(gateway.url))
    assert page.evaluate(LOG_IN, [gateway.url, password]) == "ada ada"
    assert page.evaluate(LOG_IN, [other.url, "a password"]) == "denied"
