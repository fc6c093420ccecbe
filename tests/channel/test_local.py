"""The owner's local token: only its owner can read it, and a port leads to it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from headgate.channel.address import Address
from headgate.channel.local import (
    TOKEN_BYTES,
    certificate_of_port,
    data_folder,
    forget_port,
    home_folder,
    is_loopback,
    publish_port,
    read_or_make_token,
    token_of_port,
)
from headgate.errors import ConfigurationError, GatewayUnreachable

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "gateways" / "hub"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_call_makes_the_token(data: Path) -> None:
    """The token is made once and stays; another gateway has another one."""
    token = read_or_make_token(data)
    assert len(token) == TOKEN_BYTES
    assert read_or_make_token(data) == token
    assert read_or_make_token(data.parent / "other") != token


@posix
def test_only_the_owner_can_read_the_token(data: Path) -> None:
    """File and folder are the owner's alone, whatever the umask says."""
    before = os.umask(0)
    try:
        read_or_make_token(data)
        publish_port(8188, data)
    finally:
        os.umask(before)
    assert mode(data / "local-token") == 0o600
    assert mode(data) == 0o700
    assert mode(home_folder() / "ports" / "8188") == 0o600
    assert mode(home_folder() / "ports") == 0o700


def test_no_draft_is_left(data: Path) -> None:
    """The folder holds the token and nothing else."""
    read_or_make_token(data)
    assert [file.name for file in data.iterdir()] == ["local-token"]


@posix
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_token_that_others_can_touch_is_refused(data: Path, bits: int) -> None:
    """A token file with any right for others is refused, by gateway and client, with the cure."""
    read_or_make_token(data)
    publish_port(8188, data)
    file = data / "local-token"
    file.chmod(bits)
    for read in (lambda: read_or_make_token(data), lambda: token_of_port(8188)):
        with pytest.raises(ConfigurationError, match=r"by others.*Delete the file") as caught:
            read()
        assert caught.value.file == str(file)


@posix
@pytest.mark.parametrize("bits", [0o620, 0o602, 0o666])
def test_a_pointer_that_others_can_change_is_refused(data: Path, bits: int) -> None:
    """It could lead to another's token and certificate: the error has the cure."""
    read_or_make_token(data)
    publish_port(8188, data, certificate=data / "shown.pem")
    pointer = home_folder() / "ports" / "8188"
    pointer.chmod(bits)
    for read in (token_of_port, certificate_of_port):
        with pytest.raises(ConfigurationError, match=r"8188.*by others.*Delete the file") as caught:
            read(8188)
        assert caught.value.file == str(pointer)
    forget_port(8188, data)
    publish_port(8188, data, certificate=data / "shown.pem")
    assert certificate_of_port(8188) == data / "shown.pem"


