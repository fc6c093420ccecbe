"""What comes to the port and is no client: pages, other names, garbage, and who takes its time."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from attacked import LOGIN_SECONDS, Attacked, outside, password_of
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from headgate.channel.listener import HANDSHAKE_SECONDS
from headgate.channel.server import HEAD_SECONDS
from headgate.wire.frames import Batch, Challenge, decode_greeting, encode

pytestmark = pytest.mark.usefixtures("signed_in", "slow")

HEAD = (
    "GET /channel HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def secured(
    attacked: Attacked, source: str = "127.0.0.1", host: str = "127.0.0.1"
) -> ssl.SSLSocket:
    """A TLS connection without a word."""
    plain = socket.create_connection((host, attacked.port), 20, source_address=(source, 0))
    return attacked.context().wrap_socket(plain, server_hostname=host)


# --- who takes its time --------------------------------------------------------------------------


def no_tls(attacked: Attacked, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", attacked.port), 20, source_address=(source, 0))


def half_a_tls_handshake(attacked: Attacked, source: str) -> socket.socket:
    sock = no_tls(attacked, source)
    sock.sendall(b"\x16\x03\x01\x02\x00\x01")
    return sock


def half_a_head(attacked: Attacked, source: str) -> socket.socket:
    sock = secured(attacked, source)
    sock.sendall(HEAD.encode())
    return sock


def no_login(attacked: Attacked, source: str) -> socket.socket:
    sock = secured(attacked, source)
    sock.sendall(f"{HEAD}\r\n".encode())
    return sock


SLOW: dict[str, tuple[Callable[[Attacked, str], socket.socket], str, str, float]] = {
    "127.0.1.1": (no_tls, "refused", "the TLS handshake did not come within", HANDSHAKE_SECONDS),
    "127.0.1.2": (half_a_tls_handshake, "refused", "TLS handshake took more", HANDSHAKE_SECONDS),
    "127.0.1.3": (secured, "refused", "the head of the request did not come", HEAD_SECONDS),
    "127.0.1.4": (half_a_head, "refused", "the head of the request did not come", HEAD_SECONDS),
    "127.0.1.5": (no_login, "limited", "login_seconds", LOGIN_SECONDS),
}
"""By address: what it sends before it falls silent, what is recorded, and seconds that it has."""


@pytest.fixture(scope="module")
def slow(attacked: Attacked) -> Iterator[dict[str, tuple[socket.socket, float]]]:
    """The slow ones, who sit there while the others attack, and when each of them began."""
    attacked.forget()
    begun = {
        source: (connect(attacked, source), time.monotonic())
        for source, (connect, *_) in SLOW.items()
    }
    yield begun
    for sock, _ in begun.values():
        sock.close()


# --- other names and other pages -----------------------------------------------------------------


def status(attacked: Attacked, **options: object) -> int:
    """The status with which a WebSocket is refused."""
    with pytest.raises(InvalidStatus) as caught, attacked.by_hand(**options):  # type: ignore[arg-type]
        pass
    return caught.value.response.status_code


def test_a_page_of_another_site(attacked: Attacked) -> None:
    """A browser tells whose page connects; a foreign one is turned away before any login."""
    assert status(attacked, origin="https://evil.example") == 403
    attacked.told("refused", "Pages of 'https://evil.example' may not call this gateway")


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "192.0.2.99"])
def test_a_name_that_leads_here(attacked: Attacked, name: str) -> None:
    """A name that is none of the gateway's was made to lead to it: DNS rebinding."""
    with secured(attacked) as sock:
        sock.sendall(f"{HEAD}\r\n".replace("127.0.0.1", name).encode())
        assert sock.recv(65536).split()[1] == b"403"
    attacked.told("refused", f"The Host '{name}' is not a name of this gateway")


def test_loopbacks_name_from_elsewhere(attacked: Attacked) -> None:
    """Who comes over the network cannot be a page that was found at localhost."""
    address = outside()
    plain = socket.create_connection((address, attacked.port), 20)
    context = attacked.context()
    context.check_hostname = False
    with context.wrap_socket(plain, server_hostname=address) as sock:
        sock.sendall(f"{HEAD}\r\n".encode())
        assert sock.recv(65536).split()[1] == b"403"
    attacked.told("refused", "The Host '127.0.0.1' is not a name", address=address)


# --- garbage -------------------------------------------------------------------------------------


def test_garbage_in_place_of_tls(attacked: Attacked) -> None:
    """It is answered so that a person understands, or not at all, and recorded."""
    for number, data in enumerate((b"GET / HTTP/1.1\r\n\r\n", b"\xff" + os.urandom(200), b"\0")):
        source = f"127.0.2.{number + 1}"
        with no_tls(attacked, source) as sock:
            sock.sendall(data)
            assert b"speaks TLS" in sock.recv(65536)
        attacked.told("refused", "it does not speak TLS", address=source)
    with no_tls(attacked, "127.0.2.9") as sock:
        sock.sendall(b"\x16\x03\x01\x01\x90\xff" + os.urandom(399))
        assert b"HTTP" not in sock.recv(65536)
    attacked.told("refused", "the TLS handshake failed", address="127.0.2.9")


def test_garbage_in_place_of_http(attacked: Attacked) -> None:
    """What is no request, and a head without end, are cut off."""
    for data, reason in (
        (b"\xff" + os.urandom(400).replace(b"\n", b"") + b"\r\n\r\n", "not an HTTP request"),
        (f"{HEAD}X: ".encode() + b"x" * 20_000, "the head of the request is too large"),
    ):
        with secured(attacked) as sock:
            sock.sendall(data)
            answer = b""
            with suppress(ConnectionError, ssl.SSLError):
                while part := sock.recv(65536):
                    answer += part
            assert b" 101 " not in answer
        attacked.told("refused", reason)


def cut_after(peer: ClientConnection, message: bytes | str) -> None:
    """Send a message, and hear nothing but the end of the connection."""
    peer.send(message)
    with pytest.raises(ConnectionClosed):
        peer.recv(timeout=20)


def test_garbage_in_place_of_a_login(attacked: Attacked) -> None:
    """Neither other bytes, nor frames that belong behind a login, do anything."""
    for number, message in enumerate(
        (os.urandom(300), b"", b"\x93" * 3000, b"x" * 5000, "text", encode(Batch(0.0, [])))
    ):
        source = f"127.0.3.{number + 1}"
        with attacked.by_hand(source) as peer:
            cut_after(peer, message)
        attacked.told("refused", "", address=source)
    with attacked.by_hand("127.0.3.9") as peer:
        login = attacked.log_in(peer, password_of("ada", "wrong horse battery"))
        assert login.last
    with attacked.by_hand("127.0.3.9") as peer:
        peer.send(login.sent[0])
        assert isinstance(decode_greeting(bytes(peer.recv(timeout=20))), Challenge)
        cut_after(peer, login.sent[0])
    assert "Traceback" not in attacked.log


# --- at the end, since they took their time meanwhile --------------------------------------------


def test_the_slow_ones_are_gone(
    attacked: Attacked, slow: dict[str, tuple[socket.socket, float]]
) -> None:
    """Each of them is cut off when its time is over, and recorded by its address."""
    attacked._seen = 0
    for source, (sock, begun) in slow.items():
        _, event, text, seconds = SLOW[source]
        sock.settimeout(20)
        with suppress(ConnectionError, ssl.SSLError):
            while sock.recv(65536):
                pass
        row = attacked.told(event, text, address=source)
        print(f"{source} {json.dumps(row['detail'])}: after {time.monotonic() - begun:.1f} s")
        assert time.monotonic() - begun >= seconds - 0.1
