"""Reload: generations, what is kept of a project and what is new, and what happens to calls."""

from __future__ import annotations

import asyncio
import errno
import gc
import linecache
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import watchfiles

import headgate
from headgate.errors import DeadlockError, HandlerNotFound, PermissionDenied, ProjectNotFound
from headgate.gateway import hosting, loading, plan, watch
from headgate.invocation import Caller
from headgate.projects.project import Project
from headgate.security.policy import Action

COUNT = """
    count = 0

    def handleMessage(payload):
        global count
        count += 1
        return ["{version}", count]
    """


def answer(value: object) -> str:
    """A handler that answers with this."""
    return f"def handleMessage(payload):\n    return {value!r}\n"


class Plant:
    """A gateway whose projects are edited while it runs."""

    def __init__(self, rig: Any, scripts: dict[str, str], **options: Any) -> None:
        self.rig = rig
        self.hub: headgate.Gateway = rig.gateway(scripts, **options)
        self.folder: Path = rig.folder / "hub" / "projects"
        self.util = self.hub.system.util

    def write(self, scripts: dict[str, str]) -> None:
        self.rig.projects(scripts)

    def remove(self, path: str) -> None:
        at = self.folder / path
        shutil.rmtree(at) if at.is_dir() else at.unlink()

    def reload(self, scripts: dict[str, str] | None = None, **options: Any) -> Any:
        self.write(scripts or {})
        return self.hub.reload(**options)

    def call(self, handler: str = "test", payload: Any = None, project: str = "ACME") -> Any:
        return self.util.sendRequest(project, handler, payload, timeoutSec=20)

    def ask(self, handler: str = "test", payload: Any = None, project: str = "ACME") -> Any:
        return self.util.sendRequestAsync(project, handler, payload, timeoutSec=20)

    def hold(self, handler: str = "hold", payload: Any = None) -> Any:
        """Make a request to `rig.HOLD` or the like, and wait until it runs."""
        request = self.ask(handler, {"n": payload})
        assert self.hub.globals["running"].get(timeout=20) == {"n": payload}
        return request

    def queued(self, count: int) -> None:
        """Wait until so many calls wait for their turn."""
        self.rig.until(lambda: self.hub.stats()["handlers_queued"] == count)

    def go(self) -> None:
        self.hub.globals["go"].set()


@pytest.fixture
def plant(rig: Any) -> Callable[..., Plant]:
    """Makes a gateway whose projects are edited."""
    return lambda scripts, **options: Plant(rig, scripts, **options)


