"""Projects with handlers in worker processes: what the gateway loads of them, and what never."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import headgate
from headgate.cli.demo import example_projects
from headgate.gateway import loading, plan
from headgate.gateway.loading import load_projects
from headgate.projects.source import find_projects

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes need Linux")

PROCESS = "import headgate\n@headgate.handler(runtime='process')\n"

DIES = "import os\n" + PROCESS + "def handleMessage(payload): os._exit(3)\n"


def answer(value: object) -> str:
    """A handler in a process that answers with this."""
    return f"{PROCESS}def handleMessage(payload):\n    return {value!r}\n"


def here(value: object) -> str:
    """A handler in the gateway that answers with this."""
    return f"def handleMessage(payload):\n    return {value!r}\n"


class Marks:
    """Who has imported what: scripts and modules note their process in a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def text(self, name: str) -> str:
        """Statements that note who runs them."""
        file = str(self._folder / name)
        return f"import os\nwith open({file!r}, 'a') as f: f.write(f'{{os.getpid()}} ')\n"

    def of(self, name: str) -> set[int]:
        """The processes that have run the statements of this name."""
        file = self._folder / name
        return {int(pid) for pid in file.read_text().split()} if file.exists() else set()


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    """Notes of who imports what."""
    return Marks(tmp_path / "marks")


class Plant:
    """A gateway whose projects are edited while it runs."""

    def __init__(self, rig: Any, scripts: dict[str, str], **options: Any) -> None:
        self.rig = rig
        self.hub: headgate.Gateway = rig.gateway(scripts, **options)

    def reload(self, scripts: dict[str, str], **options: Any) -> Any:
        self.rig.projects(scripts)
        return self.hub.reload(**options)

    def ask(self, handler: str = "test", payload: Any = None, project: str = "ACME") -> Any:
        util = self.hub.system.util
        return util.sendRequestAsync(project, handler, payload, timeoutSec=20)

    def call(self, handler: str = "test", payload: Any = None, project: str = "ACME") -> Any:
        return self.ask(handler, payload, project).get()

    def problem(self) -> Any:
        (problem,) = self.hub.problems
        return problem


@pytest.fixture
def plant(rig: Any) -> Callable[..., Plant]:
    """Makes a gateway whose projects are edited."""
    return lambda scripts, **options: Plant(rig, scripts, **options)


@pytest.fixture
def check(rig: Any) -> Iterator[Callable[..., Any]]:
    """Loads projects without a gateway."""
    loaded = []

    def load(scripts: dict[str, str]) -> Any:
        folders = find_projects(rig.projects(scripts))
        loaded.append(load_projects(folders, system=lambda project: object()))
        return loaded[-1]

    yield load
    for each in loaded:
        each.close()


def descendants() -> set[int]:
    """The processes below this one, those that nobody has reaped too."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


class TestWhatTheGatewayNeverRuns:
    """Process handlers are read, and run elsewhere."""

    @pytest.mark.parametrize(
        ("decorator", "settings"),
        [
            ("@headgate.handler(runtime='process')", ""),
            ("", "[defaults]\nruntime = 'process'"),
            ("", "[handlers.test]\nruntime = 'process'"),
            ("@headgate.handler(runtime='thread')", "[handlers.test]\nruntime = 'process'"),
        ],
        ids=["decorator", "defaults", "handlers", "handlers over decorator"],
    )
    def test_neither_script_nor_library(
        self, plant: Any, marks: Marks, decorator: str, settings: str
    ) -> None:
        """By whatever it is stated, both are imported in a worker alone."""
        script = f"""
import headgate, lib
{marks.text("script")}
{decorator}
def handleMessage(payload):
    return [os.getpid(), lib.PID]
