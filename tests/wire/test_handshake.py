"""The login: each side proves that it knows the owner's token, before anything else is possible."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.errors import (
    GatewayUnreachable,
    Overloaded,
    PermissionDenied,
    RemoteProtocolError,
    RequestError,
)
from headgate.wire.frames import (
    Batch,
    Call,
    Challenge,
    Ping,
    Proof,
    Refuse,
    Welcome,
    decode_greeting,
    encode,
)
from headgate.wire.handshake import (
    MAX_GREETING,
    NONCE_BYTES,
    VERSION,
    Claim,
    ClientHandshake,
    Credentials,
    GatewayHandshake,
    refuse,
    welcome,
)
from headgate.wire.session import Credit, Session

TOKEN = b"t" * 32
ADDRESS = "127.0.0.1:8188"
SESSION = "00" * 10


def client_side(
    token: bytes = TOKEN, address: str = ADDRESS, nonce: bytes = b"c"
) -> ClientHandshake:
    return ClientHandshake(
        Claim.local(token),
        address=address,
        nonce=nonce * 32,
        project="ACME",
        host_name="panel-1",
    )


def gateway_side(
    token: bytes = TOKEN, address: str = ADDRESS, nonce: bytes = b"g"
) -> GatewayHandshake:
    return GatewayHandshake(key=lambda hello: token, address=address, nonce=nonce * NONCE_BYTES)


def greeting(in_flight: int = 7, unsent: int = 1000) -> tuple[bytes, Session]:
    return welcome(
        5.0,
        session=SESSION,
        gateway="hub",
        user="operator",
        credit=Credit(in_flight=in_flight, unsent=unsent),
        max_message=1000,
    )


def challenged(client: ClientHandshake, gateway: GatewayHandshake) -> bytes:
    """Play until the client has sent its proof."""
    challenge = gateway.receive(client.hello())
    assert isinstance(challenge, bytes)
    proof = client.receive(challenge, 0.0)
    assert isinstance(proof, bytes)
    return proof


def test_both_sides_prove_themselves() -> None:
    """Hello, Challenge, Proof, Welcome: then both have a session of the same name."""
    client, gateway = client_side(), gateway_side()
    credentials = gateway.receive(challenged(client, gateway))
    assert isinstance(credentials, Credentials)
    hello = credentials.hello
    assert (hello.project, hello.host_name, hello.kind) == ("ACME", "panel-1", "client")
    message, theirs = greeting()
    ours = client.receive(message, 3.0)
    assert isinstance(ours, Session)
    assert ours.id == theirs.id == SESSION
    assert client.welcome is not None
    assert (client.welcome.gateway, client.welcome.user) == ("hub", "operator")


def test_the_session_has_the_credit_that_was_told() -> None:
    """What the Welcome grants is what the client's session may use."""
    client, gateway = client_side(), gateway_side()
    challenged(client, gateway)
    session = client.receive(greeting(in_flight=0)[0], 0.0)
    assert isinstance(session, Session)
    request = SimpleNamespace(deadline=1.0)
    with pytest.raises(Overloaded, match="limit is 0"):
        session.call(request, Call(0, "ACME", "test", b"", 0))


def test_the_token_is_never_sent() -> None:
    """No message of the login holds the token."""
    client, gateway = client_side(), gateway_side()
    hello = client.hello()
    challenge = gateway.receive(hello)
    assert isinstance(challenge, bytes)
    proof = client.receive(challenge, 0.0)
    assert isinstance(proof, bytes)
    assert all(TOKEN not in message for message in (hello, challenge, proof))
    assert all(len(message) <= MAX_GREETING for message in (hello, challenge, proof))


def test_a_gateway_without_the_token_learns_nothing() -> None:
    """A program that squats on the port cannot prove itself, and gets no proof."""
    client, squatter = client_side(), gateway_side(token=b"x" * 32)
    challenge = squatter.receive(client.hello())
    assert isinstance(challenge, bytes)
    with pytest.raises(
        PermissionDenied, match="127\\.0\\.0\\.1:8188 does not know the owner's local token"
    ):
        client.receive(challenge, 0.0)