class TestWhatIsNew:
    """What a reload takes up, and what it leaves alone."""

    def test_an_edit_serves_when_reload_returns(self, plant: Any) -> None:
        """The next call runs the new text."""
        acme = plant({"ACME/test": answer(1)})
        reloaded = acme.reload({"ACME/test": answer(2)})
        assert reloaded.changed == ("ACME",)
        assert acme.call() == 2

    def test_module_state_is_new_and_globals_survive(self, plant: Any) -> None:
        """Names at module level begin anew; `getGlobals` is the gateway's own."""
        acme = plant({"ACME/test": COUNT.format(version="a")})
        acme.hub.globals["kept"] = True
        assert acme.call() == ["a", 1]
        assert acme.call() == ["a", 2]
        acme.reload({"ACME/test": COUNT.format(version="b")})
        assert acme.call() == ["b", 1]
        assert acme.hub.globals["kept"] is True

    def test_other_projects_keep_their_state(self, plant: Any) -> None:
        """An edit in one project makes no generation of another."""
        acme = plant({"ACME/test": answer(1), "B/test": COUNT.format(version="b")})
        assert acme.call(project="B") == ["b", 1]
        before = acme.hub.projects["B"]
        acme.reload({"ACME/test": answer(2)})
        assert acme.call(project="B") == ["b", 2]
        assert acme.hub.projects["B"] is before

    def test_a_file_that_was_only_touched_is_no_other_one(self, plant: Any) -> None:
        """Nothing is loaded for a new time stamp; `everything` loads all the same."""
        acme = plant({"ACME/test": COUNT.format(version="a")})
        assert acme.call() == ["a", 1]
        os.utime(acme.folder / "ACME/messages/test.py", (1, 1))
        assert acme.reload() == hosting.Reloaded()
        assert acme.call() == ["a", 2]
        assert acme.reload(everything=True).changed == ("ACME",)
        assert acme.call() == ["a", 1]

    def test_a_library_module_reloads_the_handlers_that_may_use_it(self, plant: Any) -> None:
        """All of the project is of one generation, heirs of the project included."""
        use = "def handleMessage(payload):\n    return rates.VAT\n"
        acme = plant(
            {
                "ACME/test": use,
                "ACME/library/rates.py": "VAT = 19\n",
                "child/project.toml": 'parent = "ACME"\n',
                "other/test": answer(0),
            }
        )
        reloaded = acme.reload({"ACME/library/rates.py": "VAT = 20\n"})
        assert reloaded.changed == ("ACME", "child")
        assert (acme.call(), acme.call(project="child")) == (20, 20)

    def test_handlers_and_projects_come_and_go(self, plant: Any) -> None:
        """New ones serve, and those that were removed are not found any more."""
        acme = plant({"ACME/test": answer(1), "old/test": answer(2)})
        acme.remove("old")
        acme.remove("ACME/messages/test.py")
        reloaded = acme.reload({"ACME/more": answer(3), "new/test": answer(4)})
        assert (reloaded.added, reloaded.changed, reloaded.removed) == (
            ("new",),
            ("ACME",),
            ("old",),
        )
        assert (acme.call("more"), acme.call(project="new")) == (3, 4)
        assert isinstance(acme.ask().getError(), HandlerNotFound)
        assert isinstance(acme.ask(project="old").getError(), ProjectNotFound)

    def test_settings_of_the_new_generation_hold(self, plant: Any, rig: Any) -> None:
        """`project.toml` counts like a script: here a handler that had one place gets two."""
        acme = plant(
            {
                "ACME/hold": rig.HOLD,
                "ACME/project.toml": "[handlers.hold]\nconcurrency = 1\n",
            }
        )
        held = [acme.hold(payload=1), acme.ask("hold", {"n": 2}), acme.ask("hold", {"n": 3})]
        acme.queued(2)
        acme.reload({"ACME/project.toml": "[handlers.hold]\nconcurrency = 2\nqueue = 0\n"})
        assert acme.hub.globals["running"].get(timeout=20) == {"n": 2}
        assert "limit" in str(acme.ask("hold").getError())
        acme.go()
        assert [each.get()["n"] for each in held] == [1, 2, 3]


def hold(version: str) -> str:
    """A handler that waits for `go`, then tells its version."""
    return f"""
        def handleMessage(payload):
            system.util.globals["running"].put(payload)
            system.util.globals["go"].wait(20)
            return "{version}"
        """


def unindented(text: str) -> str:
    """The text of a script that something stands before."""
    return dedent(text).lstrip("\n")


def loaded_packages() -> set[str]:
    """The private packages that scripts were loaded into."""
    names = [
        name.split(".") for name in list(sys.modules) if name.startswith("_headgate_projects.")
    ]
    return {name[1] for name in names}


