"""What a worker loads, and what it says of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.runtimes.link import Loading

if TYPE_CHECKING:
    from worker_ends import Nursery

ECHO = "def handleMessage(payload):\n    return payload\n"


def test_signatures_are_told(nursery: Nursery) -> None:
    """The gateway learns how each handler is called, without having imported it."""
    loaded = nursery.spawn().load(
        {
            "echo": ECHO,
            "later": "async def handleMessage(payload):\n    return payload\n",
            "count": "def handleMessage(payload):\n    yield 1\n",
        }
    )
    assert loaded.problems == []
    kinds = {name: (told["is_async"], told["streams"]) for name, told in loaded.handlers.items()}
    assert kinds == {"echo": (False, False), "later": (True, False), "count": (False, True)}


def test_what_cannot_be_loaded_is_told_and_the_rest_serves(nursery: Nursery) -> None:
    """Each problem names its handler, file and line; the library's name none."""
    worker = nursery.spawn()
    loaded = worker.load(
        {
            "echo": ECHO,
            "broken": "import sys\n\nsys.exit(3)\n",
            "library/plant.py": "speed = 1 / 0\n",
        }
    )
    assert list(loaded.handlers) == ["echo"]
    library, broken = loaded.problems
    assert (library["handler"], library["line"]) == ("", 1)
    assert "ZeroDivisionError" in library["problem"]
    assert (broken["handler"], broken["line"]) == ("broken", 3)
    assert broken["file"].endswith("messages/broken.py")
    assert worker.call("echo", 5) == 5


def test_the_library_is_there(nursery: Nursery) -> None:
    """Scripts see the project's packages without an import, as on the gateway."""
    worker = nursery.loaded(
        {
            "library/plant/lines.py": "def speed():\n    return 7\n",
            "ask": "def handleMessage(payload):\n    return plant.lines.speed()\n",
        }
    )
    assert worker.call("ask") == 7


def test_files_of_one_moment_are_loaded(nursery: Nursery) -> None:
    """What the gateway has sent counts, whatever stands on the disk by now."""
    worker = nursery.spawn()
    file = str(worker.folder / "messages" / "echo.py")
    worker.load({"echo": "1 / 0\n"}, files={file: b"def handleMessage(p):\n    return 'then'\n"})
    assert worker.call("echo") == "then"


def test_the_file_that_is_loaded_is_told(nursery: Nursery) -> None:
    """So the gateway can name what does not come to an end."""
    worker = nursery.spawn()
    worker.load({"echo": ECHO})
    assert str(worker.folder / "messages" / "echo.py") in worker.loading


def test_what_is_imported_later_is_not_told(nursery: Nursery) -> None:
    """Only while it loads who is to blame if it never comes to an end must be known."""
    worker = nursery.loaded(
        {
            "library/plant/_late.py": "speed = 7\n",
            "late": "def handleMessage(payload):\n"
            "    from plant import _late\n    return _late.speed\n",
        }
    )
    assert worker.loading
    assert worker.call("late") == 7
    assert [frame for frame in worker.heard if isinstance(frame, Loading)] == []
