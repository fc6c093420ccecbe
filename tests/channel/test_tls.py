"""TLS on the gateway's port: who is trusted, what is refused, and that renewal disturbs nobody."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.channel import listener
from headgate.channel.local import certificate_of_port, publish_port
from headgate.errors import ConfigurationError, GatewayUnreachable, PermissionDenied
from headgate.gateway import port
from headgate.gateway.config import Http, Settings, Tls
from headgate.gateway.limits import Limits
from headgate.security import certificates
from headgate.security.audit import Record
from headgate.security.certificates import Certificate, Folder, names_of_this_machine

if TYPE_CHECKING:
    from conftest import Records, Rig


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Certificates of an authority that nobody here trusts."""
    folder = Folder(tmp_path_factory.mktemp("foreign"))
    folder.init([])
    folder.client(folder.path / "ann.pem", user="ann")
    return folder


@pytest.fixture
def folder(rig: Rig) -> Folder:
    """The certificates of the gateway "hub"."""
    folder = Folder(rig.folder / "hub" / "data" / "tls")
    folder.init(["hub.plant.example"])
    return folder


def serve(
    rig: Rig,
    folder: Folder,
    records: Records | None = None,
    *,
    http: Http | None = None,
    **tls: Any,
) -> headgate.Gateway:
    """Start the gateway "hub" with TLS on loopback."""
    chosen = {"certificate": folder.server, "key": folder.server_key, **tls}
    settings = Settings(tls=Tls(**chosen), http=http or Http())
    return rig.gateway(
        {"ACME/echo": rig.ECHO, "ACME/hold": rig.HOLD}, config=settings, recorder=records
    )


@pytest.fixture
def hub(rig: Rig, folder: Folder, records: Records) -> headgate.Gateway:
    """A gateway with TLS."""
    settings = Settings(tls=Tls(certificate=folder.server, key=folder.server_key))
    return rig.gateway({"ACME/echo": rig.ECHO}, config=settings, recorder=records)


def echo(url: str, **options: Any) -> Any:
    """Connect, and call the handler that answers with its payload."""
    with headgate.connect(url, **options) as client:
        return client.request("ACME", "echo", 1, timeout=10).get()


def refusal(url: str, **options: Any) -> str:
    """Fail to connect, and return the error's text."""
    with pytest.raises(GatewayUnreachable) as caught:
        headgate.connect(url, **options)
    text = str(caught.value)
    assert "no answer within" not in text
    return text