class TestCallsMeanwhile:
    """What happens to calls that run, and to those that wait, when their handlers change."""

    def test_what_runs_ends_as_it_began_and_what_waits_runs_the_new(self, plant: Any) -> None:
        """The queue is the handler's, not the generation's."""
        acme = plant({"ACME/hold": hold("old"), "ACME/project.toml": "[defaults]\nconcurrency=1"})
        runs, waits = acme.hold(payload=1), acme.ask("hold", {"n": 2})
        acme.queued(1)
        acme.reload({"ACME/hold": hold("new")})
        acme.go()
        assert (runs.get(), waits.get()) == ("old", "new")

    def test_a_removed_handler_ends_those_who_wait_for_it(self, plant: Any) -> None:
        """HandlerNotFound with `.started` False; what runs gives its result."""
        acme = plant({"ACME/hold": hold("old"), "ACME/project.toml": "[defaults]\nconcurrency=1"})
        runs, waits = acme.hold(payload=1), acme.ask("hold", {"n": 2})
        acme.queued(1)
        acme.remove("ACME/messages/hold.py")
        acme.reload()
        error = waits.getError()
        assert isinstance(error, HandlerNotFound)
        assert error.started is False
        acme.go()
        assert runs.get() == "old"

    @pytest.mark.parametrize("way", ["def", "async def"])
    def test_a_removed_project_ends_its_threads_after_its_calls(self, plant: Any, way: str) -> None:
        """ProjectNotFound for those who wait, the result for those who run; nothing is left."""
        script = hold("old").replace("def handle", f"{way} handle")
        acme = plant({"gone/hold": script, "gone/project.toml": "[defaults]\nconcurrency=1"})
        runs = acme.util.sendRequestAsync("gone", "hold", {"n": 1}, timeoutSec=20)
        acme.hub.globals["running"].get(timeout=20)
        waits = acme.ask("hold", {"n": 2}, project="gone")
        acme.queued(1)
        acme.remove("gone")
        assert acme.reload().removed == ("gone",)
        error = waits.getError()
        assert isinstance(error, ProjectNotFound)
        assert error.started is False
        assert acme.hub.stats()["generations_left"] == 2
        acme.go()
        assert runs.get() == "old"
        names = lambda: [t.name for t in threading.enumerate() if "gone" in t.name]  # noqa: E731
        acme.rig.until(lambda: not names())

    def test_an_old_generation_is_closed_after_its_last_call(self, plant: Any) -> None:
        """Its modules can be imported by what runs, and are forgotten after that."""
        script = """
            def handleMessage(payload):
                system.util.globals["running"].put(payload)
                system.util.globals["go"].wait(20)
                import _late
                return _late.VERSION
            """
        acme = plant({"ACME/hold": script, "ACME/library/_late.py": "VERSION = 'x'\n"})
        runs = acme.hold()
        packages = loaded_packages()
        acme.reload({"ACME/test": answer(1)})
        assert packages < loaded_packages()
        acme.go()
        assert runs.get() == "x"
        acme.rig.until(lambda: not packages & loaded_packages())

    @pytest.mark.parametrize("before", ["Shared", "Dedicated"])
    def test_dedicated_is_strictly_in_order_across_generations(
        self, plant: Any, before: str
    ) -> None:
        """Nothing of the new generation begins before the old one's run is over."""
        head = "import headgate\n@headgate.handler(threading={!r})\n"
        acme = plant({"ACME/hold": head.format(before) + unindented(hold("old"))})
        runs = acme.hold(payload=1)
        waits = [acme.ask("hold", {"n": n}) for n in range(2, 12)]
        if before == "Shared":
            # These have begun.
            begun = {acme.hub.globals["running"].get(timeout=20)["n"] for _ in range(7)}
            assert begun == set(range(2, 9))
        acme.queued(10 if before == "Dedicated" else 3)
        acme.reload({"ACME/hold": head.format("Dedicated") + unindented(hold("new"))})
        later = acme.ask("hold", {"n": 12})
        acme.queued(11 if before == "Dedicated" else 4)
        assert acme.hub.globals["running"].empty()
        acme.go()
        assert runs.get() == "old"
        assert later.get() == "new"
        begun = 7 if before == "Shared" else 0
        assert [each.get() for each in waits] == ["old"] * begun + ["new"] * (10 - begun)
        order = [acme.hub.globals["running"].get(timeout=20)["n"] for _ in range(11 - begun)]
        assert order == list(range(2 + begun, 13))

    def test_one_that_comes_back_while_it_runs_waits_for_itself(self, plant: Any) -> None:
        """Removed and put back: a limit on concurrency holds for what runs from before too."""
        limited = "import headgate\n@headgate.handler(concurrency=1)\n"
        acme = plant({"ACME/hold": limited + unindented(hold("old"))})
        runs = acme.hold(payload=1)
        acme.remove("ACME")
        acme.reload()
        acme.reload({"ACME/hold": limited + unindented(hold("new")), "ACME/test": answer(1)})
        later = acme.ask("hold", {"n": 2})
        # It would have begun before this one.
        assert acme.call() == 1
        acme.queued(1)
        assert acme.hub.globals["running"].empty()
        acme.go()
        assert (runs.get(), later.get()) == ("old", "new")

    def test_waiting_for_the_former_run_of_an_ancestor_is_a_deadlock(self, plant: Any) -> None:
        """A handler that became Dedicated while it runs, and calls itself, is told at once."""
        script = """
            import headgate

            @headgate.handler(threading={way!r})
            def handleMessage(payload):
                if payload:
                    system.util.globals["running"].put(payload)
                    system.util.globals["go"].wait(20)
                    system.util.sendRequest("ACME", "self")
            """
        acme = plant({"ACME/self": script.format(way="Shared")})
        runs = acme.hold("self")
        acme.reload({"ACME/self": script.format(way="Dedicated")})
        acme.go()
        assert DeadlockError.__name__ in str(runs.getError())

    def test_calls_go_from_threads_to_tasks_and_back(self, plant: Any) -> None:
        """A handler that becomes `async def` takes its queue with it."""
        tell = "def handleMessage(payload):\n    return [{!r}, payload['n']]\n"
        limit = "[handlers.test]\nconcurrency = 1\n"
        acme = plant({"ACME/test": hold("old"), "ACME/project.toml": limit})
        runs = acme.hold("test", 0)
        waits = [acme.ask("test", {"n": n}) for n in range(5)]
        acme.queued(5)
        acme.reload({"ACME/test": "async " + tell.format("task")})
        acme.go()
        assert runs.get() == "old"
        assert [each.get() for each in waits] == [["task", n] for n in range(5)]
        acme.reload({"ACME/test": tell.format("thread")})
        assert acme.call("test", {"n": 7}) == ["thread", 7]

    def test_what_hangs_counts_across_generations(self, plant: Any) -> None:
        """A reload is no way round the limit of abandoned threads."""
        acme = plant({"ACME/hold": hold("old"), "ACME/test": answer(1)})
        held = [acme.hold(payload=n) for n in range(8)]
        for each in held:
            each.cancel()
        acme.rig.until(lambda: acme.hub.stats()["handlers_abandoned"] == 8)
        acme.reload({"ACME/hold": hold("new")})
        assert "hang in handlers" in str(acme.ask().getError())
        acme.go()
        acme.rig.until(lambda: acme.hub.stats()["handlers_abandoned"] == 0)
        assert acme.call() == 1


