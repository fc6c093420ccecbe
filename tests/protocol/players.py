"""Plays the scripts of the session vectors with Headgate's own ends of a session."""

from __future__ import annotations

from typing import Any

from described import KINDS, form, made, shared

from headgate import exchange
from headgate.errors import RemoteProtocolError, RequestError
from headgate.request import Request
from headgate.wire import frames
from headgate.wire.codec import decode, encode
from headgate.wire.handshake import OVER_TLS, Claim, ClientHandshake, Ticket
from headgate.wire.session import Session, State


def check(found: list[Any], described: list[dict[str, Any]]) -> None:
    """Check that frames are those of a description, in all that it names."""
    assert [type(frame).__name__ for frame in found] == [
        KINDS[description["frame"]].__name__ for description in described
    ]
    assert list(map(shared, found, described)) == described


def payload_of(step: dict[str, Any]) -> bytes:
    """The payload that a step sends: its bytes, or a text of so many characters."""
    return encode("x" * step["text"]) if "text" in step else bytes.fromhex(step["payload"])


def tag_and_number(frame: Any) -> tuple[int, int]:
    """What chunks call a frame by."""
    return type(frame).__struct_config__.tag, getattr(frame, "id", 0)


class Player:
    """Plays one step after the other: each is a method by the step's first key."""

    def step(self, step: dict[str, Any]) -> None:
        """Play a step of a script."""
        getattr(self, f"on_{next(iter(step))}")(step)

    def on_do(self, step: dict[str, Any]) -> None:
        """The application does something."""
        getattr(self, step["do"])(step)


def claim_of(script: dict[str, Any]) -> Claim:
    """What a client of a script logs in with; without TLS the gateway proves the token first."""
    token, description = bytes.fromhex(script["token"]), script.get("claim")
    if description is None:
        return Claim.local(token)
    if description["method"] == "ticket":
        blob, key = bytes.fromhex(description["ticket"]), bytes.fromhex(description["ticket_key"])
        return Claim.of_ticket(Ticket(blob, key, 60.0))
    secret = description.get("password", description.get("token", "")).encode()
    key = None if script["address"] == OVER_TLS else token
    return Claim(description["method"], key, description.get("user", ""), secret)


class Login(Player):
    """The client's side of a login."""

    def __init__(self, script: dict[str, Any]) -> None:
        self._client = ClientHandshake(
            claim_of(script),
            address=script["address"],
            nonce=bytes.fromhex(script["client_nonce"]),
        )
        self._sent = [self._client.hello()]
        self._session: Session | None = None
        self._error: Exception | None = None

    def on_in(self, step: dict[str, Any]) -> None:
        try:
            answer = self._client.receive(bytes.fromhex(step["in"]), 0.0)
        except (RequestError, RemoteProtocolError) as error:
            self._error = error
            return
        if isinstance(answer, Session):
            self._session = answer
        else:
            self._sent.append(answer)

    def on_out(self, step: dict[str, Any]) -> None:
        found = [frames.decode_greeting(message) for message in self._sent]
        check(found, step["out"])
        self._sent.clear()

    def on_open(self, step: dict[str, Any]) -> None:
        welcome = self._client.welcome
        assert self._session is not None
        assert welcome is not None
        assert shared(welcome, step["open"]) == step["open"]

    def on_ticket(self, step: dict[str, Any]) -> None:
        """What the gateway gave for the next login, with its key; nil if it gave none."""
        found = self._client.ticket
        shown = found and {"blob": found.blob.hex(), "key": found.key.hex(), "s": found.seconds}
        assert shown == step["ticket"]

    def on_refused(self, step: dict[str, Any]) -> None:
        assert self._error is not None
        assert self._sent == []
        if step["refused"] is not None:
            assert isinstance(self._error, RequestError)
            assert self._error.code == step["refused"]


class End(Player):
    """One end of an open session, whose clock stands still until a step waits."""

    session: Session

    def __init__(self) -> None:
        self.now = 100.0
        self.closed: int | None = None
        self._sent: list[Any] = []

    def on_in(self, step: dict[str, Any]) -> None:
        try:
            events = self.session.receive(bytes.fromhex(step["in"]), self.now)
        except RemoteProtocolError:
            self.close_with(1002)
            return
        self.take(events)
        if self.session.state is State.CLOSING:
            self.close_with(1000)

    def take(self, events: list[Any]) -> None:
        raise NotImplementedError

    def close_with(self, code: int) -> None:
        self.closed = code

    def on_out(self, step: dict[str, Any]) -> None:
        found: list[Any] = []
        while data := self.session.data_to_send(self.now):
            found += frames.decode_batch(data).frames
        check(found, step["out"])

    def on_sends(self, step: dict[str, Any]) -> None:
        """A large payload leaves in parts; what belongs to others is kept for them."""
        while data := self.session.data_to_send(self.now):
            self._sent += frames.decode_batch(data).frames
        key = (step["of"], step["sends"])
        [first] = [frame for frame in self._sent if tag_and_number(frame) == key]
        parts = [f.data for f in self._sent if isinstance(f, frames.Chunk) and (f.of, f.id) == key]
        whole = b"".join([first.payload, *map(bytes, parts)])
        assert first.size == len(whole)
        assert decode(whole) == "x" * step["text"]

    def on_closes(self, step: dict[str, Any]) -> None:
        assert self.closed == step["closes"]


