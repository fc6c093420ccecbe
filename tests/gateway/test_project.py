from __future__ import annotations

import asyncio
import json
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import headgate
from headgate.errors import ConfigurationError
from headgate.gateway.loading import load_projects
from headgate.handler import HandlerSettings, handler
from headgate.projects.project import Problem, Projects
from headgate.projects.source import find_projects

ANSWER = "def handleMessage(payload): return "


def system_of(project: str) -> object:
    """A stand-in for the scripts' `system`, which knows its project's name."""
    return SimpleNamespace(util=SimpleNamespace(getProjectName=lambda: project))


class Plant:
    """A projects folder on disk, and the generations loaded from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.generations: list[Projects] = []

    def write(self, path: str, text: str = "") -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def load(self, **named: Path) -> Projects:
        projects = load_projects(find_projects(self.folder, named), system=system_of)
        self.generations.append(projects)
        return projects

    def answer(self, project: str = "ACME", handler: str = "test", payload: Any = None) -> Any:
        projects = self.load()
        assert projects.problems == []
        return projects[project].handlers[handler].function(payload)

    def problem(self) -> Problem:
        (problem,) = self.load().problems
        return problem


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path / "projects")
    plant.folder.mkdir()
    yield plant
    for projects in plant.generations:
        projects.close()


class TestFinding:
    def test_every_folder_with_something_of_a_project_is_one(self, plant: Plant) -> None:
        """project.toml, messages or library make a folder a project."""
        plant.write("A/project.toml")
        plant.write("B/messages/test.py", ANSWER + "1")
        plant.write("C/library/util.py")
        plant.write("docs/readme.txt")
        plant.write(".git/library/x.py")
        plant.write("_old/messages/x.py")
        plant.write("stray.txt")
        assert list(find_projects(plant.folder)) == ["A", "B", "C"]

    def test_a_named_project_may_stand_anywhere_and_wins(
        self, plant: Plant, tmp_path: Path
    ) -> None:
        """A project named with its path replaces one of the folder."""
        plant.write("ACME/messages/test.py", ANSWER + "'folder'")
        other = plant.write("../elsewhere/messages/test.py", ANSWER + "'named'").parents[1]
        assert plant.load(ACME=other)["ACME"].handlers["test"].function({}) == "named"

    def test_a_missing_projects_folder_is_an_error(self, tmp_path: Path) -> None:
        """The error names the folder and says what to name instead."""
        with pytest.raises(ConfigurationError, match=r"nowhere cannot be read.*Name the folder"):
            find_projects(tmp_path / "nowhere")

    def test_a_named_folder_that_is_no_project_is_an_error(self, plant: Plant) -> None:
        """The error names the project, its folder, and what a project holds."""
        with pytest.raises(ConfigurationError, match=r"'X' is not in .*empty.*project\.toml"):
            find_projects(plant.folder, {"X": plant.folder / "empty"})


class TestHandlers:
    def test_a_script_is_a_handler_of_its_name(self, plant: Plant) -> None:
        """The handler knows its project, name, file and default settings."""
        file = plant.write("ACME/messages/test.py", ANSWER + "payload['number'] * 2")
        found = plant.load()["ACME"].handlers["test"]
        assert found.function({"number": 21}) == 42
        assert (found.project, found.name, found.file) == ("ACME", "test", file)
        assert found.settings == HandlerSettings()
        assert not found.signature.takes_context
        assert not found.signature.is_async

    def test_names_have_spaces_and_subfolders(self, plant: Plant) -> None:
        """Spaces and dots stay, a subfolder stands before a slash, _ and . files are skipped."""
        for path in ("Start Line", "a/b", "v1.2", "_draft", ".hidden", "_x/y", "a/__init__"):
            plant.write(f"ACME/messages/{path}.py", ANSWER + "1")
        plant.write("ACME/messages/notes.txt")
        assert sorted(plant.load()["ACME"].handlers) == ["Start Line", "a/b", "v1.2"]

    @pytest.mark.parametrize(
        ("parameters", "takes_context"),
        [
            ("payload", False),
            ("payload=None", False),
            ("payload, verbose=False", False),
            ("payload, /", False),
            ("*arguments", False),
            ("payload, **more", False),
            ("payload, context", True),
            ("payload, ctx", True),
            ("payload, context=None", True),
            ("payload, context, more=1", True),
        ],
    )
    def test_the_context_is_for_those_who_take_it(
        self, plant: Plant, parameters: str, takes_context: bool
    ) -> None:
        """A second parameter without default, or named context, gets the context."""
        plant.write("ACME/messages/test.py", f"def handleMessage({parameters}): pass")
        assert plant.load()["ACME"].handlers["test"].signature.takes_context is takes_context

    def test_an_async_handler_is_one(self, plant: Plant) -> None:
        """`async def handleMessage` is told apart, and runs."""
        plant.write("ACME/messages/test.py", "async def handleMessage(payload): return 1")
        found = plant.load()["ACME"].handlers["test"]
        assert found.signature.is_async
        assert asyncio.run(found.function({})) == 1

    def test_a_file_may_have_tabs_umlauts_and_a_byte_order_mark(self, plant: Plant) -> None:
        """Files are UTF-8 as editors on Windows write it."""
        text = "\ufeffdef handleMessage(payload):\r\n\treturn 'Öl 5 µm'\r\n"
        plant.write("ACME/messages/test.py").write_bytes(text.encode())
        assert plant.answer() == "Öl 5 µm"

    def test_a_dataclass_and_its_hints_work_in_a_script(self, plant: Plant) -> None:
        """What looks a class's module up in sys.modules finds it."""
        plant.write(
            "ACME/messages/test.py",
            """
            from __future__ import annotations
            import dataclasses, typing
            @dataclasses.dataclass
            class Batch:
                size: int
            def handleMessage(payload):
                return typing.get_type_hints(Batch)["size"] is int and Batch(3).size
            """,
        )
        assert plant.answer() == 3

    def test_headgates_own_future_imports_do_not_reach_scripts(self, plant: Plant) -> None:
        """A script's annotations are what the script says."""
        plant.write(
            "ACME/messages/test.py",
            """
            def typed(number: int): pass
            def handleMessage(payload): return typed.__annotations__["number"] is int
            """,
        )
        assert plant.answer() is True


