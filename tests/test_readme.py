"""What README.md and the pages on handlers show was run as it stands there; links have targets."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import headgate
from headgate.cli.ends import EXIT_CODES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HANDLERS = ROOT / "docs" / "handlers.md"
PLANT = [HANDLERS, ROOT / "docs" / "processes.md", ROOT / "docs" / "typed.md"]
"""The pages whose scripts are one project."""
PAGES = [
    README,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    code: str
    file: str
    """Where the page says that it stands; empty for what is run."""
    output: str | None
    """What the page says that it prints."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page; a ``text`` block right after a ``python`` one is its output."""
    pattern = r"(?:<!-- file: (\S+) -->\n\n)?^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?"
    found = re.findall(pattern, page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [Block(language, code, file, output or None) for file, language, code, output in found]


def write_files(page: Path, folder: Path) -> None:
    """Write the blocks of a page that are files."""
    for block in blocks(page):
        if block.file:
            file = folder / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code, "utf-8")


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """The commands of the console blocks of a page, and what the page shows that they print."""
    for block in blocks(page):
        if block.language == "console":
            for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield command, output


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Newcomer:
    """Somebody who follows README.md: the folder, and the gateway that runs on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0

    def type(self, command: str) -> str:
        """Type a command of the page."""
        program, *arguments = shlex.split(command)
        if program == "cd":
            self.folder /= arguments[0]
            return ""
        assert program == "headgate"
        url = f"ws://127.0.0.1:{self.port}"
        return run([sys.executable, "-m", program, *arguments], self.folder, HEADGATE_URL=url)

    def start(self, command: str) -> tuple[subprocess.Popen[str], str]:
        """Type the command that runs the gateway; returns what it prints when it is ready."""
        words = [sys.executable, "-m", *shlex.split(command), "--port", "0"]
        process = subprocess.Popen(
            words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        ready = process.stdout.readline()
        self.port = int(ready.rpartition(":")[2])
        return process, ready

    def execute(self, code: str) -> str:
        """Run a program of the page."""
        url = f"ws://127.0.0.1:{self.port}"
        return run(
            [sys.executable, "-c", code.replace("connect()", f"connect({url!r})")], self.folder
        )


def test_readme(tmp_path: Path) -> None:
    """Commands and programs of README.md run one after the other, and print what it shows."""
    newcomer = Newcomer(tmp_path)
    (init, made), (cd, _), (serve, ready), *others = commands(README)
    assert newcomer.type(init) == made
    newcomer.type(cd)
    write_files(README, newcomer.folder)
    process, line = newcomer.start(serve)
    try:
        assert line == ready.replace("8188", str(newcomer.port))
        for command, output in others:
            assert newcomer.type(command) == output
        programs = [b for b in blocks(README) if b.language == "python" and not b.file]
        assert len(programs) == 4
        for program in programs:
            printed = newcomer.execute(program.code)
            assert program.output in (None, printed)
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def test_readme_knows_the_exit_codes() -> None:
    """README.md and docs/errors.md list the exit codes of the command line."""
    for page in (README, ROOT / "docs" / "errors.md"):
        table = page.read_text("utf-8").rpartition("| exit code |")[2].partition("\n\n")[0]
        found = [int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)]
        assert found == [int(code) for code in EXIT_CODES]


def test_handlers(tmp_path: Path) -> None:
    """The project of the pages on handlers has no problem, and its handlers answer."""
    for page in PLANT:
        write_files(page, tmp_path)
    with headgate.Gateway("hub", projects=tmp_path / "projects", port=0) as gateway:
        assert gateway.problems == []
        request = gateway.system.util.sendRequest
        named = {"name": "lemonade"}
        assert request("plant", "mix", {**named, "batches": 2}) == {"litres": 1800}
        assert request("plant", "line1/start", named) == {"started": True, "litres": 900}
        assert request("plant", "audit") == {"number": 1}
        assert request("plant", "label", named) == "label for lemonade"
        assert len(request("plant", "report")) == 24
        order = {"number": 7, "lines": [{"recipe": "lemonade", "batches": 2}]}
        assert request("plant", "order", order) == {"lemonade": 1800}
        wrong, told = re.findall(
            r"^<!-- refused by \S+/order\.py: (.*) -->\n\n```text\n(.*)\n```$",
            PLANT[-1].read_text("utf-8"),
            re.MULTILINE,
        )[0]
        with pytest.raises(headgate.PayloadError) as caught:
            request("plant", "order", json.loads(wrong))
        assert str(caught.value) == told
        assert request("plant", "simulate", {"steps": 3})["process"] != os.getpid()
        with headgate.connect(gateway.url) as client:
            stream = client.request("plant", "readings", {"count": 3}).stream()
            assert [reading["number"] for reading in stream] == [0, 1, 2]


def test_errors() -> None:
    """docs/errors.md tells of every error that a request can end with, by name and code."""
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    found = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text, flags=re.MULTILINE))
    kinds = [getattr(headgate.errors, name) for name in headgate.errors.__all__]
    requests = [kind for kind in kinds if issubclass(kind, headgate.RequestError)]
    assert found == {kind.__name__: kind.code for kind in requests}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every link of a page inside the project leads to a file, and to a heading of it."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    for link in (link for link in links if not link.startswith("https://")):
        place, _, anchor = link.partition("#")
        target = (page.parent / place) if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_json_of_the_command_line(tmp_path: Path) -> None:
    """What README.md says of --json holds for a project without a gateway."""
    write_files(HANDLERS, tmp_path)
    printed = run([sys.executable, "-m", "headgate", "check", "projects", "--json"], tmp_path)
    assert json.loads(printed)["problems"] == []