def test_a_gateway_that_failed_to_prove_itself_cannot_welcome() -> None:
    """After a wrong Challenge a Welcome opens nothing."""
    client, squatter = client_side(), gateway_side(token=b"x" * 32)
    challenge = squatter.receive(client.hello())
    assert isinstance(challenge, bytes)
    with pytest.raises(PermissionDenied):
        client.receive(challenge, 0.0)
    with pytest.raises(RemoteProtocolError, match="Welcome out of order"):
        client.receive(greeting()[0], 0.0)
    assert client.welcome is None


def test_a_client_without_the_token_is_refused() -> None:
    """A proof under another token is wrong."""
    stranger, gateway = client_side(token=b"x" * 32), gateway_side()
    gateway.receive(stranger.hello())
    wrong = encode(Proof(b"p" * 32))
    with pytest.raises(PermissionDenied, match="proof of the owner's local token is wrong"):
        gateway.receive(wrong)


@pytest.mark.parametrize("proof", [b"", b"x", b"x" * 4000])
def test_a_proof_of_any_length_is_compared(proof: bytes) -> None:
    """A proof of the wrong length is a wrong proof, on either side."""
    gateway = gateway_side()
    gateway.receive(client_side().hello())
    with pytest.raises(PermissionDenied):
        gateway.receive(encode(Proof(proof)))
    with pytest.raises(PermissionDenied):
        client_side().receive(encode(Challenge(b"g" * 32, proof)), 0.0)


def test_a_replayed_proof_is_wrong() -> None:
    """A proof that was heard once does not open another login."""
    client, gateway = client_side(), gateway_side(nonce=b"1")
    proof = challenged(client, gateway)
    assert isinstance(gateway.receive(proof), Credentials)
    again = gateway_side(nonce=b"2")
    again.receive(client.hello())
    with pytest.raises(PermissionDenied):
        again.receive(proof)


def test_a_replayed_challenge_is_wrong() -> None:
    """A gateway's proof that was heard once does not convince another client."""
    challenge = gateway_side().receive(client_side(nonce=b"1").hello())
    assert isinstance(challenge, bytes)
    with pytest.raises(PermissionDenied):
        client_side(nonce=b"2").receive(challenge, 0.0)


@pytest.mark.parametrize("elsewhere", ["127.0.0.1:9000", "[::1]:8188"])
def test_a_login_cannot_be_passed_on_to_another_address(elsewhere: str) -> None:
    """A squatter that passes the frames on to the real gateway is found out by its address."""
    client, gateway = client_side(address=elsewhere), gateway_side(address=ADDRESS)
    challenge = gateway.receive(client.hello())
    assert isinstance(challenge, bytes)
    with pytest.raises(PermissionDenied):
        client.receive(challenge, 0.0)


def test_one_sides_proof_does_not_serve_as_the_others() -> None:
    """A client that sends the gateway's own proof back is refused."""
    gateway = gateway_side()
    challenge = gateway.receive(client_side().hello())
    assert isinstance(challenge, bytes)
    frame = decode_greeting(challenge)
    assert isinstance(frame, Challenge)
    with pytest.raises(PermissionDenied):
        gateway.receive(encode(Proof(frame.proof)))


def test_the_gateway_wants_its_frames_in_order() -> None:
    """A Proof before the Hello, two Hellos, or a gateway's frame break the rules."""
    hello = client_side().hello()
    with pytest.raises(RemoteProtocolError, match="Proof out of order"):
        gateway_side().receive(encode(Proof(b"p" * 32)))
    gateway = gateway_side()
    gateway.receive(hello)
    with pytest.raises(RemoteProtocolError, match="Hello out of order"):
        gateway.receive(hello)
    for frame in (Challenge(b"", b""), Refuse("denied", ""), decode_greeting(greeting()[0])):
        with pytest.raises(RemoteProtocolError, match="out of order"):
            gateway_side().receive(encode(frame))