class TestMistakes:
    """A broken file never takes away what serves."""

    def test_the_generation_before_goes_on(
        self, plant: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is shown wherever people look, told once, and told when it is corrected."""
        caplog.set_level(logging.INFO, "headgate.gateway")
        acme = plant({"ACME/test": COUNT.format(version="a"), "ACME/more": answer(1)})
        assert acme.call() == ["a", 1]
        reloaded = acme.reload({"ACME/test": "def handleMessage(:", "ACME/more": answer(2)})
        assert reloaded.kept == ("ACME",)
        (problem,) = reloaded.problems
        assert acme.hub.problems == [problem]
        assert (problem.handler, problem.line, problem.kept) == ("test", 1, True)
        assert problem.file.endswith("test.py")
        acme.reload()
        acme.reload()
        assert (acme.call(), acme.call("more")) == (["a", 2], 1)
        told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert len(told) == 1
        assert f"{problem.file}:1" in told[0]

        reloaded = acme.reload({"ACME/test": COUNT.format(version="b")})
        assert (reloaded.changed, reloaded.problems) == (("ACME",), ())
        assert acme.hub.problems == []
        assert (acme.call(), acme.call("more")) == (["b", 1], 2)
        assert any("corrected" in r.getMessage() for r in caplog.records)

    def test_what_is_taken_back_was_never_there(self, plant: Any) -> None:
        """With the old text the old generation goes on, and its state."""
        acme = plant({"ACME/test": COUNT.format(version="a")})
        assert acme.call() == ["a", 1]
        assert acme.reload({"ACME/test": "raise ValueError"}).kept == ("ACME",)
        assert acme.reload({"ACME/test": COUNT.format(version="a")}) == hosting.Reloaded()
        assert acme.call() == ["a", 2]

    @pytest.mark.parametrize(
        ("path", "text", "about"),
        [
            ("library/lib.py", "1 / 0", "ZeroDivisionError"),
            ("project.toml", "[handlers", "TOML"),
            ("project.toml", "[handlers.test]\nqueue = -1", "queue"),
            ("project.toml", 'parent = "nobody"', "nobody"),
            ("messages/test.py", "import nothing_like_it", "nothing_like_it"),
            ("messages/test.py", "raise SystemExit", "SystemExit"),
        ],
    )
    def test_each_kind(self, plant: Any, path: str, text: str, about: str) -> None:
        """Script, library, settings, parent: all of the project stays of one generation."""
        acme = plant({"ACME/test": answer(1), "ACME/library/lib.py": "X = 1"})
        reloaded = acme.reload({f"ACME/{path}": text})
        assert reloaded.kept == ("ACME",)
        assert about in str(reloaded.problems[0])
        assert acme.call() == 1

    def test_a_new_handler_with_a_mistake_holds_nobody_up(self, plant: Any) -> None:
        """Nothing is lost by it, so everything else of the project is the new one."""
        acme = plant({"ACME/test": answer(1)})
        reloaded = acme.reload({"ACME/test": answer(2), "ACME/draft": "def handleMessage("})
        assert reloaded.changed == ("ACME",)
        assert [problem.handler for problem in reloaded.problems] == ["draft"]
        assert acme.call() == 2
        assert "draft.py:1" in str(acme.ask("draft").getError())

    def test_a_handler_that_comes_with_a_mistake_elsewhere_is_told_to_wait(
        self, plant: Any
    ) -> None:
        """Who calls it learns what must be corrected first."""
        acme = plant({"ACME/test": answer(1)})
        acme.reload({"ACME/test": "(", "ACME/more": answer(2)})
        error = acme.ask("more").getError()
        assert isinstance(error, HandlerNotFound)
        assert "test.py:1" in str(error)

    def test_a_mistake_in_a_parent_is_told_once(
        self, plant: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its heirs are kept with it, and the log has one line."""
        acme = plant(
            {
                "ACME/test": answer(1),
                "a/project.toml": 'parent = "ACME"',
                "b/project.toml": 'parent = "ACME"',
            }
        )
        assert acme.reload({"ACME/test": "("}).kept == ("ACME", "a", "b")
        assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
        assert [acme.call(project=name) for name in ("ACME", "a", "b")] == [1, 1, 1]

    def test_a_folder_that_cannot_be_read_changes_nothing(self, plant: Any) -> None:
        """A mount that is away takes no project away."""
        acme = plant({"ACME/test": answer(1)})
        acme.folder.rename(acme.folder.with_name("away"))
        (problem,) = acme.hub.reload().problems
        assert "cannot be read" in str(problem)
        assert acme.call() == 1
        acme.folder.with_name("away").rename(acme.folder)
        assert acme.hub.reload() == hosting.Reloaded()
        assert acme.hub.problems == []

    def test_what_could_not_be_loaded_is_tried_again_when_asked(self, plant: Any) -> None:
        """A mistake may lie outside of the project: here in a global that is not there yet."""
        script = "X = system.util.globals['later']\n" + answer(1)
        acme = plant({"ACME/test": script})
        assert len(acme.hub.problems) == 1
        acme.hub.globals["later"] = 1
        assert acme.reload().changed == ("ACME",)
        assert acme.call() == 1


BLOCKING = """
    import time

    while not system.util.globals.get("leave"):
        time.sleep(0.005)

    def handleMessage(payload):
        return "late"
    """


class TestBlocking:
    """A script that blocks while it is loaded."""

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give projects up earlier than in earnest."""
        monkeypatch.setattr(plan, "LOAD_SECONDS", 0.3)
        monkeypatch.setattr(loading, "PATIENCE_SECONDS", 0.1)

    def test_at_the_start_others_serve(self, plant: Any) -> None:
        """The project is a problem that names the file and the line."""
        acme = plant({"ACME/test": BLOCKING, "B/test": answer(1)})
        assert acme.call(project="B") == 1
        (problem,) = acme.hub.problems
        assert problem.project == "ACME"
        assert problem.file.endswith("test.py")
        assert problem.line in (4, 5)
        assert "test.py" in str(acme.ask().getError())
        self.nothing_is_left(acme)

    def test_at_a_reload_the_generation_before_goes_on(self, plant: Any) -> None:
        """Also in a library; calls are answered meanwhile."""
        acme = plant({"ACME/test": answer(1), "B/test": answer(1)})
        reloaded = acme.reload({"ACME/library/lib.py": BLOCKING, "B/test": answer(2)})
        assert (reloaded.kept, reloaded.changed) == (("ACME",), ("B",))
        assert reloaded.problems[0].file.endswith("lib.py")
        assert (acme.call(), acme.call(project="B")) == (1, 2)
        self.nothing_is_left(acme)
        assert acme.reload({"ACME/library/lib.py": "X = 1"}).changed == ("ACME",)

    def nothing_is_left(self, acme: Plant) -> None:
        """The thread ends as soon as Python gets to it."""
        acme.rig.until(lambda: not [t for t in threading.enumerate() if "-load" in t.name])


class TestAsked:
    """The gateway's own handler `reload`."""

    def test_a_client_of_the_owner_may(self, plant: Any, rig: Any, records: Any) -> None:
        """It gets what `Gateway.reload` returns; that it asked is recorded."""
        acme = plant({"ACME/test": answer(1)}, recorder=records)
        acme.write({"ACME/test": answer(2), "ACME/more": "("})
        reloaded = rig.client(acme.hub).request("@gateway", "reload", {}).get()
        assert records.told("administered", "")
        assert reloaded["changed"] == ("ACME",)
        assert reloaded["problems"][0]["handler"] == "more"
        assert acme.call() == 2

    def test_it_takes_the_right_to_administer(self, plant: Any, rig: Any) -> None:
        """Who may only see may not."""

        class Guests:
            def authorise(self, caller: Caller, action: Action, *target: str) -> None:
                if action == "administer":
                    raise PermissionDenied("no", started=False)

        acme = plant({"ACME/test": answer(1)}, policy=Guests())
        acme.write({"ACME/test": answer(2)})
        client = rig.client(acme.hub)
        assert isinstance(client.request("@gateway", "reload").getError(), PermissionDenied)
        assert client.request("@gateway", "problems").get() == []
        assert acme.call() == 1

    async def test_it_never_blocks_an_event_loop(self, rig: Any) -> None:
        """A gateway that runs on a program's loop is reloaded from another thread."""
        folder = rig.projects({"ACME/test": answer(1)})
        async with headgate.Gateway(projects=folder, port=0) as hub:
            with pytest.raises(RuntimeError, match="to_thread"):
                hub.reload()
            rig.projects({"ACME/test": answer(2)})
            assert (await asyncio.to_thread(hub.reload)).changed == ("ACME",)
            assert await hub.system.util.sendRequestAsync("ACME", "test") == 2

    def test_a_gateway_that_does_not_run(self, rig: Any) -> None:
        """There is nothing to reload."""
        hub = headgate.Gateway(projects=rig.projects({"ACME/test": answer(1)}))
        with pytest.raises(RuntimeError, match="does not run"):
            hub.reload()


@pytest.fixture(params=[True, "poll"], ids=["told", "polled"])
def watched(request: pytest.FixtureRequest, plant: Any) -> Iterator[Callable[..., Plant]]:
    """Makes a gateway that sees edits by itself: told by the system, or by looking."""
    yield lambda scripts: plant(scripts, reload=request.param)
    names = lambda: [t.name for t in threading.enumerate() if t.name == "headgate-watch"]  # noqa: E731
    assert len(names()) <= 1


class TestWatching:
    """Edits that take effect by themselves."""

    def test_edits_of_any_kind(self, watched: Any) -> None:
        """Edits, mistakes, corrections, new and removed projects."""
        acme = watched({"ACME/test": answer(1), "old/test": answer(1)})
        until = acme.rig.until
        acme.write({"ACME/test": answer(2)})
        until(lambda: acme.call() == 2)
        acme.write({"ACME/test": "def handleMessage(", "new/test": answer(3)})
        until(lambda: "new" in acme.hub.projects and acme.hub.problems)
        assert (acme.call(), acme.call(project="new")) == (2, 3)
        acme.write({"ACME/test": answer(4)})
        acme.remove("old")
        until(lambda: "old" not in acme.hub.projects and not acme.hub.problems)
        assert acme.call() == 4

    def test_a_folder_that_takes_another_ones_place(self, watched: Any) -> None:
        """Deployed by a link that is moved: what it points to now is watched."""
        acme = watched({"ACME/test": answer(1)})
        releases = acme.folder.with_name("releases")
        shutil.copytree(acme.folder, releases / "2")
        (releases / "2" / "ACME" / "messages" / "test.py").write_text(answer(2))
        acme.folder.rename(releases / "1")
        acme.folder.symlink_to(releases / "2")
        acme.rig.until(lambda: acme.call() == 2)
        (releases / "2" / "ACME" / "messages" / "test.py").write_text(answer(3))
        acme.rig.until(lambda: acme.call() == 3)
        # Now that it is a link, nobody tells that it is another one.
        shutil.copytree(releases / "2", releases / "3")
        (releases / "3" / "ACME" / "messages" / "test.py").write_text(answer(4))
        (releases / "link").symlink_to(releases / "3")
        (releases / "link").replace(acme.folder)
        acme.rig.until(lambda: acme.call() == 4)
        (releases / "3" / "ACME" / "messages" / "test.py").write_text(answer(5))
        acme.rig.until(lambda: acme.call() == 5)

    def test_where_the_system_has_no_watch_left_it_looks_by_itself(
        self, plant: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One line in the log says so, and edits are seen."""

        def used_up(*folders: Path, force_polling: bool | None, **options: Any) -> Any:
            if not force_polling:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*folders, force_polling=True, **options)

        real = watchfiles.watch
        monkeypatch.setattr(watchfiles, "watch", used_up)
        acme = plant({"ACME/test": answer(1)}, reload=True)
        acme.write({"ACME/test": answer(2)})
        acme.rig.until(lambda: acme.call() == 2)
        assert len([r for r in caplog.records if "polling" in r.getMessage()]) == 1

    def test_a_project_that_was_named_is_watched_where_it_stands(self, rig: Any) -> None:
        """One that vanishes is a problem, since somebody wants it; it goes on and can come back."""
        folder = rig.projects({"ACME/test": answer(1)})
        named = {"plant": folder / "ACME"}
        with headgate.Gateway(projects=named, port=0, data=rig.folder / "d", reload=True) as hub:
            util = hub.system.util
            rig.projects({"ACME/test": answer(2)})
            rig.until(lambda: util.sendRequest("plant", "test") == 2)
            (folder / "ACME").rename(folder / "away")
            rig.until(lambda: hub.problems)
            assert "not there" in str(hub.problems[0])
            assert util.sendRequest("plant", "test") == 2
            (folder / "away").rename(folder / "ACME")
            rig.until(lambda: not hub.problems)
            rig.projects({"ACME/test": answer(3)})
            rig.until(lambda: util.sendRequest("plant", "test") == 3)

    @pytest.mark.parametrize(
        ("path", "remote"),
        [("/srv/plant/projects", True), ("/srv/plant", True), ("/srv/plan", False), ("/a b", True)],
    )
    def test_network_mounts_are_known(self, path: str, remote: bool) -> None:
        """The nearest mount counts."""
        mounts = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /srv/plant rw,relatime - nfs4 server:/export rw,vers=4.2
24 22 0:6 / /a\\040b rw,relatime - fuse.sshfs host: rw
"""
        assert watch.is_remote(Path(path), mounts) is remote

    def test_without_it_edits_wait(self, plant: Any) -> None:
        """A gateway in a program does what the program says."""
        acme = plant({"ACME/test": answer(1)})
        acme.write({"ACME/test": answer(2), "ACME/more": answer(3)})
        assert acme.call() == 1
        assert "headgate reload" in str(acme.ask("more").getError())
        assert not [t for t in threading.enumerate() if t.name == "headgate-watch"]


def test_nothing_is_left_of_hundreds_of_generations(plant: Any) -> None:
    """Threads, descriptors, modules and source lines are as many as before."""
    acme = plant({"ACME/test": answer(0), "ACME/tasks": "async " + answer(0)})

    def edit(n: int) -> None:
        acme.reload({"ACME/test": answer(n), "ACME/library/lib.py": f"N = {n}\n"})
        assert acme.call() == n
        acme.call("tasks")

    def sizes() -> dict[str, int]:
        gc.collect()
        return {
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0,
            "modules": len(sys.modules),
            "lines": len(linecache.cache),
            "projects": sum(type(each) is Project for each in gc.get_objects()),
            "gates": sum(type(each).__name__ == "Gate" for each in gc.get_objects()),
        }

    for n in range(1, 20):
        edit(n)
    before = sizes()
    for n in range(20, 300):
        edit(n)
    acme.rig.until(lambda: acme.hub.stats()["generations_left"] == 0)
    assert sizes() == before