class Client(End):
    """A client's end with its handles."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(now=self.now, id="2a17c9e300000500000c")
        self._requests: list[Request] = []
        self._progress: dict[int, list[Any]] = {}

    # What a handle needs of its client.

    def decode(self, data: bytes) -> Any:
        return decode(data)

    def invoke(self, function: Any) -> None:
        function()

    def withdraw(self, request: Request) -> None:
        exchange.cancel(self.session, request, self.now)

    def grant(self, request: Request, total: int) -> None:
        exchange.grant(self.session, request, total)

    # What the session says.

    def take(self, events: list[Any]) -> None:
        exchange.take(events)

    def close_with(self, code: int) -> None:
        super().close_with(code)
        exchange.lose(self.session, "The session is over")

    # Steps.

    def call(self, step: dict[str, Any]) -> None:
        values: list[Any] = []
        deadline = self.now + step.get("timeout", 60)
        request = Request(self, step["project"], step["handler"], deadline)
        request._progress_slot = values.append
        payload = payload_of(step)
        call = frames.Call(0, step["project"], step["handler"], payload, 0)
        exchange.send(self.session, request, call)
        self._requests.append(request)
        self._progress[len(self._requests)] = values

    def cancel(self, step: dict[str, Any]) -> None:
        self._request(step["id"]).cancel()

    def close(self, step: dict[str, Any]) -> None:
        self.session.bye()
        self.closed = 1000

    def _request(self, number: int) -> Request:
        return self._requests[number - 1]

    def on_ends(self, step: dict[str, Any]) -> None:
        request = self._request(step["ends"])
        assert request.done
        if "code" not in step:
            assert form(request.get()) == form(made(step["result"]))
            return
        error = request.getError()
        assert error is not None
        assert error.code in (step["code"], step.get("or"))
        assert error.started is step["started"]

    def on_progress(self, step: dict[str, Any]) -> None:
        found = self._progress[step["progress"]]
        assert list(map(form, found)) == [form(made(value)) for value in step["values"]]

    def on_fate(self, step: dict[str, Any]) -> None:
        assert self._request(step["fate"]).fate == step["is"]

    def on_wait(self, step: dict[str, Any]) -> None:
        self.now += step["wait"]
        self.take(self.session.tick(self.now))


class Gateway(End):
    """A gateway's end, whose handlers are the script."""

    def __init__(self, script: dict[str, Any]) -> None:
        super().__init__()
        self.session = Session(now=self.now, connecting=False)
        self._called: list[Any] = []
        self._cancelled: list[int] = []

    def take(self, events: list[Any]) -> None:
        for frame, _, _ in events:
            if isinstance(frame, frames.Call):
                self._called.append(frame)
                self.session.serve(frame.id, "its handler")
            elif isinstance(frame, frames.Cancel):
                self._cancelled.append(frame.id)

    def on_called(self, step: dict[str, Any]) -> None:
        call = self._called.pop(0)
        found = (call.id, call.project, call.handler, call.payload.hex())
        assert found == (step["called"], step["project"], step["handler"], step["payload"])

    def on_cancelled(self, step: dict[str, Any]) -> None:
        assert self._cancelled.pop(0) == step["cancelled"]

    def result(self, step: dict[str, Any]) -> None:
        payload = encode("x" * step["text"]) if "text" in step else encode(made(step["value"]))
        self.session.result(step["id"], payload)

    def fault(self, step: dict[str, Any]) -> None:
        self.session.fault(
            step["id"], step["code"], step["message"], started=step["started"], details={}
        )

    def started(self, step: dict[str, Any]) -> None:
        self.session.started(step["id"])

    def progress(self, step: dict[str, Any]) -> None:
        self.session.progress(step["id"], encode(made(step["value"])))

    def on_out(self, step: dict[str, Any]) -> None:
        super().on_out(step)
        assert self._called == [], "a call that the script does not know of"