class TestSettings:
    def test_the_decorator_is_read_by_all_its_spellings(
        self, plant: Plant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """headgate.handler, an alias of headgate, and an imported handler are the same."""
        monkeypatch.setattr(headgate, "handler", handler, raising=False)
        spellings = {
            "a": "import headgate\n@headgate.handler(queue=5)",
            "b": "import headgate as hg\n@hg.handler(queue=5)",
            "c": "from headgate import handler\n@handler(queue=5)",
            "d": "from headgate.handler import handler as h\n@h(queue=5)",
        }
        for name, text in spellings.items():
            plant.write(f"ACME/messages/{name}.py", f"{text}\n{ANSWER}1")
        found = plant.load()["ACME"].handlers
        assert {name: found[name].settings.queue for name in found} == dict.fromkeys("abcd", 5)

    def test_project_toml_by_handler_wins_then_the_decorator_then_defaults(
        self, plant: Plant
    ) -> None:
        """Each setting comes from the most particular place that states it."""
        plant.write(
            "ACME/project.toml",
            """
            [defaults]
            queue = 1
            concurrency = 1
            timeout = 1
            [handlers.test]
            timeout = 3.5
            """,
        )
        plant.write(
            "ACME/messages/test.py",
            f"""
            from headgate.handler import handler
            @handler(concurrency=2, timeout=2)
            {ANSWER}1
            """,
        )
        plant.write("ACME/messages/plain.py", ANSWER + "1")
        found = plant.load()["ACME"].handlers
        assert found["test"].settings == HandlerSettings(queue=1, concurrency=2, timeout=3.5)
        assert found["plain"].settings == HandlerSettings(queue=1, concurrency=1, timeout=1)

    def test_dedicated_is_one_at_a_time_whatever_the_defaults_say(self, plant: Plant) -> None:
        """A Dedicated handler's concurrency is 1."""
        plant.write("ACME/project.toml", "[defaults]\nconcurrency = 4")
        plant.write(
            "ACME/messages/test.py",
            f"from headgate.handler import handler\n@handler(threading='Dedicated')\n{ANSWER}1",
        )
        settings = plant.load()["ACME"].handlers["test"].settings
        assert settings == HandlerSettings(threading="Dedicated", concurrency=1)

    def test_dedicated_by_project_toml_contradicts_a_decorators_concurrency(
        self, plant: Plant
    ) -> None:
        """Two places that contradict each other stop the handler."""
        plant.write("ACME/project.toml", "[handlers.test]\nthreading = 'Dedicated'")
        plant.write(
            "ACME/messages/test.py",
            f"from headgate.handler import handler\n@handler(concurrency=3)\n{ANSWER}1",
        )
        problem = plant.problem()
        assert "concurrency=3 contradicts threading='Dedicated'" in problem.what
        assert "Leave concurrency out" in problem.cure

    @pytest.mark.parametrize(
        ("decorator", "what", "cure"),
        [
            ("handler(threading='Fast')", "threading cannot be 'Fast'", "'Dedicated'"),
            ("handler(concurrency=0)", "concurrency cannot be 0", "whole number from 1"),
            ("handler(concurrency=True)", "concurrency cannot be True", "whole number from 1"),
            ("handler(queue=-1)", "queue cannot be -1", "whole number from 0"),
            ("handler(queue=None)", "queue cannot be None", "whole number from 0"),
            ("handler(timeout='5')", "timeout cannot be '5'", "more than 0"),
            ("handler(timeout=1e999)", "timeout cannot be inf", "more than 0"),
            ("handler(treading='Shared')", "'treading' is no setting", "mean 'threading'?"),
            (
                "handler(memori=5)",
                "'memori' is no setting",
                "Known: threading, runtime, concurrency, queue",
            ),
            ("handler(queue=LIMIT)", "queue=LIMIT is not a literal", "Write the value itself"),
            ("handler(**LIMITS)", "**LIMITS is not a literal", "Write the value itself"),
            ("handler('Dedicated')", "'Dedicated' has no setting's name", "name=value"),
            ("handler", "@handler lacks its parentheses", "@handler()"),
            ("handler(threading='Dedicated', concurrency=2)", "contradicts", "'Shared'"),
        ],
    )
    def test_a_wrong_decorator_is_told_with_its_line(
        self, plant: Plant, decorator: str, what: str, cure: str
    ) -> None:
        """The problem has project, handler, file, line, what is wrong and what to write."""
        file = plant.write(
            "ACME/messages/test.py",
            f"from headgate.handler import handler\nLIMIT = 5\n@{decorator}\n{ANSWER}1",
        )
        problem = plant.problem()
        assert what in problem.what
        assert cure in problem.cure
        assert (problem.project, problem.handler) == ("ACME", "test")
        assert (problem.file, problem.line) == (str(file), 3)
        assert str(problem).startswith(f"Project 'ACME', handler 'test': {file}:3: ")

    def test_decorators_of_others_are_left_alone(self, plant: Plant) -> None:
        """Another function's decorator and other decorators are no settings."""
        plant.write(
            "ACME/messages/test.py",
            f"""
            import functools
            def handler(**anything): return lambda function: function
            @functools.cache
            def cached(): return 1
            @handler(queue=object())
            {ANSWER}cached()
            """,
        )
        assert plant.load()["ACME"].handlers["test"].settings.queue == 10_000

    def test_a_definition_below_if_is_read_too(self, plant: Plant) -> None:
        """The decorator counts where handleMessage stands below if or try."""
        plant.write(
            "ACME/messages/test.py",
            """
            from headgate.handler import handler
            try:
                @handler(queue=7)
                def handleMessage(payload): return 1
            finally:
                pass
            """,
        )
        assert plant.load()["ACME"].handlers["test"].settings.queue == 7


class TestProjectFile:
    def test_title_parent_and_enabled_are_read(self, plant: Plant) -> None:
        """A project without a title is called by its name."""
        plant.write("BASE/project.toml", "enabled = true")
        plant.write("ACME/project.toml", "\ufefftitle = 'Werk Süd'\nparent = 'BASE'")
        projects = plant.load()
        acme, base = projects["ACME"], projects["BASE"]
        assert (acme.title, acme.parent, acme.enabled) == ("Werk Süd", "BASE", True)
        assert (base.title, base.parent, base.path) == ("BASE", "", plant.folder / "BASE")

    @pytest.mark.parametrize(
        ("text", "line", "what", "cure"),
        [
            ("\nparnet = 'x'", 2, "'parnet' is no setting of a project", "mean 'parent'?"),
            ("enabled = 'no'", 1, "enabled cannot be 'no'", "Write true or false"),
            ("title = 5", 1, "title cannot be 5", "text in quotes"),
            ("defaults = 5", 1, "defaults cannot be 5", "[defaults]"),
            ("[defaults]\n'que' = 5", 2, "'que' is no setting of a handler", "mean 'queue'?"),
            ("[defaults] # x\nqueue = -5", 2, "queue cannot be -5", "whole number"),
            ("title = 'a'\nparent = b", 2, "not valid TOML", "in quotes"),
            ("title = 'a'\n\nparent =", 3, "not valid TOML", "in quotes"),
            ("[handler.test]\nqueue = 5", 1, "'handler' is no setting", "mean 'handlers'?"),
        ],
    )
    def test_a_wrong_project_file_stops_the_project_and_no_other(
        self, plant: Plant, text: str, line: int, what: str, cure: str
    ) -> None:
        """A project whose file cannot be trusted serves nothing; the others serve."""
        file = plant.write("ACME/project.toml", text)
        plant.write("ACME/messages/test.py", ANSWER + "1")
        plant.write("OTHER/messages/test.py", ANSWER + "1")
        projects = plant.load()
        (problem,) = projects["ACME"].problems
        assert what in problem.what
        assert cure in problem.cure
        assert (problem.file, problem.line, problem.handler) == (str(file), line, "")
        assert not projects["ACME"].handlers
        assert projects["OTHER"].handlers

    def test_a_project_file_that_is_not_utf8_is_told(self, plant: Plant) -> None:
        """The problem names the byte and its line."""
        plant.write("ACME/project.toml").write_bytes(b"\ntitle = 'S\xfcd'")
        problem = plant.problem()
        assert (problem.what, problem.line) == ("Byte 11 is not UTF-8", 2)
        assert problem.cure == "Save the file as UTF-8"

    @pytest.mark.parametrize(
        ("text", "line", "what", "cure"),
        [
            ("[handlers.'Start Line']\nque = 1", 2, "'que' is no setting", "mean 'queue'?"),
            ("handlers.'Start Line'.queue = true", 1, "queue cannot be True", "whole number"),
            ("handlers = {'Start Line' = 5}", 1, "no table of settings", "Start Line"),
        ],
    )
    def test_wrong_settings_of_one_handler_stop_only_it(
        self, plant: Plant, text: str, line: int, what: str, cure: str
    ) -> None:
        """A handler whose settings are wrong does not serve; its neighbours do."""
        plant.write("ACME/project.toml", text)
        plant.write("ACME/messages/Start Line.py", ANSWER + "1")
        plant.write("ACME/messages/test.py", ANSWER + "1")
        projects = plant.load()
        (problem,) = projects.problems
        assert what in problem.what
        assert cure in problem.cure
        assert (problem.handler, problem.line) == ("Start Line", line)
        assert list(projects["ACME"].handlers) == ["test"]

    def test_settings_of_a_handler_that_does_not_exist_are_told(self, plant: Plant) -> None:
        """The problem names the nearest handler; all handlers serve."""
        plant.write("ACME/project.toml", "[handlers.tset]\nqueue = 1")
        plant.write("ACME/messages/test.py", ANSWER + "1")
        projects = plant.load()
        (problem,) = projects.problems
        assert "settings for 'tset', but no such handler" in problem.what
        assert "Did you mean 'test'?" in problem.cure
        assert problem.line == 1
        assert list(projects["ACME"].handlers) == ["test"]

    def test_a_disabled_project_has_no_handlers_and_runs_nothing(self, plant: Plant) -> None:
        """Its scripts are not even imported, so nothing of it is a problem."""
        plant.write("ACME/project.toml", "enabled = false")
        plant.write("ACME/messages/test.py", "raise RuntimeError")
        projects = plant.load()
        assert not projects["ACME"].enabled
        assert not projects["ACME"].handlers
        assert projects.problems == []

    @pytest.mark.parametrize("name", ["@ACME", "a/b", "a\\b", ""])
    def test_a_reserved_or_impossible_name_is_no_project(self, plant: Plant, name: str) -> None:
        """The problem names it and says to choose another; it is not among the projects."""
        plant.write("ACME/messages/test.py", ANSWER + "1")
        projects = load_projects({name: plant.folder / "ACME"}, system=system_of)
        (problem,) = projects.problems
        assert repr(name) in problem.what
        assert problem.cure == "Give the project another name"
        assert not projects


class TestBrokenScripts:
    @pytest.mark.parametrize(
        ("text", "line", "what", "cure"),
        [
            ("x = 1\ndef handleMessage(payload)\n", 2, "SyntaxError: expected ':'", "Python 3"),
            ("print 'x'", 1, "SyntaxError: Missing parentheses", "Python 3"),
            ("x = 1\nreturn x", 2, "SyntaxError: 'return' outside function", "Python 3"),
            ("if 1:\n\tx = 1\n        y = 1", 3, "TabError", "Correct the script"),
            ("def handlemessage(p): pass", None, "test.py does not define handleMessage", "def h"),
            ("handleMessage = 5", None, "handleMessage is not a function", "def handleMessage("),
            ("\ndef handleMessage(): pass", 2, "handleMessage() takes 0 required", "(payload)"),
            ("def handleMessage(a, b, c): 1", 1, "(a, b, c) takes 3 required", "context)"),
            ("def handleMessage(a, *, b): 1", 1, "(a, b) takes 2 required", "context)"),
            ("x = 1\ny = x / 0", 2, "ZeroDivisionError: division by zero", "Correct it"),
            ("import json\njson.loads('{')", 2, "JSONDecodeError: Expecting", "Correct it"),
            ("import sys\nsys.exit()", 2, "SystemExit", "Correct it"),
            ("import numpie", 1, "ModuleNotFoundError: No module named 'numpie'", "Install 'num"),
            ("from . import x", 1, "ImportError: attempted relative import", "Correct it"),
        ],
    )
    def test_what_is_wrong_with_a_script_is_told_beside_what_serves(
        self, plant: Plant, text: str, line: int | None, what: str, cure: str
    ) -> None:
        """The problem has the script's file and line, what is wrong, and the cure."""
        file = plant.write("ACME/messages/test.py", text)
        plant.write("ACME/messages/good.py", ANSWER + "1")
        projects = plant.load()
        (problem,) = projects.problems
        assert what in problem.what
        assert cure in problem.cure
        assert (problem.handler, problem.file, problem.line) == ("test", str(file), line)
        assert list(projects["ACME"].handlers) == ["good"]

    def test_bytes_that_are_no_text_are_told(self, plant: Plant) -> None:
        """A script in another encoding, or with null bytes, has a problem of its own."""
        plant.write("ACME/messages/latin.py").write_bytes(b"x = '\xfc'")
        plant.write("ACME/messages/null.py").write_bytes(b"x = 1\0")
        problems = plant.load().problems
        assert [problem.handler for problem in problems] == ["latin", "null"]
        assert "utf-8" in problems[0].what
        assert "null byte" in problems[1].what
        assert all("UTF-8" in problem.cure for problem in problems)

    def test_a_folder_named_like_a_script_is_none(self, plant: Plant) -> None:
        """Only files are scripts."""
        (plant.folder / "ACME/messages/test.py").mkdir(parents=True)
        assert not plant.load()["ACME"].handlers


class TestLibrary:
    def test_system_and_the_library_are_there_without_import(self, plant: Plant) -> None:
        """Scripts and library modules see system and the library's packages as names."""
        plant.write("ACME/library/util.py", "def area(r): return shapes.PI * r * r")
        plant.write(
            "ACME/library/shapes.py", "def name(): return system.util.getProjectName()\nPI=3"
        )
        plant.write("ACME/messages/test.py", ANSWER + "util.area(3), shapes.name()")
        assert plant.answer() == (27, "ACME")

    def test_the_library_can_be_imported_in_all_forms(self, plant: Plant) -> None:
        """import, from, as, dotted, star and relative imports work."""
        plant.write("ACME/library/util.py", "NAME = 'util'")
        plant.write("ACME/library/pack/__init__.py", "from .sub import f\nfrom . import sub as s")
        plant.write("ACME/library/pack/sub.py", "def f(): return 'f'\nfrom .deep import where as w")
        plant.write("ACME/library/pack/deep/where.py", "from ..sub import f\nHERE = 'here'")
        plant.write(
            "ACME/messages/test.py",
            """
            import util
            import util as u
            import pack.deep.where
            import pack.deep.where as where
            from pack import f, sub
            from pack.sub import *
            from pack.deep import where as again
            def handleMessage(payload):
                assert u is util
                assert again is where is pack.deep.where is sub.w
                assert pack.f is f is sub.f is where.f is pack.s.f
                return util.NAME + f() + where.HERE
            """,
        )
        assert plant.answer() == "utilfhere"

    def test_a_submodule_is_there_by_its_path(self, plant: Plant) -> None:
        """plant.lines.speed() works without import, also while the library is being loaded."""
        plant.write("ACME/library/alpha.py", "SPEED = omega.lines.SPEED + 1")
        plant.write("ACME/library/omega/lines.py", "SPEED = 5")
        plant.write("ACME/messages/test.py", ANSWER + "alpha.SPEED, omega.lines.SPEED")
        assert plant.answer() == (6, 5)

    def test_system_can_be_imported(self, plant: Plant) -> None:
        """import system, its parts, and names of its parts give the project's own."""
        plant.write(
            "ACME/messages/test.py",
            """
            import system
            import system.util as util
            from system.util import getProjectName
            from system import util as again
            def handleMessage(payload):
                import system.util
                assert util is again is system.util
                return getProjectName()
            """,
        )
        assert plant.answer() == "ACME"

    def test_a_missing_part_of_system_is_an_import_error(self, plant: Plant) -> None:
        """import system.nothing names what is missing."""
        plant.write("ACME/messages/test.py", "import system.nothing.more")
        assert "No module named 'system.nothing.more'" in plant.problem().what

    def test_two_projects_see_their_own_library_of_the_same_name(self, plant: Plant) -> None:
        """Libraries of one name do not meet, by name, by import, nor at run time."""
        for project in ("ACME", "EMCA"):
            plant.write(f"{project}/library/util.py", f"import part\nOWN = '{project}', part.OWN")
            plant.write(f"{project}/library/part.py", f"OWN = '{project.lower()}'")
            plant.write(
                f"{project}/messages/test.py",
                f"import util as early\n{ANSWER}early.OWN, util.OWN, __import__('util').OWN",
            )
        projects = plant.load()
        for project in ("ACME", "EMCA"):
            own = (project, project.lower())
            assert projects[project].handlers["test"].function({}) == (own, own, own)

    def test_a_library_named_like_the_standard_library_wins_only_inside(self, plant: Plant) -> None:
        """The project's json is its own; the stdlib's users and other projects keep theirs."""
        plant.write("ACME/library/json.py", "def dumps(value): return 'own'")
        script = "import json, logging.config\ndef handleMessage(p): return json.dumps([1])"
        plant.write("ACME/messages/test.py", script)
        plant.write("OTHER/messages/test.py", script)
        projects = plant.load()
        assert projects["ACME"].handlers["test"].function({}) == "own"
        assert projects["OTHER"].handlers["test"].function({}) == "[1]"
        assert sys.modules["json"] is json
        assert json.dumps([1]) == "[1]"

    def test_sys_path_and_public_modules_are_untouched(self, plant: Plant) -> None:
        """A load leaves nothing but private names, and closing leaves none."""
        plant.write("ACME/library/hg_test_util/__init__.py")
        plant.write("ACME/messages/test.py", f"import hg_test_util\n{ANSWER}1")
        before, path = set(sys.modules), list(sys.path)
        projects = plant.load()
        assert {name.partition(".")[0] for name in set(sys.modules) - before} <= {
            "_headgate_projects"
        }
        assert sys.path == path
        projects.close()
        assert not [name for name in sys.modules if name.startswith("_headgate_projects.")]

    def test_circular_imports_work_as_in_python(self, plant: Plant) -> None:
        """Modules that import each other see each other half done, and complete later."""
        plant.write("ACME/library/a.py", "import b\nX = 1\ndef f(): return b.Y")
        plant.write("ACME/library/b.py", "import a\nEARLY = hasattr(a, 'X')\nY = 2")
        plant.write("ACME/messages/test.py", ANSWER + "a.f(), b.EARLY")
        assert plant.answer() == (2, False)

    def test_no_bytecode_is_written_or_read(
        self, plant: Plant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reload sees an edit of the same second and the same size, and leaves no cache."""
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
        plant.write("ACME/library/util.py", "NUMBER = 1")
        plant.write("ACME/library/pack/__init__.py", "NUMBER = 1")
        plant.write("ACME/messages/test.py", ANSWER + "util.NUMBER, pack.NUMBER")
        assert plant.answer() == (1, 1)
        plant.write("ACME/library/util.py", "NUMBER = 2")
        plant.write("ACME/library/pack/__init__.py", "NUMBER = 2")
        assert plant.answer() == (2, 2)
        assert not list(plant.folder.rglob("*.pyc"))

    def test_generations_stand_beside_each_other(self, plant: Plant) -> None:
        """A new load changes nothing for handlers of the old one, closed or not."""
        plant.write("ACME/library/util.py", "NUMBER = 1")
        plant.write("ACME/messages/test.py", ANSWER + "util.NUMBER")
        old = plant.load()
        plant.write("ACME/library/util.py", "NUMBER = 2")
        new = plant.load()
        functions = [projects["ACME"].handlers["test"].function for projects in (old, new)]
        assert [function({}) for function in functions] == [1, 2]
        old.close()
        assert [function({}) for function in functions] == [1, 2]

    def test_an_import_after_the_project_was_closed_says_so(self, plant: Plant) -> None:
        """The error names the module and the project, not a private package."""
        plant.write("ACME/library/util.py")
        plant.write("ACME/messages/test.py", "def handleMessage(payload):\n\timport util")
        projects = plant.load()
        projects.close()
        with pytest.raises(ImportError, match=r"'util' cannot .* project 'ACME' was unloaded"):
            projects["ACME"].handlers["test"].function({})

    def test_a_broken_library_module_is_told_at_its_own_line(self, plant: Plant) -> None:
        """What imports it fails with it, and says where the cause stands; the rest serves."""
        util = plant.write("ACME/library/util.py", "x = 1\ny = x / 0")
        plant.write("ACME/library/fine.py", "OK = 1")
        bad = plant.write("ACME/messages/bad.py", f"\nimport util\n{ANSWER}1")
        plant.write("ACME/messages/good.py", ANSWER + "fine.OK")
        plant.write("ACME/messages/late.py", ANSWER + "util.y")
        projects = plant.load()
        first, second = sorted(projects.problems, key=lambda problem: problem.handler)
        assert (first.file, first.line, first.handler) == (str(util), 2, "")
        assert first.what == "ZeroDivisionError: division by zero"
        assert (second.file, second.line, second.handler) == (str(bad), 2, "bad")
        assert second.what == f"{first.what}, raised at {util}:2"
        assert list(projects["ACME"].handlers) == ["good", "late"]
        with pytest.raises(ZeroDivisionError):
            projects["ACME"].handlers["late"].function({})

    def test_a_syntax_error_in_the_library_is_told_at_its_line(self, plant: Plant) -> None:
        """The problem has the library's file and line, also for a script that imports it."""
        util = plant.write("ACME/library/util.py", "x = 1\ndef f(:\n")
        plant.write("ACME/messages/bad.py", f"from util import f\n{ANSWER}1")
        script, library = plant.load().problems
        assert (library.file, library.line) == (str(util), 2)
        assert library.what.startswith("SyntaxError: ")
        assert (script.handler, script.line) == ("bad", 1)
        assert script.what.endswith(f", raised at {util}:2")

    def test_messages_do_not_show_private_names(self, plant: Plant) -> None:
        """A missing module or name is called as the script calls it."""
        plant.write("ACME/library/util.py")
        plant.write("ACME/messages/a.py", "import util.nothing")
        plant.write("ACME/messages/b.py", "from util import nothing")
        plant.write("ACME/messages/c.py", "util.nothing")
        problems = plant.load().problems
        assert "No module named 'util.nothing'; 'util' is not a package" in problems[0].what
        assert "Install 'util.nothing'" in problems[0].cure
        assert "cannot import name 'nothing' from 'util'" in problems[1].what
        assert "module 'util' has no attribute 'nothing'" in problems[2].what

    def test_an_import_error_of_a_library_stays_as_it_was_raised(self, plant: Plant) -> None:
        """Only texts with private names are rewritten."""
        plant.write("ACME/library/util.py", "def f(): import _part")
        plant.write("ACME/library/_part.py", "raise ImportError('two', 'arguments')")
        plant.write("ACME/messages/test.py", "def handleMessage(payload): util.f()")
        with pytest.raises(ImportError) as caught:
            plant.answer()
        assert caught.value.args == ("two", "arguments")

    def test_a_name_of_headgates_own_is_not_taken(self, plant: Plant) -> None:
        """library/system.py would hide system, so it is a problem and system stays."""
        file = plant.write("ACME/library/system.py", "util = None")
        plant.write("ACME/messages/test.py", ANSWER + "system.util.getProjectName()")
        projects = plant.load()
        (problem,) = projects.problems
        assert "'system' is not seen" in problem.what
        assert problem.cure == "Give the module another name"
        assert problem.file == str(file)
        assert projects["ACME"].handlers["test"].function({}) == "ACME"

    def test_tracebacks_show_real_files_and_lines(self, plant: Plant) -> None:
        """An exception at run time points into the script and the library."""
        util = plant.write("ACME/library/util.py", "def f():\n    raise ValueError('deep')")
        test = plant.write("ACME/messages/test.py", "def handleMessage(payload):\n    util.f()")
        function = plant.load()["ACME"].handlers["test"].function
        with pytest.raises(ValueError, match="deep") as caught:
            function({})
        frames = traceback.extract_tb(caught.value.__traceback__)[1:]
        assert [(frame.filename, frame.lineno) for frame in frames] == [
            (str(test), 2),
            (str(util), 2),
        ]
        assert frames[-1].line == "raise ValueError('deep')"

    def test_threads_may_import_at_run_time(self, plant: Plant) -> None:
        """A module that is first imported by many threads at once runs once, for all of them."""
        counter: list[int] = []
        plant.write(
            "ACME/library/_slow.py",
            """
            import time
            from hg_test_counter import counter
            time.sleep(0.05)
            counter.append(1)
            DONE = 1
            """,
        )
        plant.write(
            "ACME/messages/test.py",
            "def handleMessage(barrier):\n\tbarrier.wait()\n\timport _slow\n\treturn _slow.DONE",
        )
        plant.write(
            "ACME/messages/name.py",
            "def handleMessage(barrier):\n\tbarrier.wait()\n\treturn _slow.DONE",
        )
        sys.modules["hg_test_counter"] = SimpleNamespace(counter=counter)  # type: ignore[assignment]
        try:
            handlers = plant.load()["ACME"].handlers
            assert counter == []
            barrier = threading.Barrier(8)
            functions: list[Callable[..., Any]] = [handlers["test"].function] * 4
            functions += [handlers["name"].function] * 4
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda function: function(barrier), functions))
        finally:
            del sys.modules["hg_test_counter"]
        assert answers == [1] * 8
        assert counter == [1]

    def test_files_that_are_no_modules_are_left_alone(self, plant: Plant) -> None:
        """Data folders, __main__.py and names that cannot be imported are no library."""
        plant.write("ACME/library/data/table.csv")
        plant.write("ACME/library/__main__.py", "raise RuntimeError")
        plant.write("ACME/library/my-tool.py", "raise RuntimeError")
        plant.write("ACME/messages/test.py", "def handleMessage(payload): return data")
        projects = plant.load()
        assert projects.problems == []
        with pytest.raises(NameError):
            projects["ACME"].handlers["test"].function({})


