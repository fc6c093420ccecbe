"""A gateway's life in a process: starting, stopping, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import headgate
from headgate.errors import ConfigurationError, ConnectionLost, GatewayUnreachable
from headgate.security.audit import Record

if TYPE_CHECKING:
    from conftest import Rig


def own_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("headgate")}


class TestStarting:
    def test_it_serves_between_with_and_its_end(self, rig: Rig) -> None:
        """`with` starts and stops it."""
        projects = rig.projects({"ACME/echo": rig.ECHO})
        with headgate.Gateway("hub", projects=projects, port=0) as hub:
            assert hub.system.util.sendRequest("ACME", "echo", {"a": 1}) == {"a": 1}
            with headgate.connect(hub.url) as client:
                assert client.request("ACME", "echo", 2).get() == 2
        with pytest.raises(GatewayUnreachable):
            headgate.connect(hub.url)

    async def test_it_serves_on_a_running_loop(self, rig: Rig) -> None:
        """`async with` runs it on the loop, side by side with a client."""
        projects = rig.projects({"ACME/echo": rig.ECHO})
        async with headgate.Gateway("hub", projects=projects, port=0) as hub:
            assert await hub.scope("").request("ACME", "echo", 1) == 1
            async with headgate.connect(hub.url) as client:
                handles = [client.request("ACME", "echo", n) for n in range(500)]
                assert await asyncio.gather(*handles) == list(range(500))
        assert not any(hub.stats().values())

    @pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
    @pytest.mark.parametrize(
        ("folder", "database"),
        [(0o700, 0o600), (0o750, 0o600), (0o722, 0o600), (0o700, 0o640), (0o700, 0o602)],
    )
    def test_a_folder_that_others_can_get_at(
        self, rig: Rig, caplog: pytest.LogCaptureFixture, folder: int, database: int
    ) -> None:
        """The log says so at the start, with the cure; what is the owner's alone is not named."""
        hub = rig.gateway({})
        assert "chmod" not in caplog.text
        hub.stop()
        file = hub.data / "headgate.db"
        hub.data.chmod(folder)
        file.chmod(database)
        hub.start()
        assert (f"chmod 700 {hub.data}\n" in caplog.text) is (folder != 0o700)
        assert (f"chmod 600 {file}\n" in caplog.text) is (database != 0o600)

    def test_a_blocking_start_is_refused_on_a_loop(self, rig: Rig) -> None:
        """start() in asyncio code names `async with`."""
        hub = headgate.Gateway("hub", projects=rig.projects({}), port=0)

        async def wrong() -> None:
            hub.start()

        with pytest.raises(RuntimeError, match="async with headgate"):
            asyncio.run(wrong())

    def test_starting_twice_is_starting_once(self, rig: Rig) -> None:
        """A gateway that runs goes on, also when `with` follows start()."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        port = hub.port
        with hub.start() as same:
            assert (same, same.port) == (hub, port)
            assert rig.client(hub).request("ACME", "echo", 1).get() == 1

    def test_it_can_be_started_again(self, rig: Rig) -> None:
        """After stop(), start() serves again, on the same port."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        port = hub.port
        hub.stop()
        hub.stop()
        hub.start()
        assert hub.port == port
        assert rig.client(hub).request("ACME", "echo", 1).get() == 1
        assert hub.scope("").request("ACME", "echo", 2).get() == 2

    def test_every_start_gives_other_ids(self, rig: Rig) -> None:
        """No id of a request is used again, also not by the next boot of the same folder."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        ids = set()
        for _ in range(3):
            with headgate.connect(hub.url) as client:
                for scope in (client, hub.scope("")):
                    handle = scope.request("ACME", "echo")
                    handle.get()
                    ids.add(handle.request_id)
            hub.stop()
            hub.start()
        assert len(ids) == 6

    def test_requests_before_it_starts_fail_through_their_handles(self, rig: Rig) -> None:
        """It does not run: GatewayUnreachable, started False; after stop() too."""
        hub = headgate.Gateway("hub", projects=rig.projects({"ACME/echo": rig.ECHO}), port=0)
        for _ in range(2):
            for handle in (
                hub.scope("").request("ACME", "echo"),
                hub.scope("").message("ACME", "echo"),
            ):
                error = handle.getError()
                assert isinstance(error, GatewayUnreachable)
                assert error.started is False
            hub.start()
            hub.stop()

    def test_a_start_that_fails_leaves_nothing(self, rig: Rig) -> None:
        """After a failed start no thread runs, and the folder and the name are free."""
        before = own_threads()
        projects = rig.projects({"ACME/echo": rig.ECHO})
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigurationError, match="is taken"):
                headgate.Gateway("hub", projects=projects, port=port).start()
        assert own_threads() == before
        with headgate.Gateway("hub", projects=projects, port=port) as hub:
            assert hub.scope("").request("ACME", "echo", 1).get() == 1

    def test_a_missing_projects_folder_is_named(self, rig: Rig) -> None:
        """ConfigurationError names the folder, and what to name instead."""
        with pytest.raises(ConfigurationError, match="nowhere"):
            headgate.Gateway("hub", projects=rig.folder / "nowhere", port=0).start()

    def test_its_life_is_recorded(self, rig: Rig) -> None:
        """Start, logins, failures, logouts and stop reach the recorder, in order."""
        records: list[Record] = []

        class Recorder:
            def record(self, record: Record) -> None:
                records.append(record)

        hub = rig.gateway({"ACME/bad": "def handleMessage(p): 1 / 0"}, recorder=Recorder())
        client = headgate.connect(hub.url, host_name="panel")
        client.request("ACME", "bad").block()
        client.close()
        rig.until(lambda: hub.stats()["sessions"] == 0)
        hub.stop()
        assert [r.event for r in records] == ["started", "login", "failed", "logout", "stopped"]
        failed = records[2]
        assert (failed.target, failed.outcome, failed.host) == (
            "ACME/bad",
            "handler_error",
            "panel",
        )


class TestStopping:
    def test_nothing_is_left(self, rig: Rig) -> None:
        """After everything was used and stopped, no thread of Headgate runs."""
        before = own_threads()
        hub = rig.gateway(
            {
                "ACME/echo": rig.ECHO,
                "ACME/own": "import headgate\n@headgate.handler(threading='Dedicated')\n"
                + rig.ECHO,
                "ACME/wait": "async " + rig.ECHO,
            }
        )
        with headgate.connect(hub.url) as client:
            for name in ("echo", "own", "wait"):
                client.request("ACME", name, on_success=id).get()
                hub.scope("").request("ACME", name, on_success=id).get()
        rig.until(lambda: not any(hub.stats().values()))
        hub.stop()
        rig.until(lambda: own_threads() <= before)

    def test_what_is_in_flight_may_finish(self, rig: Rig) -> None:
        """Within the grace requests are answered; nothing new is taken."""
        hub = rig.gateway({"ACME/hold": rig.HOLD, "ACME/echo": rig.ECHO})
        client = rig.client(hub)
        held = [client.request("ACME", "hold", 1), hub.scope("").request("ACME", "hold", 2)]
        for _ in held:
            hub.globals["running"].get(timeout=20)
        stopping = threading.Thread(target=hub.stop, args=(10,))
        stopping.start()
        for scope in (client, hub.scope("")):
            rig.until(lambda s=scope: s.request("ACME", "echo").block() is False)
            error = scope.request("ACME", "echo").getError()
            assert isinstance(error, GatewayUnreachable)
            assert error.started is False
        hub.globals["go"].set()
        assert [handle.get() for handle in held] == [1, 2]
        stopping.join()

    def test_what_is_in_flight_may_still_ask(self, rig: Rig) -> None:
        """A handler in flight gets the answers that it needs to finish."""
        hub = rig.gateway(
            {
                "ACME/outer": """
                def handleMessage(payload):
                    system.util.globals["running"].put("begun")
                    system.util.globals["go"].wait(20)
                    return system.util.sendRequest("ACME", "echo", payload)
                """,
                "ACME/echo": rig.ECHO,
            }
        )
        client = rig.client(hub)
        handle = client.request("ACME", "outer", {"a": 1})
        hub.globals["running"].get(timeout=20)
        stopping = threading.Thread(target=hub.stop, args=(10,))
        stopping.start()
        rig.until(lambda: client.request("ACME", "echo").block() is False)
        hub.globals["go"].set()
        assert handle.get() == {"a": 1}
        stopping.join()

    def test_the_rest_ends_with_an_error(self, rig: Rig) -> None:
        """After the grace everything open ends with ConnectionLost."""
        hub = rig.gateway({"ACME/hold": rig.HOLD})
        client = rig.client(hub)
        handles = [client.request("ACME", "hold"), hub.scope("").request("ACME", "hold")]
        for _ in handles:
            hub.globals["running"].get(timeout=20)
        hub.stop(0.05)
        for handle in handles:
            error = handle.getError()
            assert isinstance(error, ConnectionLost)
            assert error.started is True
        hub.globals["go"].set()

    @pytest.mark.parametrize(
        "body",
        [
            # It swallows its interruption, and goes on.
            """
            while not system.util.globals["go"].is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass
            """,
            # It blocks the loop of all async handlers.
            """
            system.util.globals["go"].wait(30)
            """,
        ],
    )
    def test_a_handler_that_does_not_end_does_not_keep_it(
        self, rig: Rig, body: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """stop() returns, whatever a handler does."""
        monkeypatch.setattr("headgate.runtimes.tasks.CLOSE_SECONDS", 0.1)
        script = "import asyncio\nasync def handleMessage(payload):\n"
        script += "    system.util.globals['running'].put(1)\n"
        script += "\n".join(line[8:] for line in body.splitlines())
        hub = rig.gateway({"ACME/hold": script})
        handle = hub.scope("").request("ACME", "hold")
        hub.globals["running"].get(timeout=20)
        stopping = threading.Thread(target=hub.stop, args=(0.05,))
        stopping.start()
        stopping.join(15)
        assert not stopping.is_alive()
        assert handle.done
        hub.globals["go"].set()

    def test_a_handler_may_stop_its_own_gateway(self, rig: Rig) -> None:
        """stop() from a handler's thread ends, and the handler's request with it."""
        hub = rig.gateway(
            {
                "ACME/stop": """
                def handleMessage(payload):
                    system.util.globals["hub"].stop(0.05)
                    system.util.globals["running"].put("stopped")
                """
            }
        )
        hub.globals["hub"] = hub
        error = hub.scope("").request("ACME", "stop").getError()
        assert isinstance(error, ConnectionLost)
        assert hub.globals["running"].get(timeout=20) == "stopped"
        hub.globals.pop("hub")

    def test_two_gateways_of_one_process_do_not_disturb_each_other(self, rig: Rig) -> None:
        """Each has its own globals, projects and clients."""
        scripts = {"ACME/name": "def handleMessage(p): return system.util.globals['name']"}
        hub, plant = rig.gateway(scripts, "hub"), rig.gateway(scripts, "plant")
        hub.globals["name"], plant.globals["name"] = "hub", "plant"
        clients = [rig.client(gateway) for gateway in (hub, plant)]
        assert [c.request("ACME", "name").get() for c in clients] == ["hub", "plant"]
        hub.stop()
        assert clients[1].request("ACME", "name").get() == "plant"

    def test_load_leaves_nothing_in_any_table(self, rig: Rig) -> None:
        """After 5,000 requests of every kind of end the tables are as they were."""
        hub = rig.gateway(
            {
                "ACME/echo": rig.ECHO,
                "ACME/wait": "async " + rig.ECHO,
                "ACME/bad": "def handleMessage(p): 1 / 0",
                "ACME/nest": "def handleMessage(p): return system.util.sendRequest('ACME','wait')",
            }
        )
        client = rig.client(hub)
        rig.until(lambda: not hub.stats()["logins"])
        start = (client.stats(), hub.stats())
        handles: list[headgate.Request] = []
        for n in range(1000):
            for name in ("echo", "wait", "bad", "nest", "none"):
                handles.append(
                    client.request("ACME", name, {}, timeout=0.001 if n % 7 == 3 else 30)
                )
            if n % 5 == 0:
                handles[n].cancel()
            if n % 100 == 99:
                handles[-1].block()
        for handle in handles:
            handle.block()
        rig.until(lambda: (client.stats(), hub.stats()) == start)

    def test_stats_may_be_asked_at_any_time(self, rig: Rig) -> None:
        """stats() from other threads under load gives numbers, never an error."""
        hub = rig.gateway({"ACME/echo": rig.ECHO})
        client, over, found = rig.client(hub), threading.Event(), []

        def watch() -> None:
            while not over.is_set():
                found.append(hub.stats())
                found.append(client.stats())

        watching = threading.Thread(target=watch)
        watching.start()
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            handles: list[Any] = [client.request("ACME", "echo", n) for n in range(50)]
            for handle in handles:
                handle.get()
        over.set()
        watching.join()
        assert found
        assert all(isinstance(size, int) for sizes in found for size in sizes.values())