@contextmanager
def shaken(hub: headgate.Gateway, folder: Folder, **options: Any) -> Iterator[ssl.SSLSocket]:
    """Make a TLS connection by hand."""
    context = ssl.create_default_context(cafile=folder.authority)
    for name, value in options.items():
        setattr(context, name, value)
    with (
        socket.create_connection(("127.0.0.1", hub.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as peer,
    ):
        yield peer


def get(hub: headgate.Gateway, folder: Folder, host: str, origin: str = "") -> int:
    """GET /health with these headers, and return the status."""
    head = f"GET /health HTTP/1.1\r\nHost: {host}\r\n" + (f"Origin: {origin}\r\n" if origin else "")
    with shaken(hub, folder) as peer:
        peer.sendall(f"{head}\r\n".encode())
        return int(peer.recv(65536).split()[1])


class TestConnections:
    def test_the_url_says_so(self, hub: headgate.Gateway, folder: Folder) -> None:
        """A gateway with TLS has a wss:// URL, and serves there."""
        assert hub.url == f"wss://127.0.0.1:{hub.port}"
        for host in ("localhost", "127.0.0.1"):
            assert echo(f"wss://{host}:{hub.port}", ca=folder.authority) == 1

    def test_the_owner_needs_nothing(self, hub: headgate.Gateway) -> None:
        """On the gateway's own machine neither ca= nor wss:// is needed by its user."""
        assert echo(f"ws://127.0.0.1:{hub.port}") == 1
        assert echo(hub.url) == 1

    async def test_on_asyncios_own_loop(self, rig: Rig, folder: Folder) -> None:
        """Gateway and client both speak TLS on a loop that is not uvloop's."""
        settings = Settings(tls=Tls(certificate=folder.server, key=folder.server_key))
        hub = headgate.Gateway(
            "hub",
            projects=rig.projects({"ACME/echo": rig.ECHO}),
            port=0,
            data=rig.folder / "hub" / "data",
            config=settings,
        )
        async with hub, headgate.connect(hub.url, ca=folder.authority) as client:
            assert "uvloop" not in type(asyncio.get_running_loop()).__module__
            big = "x" * 3_000_000
            requests = [client.request("ACME", "echo", n) for n in range(500)]
            assert await client.request("ACME", "echo", big) == big
            assert await asyncio.gather(*requests) == list(range(500))

    def test_much_at_once(self, rig: Rig, hub: headgate.Gateway) -> None:
        """Large payloads and many requests pass as they do without TLS."""
        client = rig.client(hub)
        big = os.urandom(8_000_000)
        large = client.request("ACME", "echo", big, timeout=30)
        requests = [client.request("ACME", "echo", n) for n in range(2000)]
        assert [request.get() for request in requests] == list(range(2000))
        assert large.get() == big

    @pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_what_is_spoken(
        self, hub: headgate.Gateway, folder: Folder, newest: ssl.TLSVersion
    ) -> None:
        """TLS 1.2 and 1.3, with forward secrecy, without compression; ALPN agrees on HTTP/1.1."""
        with shaken(hub, folder, maximum_version=newest) as peer:
            name, version, _ = peer.cipher() or ("", "", 0)
            assert version == newest.name.replace("_", ".")
            assert name.startswith(("ECDHE-", "TLS_"))
            assert peer.compression() is None
        context = ssl.create_default_context(cafile=folder.authority)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", hub.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as peer,
        ):
            assert peer.selected_alpn_protocol() == "http/1.1"

    def test_tls_1_1_is_refused(
        self, rig: Rig, hub: headgate.Gateway, folder: Folder, records: Records
    ) -> None:
        """The least is 1.2, and who speaks less is recorded."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(folder.authority)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", hub.port), timeout=10) as plain,
            pytest.raises((ssl.SSLError, ConnectionResetError)),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
        rig.until(lambda: records.told("refused", "unsupported protocol"))

    def test_pages(self, hub: headgate.Gateway, folder: Folder) -> None:
        """Plain HTTP requests work over TLS, too."""
        assert get(hub, folder, "localhost") == 200


class TestErrors:
    def test_an_unknown_authority(
        self, hub: headgate.Gateway, foreign: Folder, headgate_home: Path
    ) -> None:
        """The error names ca= and where the gateway's authority stands."""
        text = refusal(hub.url, ca=foreign.authority)
        assert f"{foreign.authority} does not know" in text
        assert "ca=PATH" in text
        assert "headgate cert init" in text
        publish_port(hub.port, hub.data)
        assert "this machine does not trust" in refusal(hub.url)

    def test_a_wrong_name(self, rig: Rig, foreign: Folder, headgate_home: Path) -> None:
        """The error lists the names that the certificate has."""
        folder = Folder(rig.folder / "hub" / "data" / "tls")
        folder.init(["hub.plant.example"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                certificates,
                "_server_names",
                lambda names: [certificates._general_name(name) for name in names],
            )
            folder.renew(["hub.plant.example", "10.1.2.3"])
        hub = serve(rig, folder)
        text = refusal(f"wss://localhost:{hub.port}", ca=folder.authority)
        assert "not for 'localhost', but for hub.plant.example, 10.1.2.3" in text
        assert f"wss://hub.plant.example:{hub.port}" in text
        # The owner on this machine needs none of its names.
        assert echo(f"ws://127.0.0.1:{hub.port}") == 1

    def test_an_expired_certificate(
        self, rig: Rig, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error says that it has expired, and the cure; the gateway's log did before."""
        monkeypatch.setattr(certificates, "CLOCK_SLACK", timedelta(days=398))
        folder.renew()
        hub = serve(rig, folder)
        text = refusal(hub.url, ca=folder.authority)
        assert "expired" in text
        assert "headgate cert renew" in text

    def test_tls_to_a_port_without(self, rig: Rig, folder: Folder, records: Records) -> None:
        """wss:// to a plain port says to write ws://, and the gateway records it."""
        hub = rig.gateway({}, recorder=records)
        text = refusal(f"wss://127.0.0.1:{hub.port}", ca=folder.authority)
        assert "speaks no TLS" in text
        assert "write ws://" in text
        assert records.told("refused", "it speaks TLS")

    def test_no_tls_to_a_port_with_it(
        self, hub: headgate.Gateway, headgate_home: Path, records: Records
    ) -> None:
        """ws:// to a port with TLS says to write wss://; so may old pointers lead here."""
        publish_port(hub.port, hub.data)
        assert "write wss://" in refusal(f"ws://127.0.0.1:{hub.port}")
        assert records.told("refused", "it does not speak TLS")

    def test_the_certificate_of_another(
        self, hub: headgate.Gateway, foreign: Folder, headgate_home: Path
    ) -> None:
        """A program that took the port of this user's gateway does not pass for it."""
        publish_port(hub.port, hub.data, certificate=foreign.server)
        assert "does not show the certificate" in refusal(f"ws://127.0.0.1:{hub.port}")

    def test_what_only_tls_has(self, folder: Folder) -> None:
        """ca= and certificate= with ws:// are a mistake that is named."""
        for options in ({"ca": folder.authority}, {"certificate": folder.server}):
            with pytest.raises(ConfigurationError, match=r"Write wss://10\.1\.2\.3:8188"):
                headgate.connect("ws://10.1.2.3", **options)

    @pytest.mark.parametrize("name", ["ca", "certificate"])
    def test_files_that_are_none(self, hub: headgate.Gateway, rig: Rig, name: str) -> None:
        """A file that is missing, or no PEM, is named."""
        file = rig.folder / "file.pem"
        for text in (None, "", "no PEM"):
            if text is not None:
                file.write_text(text)
            with pytest.raises(ConfigurationError, match=r"file\.pem"):
                headgate.connect(hub.url, **{name: file})

    def test_silence(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        """A port that never answers is given up, like one without TLS."""
        monkeypatch.setattr("headgate.channel.client.HANDSHAKE_SECONDS", 0.1)
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            url = f"wss://127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(GatewayUnreachable):
                headgate.connect(url, ca=folder.authority)


class TestSlowness:
    @pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
    def test_it_is_cut(
        self,
        rig: Rig,
        hub: headgate.Gateway,
        records: Records,
        monkeypatch: pytest.MonkeyPatch,
        sent: bytes,
    ) -> None:
        """A handshake that does not begin, or stops, ends the connection; others go on."""
        monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.2)
        waiting = [socket.create_connection(("127.0.0.1", hub.port)) for _ in range(50)]
        for peer in waiting:
            peer.sendall(sent)
        assert echo(hub.url) == 1
        for peer in waiting:
            peer.settimeout(10)
            with closing(peer):
                try:
                    assert peer.recv(100) == b""
                except ConnectionResetError:
                    pass
        rig.until(lambda: records.told("refused", "TLS handshake"))
        assert echo(hub.url) == 1

    def test_a_byte_at_a_time_is_cut(
        self, rig: Rig, hub: headgate.Gateway, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Signs of life do not prolong a handshake."""
        monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.2)
        with closing(socket.create_connection(("127.0.0.1", hub.port))) as peer:
            peer.sendall(b"\x16\x03\x01\x02\x00")

            def cut() -> bool:
                try:
                    peer.sendall(b"\x01")
                except OSError:
                    return True
                return False

            rig.until(cut)
        rig.until(lambda: records.told("refused", "took more than"))

    @pytest.mark.parametrize(("limit", "most"), [(3, 3), (0, 8)])
    def test_one_address_does_not_take_all(
        self, rig: Rig, hub: headgate.Gateway, limit: int, most: int
    ) -> None:
        """A handshake counts for the limits of now, of which 0 is none; what is more is cut."""
        hub.call(lambda: hub._reception.limiter.apply(Limits(connections_per_address=limit)))
        rig.until(lambda: hub._reception.limiter.limits.connections_per_address == limit)
        waiting = [socket.create_connection(("127.0.0.1", hub.port)) for _ in range(8)]
        rig.until(lambda: hub.counters()["connections_per_address"] == 8 - most)
        rig.until(lambda: hub.stats()["connecting"] == most)
        for peer in waiting:
            peer.close()
        rig.until(lambda: hub.stats()["connecting"] == 0)
        assert echo(hub.url) == 1

    def test_a_look_is_no_offence(self, rig: Rig, hub: headgate.Gateway, records: Records) -> None:
        """Who connects and leaves without a word is not recorded."""
        for _ in range(3):
            socket.create_connection(("127.0.0.1", hub.port)).close()
        assert echo(hub.url) == 1
        assert not records.told("refused", "")


class TestClientCertificates:
    def shown(self, hub: headgate.Gateway) -> list[Certificate | None]:
        """The certificates that the gateway's sessions came with."""
        found = []
        for session in hub._reception.sessions.on_this_node():
            transport = session._channel.transport
            assert transport is not None
            der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            found.append(Certificate.of_der(der) if der else None)
        return found

    def is_anns(self, hub: headgate.Gateway) -> int:
        """Say that certificates for the user ann are ann's, and return the number of that."""
        with headgate.connect(f"ws://127.0.0.1:{hub.port}") as owner:
            user = {"name": "ann", "roles": ["owner"], "hosts": [], "password": None}
            owner.request("@gateway", "user_add", user).get()
            mark = {
                "user": "ann",
                "certificate": None,
                "spki": None,
                "san": "uri:headgate:user:ann",
            }
            number: int = owner.request("@gateway", "certificate_add", mark).get()["id"]
        return number

    def test_one_that_is_taken_back(self, rig: Rig, folder: Folder) -> None:
        """What is nobody's any more ends its session, and opens no other."""
        file = folder.path / "clients" / "ann.pem"
        folder.client(file, user="ann")
        hub = serve(rig, folder)
        number = self.is_anns(hub)
        with headgate.connect(hub.url, ca=folder.authority, certificate=file) as client:
            session = client.session_id
            assert client.request("ACME", "echo", 1).get() == 1
            with headgate.connect(f"ws://127.0.0.1:{hub.port}") as owner:
                owner.request("@gateway", "certificate_remove", {"id": number}).get()
                rig.until(lambda: client.session_id != session)
        with pytest.raises(PermissionDenied, match="this certificate is no user's"):
            headgate.connect(hub.url, ca=folder.authority, certificate=file)

    def test_it_is_asked_for_and_need_not_be_shown(self, rig: Rig, folder: Folder) -> None:
        """By default the authority of `cert init` vouches for clients, and none must show one."""
        file = folder.path / "clients" / "ann.pem"
        folder.client(file, user="ann", hosts=["panel-3"])
        hub = serve(rig, folder)
        self.is_anns(hub)
        rig.until(lambda: not hub.stats()["sessions"])
        with headgate.connect(hub.url, ca=folder.authority, certificate=file) as client:
            assert client.request("ACME", "echo", 1).get() == 1
            (certificate,) = self.shown(hub)
            assert certificate is not None
            assert (certificate.users, certificate.names) == (("ann",), ("panel-3",))
        rig.until(lambda: not hub.stats()["sessions"])
        with headgate.connect(hub.url, ca=folder.authority):
            assert self.shown(hub) == [None]

    def test_key_and_certificate_in_two_files(self, rig: Rig, folder: Folder) -> None:
        """certificate= takes a pair of files."""
        file = folder.path / "clients" / "ann.pem"
        folder.client(file, user="ann")
        key, end, certificate = file.read_text().partition("-----END PRIVATE KEY-----\n")
        pair = (rig.folder / "ann.pem", rig.folder / "ann-key.pem")
        pair[0].write_text(certificate)
        pair[1].write_text(key + end)
        hub = serve(rig, folder)
        self.is_anns(hub)
        assert echo(hub.url, ca=folder.authority, certificate=pair) == 1

    def test_a_foreign_one_is_refused(
        self, rig: Rig, folder: Folder, foreign: Folder, records: Records
    ) -> None:
        """A certificate of another authority opens nothing, and the client is told."""
        hub = serve(rig, folder, records)
        text = refusal(hub.url, ca=folder.authority, certificate=foreign.path / "ann.pem")
        assert "not take this one" in text
        rig.until(lambda: records.told("refused", "unable to get local issuer certificate"))
        assert hub.stats()["sessions"] == 0

    def test_an_expired_one_is_refused(
        self, rig: Rig, folder: Folder, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So is one that has ended."""
        monkeypatch.setattr(certificates, "CLOCK_SLACK", timedelta(days=398))
        folder.client(folder.path / "old.pem", user="ann")
        monkeypatch.undo()
        monkeypatch.setenv("HEADGATE_HOME", str(rig.folder / "headgate-home"))
        hub = serve(rig, folder, records)
        text = refusal(hub.url, ca=folder.authority, certificate=folder.path / "old.pem")
        assert "not take this one" in text
        rig.until(lambda: records.told("refused", "certificate has expired"))

    def test_a_servers_certificate_is_none_of_a_client(
        self, rig: Rig, folder: Folder, records: Records
    ) -> None:
        """What a certificate is for is checked, too."""
        hub = serve(rig, folder, records)
        pair = (folder.server, folder.server_key)
        assert "not take this one" in refusal(hub.url, ca=folder.authority, certificate=pair)
        rig.until(lambda: records.told("refused", "purpose"))

    def test_it_can_be_required(self, rig: Rig, folder: Folder, records: Records) -> None:
        """Then a client of another machine that has none is told what to give; the owner is not."""
        addresses = [name for name in names_of_this_machine() if name[0].isdigit() and "." in name]
        if not addresses:
            pytest.skip("this machine has no address beyond loopback")
        folder.renew(addresses)
        file = folder.path / "clients" / "ann.pem"
        folder.client(file, user="ann")
        settings = Settings(insecure=True, tls=Tls(require_client_certificate=True))
        scripts = {"ACME/echo": rig.ECHO}
        hub = rig.gateway(scripts, config=settings, host=addresses[0], recorder=records)
        assert hub.url == f"wss://{addresses[0]}:{hub.port}"
        self.is_anns(hub)
        assert echo(hub.url, ca=folder.authority, certificate=file) == 1
        text = refusal(hub.url, ca=folder.authority, anonymous=True)
        assert "Show a client certificate" in text
        assert records.told("refused", "Show a client certificate")

    def test_required_without_an_authority(self, rig: Rig, foreign: Folder) -> None:
        """That can never be fulfilled, and is refused at the start."""
        with pytest.raises(ConfigurationError, match="client_ca"):
            serve(rig, foreign, require_client_certificate=True)


class TestRenewal:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(port, "LOOK_SECONDS", 0.02)

    def shown(self, hub: headgate.Gateway, folder: Folder) -> str:
        """The fingerprint of what a new connection sees."""
        with shaken(hub, folder) as peer:
            der = peer.getpeercert(binary_form=True)
        assert der is not None
        return Certificate.of_der(der).fingerprint

    def test_sessions_go_on(self, rig: Rig, hub: headgate.Gateway, folder: Folder) -> None:
        """A session makes requests all through a renewal; new connections see the new one."""
        client = rig.client(hub)
        session, stop = client.session_id, threading.Event()
        answers: list[int] = []

        def ask() -> None:
            while not stop.is_set():
                answers.append(client.request("ACME", "echo", len(answers), timeout=10).get())

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for _ in range(3):
                before = self.shown(hub, folder)
                assert before == Certificate.of_file(folder.server).fingerprint
                folder.renew()
                new = Certificate.of_file(folder.server).fingerprint
                assert new != before
                rig.until(lambda new=new: self.shown(hub, folder) == new)
                count = len(answers)
                rig.until(lambda count=count: len(answers) > count + 10)
        finally:
            stop.set()
            asking.join()
        assert answers == list(range(len(answers)))
        assert client.session_id == session
        assert echo(f"ws://127.0.0.1:{hub.port}") == 1

    def test_one_that_waits_in_its_handshake_goes_on(
        self, rig: Rig, hub: headgate.Gateway, folder: Folder
    ) -> None:
        """A connection that was made before a renewal is finished after it."""
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as plain:
            folder.renew()
            new = Certificate.of_file(folder.server).fingerprint
            rig.until(lambda: self.shown(hub, folder) == new)
            context = ssl.create_default_context(cafile=folder.authority)
            with context.wrap_socket(plain, server_hostname="localhost") as peer:
                assert peer.version() == "TLSv1.3"

    @pytest.mark.parametrize("damage", ["key", "text", "gone"])
    def test_a_broken_pair_is_not_taken(
        self,
        rig: Rig,
        hub: headgate.Gateway,
        folder: Folder,
        foreign: Folder,
        caplog: pytest.LogCaptureFixture,
        damage: str,
    ) -> None:
        """The old certificate stays, the log says once what is wrong, and a good one cures it."""
        before = self.shown(hub, folder)
        if damage == "key":
            folder.server_key.write_bytes(foreign.server_key.read_bytes())
        elif damage == "text":
            folder.server.write_text("-----BEGIN CERTIFICATE-----\n")
        else:
            folder.server_key.unlink()
        rig.until(lambda: "stays as it was" in caplog.text)
        assert str(folder.path) in caplog.text
        assert "PRIVATE" not in caplog.text
        for _ in range(5):
            assert self.shown(hub, folder) == before
        assert caplog.text.count("stays as it was") == 1
        # What is left of the pair is not needed to make another one, but for its names.
        folder.renew(["hub.plant.example"])
        new = Certificate.of_file(folder.server).fingerprint
        rig.until(lambda: self.shown(hub, folder) == new)

    def test_what_is_taken_is_recorded(self, rig: Rig, folder: Folder, records: Records) -> None:
        """A row for each renewal, with fingerprint and end; none for a start or a bad file."""
        hub = serve(rig, folder, records)

        def told() -> list[Record]:
            return [each for each in list(records.records) if each.target == "certificate"]

        for count in (1, 2):
            folder.server.write_text("-----BEGIN CERTIFICATE-----\n")
            folder.renew(["hub.plant.example"])
            new = Certificate.of_file(folder.server)
            rig.until(lambda new=new: self.shown(hub, folder) == new.fingerprint)
            rig.until(lambda count=count: len({each.detail for each in told()}) == count)
            assert told()[-1].event == "administered"
            assert told()[-1].user == "gateway:hub"
            assert new.fingerprint in told()[-1].detail
            assert new.ends.isoformat() in told()[-1].detail

    def test_new_names_count_at_once(self, rig: Rig, hub: headgate.Gateway, folder: Folder) -> None:
        """A renewed certificate's names are names of the gateway."""
        assert get(hub, folder, "new.plant.example") == 403
        folder.renew(["new.plant.example"])
        rig.until(lambda: get(hub, folder, "new.plant.example") == 200)
        assert get(hub, folder, "hub.plant.example") == 403

    def test_the_end_is_announced(
        self,
        rig: Rig,
        folder: Folder,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A certificate with less than 30 days left is warned of, with the cure."""
        serve(rig, folder).stop()
        assert "headgate cert renew" not in caplog.text
        monkeypatch.setattr(certificates, "SERVER_DAYS", 20)
        folder.renew()
        serve(rig, folder)
        rig.until(lambda: "ends in 19 days" in caplog.text)
        assert "headgate cert renew" in caplog.text


class TestNames:
    def test_hosts_and_pages(self, rig: Rig, folder: Folder) -> None:
        """The certificate's names and the configured ones are the gateway's, over real sockets."""
        http = Http(hosts=("proxy.example",), origins=("https://hmi.example",))
        hub = serve(rig, folder, http=http)
        for host in ("localhost", f"hub.plant.example:{hub.port}", "proxy.example"):
            assert get(hub, folder, host) == 200
            assert get(hub, folder, host, f"https://{host}") == 200
            assert get(hub, folder, host, "https://hmi.example") == 200
            assert get(hub, folder, host, f"http://{host}") == 403
            assert get(hub, folder, host, "https://evil.example") == 403
        assert get(hub, folder, "evil.example", "https://evil.example") == 403

    def test_what_is_refused_is_recorded(
        self, hub: headgate.Gateway, folder: Folder, records: Records
    ) -> None:
        """A name that was made to lead here, and a foreign page, stand in the audit."""
        assert get(hub, folder, "rebound.example") == 403
        assert records.told("refused", "rebound.example")
        assert get(hub, folder, "localhost", "https://page.example") == 403
        assert records.told("refused", "page.example")


class TestBeyondLoopback:
    def start(self, rig: Rig, users: int = 0, **options: Any) -> headgate.Gateway:
        """Start a gateway on all addresses."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(headgate.Gateway, "_count_users", lambda self: users)
            return rig.gateway({"ACME/echo": rig.ECHO}, host="0.0.0.0", **options)

    def test_both_commands_are_named(self, rig: Rig) -> None:
        """Without TLS and users it does not start, and the text says what to run."""
        data = rig.folder / "my data"
        with pytest.raises(ConfigurationError) as caught:
            self.start(rig, data=data)
        assert f"`headgate cert init --data '{data}'`" in str(caught.value)
        assert f"`headgate user add NAME --data '{data}'`" in str(caught.value)

    def test_the_names_option_is_repeated(self, rig: Rig) -> None:
        """A gateway that was named is named in the commands, too."""
        with pytest.raises(ConfigurationError, match="headgate cert init --name hub"):
            self.start(rig, data=None)

    def test_settings_of_the_working_folder_need_no_option(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where every command finds headgate.toml by itself, the commands are short."""
        file = rig.folder / "headgate.toml"
        file.write_text('name = "mill"\n')
        projects = rig.projects({"ACME/echo": rig.ECHO})
        for folder, option in ((rig.folder, ""), (projects, f" --config {file}")):
            monkeypatch.chdir(folder)
            with pytest.raises(ConfigurationError) as caught:
                headgate.Gateway(config=file, projects=projects, host="0.0.0.0", port=0).start()
            assert f"`headgate cert init{option}`" in str(caught.value)
            assert f"`headgate user add NAME{option}`" in str(caught.value)

    def test_only_what_is_missing_is_named(self, rig: Rig, folder: Folder) -> None:
        """With one of the two only the other one is asked for."""
        with pytest.raises(ConfigurationError, match="headgate user add") as caught:
            self.start(rig)
        assert "cert init" not in str(caught.value)
        folder.server.unlink()
        with pytest.raises(ConfigurationError, match="headgate cert init") as caught:
            self.start(rig, users=1)
        assert "user add" not in str(caught.value)

    def test_with_both_it_serves(self, rig: Rig, folder: Folder) -> None:
        """The certificate of the folder is taken by itself; the URL has a name for others."""
        hub = self.start(rig, users=1)
        assert hub.url == f"wss://hub.plant.example:{hub.port}"
        assert hub.insecure == ""
        assert echo(f"wss://localhost:{hub.port}", ca=folder.authority) == 1
        assert echo(f"ws://127.0.0.1:{hub.port}") == 1

    def test_insecure_is_loud(self, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
        """It overrides, and warns at once and again and again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(port, "LOOK_SECONDS", 0.01)
            patch.setattr(port, "INSECURE_SECONDS", 0.02)
            hub = self.start(rig, config=Settings(insecure=True))
            rig.until(lambda: caplog.text.count("INSECURE") >= 3)
        assert hub.url.startswith("ws://")
        assert "without TLS and without a user" in hub.insecure
        assert echo(f"ws://127.0.0.1:{hub.port}") == 1

    def test_loopback_stays_as_it_was(self, rig: Rig, folder: Folder) -> None:
        """There a certificate in the folder changes nothing, and nothing is asked for."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        assert hub.url.startswith("ws://127.0.0.1:")
        assert certificate_of_port(hub.port) is None
        assert hub.insecure == ""


class TestConfiguration:
    def test_the_key_may_stand_with_the_certificate(self, rig: Rig, folder: Folder) -> None:
        """One PEM file with both is enough; only the certificate is left for clients to see."""
        both = rig.folder / "both.pem"
        both.write_bytes(folder.server_key.read_bytes() + folder.server.read_bytes())
        both.chmod(0o600)
        hub = serve(rig, folder, certificate=both, key=None)
        assert echo(hub.url, ca=folder.authority) == 1
        shown = certificate_of_port(hub.port)
        assert shown is not None
        assert "KEY" not in shown.read_text()

    def test_a_key_alone(self, rig: Rig, folder: Folder) -> None:
        """A key without a certificate is a mistake."""
        with pytest.raises(ConfigurationError, match="no certificate"):
            serve(rig, folder, certificate=None)

    def test_a_key_of_another(self, rig: Rig, folder: Folder, foreign: Folder) -> None:
        """A pair that does not belong together is named."""
        with pytest.raises(ConfigurationError, match="does not belong"):
            serve(rig, folder, key=foreign.server_key)

    def test_an_encrypted_key(self, rig: Rig, folder: Folder) -> None:
        """Nobody is asked for a password: the error says what to do."""
        from cryptography.hazmat.primitives import serialization

        key = serialization.load_pem_private_key(folder.server_key.read_bytes(), None)
        folder.server_key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        with pytest.raises(ConfigurationError, match="is encrypted"):
            serve(rig, folder)

    @pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
    def test_a_key_that_all_can_read(
        self, rig: Rig, folder: Folder, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is used, and the log says what to do."""
        folder.server_key.chmod(0o644)
        serve(rig, folder)
        assert f"{folder.server_key}: chmod 600" in caplog.text


def test_a_stopped_gateways_port_is_free(rig: Rig, folder: Folder) -> None:
    """With TLS, too, it can be taken again at once, and nothing is left behind."""
    hub = serve(rig, folder)
    client = rig.client(hub, connect_wait=10.0)
    number, before = hub.port, time.monotonic()
    hub.stop()
    hub._reception.port.number = number
    hub.start()
    assert client.request("ACME", "echo", 1).get() == 1
    assert time.monotonic() > before


def test_port_is_taken_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has SO_EXCLUSIVEADDRUSE, as Windows, it is set, and not SO_REUSEADDR."""
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with closing(listener._bound(socket.AF_INET, ("127.0.0.1", 0))) as bound:
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not bound.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