class TestParents:
    def test_a_child_has_its_parents_handlers_and_may_override_them(self, plant: Plant) -> None:
        """A child's handler of the same name replaces the inherited one."""
        plant.write("BASE/messages/both.py", ANSWER + "'base'")
        plant.write("BASE/messages/inherited.py", ANSWER + "system.util.getProjectName()")
        plant.write("MIDDLE/project.toml", "parent = 'BASE'")
        plant.write("ACME/project.toml", "parent = 'MIDDLE'")
        plant.write("ACME/messages/both.py", ANSWER + "'acme'")
        projects = plant.load()
        found = projects["ACME"].handlers
        assert found["both"].function({}) == "acme"
        assert found["inherited"].function({}) == "ACME"
        assert found["inherited"].project == "ACME"
        assert found["inherited"].file == plant.folder / "BASE/messages/inherited.py"
        assert projects["MIDDLE"].handlers["inherited"].function({}) == "MIDDLE"
        assert projects["BASE"].handlers["both"].function({}) == "base"

    def test_an_inherited_handler_runs_with_the_childs_library(self, plant: Plant) -> None:
        """The child's module wins, what it lacks comes from the parent, and state is apart."""
        plant.write("BASE/library/util.py", "NAME = 'base'")
        plant.write("BASE/library/lines/a.py", "NAME = 'base a'")
        plant.write("BASE/library/lines/b.py", "NAME = 'base b ' + util.NAME")
        plant.write("BASE/messages/test.py", ANSWER + "util.NAME, lines.a.NAME, lines.b.NAME")
        plant.write("ACME/project.toml", "parent = 'BASE'")
        plant.write("ACME/library/util.py", "NAME = 'acme'")
        plant.write("ACME/library/lines/a.py", "NAME = 'acme a'")
        projects = plant.load()
        assert projects.problems == []
        answers = [projects[name].handlers["test"].function({}) for name in ("BASE", "ACME")]
        assert answers == [
            ("base", "base a", "base b base"),
            ("acme", "acme a", "base b acme"),
        ]

    def test_a_childs_module_hides_a_parents_package(self, plant: Plant) -> None:
        """What is hidden is not loaded, so it is no problem either."""
        plant.write("BASE/library/util/sub.py", "NAME = 1")
        plant.write("ACME/project.toml", "parent = 'BASE'")
        plant.write("ACME/library/util.py", "NAME = 2")
        plant.write("ACME/messages/test.py", ANSWER + "util.NAME")
        assert plant.answer() == 2

    def test_a_broken_override_does_not_fall_back_to_the_parent(self, plant: Plant) -> None:
        """Nobody gets the parent's answer where the child meant to give its own."""
        plant.write("BASE/messages/test.py", ANSWER + "1")
        plant.write("ACME/project.toml", "parent = 'BASE'")
        plant.write("ACME/messages/test.py", "def")
        projects = plant.load()
        assert not projects["ACME"].handlers
        assert projects["BASE"].handlers

    def test_settings_are_inherited_and_the_childs_win(self, plant: Plant) -> None:
        """A project's settings speak of the handlers that it has or inherits, nearest first."""
        plant.write(
            "BASE/project.toml",
            "[defaults]\nqueue = 1\ntimeout = 1\n[handlers.test]\nconcurrency = 1\ntimeout = 2",
        )
        plant.write("BASE/messages/test.py", ANSWER + "1")
        plant.write(
            "ACME/project.toml",
            "parent = 'BASE'\n[defaults]\nqueue = 5\n[handlers.test]\ntimeout = 6",
        )
        plant.write("ACME/messages/own.py", ANSWER + "1")
        found = plant.load()["ACME"].handlers
        assert found["test"].settings == HandlerSettings(queue=5, concurrency=1, timeout=6)
        assert found["own"].settings == HandlerSettings(queue=5)

    def test_a_missing_parent_is_told_and_the_project_serves_its_own(self, plant: Plant) -> None:
        """The problem names the nearest project, at the line of parent."""
        plant.write("BASE/messages/inherited.py", ANSWER + "1")
        plant.write("ACME/project.toml", "title = 'A'\nparent = 'BASIS'")
        plant.write("ACME/messages/test.py", ANSWER + "1")
        projects = plant.load()
        (problem,) = projects.problems
        assert problem.what == "The parent 'BASIS' does not exist"
        assert "Did you mean 'BASE'?" in problem.cure
        assert (problem.project, problem.line) == ("ACME", 2)
        assert list(projects["ACME"].handlers) == ["test"]

    def test_a_broken_parent_is_told_by_parent_and_child(self, plant: Plant) -> None:
        """The child serves its own handlers."""
        plant.write("BASE/project.toml", "title = ")
        plant.write("ACME/project.toml", "parent = 'BASE'")
        plant.write("ACME/messages/test.py", ANSWER + "1")
        projects = plant.load()
        (problem,) = projects["ACME"].problems
        assert problem.what == "The parent 'BASE' cannot be read"
        assert list(projects["ACME"].handlers) == ["test"]

    def test_parents_in_a_circle_are_told_and_do_not_hang(self, plant: Plant) -> None:
        """Each project of the circle, and each below it, serves its own handlers."""
        for child, parent in (("A", "B"), ("B", "A"), ("C", "A"), ("D", "D")):
            plant.write(f"{child}/project.toml", f"parent = '{parent}'")
            plant.write(f"{child}/messages/{child}.py", ANSWER + "1")
        projects = plant.load()
        whats = [problem.what for problem in projects.problems]
        assert [what.partition(": ")[2] for what in whats] == [
            "A → B → A",
            "B → A → B",
            "C → A → B → A",
            "D → D",
        ]
        assert all("Take the parent out" in problem.cure for problem in projects.problems)
        assert {name: list(projects[name].handlers) for name in projects} == {
            name: [name] for name in "ABCD"
        }

    def test_a_disabled_parent_still_gives_its_handlers(self, plant: Plant) -> None:
        """A project that is only there to inherit from may be disabled."""
        plant.write("BASE/project.toml", "enabled = false")
        plant.write("BASE/messages/test.py", ANSWER + "1")
        plant.write("ACME/project.toml", "parent = 'BASE'")
        projects = plant.load()
        assert list(projects["ACME"].handlers) == ["test"]
        assert not projects["BASE"].handlers