@posix
def test_a_pointer_of_another_user_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever left it there, it was not the gateway of this user."""
    publish_port(8188, data, certificate=data / "shown.pem")
    monkeypatch.setattr(os, "getuid", lambda: (home_folder() / "ports").stat().st_uid + 1)
    for read in (token_of_port, certificate_of_port):
        with pytest.raises(ConfigurationError, match="by others"):
            read(8188)


@pytest.mark.parametrize("content", ["", "ab", "no hex", "00" * (TOKEN_BYTES - 1), "ff" * 64, "é"])
def test_a_damaged_token_is_refused(data: Path, content: str) -> None:
    """A file that does not hold a whole token proves nothing, an empty one least of all."""
    read_or_make_token(data)
    publish_port(8188, data)
    (data / "local-token").write_text(content, "utf-8")
    for read in (lambda: read_or_make_token(data), lambda: token_of_port(8188)):
        with pytest.raises(ConfigurationError, match=r"damaged.*Delete the file"):
            read()


def test_a_port_leads_to_its_token(data: Path) -> None:
    """Each port has a pointer of its own."""
    other = data.parent / "other"
    first, second = read_or_make_token(data), read_or_make_token(other)
    publish_port(8188, data)
    publish_port(8189, other)
    assert token_of_port(8188) == first
    assert token_of_port(8189) == second
    assert token_of_port(8190) is None


def test_the_last_gateway_on_a_port_has_it(data: Path) -> None:
    """A gateway that takes a port after another one takes its pointer too."""
    other = data.parent / "other"
    read_or_make_token(data)
    token = read_or_make_token(other)
    publish_port(8188, data)
    publish_port(8188, other)
    assert token_of_port(8188) == token
    forget_port(8188, data)
    assert token_of_port(8188) == token
    forget_port(8188, other)
    assert token_of_port(8188) is None


def test_a_pointer_may_be_forgotten_twice(data: Path) -> None:
    """Forgetting a port that has no pointer does nothing."""
    read_or_make_token(data)
    forget_port(8188, data)
    publish_port(8188, data)
    forget_port(8188, data)
    forget_port(8188, data)


@pytest.mark.parametrize("stale", ["gone", "gone/deeper", ""])
def test_a_stale_pointer_leads_nowhere(data: Path, stale: str) -> None:
    """A pointer to a data folder that was removed, or an empty one, is as good as none."""
    read_or_make_token(data)
    publish_port(8188, data)
    pointer = home_folder() / "ports" / "8188"
    pointer.write_text(str(data / stale) if stale else "", "utf-8")
    assert token_of_port(8188) is None


def test_a_pointer_through_a_file_leads_nowhere(data: Path) -> None:
    """A pointer whose folder has become a file is as good as none."""
    read_or_make_token(data)
    publish_port(8188, data)
    (data / "local-token").unlink()
    data.rmdir()
    data.write_text("a file")
    assert token_of_port(8188) is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_token_that_cannot_be_read_now_is_unreachable(
    data: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What keeps a client from reading the token may pass: GatewayUnreachable names it."""
    token = read_or_make_token(data)
    publish_port(8188, data)
    address = Address("ws://127.0.0.1:8188")

    def fail(*args: object) -> str:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fail)
        with pytest.raises(GatewayUnreachable, match=os.strerror(number)) as caught:
            address.token()
    assert caught.value.started is False
    assert address.token() == token


def test_a_pointer_that_is_no_text_is_unreachable(data: Path) -> None:
    """A pointer of other bytes than text is GatewayUnreachable, with the gateway's URL."""
    publish_port(8188, data)
    (home_folder() / "ports" / "8188").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GatewayUnreachable, match=r"ws://127\.0\.0\.1:8188 cannot be read"):
        Address("ws://127.0.0.1:8188").token()


@posix
def test_a_token_that_others_can_read_stays_a_configuration_error(data: Path) -> None:
    """Waiting does not cure a token that others can read: a client is told so as it is."""
    read_or_make_token(data)
    publish_port(8188, data)
    (data / "local-token").chmod(0o644)
    with pytest.raises(ConfigurationError, match="by others"):
        Address("ws://127.0.0.1:8188").token()


def test_the_home_can_be_chosen(headgate_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEADGATE_HOME overrides the platform's place; each gateway has its folder in it."""
    assert home_folder() == headgate_home
    assert data_folder("hub") == headgate_home / "gateways" / "hub"
    monkeypatch.delenv("HEADGATE_HOME")
    assert home_folder().name == "headgate"


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost", "127.0.0.1", "127.1.2.3", "::1", "[::1]", "0:0:0:0:0:0:0:1"]
)
def test_loopback(host: str) -> None:
    """The names and addresses of this machine's loopback."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "10.0.0.1",
        "0.0.0.0",
        "::",
        "example.org",
        "localhost.example.org",
        "127.example.org",
        "127.0.0.1.example.org",
        "128.0.0.1",
    ],
)
def test_other_machines(host: str) -> None:
    """A name that only begins like a loopback address may lead anywhere."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "url",
    [
        *("ws://[::1", "ws://ada:pa55word@hub", "http://ada:pa55word@hub", "ws://pa55word@hub"),
        *("wss://ada:pa55word@hub:99999", "ada:pa55word@hub", "ws://ada:pa55word@[::1"),
    ],
)
def test_what_is_no_url_of_a_gateway(url: str) -> None:
    """A URL holds no user and password, and a mistake in it does not show them."""
    with pytest.raises(ConfigurationError) as caught:
        Address(url)
    assert "pa55word" not in str(caught.value)
