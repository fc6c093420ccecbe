"""The login: each side proves that it knows the owner's token, before anything else is possible."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
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
    Hello,
    Ping,
    Proof,
    Refuse,
    Welcome,
    decode_greeting,
    encode,
)
from headgate.wire.handshake import (
    KEY_BYTES,
    MAX_GREETING,
    MAX_SECRET,
    METHODS,
    NONCE_BYTES,
    OVER_TLS,
    SECRET_METHODS,
    VERSION,
    Claim,
    ClientHandshake,
    Credentials,
    GatewayHandshake,
    Ticket,
    refusal,
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


SECRET = "correct horse ö"
TICKET = Ticket(b"blob", b"k" * KEY_BYTES, 60.0)
CLAIMS = {
    "local": Claim.local(TOKEN),
    "password": Claim("password", TOKEN, "ada", SECRET.encode()),
    "token": Claim("token", TOKEN, secret=SECRET.encode()),
    "certificate": Claim("certificate"),
    "anonymous": Claim("anonymous", TOKEN),
    "ticket": Claim.of_ticket(TICKET),
}
methods = pytest.mark.parametrize("method", METHODS)
keyed = pytest.mark.parametrize("method", ["local", "ticket"])
secret = pytest.mark.parametrize("method", sorted(SECRET_METHODS))


def key_of(hello: Hello) -> bytes | None:
    """The keys of a gateway that knows one ticket."""
    if hello.method != "ticket":
        return TOKEN
    return TICKET.key if hello.extensions["ticket"] == TICKET.blob else None


def client_of(method: str, *, address: str = ADDRESS, nonce: bytes = b"c") -> ClientHandshake:
    return ClientHandshake(CLAIMS[method], address=address, nonce=nonce * NONCE_BYTES)


def gateway_of(
    *, address: str = ADDRESS, nonce: bytes = b"g", private: bool = True
) -> GatewayHandshake:
    return GatewayHandshake(key=key_of, address=address, nonce=nonce * NONCE_BYTES, private=private)


def claiming(claim: Claim, **options: Any) -> bytes:
    """The Hello of a claim."""
    return ClientHandshake(claim, address=OVER_TLS, nonce=b"c" * NONCE_BYTES, **options).hello()


@methods
def test_each_method_shows_what_it_must(method: str) -> None:
    """The gateway gets method, user and secret; keys of proofs are never sent."""
    client, gateway = client_of(method), gateway_of()
    proof = challenged(client, gateway)
    credentials = gateway.receive(proof)
    assert isinstance(credentials, Credentials)
    assert credentials.method == method
    assert credentials.user == ("ada" if method == "password" else "")
    assert credentials.secret == (SECRET if method in SECRET_METHODS else "")
    assert credentials.ticket == (b"blob" if method == "ticket" else b"")
    for message in (client.hello(), proof):
        assert len(message) <= MAX_GREETING
        assert TOKEN not in message
        assert TICKET.key not in message


@methods
def test_a_hello_holds_no_secret(method: str) -> None:
    """Before the gateway has proven itself nothing secret is sent."""
    hello = client_of(method).hello()
    assert SECRET.encode() not in hello


@pytest.mark.parametrize("method", ["local", "password", "token", "anonymous", "ticket"])
@pytest.mark.parametrize("wrong", ["another key", "another address", "an old challenge"])
def test_a_squatter_gets_no_proof(method: str, wrong: str) -> None:
    """Without the key, at another address or with an old Challenge, it gets nothing."""
    address = "127.0.0.1:9" if wrong == "another address" else ADDRESS
    key = (lambda hello: b"x" * 32) if wrong == "another key" else key_of
    squatter = GatewayHandshake(key=key, address=address, nonce=b"g" * NONCE_BYTES)
    old = wrong == "an old challenge"
    challenge = squatter.receive(client_of(method, nonce=b"o" if old else b"c").hello())
    assert isinstance(challenge, bytes)
    client = client_of(method)
    with pytest.raises(PermissionDenied, match="does not know"):
        client.receive(challenge, 0.0)
    with pytest.raises(RemoteProtocolError):
        client.receive(challenge, 0.0)


@secret
def test_a_secret_needs_a_gateway_that_is_known(method: str) -> None:
    """Without TLS and without a key to prove there is not even a handshake."""
    claim = Claim(CLAIMS[method].method, None, "ada", SECRET.encode())
    with pytest.raises(PermissionDenied, match="wss://") as caught:
        ClientHandshake(claim, address=ADDRESS, nonce=b"c" * NONCE_BYTES)
    assert SECRET not in str(caught.value)
    ClientHandshake(claim, address=OVER_TLS, nonce=b"c" * NONCE_BYTES)


@secret
def test_a_secret_is_refused_where_others_can_read_it(method: str) -> None:
    """Over a connection that is not private the gateway refuses before the secret is sent."""
    with pytest.raises(PermissionDenied, match="wss://"):
        gateway_of(private=False).receive(client_of(method).hello())


@pytest.mark.parametrize("method", ["local", "certificate", "anonymous", "ticket"])
def test_what_sends_no_secret_goes_anywhere(method: str) -> None:
    """The other methods send nothing that others must not read."""
    assert isinstance(gateway_of(private=False).receive(client_of(method).hello()), bytes)


def test_over_tls_the_certificate_is_enough() -> None:
    """There a password is sent without a proof of the local token, which need not be here."""
    claim = Claim("password", None, "ada", SECRET.encode())
    client = ClientHandshake(claim, address=OVER_TLS, nonce=b"c" * NONCE_BYTES)
    gateway = gateway_of(address=OVER_TLS)
    credentials = gateway.receive(challenged(client, gateway))
    assert isinstance(credentials, Credentials)
    assert credentials.secret == SECRET


@keyed
@pytest.mark.parametrize("change", ["nonces", "address", "side", "key"])
def test_a_proof_is_of_one_meeting(method: str, change: str) -> None:
    """A proof serves for its own random numbers, address, side and key alone."""
    client, gateway = client_of(method), gateway_of()
    challenge = gateway.receive(client.hello())
    assert isinstance(challenge, bytes)
    proof = client.receive(challenge, 0.0)
    assert isinstance(proof, bytes)
    other = gateway_of()
    if change == "nonces":
        other = gateway_of(nonce=b"2")
    elif change == "address":
        other = gateway_of(address="127.0.0.1:9")
    elif change == "side":
        frame = decode_greeting(challenge)
        assert isinstance(frame, Challenge)
        proof = encode(Proof(frame.proof))
    else:
        other = GatewayHandshake(
            key=lambda hello: b"y" * 32, address=ADDRESS, nonce=b"g" * NONCE_BYTES
        )
    other.receive(client.hello())
    with pytest.raises(PermissionDenied) as caught:
        other.receive(proof)
    assert str(caught.value) == refusal(method)


@keyed
@given(proof=st.binary(max_size=64), nonce=st.binary(min_size=32, max_size=64))
@example(proof=b"", nonce=b"c" * 32)
def test_no_proof_is_guessed(method: str, proof: bytes, nonce: bytes) -> None:
    """Whatever is sent without the key is a wrong proof."""
    gateway = gateway_of()
    gateway.receive(ClientHandshake(CLAIMS[method], address=ADDRESS, nonce=nonce).hello())
    with pytest.raises(PermissionDenied):
        gateway.receive(encode(Proof(proof)))


def test_a_ticket_that_is_not_known_is_refused_at_once() -> None:
    """A forged ticket gets no Challenge, and is told no more than any other."""
    forged = Claim.of_ticket(Ticket(b"forged", TICKET.key, 60.0))
    gateway = gateway_of(address=OVER_TLS)
    with pytest.raises(PermissionDenied) as caught:
        gateway.receive(claiming(forged))
    assert str(caught.value) == refusal("ticket")
    with pytest.raises(RemoteProtocolError):
        gateway.receive(encode(Proof(b"")))


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ("password", {}),
        ("password", {"user": 1}),
        ("password", {"user": None}),
        ("ticket", {}),
        ("ticket", {"ticket": "text"}),
        ("ticket", {"ticket": [b"x"]}),
    ],
)
def test_a_hello_without_its_user_or_ticket_breaks_the_rules(
    method: str, shown: dict[str, Any]
) -> None:
    """What a method needs must be there, of its type."""
    with pytest.raises(RemoteProtocolError):
        gateway_of().receive(hello_with(method=method, extensions=shown))


@secret
@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"x" * (MAX_SECRET + 1), b"x" * 4000])
def test_a_secret_that_cannot_be_one_is_a_wrong_one(method: str, data: bytes) -> None:
    """Nothing, no text, or too much of it is told what a wrong one is told."""
    gateway = gateway_of()
    gateway.receive(client_of(method).hello())
    with pytest.raises(PermissionDenied) as caught:
        gateway.receive(encode(Proof(data)))
    assert str(caught.value) == refusal(method)


FRAMES = st.one_of(
    st.builds(
        Hello,
        versions=st.sampled_from([[1], [2], [1, 2], []]),
        features=st.just([]),
        method=st.sampled_from([*METHODS, "", "kerberos"]),
        nonce=st.binary(min_size=30, max_size=34),
        extensions=st.dictionaries(
            st.sampled_from(["user", "ticket", "later"]),
            st.sampled_from(["ada", b"blob", b"", None, 7]),
        ),
    ),
    st.builds(Challenge, nonce=st.binary(max_size=34), proof=st.binary(max_size=34)),
    st.builds(Proof, proof=st.binary(max_size=40)),
    st.just(decode_greeting(greeting()[0])),
    st.builds(Refuse, code=st.sampled_from(["denied", "overloaded", "?"]), message=st.just("no")),
)
MESSAGES = st.one_of(FRAMES.map(encode), st.binary(max_size=60))


@given(messages=st.lists(MESSAGES, max_size=6), private=st.booleans())
def test_whatever_comes_the_gateway_lets_nobody_in(messages: list[bytes], private: bool) -> None:
    """
    Any frames in any order: at most one Challenge, then at most one end.

    No keyed method comes to credentials, since nobody here knows a key, and nothing follows an end.
    """
    gateway, said, over = gateway_of(private=private), [], False
    for message in messages:
        try:
            answer = gateway.receive(message)
        except (RequestError, RemoteProtocolError):
            over = over or decodes(message)
            continue
        assert not over
        said.append(answer)
        over = isinstance(answer, Credentials)
    assert [type(answer) for answer in said] in ([], [bytes], [bytes, Credentials])
    if len(said) == 2 and isinstance(said[1], Credentials):
        assert said[1].method not in ("local", "ticket")
        assert private or said[1].method not in SECRET_METHODS


@given(messages=st.lists(MESSAGES, max_size=6), method=st.sampled_from(METHODS))
def test_whatever_comes_the_client_tells_nothing(messages: list[bytes], method: str) -> None:
    """Any frames in any order from who knows no key: no proof, no secret, no session."""
    client = client_of(method)
    for message in messages:
        try:
            answer = client.receive(message, 0.0)
        except (RequestError, RemoteProtocolError):
            continue
        # Whoever asks for a certificate needs no proof: TLS has shown who it is.
        assert method == "certificate"
        assert isinstance(answer, Session) or answer == encode(Proof(b""))


def decodes(message: bytes) -> bool:
    """Whether a message is a frame of the handshake."""
    try:
        decode_greeting(message)
    except RemoteProtocolError:
        return False
    return True


def welcomed(**extensions: Any) -> ClientHandshake:
    """A client that got a Welcome with these extensions."""
    client, gateway = client_of("password"), gateway_of()
    challenged(client, gateway)
    frame = decode_greeting(greeting()[0])
    assert isinstance(frame, Welcome)
    frame.extensions = extensions
    assert isinstance(client.receive(encode(frame), 0.0), Session)
    return client


def test_a_welcome_brings_a_ticket() -> None:
    """What the gateway gives is what the client has for the next login, and shows nobody."""
    client, gateway = client_of("password"), gateway_of()
    challenged(client, gateway)
    message, _ = welcome(
        5.0,
        session=SESSION,
        gateway="hub",
        user="ada",
        credit=Credit(),
        max_message=1000,
        ticket=TICKET,
    )
    client.receive(message, 0.0)
    assert client.ticket == TICKET
    assert client.welcome is not None
    assert "ticket" not in repr(client.welcome)


def test_a_ticket_that_is_too_large_is_not_given() -> None:
    """A Welcome stays within the size of a greeting."""
    message, _ = welcome(
        5.0,
        session=SESSION,
        gateway="hub",
        user="ada",
        credit=Credit(),
        max_message=1000,
        ticket=Ticket(b"x" * (MAX_SECRET + 1), b"k" * KEY_BYTES, 1.0),
    )
    assert len(message) < 200


@pytest.mark.parametrize(
    "change",
    [
        {"ticket": ""},
        {"ticket": b""},
        {"ticket": b"x" * (MAX_SECRET + 1)},
        {"ticket_key": b"short"},
        {"ticket_key": None},
        {"ticket_seconds": 0},
        {"ticket_seconds": float("inf")},
        {"ticket_seconds": float("nan")},
        {"ticket_seconds": "60"},
    ],
)
def test_a_ticket_that_is_malformed_is_none(change: dict[str, Any]) -> None:
    """The session opens all the same; the next login takes the full credentials."""
    good = {"ticket": b"blob", "ticket_key": b"k" * KEY_BYTES, "ticket_seconds": 60}
    assert welcomed(**good).ticket == TICKET
    assert welcomed(**good | change).ticket is None
    assert welcomed().ticket is None


def test_a_refusal_says_when_to_come_again() -> None:
    """The seconds of Overloaded travel with it."""
    with pytest.raises(Overloaded) as caught:
        client_side().receive(refuse(Overloaded("later", retry_after=1.5)), 0.0)
    assert caught.value.retry_after == 1.5


def test_nothing_shows_a_secret() -> None:
    """Neither what stands for a login nor its frames show a password, key or ticket as text."""
    gateway = gateway_of()
    credentials = gateway.receive(challenged(client_of("password"), gateway))
    shown = [*CLAIMS.values(), TICKET, credentials, Proof(SECRET.encode())]
    text = " ".join(map(repr, shown))
    for hidden in ("correct horse", "kkkk", "tttt", "blob"):
        assert hidden not in text