"""
        library = marks.text("library") + "PID = os.getpid()\n"
        acme = plant(
            {
                "ACME/test": script,
                "ACME/library/lib.py": library,
                "ACME/project.toml": settings,
            }
        )
        assert acme.hub.problems == []
        (pid,) = marks.of("script") & marks.of("library") & set(acme.call())
        assert os.getpid() not in marks.of("script") | marks.of("library")
        assert pid in descendants()
        assert acme.hub.projects["ACME"].handlers["test"].settings.runtime == "process"

    def test_where_some_handlers_run_in_threads(self, plant: Any, marks: Marks) -> None:
        """Each script is imported where it runs, the library in both."""
        acme = plant(
            {
                "ACME/test": marks.text("apart") + answer("apart"),
                "ACME/here": marks.text("here") + here("here"),
                "ACME/library/lib.py": marks.text("library"),
            }
        )
        assert (acme.call(), acme.call("here")) == ("apart", "here")
        assert marks.of("here") == {os.getpid()}
        assert os.getpid() not in marks.of("apart")
        assert marks.of("library") > {os.getpid()}

    def test_a_mistake_in_the_script_is_no_reason(self, plant: Any, marks: Marks) -> None:
        """Of a project whose only script cannot be compiled nothing is imported either."""
        acme = plant({"ACME/test": PROCESS + "def", "ACME/library/lib.py": marks.text("library")})
        assert acme.problem().line == 3
        assert marks.of("library") == set()

    def test_a_library_for_heirs(self, plant: Any, marks: Marks) -> None:
        """A project without handlers says by its defaults that it is for processes."""
        acme = plant(
            {
                "common/library/lib.py": marks.text("library") + "VALUE = 5\n",
                "common/project.toml": "[defaults]\nruntime = 'process'",
                "ACME/test": "def handleMessage(payload): return lib.VALUE",
                "ACME/project.toml": "parent = 'common'\n[defaults]\nruntime = 'process'",
            }
        )
        assert acme.call() == 5
        assert os.getpid() not in marks.of("library")

    def test_what_they_are_is_known(self, plant: Any) -> None:
        """An async one, its project and its runtime are listed like others."""
        acme = plant({"ACME/test": PROCESS + "async def handleMessage(payload): return 7"})
        assert acme.call() == 7
        (row,) = acme.call("handlers", project="@gateway")
        assert (row["handler"], row["runtime"], row["async"]) == ("test", "process", True)


class TestCheck:
    """Without a gateway, as `headgate check` does."""

    def test_mistakes_are_found(self, check: Any, marks: Marks) -> None:
        """Those of syntax in the text, others by a worker, never in this process; nothing stays."""
        before = descendants()
        loaded = check(
            {
                "ACME/syntax": PROCESS + "def handleMessage(payload)\n",
                "ACME/missing": marks.text("missing") + "import nothing_of_that_name\n" + answer(1),
                "ACME/empty": PROCESS.replace("@headgate", "x = 1 #") + "",
                "ACME/fine": marks.text("fine") + answer(1),
                "ACME/project.toml": "[handlers.empty]\nruntime = 'process'",
            }
        )
        found = {p.handler: p for p in loaded.problems}
        assert found.keys() == {"syntax", "missing", "empty"}
        assert (found["syntax"].line, found["missing"].line) == (3, 3)
        assert "Install 'nothing_of_that_name'" in found["missing"].cure
        assert "does not define handleMessage" in found["empty"].what
        assert all(Path(p.file).name == f"{name}.py" for name, p in found.items())
        assert list(loaded["ACME"].handlers) == ["fine"]
        assert marks.of("fine")
        assert os.getpid() not in marks.of("fine") | marks.of("missing")
        assert descendants() == before

    def test_a_mistake_of_the_library_is_told_once(self, check: Any) -> None:
        """Although it is found here and in the worker."""
        loaded = check(
            {
                "ACME/test": answer(1),
                "ACME/here": here(1),
                "ACME/library/lib.py": "x = 1\n1 / 0\n",
            }
        )
        (problem,) = loaded.problems
        assert (Path(problem.file).name, problem.line) == ("lib.py", 2)
        assert "ZeroDivisionError" in problem.what

    def test_in_a_worker_alone(self, check: Any) -> None:
        """A mistake of the library has its line there, too."""
        loaded = check({"ACME/test": answer(1), "ACME/library/lib.py": "x = 1\n1 / 0\n"})
        (problem,) = loaded.problems
        assert (Path(problem.file).name, problem.line, problem.handler) == ("lib.py", 2, "")

    def test_where_the_system_has_none(self, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process handler is a problem with its cure, and everything else serves."""
        monkeypatch.delattr(os, "eventfd")
        loaded = check({"ACME/test": answer(1), "ACME/here": here(1)})
        (problem,) = loaded.problems
        assert (problem.handler, Path(problem.file).name) == ("test", "test.py")
        assert "Linux" in problem.what
        assert "runtime='thread'" in problem.cure
        assert list(loaded["ACME"].handlers) == ["here"]