def test_the_client_wants_its_frames_in_order() -> None:
    """A Welcome before the Challenge, two Challenges, or a client's frame break the rules."""
    with pytest.raises(RemoteProtocolError, match="Welcome out of order"):
        client_side().receive(greeting()[0], 0.0)
    client, gateway = client_side(), gateway_side()
    challenge = gateway.receive(client.hello())
    assert isinstance(challenge, bytes)
    client.receive(challenge, 0.0)
    with pytest.raises(RemoteProtocolError, match="Challenge out of order"):
        client.receive(challenge, 0.0)
    for message in (client.hello(), encode(Proof(b""))):
        with pytest.raises(RemoteProtocolError, match="out of order"):
            client_side().receive(message, 0.0)


@pytest.mark.parametrize("error", [PermissionDenied("no"), GatewayUnreachable("other version")])
def test_a_refusal_says_why(error: RequestError) -> None:
    """The client raises what the gateway refused with, and nothing was started."""
    with pytest.raises(type(error), match=str(error)) as caught:
        client_side().receive(refuse(error), 0.0)
    assert caught.value.started is False


def hello_with(**fields: Any) -> bytes:
    hello = decode_greeting(client_side().hello())
    for name, value in fields.items():
        setattr(hello, name, value)
    return encode(hello)


def test_a_client_of_another_version_is_told() -> None:
    """Where no version fits, the refusal names both sides'."""
    with pytest.raises(GatewayUnreachable, match=rf"version {VERSION} .*\[2, 3\]"):
        gateway_side().receive(hello_with(versions=[2, 3]))


def test_a_client_that_also_speaks_later_versions_is_welcome() -> None:
    """A client may offer several versions; one that fits is enough."""
    assert isinstance(gateway_side().receive(hello_with(versions=[9, VERSION])), bytes)


def test_a_gateway_that_answers_in_another_version_breaks_the_rules() -> None:
    """A Welcome in a version that was not offered is refused."""
    client = client_side()
    challenged(client, gateway_side())
    frame = decode_greeting(greeting()[0])
    assert isinstance(frame, Welcome)
    frame.version = VERSION + 1
    with pytest.raises(RemoteProtocolError, match=f"version {VERSION + 1}"):
        client.receive(encode(frame), 0.0)


def test_an_unknown_login_method_is_refused() -> None:
    """A method that the gateway does not know is named in the refusal."""
    with pytest.raises(PermissionDenied, match="'kerberos'"):
        gateway_side().receive(hello_with(method="kerberos"))


def test_a_short_random_number_is_refused() -> None:
    """A client must bring as much randomness as the gateway does."""
    with pytest.raises(RemoteProtocolError, match="too short"):
        gateway_side().receive(hello_with(nonce=b"c" * (NONCE_BYTES - 1)))


def test_unknown_features_are_ignored() -> None:
    """A later client's features do not keep it out."""
    message = hello_with(features=["progress", "teleport"], extensions={"later": 1})
    assert isinstance(gateway_side().receive(message), bytes)


@given(data=st.binary(max_size=100))
def test_garbage_is_the_peers_mistake(data: bytes) -> None:
    """Bytes that are no frame of the handshake raise RemoteProtocolError, on either side."""
    for receive in (gateway_side().receive, lambda data: client_side().receive(data, 0.0)):
        with pytest.raises((RemoteProtocolError, RequestError)):
            receive(data)


def test_frames_of_a_session_are_no_greeting() -> None:
    """Before the login nothing but the login can be said."""
    message = encode(Batch(0.0, [Ping()]))
    with pytest.raises(RemoteProtocolError):
        gateway_side().receive(message)
    with pytest.raises(RemoteProtocolError):
        client_side().receive(message, 0.0)