class TestDecorator:
    def test_it_returns_the_function_itself(self) -> None:
        """The decorated function stays as it is."""

        def handle(payload: object) -> object:
            return payload

        assert handler(threading="Dedicated", concurrency=1, queue=0, timeout=0.5)(handle) is handle
        assert handler(concurrency=None, timeout=None)(handle) is handle

    def test_an_unknown_setting_is_a_type_error_that_names_the_known(self) -> None:
        """The text has the setting, the nearest known one and all of them."""
        with pytest.raises(TypeError, match=r"'treading' is no .*'threading'\?.*queue, timeout"):
            handler(treading="Shared")  # type: ignore[call-arg]

    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "5"])
    def test_a_wrong_value_is_a_value_error_with_the_cure(self, value: Any) -> None:
        """The text has the setting, the value and what to write."""
        with pytest.raises(ValueError, match=r"timeout cannot be .* Write seconds, more than 0"):
            handler(timeout=value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raised at /srv/my plant/A/library/x.py:7", "raised at x.py:7"),
        ("No such file or directory: '/etc/secrets/key'", "No such file or directory: 'key'"),
        (r"cannot open C:\data\site\a.csv", "cannot open a.csv"),
        ("is a / b, and/or line/3/start", "is a / b, and/or line/3/start"),
    ],
)
def test_a_problem_without_folders(text: str, told: str) -> None:
    """Names of files stay, what stands before them goes; other slashes are none of a path."""
    folder = "/srv/my plant/A/library"
    problem = Problem(project="A", file=f"{folder}/x.py", what=text, cure=text)
    shown = problem.without_folders()
    assert (shown.file, shown.what, shown.cure) == ("x.py", told, told)
    assert Problem(project="A", what=text).without_folders().file == ""