class TestScriptsThatDoNotComeToTheirEnd:
    """What a script does to the process that loads it."""

    @pytest.mark.parametrize(
        ("statement", "told"),
        [
            ("import os; os._exit(3)", "exit code 3"),
            ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ],
    )
    def test_one_that_ends_its_process(self, plant: Any, statement: str, told: str) -> None:
        """Its problem names the file and how it ended; all the others serve."""
        acme = plant(
            {"ACME/test": answer(1), "ACME/zzz": f"{statement}\n{answer(2)}", "ACME/here": here(3)}
        )
        problem = acme.problem()
        assert problem.handler == "zzz"
        assert Path(problem.file).name == "zzz.py"
        assert told in problem.what
        assert problem.cure
        assert (acme.call(), acme.call("here")) == (1, 3)

    def test_a_library_that_ends_its_process(self, plant: Any) -> None:
        """No process handler serves; the problem names the module, also when it has company."""
        acme = plant(
            {
                "ACME/test": answer(1),
                "ACME/library/lib.py": "import other\nimport os\nos._exit(4)\n",
                "ACME/library/other.py": "x = 1\n",
                "B/test": answer(2),
            }
        )
        problem = acme.problem()
        assert (problem.project, problem.handler) == ("ACME", "")
        assert Path(problem.file).name == "lib.py"
        assert acme.call(project="B") == 2

    def test_those_that_go_on_for_ever(self, plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are killed when time is up, and the problem names file and line."""
        monkeypatch.setattr(plan, "LOAD_SECONDS", 2.0)
        monkeypatch.setattr(loading, "PATIENCE_SECONDS", 0.1)
        acme = plant(
            {
                "spin/test": f"while True:\n    pass\n{answer(1)}",
                "wait/test": f"import time\ntime.sleep(1e9)\n{answer(1)}",
                "wait/here": here(2),
                "logs/test": f"while True:\n    system.util.getLogger('x').debug('')\n{answer(1)}",
                "B/test": answer(3),
            }
        )
        problems = {problem.project: problem for problem in acme.hub.problems}
        assert problems.keys() == {"spin", "wait", "logs"}
        assert all(Path(problem.file).name == "test.py" for problem in problems.values())
        assert problems["spin"].line in (1, 2)
        assert problems["wait"].line == 2
        assert "let a handler do it" in problems["wait"].cure
        assert "in time" in problems["wait"].what
        error = str(acme.ask("test", project="wait").getError())
        assert "could not be loaded" in error
        assert "test.py:2" in error
        assert (acme.call("here", project="wait"), acme.call(project="B")) == (2, 3)


class TestReload:
    """Generations with workers."""

    def test_an_edit_serves_when_reload_returns(self, plant: Any) -> None:
        """Of a script and of the library; a thread handler becomes one in a process and back."""
        acme = plant({"ACME/test": answer(1)})
        assert acme.reload({"ACME/test": answer(2)}).changed == ("ACME",)
        assert acme.call() == 2
        acme.reload(
            {"ACME/test": answer("x").replace("'x'", "lib.X"), "ACME/library/lib.py": "X=3"}
        )
        assert acme.call() == 3
        acme.reload({"ACME/test": here(4)})
        assert acme.call() == 4
        acme.reload({"ACME/test": answer(5)})
        assert acme.call() == 5

    @pytest.mark.parametrize("mistake", ["def", "import os; os._exit(3)", "1 / 0"])
    def test_a_mistake_takes_nothing_away(self, plant: Any, mistake: str) -> None:
        """Not even from workers that begin after it was saved."""
        acme = plant(
            {
                "ACME/test": answer(1),
                "ACME/dies": DIES,
                "ACME/library/lib.py": "X = 1",
                "ACME/project.toml": "[defaults]\nruntime = 'process'",
            }
        )
        reloaded = acme.reload({"ACME/test": mistake, "ACME/library/lib.py": "X ="})
        assert reloaded.kept == ("ACME",)
        for _ in range(3):
            assert isinstance(acme.ask("dies").getError(), headgate.HandlerKilled)
            assert acme.call() == 1
        assert acme.reload({"ACME/test": answer(2), "ACME/library/lib.py": "X = 2"}).changed
        assert acme.call() == 2

    def test_what_is_imported_late_is_of_the_same_moment(self, plant: Any) -> None:
        """A module of an underscore, in a package, imported by a handler after it was edited."""
        acme = plant(
            {
                "ACME/test": f"{PROCESS}def handleMessage(payload):\n"
                "    from lines import _late\n    return [_late.X, lines.sub.deep.Y]",
                "ACME/library/lines/_late.py": "X = 1",
                "ACME/library/lines/sub/deep.py": "Y = 1",
            }
        )
        edited = {"ACME/library/lines/_late.py": "X = 2", "ACME/library/lines/sub/deep.py": "Y = 2"}
        acme.rig.projects(edited)
        assert acme.call() == [1, 1]
        acme.reload({})
        assert acme.call() == [2, 2]

    def test_what_runs_ends_on_its_worker(self, plant: Any, tmp_path: Path) -> None:
        """And the new code does not wait for it."""
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        hold = (
            f"{PROCESS}def handleMessage(payload):\n    open({str(gate)!r}).read()\n    return 1\n"
        )
        acme = plant({"ACME/hold": hold, "ACME/test": answer(1)})
        held = acme.ask("hold")
        # Opening it to write waits for somebody who reads.
        with open(gate, "w"):
            acme.reload({"ACME/hold": answer(2), "ACME/test": answer(2)})
            assert acme.call() == 2
            assert not held.done
        assert held.get() == 1
        assert acme.call("hold") == 2

    def test_nothing_is_left_of_twenty_generations(self, plant: Any) -> None:
        """Processes, descriptors and threads are as many as before; those of refused ones too."""
        single, others = "[pool]\nworkers = 1", descendants()
        acme = plant({"ACME/test": answer(0), "ACME/here": here(0), "ACME/project.toml": single})

        def sizes() -> dict[str, int]:
            gc.collect()
            return {
                "processes": len(descendants() - others),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
            }

        def edit(n: int) -> None:
            acme.reload({"ACME/test": answer(n), "ACME/here": here(n)})
            assert (acme.call(), acme.call("here")) == (n, n)
            # It has a worker of its own, which never serves.
            assert acme.reload({"ACME/here": "1 / 0"}).kept == ("ACME",)

        edit(1)
        acme.reload({"ACME/here": here(1)})
        acme.rig.until(lambda: acme.hub.stats()["generations_left"] == 0)
        # What makes the workers, and one of them.
        acme.rig.until(lambda: len(descendants() - others) == 2)
        before = sizes()
        for n in range(2, 12):
            edit(n)
        acme.reload({"ACME/here": here(11)})
        acme.rig.until(lambda: all(size <= before[name] for name, size in sizes().items()))

    def test_a_gateway_that_stops_meanwhile(self, plant: Any, marks: Marks) -> None:
        """What loads is killed, nothing else is loaded, and no process stays."""
        before = descendants()
        acme = plant({"ACME/test": answer(1), "ACME/zzz": answer(1)})
        acme.rig.projects({"ACME/test": f"{marks.text('spins')}while True: pass\n{answer(2)}"})
        reloading = threading.Thread(target=_reload, args=[acme.hub])
        reloading.start()
        acme.rig.until(lambda: marks.of("spins"))
        acme.hub.stop(0.1)
        reloading.join(20)
        acme.rig.until(lambda: not [t for t in threading.enumerate() if "-load" in t.name])
        acme.rig.until(lambda: descendants() == before)


def _reload(gateway: headgate.Gateway) -> None:
    with contextlib.suppress(Exception):
        gateway.reload()


def test_the_example_forecasts() -> None:
    """The example plant has a handler in a process."""
    with headgate.Gateway(projects=example_projects(), port=0) as hub:
        assert hub.problems == []
        told = hub.system.util.sendRequest("ACME", "forecast", {"runs": 200, "seed": 7})
        assert told["low"] <= told["middle"] <= told["high"]
        assert hub.projects["ACME"].handlers["forecast"].settings.runtime == "process"


class TestSettings:
    """The table [pool], and what workers see."""

    def test_a_project_states_its_pool(self, check: Any) -> None:
        """Setting by setting, that of the nearest project counts."""
        loaded = check(
            {
                "base/project.toml": """
                    [pool]
                    threads = 3
                    workers = 5
                    worker_age = inf
                    worker_environment = ["A"]
                    """,
                "ACME/project.toml": "parent = 'base'\n[pool]\nworkers = 4\nworker_memory = 512",
                "ACME/here": here(1),
                "plain/here": here(1),
            }
        )
        pools = loaded["ACME"].pools
        assert (pools.threads, pools.max_threads, pools.workers) == (3, 64, 4)
        assert (pools.worker_age, pools.worker_memory) == (None, 512)
        assert pools.worker_environment == ("A",)
        assert (loaded["plain"].pools.threads, loaded["plain"].pools.worker_age) == (8, 3600)

    @pytest.mark.parametrize(
        ("text", "line", "what", "cure"),
        [
            ("pool = 5", 1, "pool cannot be 5", "[pool]"),
            ("[pool]\nworker = 5", 2, "'worker' is no setting of a pool", "mean 'workers'?"),
            ("[pool]\nworkers = 0", 2, "workers cannot be 0", "whole number from 1"),
            ("[pool]\nworkers = 257", 2, "workers cannot be 257", "from 1 to 256"),
            ("[pool]\nthreads = true", 2, "threads cannot be True", "whole number from 1"),
            ("[pool]\nworker_age = 0", 2, "worker_age cannot be 0", "inf for never"),
            ("[pool]\nworker_memory = '1G'", 2, "worker_memory cannot be '1G'", "MiB"),
            ("[pool]\nworker_environment = 'A'", 2, "worker_environment cannot be", "list"),
            ("[pool]\nthreads = 65", 1, "threads=65 is more than max_threads=64", "Raise"),
            ("[defaults]\nruntime = 'jython'", 2, "runtime cannot be 'jython'", "'process'"),
        ],
    )
    def test_a_wrong_pool_stops_the_project(
        self, check: Any, text: str, line: int, what: str, cure: str
    ) -> None:
        """The problem names file, line and cure."""
        loaded = check({"ACME/project.toml": text, "ACME/test": here(1)})
        (problem,) = loaded.problems
        assert (Path(problem.file).name, problem.line) == ("project.toml", line)
        assert what in problem.what
        assert cure in problem.cure
        assert not loaded["ACME"].handlers

    @pytest.mark.parametrize(
        ("text", "settings", "place"),
        [
            ("\n[defaults]\nmemory = 5", "", ("project.toml", 3)),
            ("[handlers.test]\nqueue = 1\non_timeout = 'kill'", "", ("project.toml", 3)),
            ("[handlers.test]\nconcurrency = 2", "threading='Dedicated'", ("project.toml", 2)),
            ("[defaults]\nmemory = 5", "memory=6", ("test.py", None)),
        ],
    )
    def test_a_contradiction_is_told_where_it_stands(
        self, check: Any, text: str, settings: str, place: tuple[str, int | None]
    ) -> None:
        """Not at the script, which may say nothing of it."""
        script = f"import headgate\n@headgate.handler({settings})\n"
        script += "def handleMessage(payload): pass"
        (problem,) = check({"ACME/project.toml": text, "ACME/test": script}).problems
        assert (Path(problem.file).name, problem.line) == place

    def test_workers_see_what_is_named(self, plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """And nothing else of the gateway's environment."""
        monkeypatch.setenv("HISTORIAN", "here")
        monkeypatch.setenv("SECRET", "no")
        acme = plant(
            {
                "ACME/test": f"import json, os\n{PROCESS}def handleMessage(payload):\n"
                "    return json.dumps(dict(os.environ))",
                "ACME/project.toml": "[pool]\nworker_environment = ['HISTORIAN', 'MISSING']",
            }
        )
        seen = json.loads(acme.call())
        assert seen["HISTORIAN"] == "here"
        assert not {"SECRET", "HEADGATE_HOME", "MISSING"} & seen.keys()
