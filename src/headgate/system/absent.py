"""What Ignition has and Headgate has not: an error that names it, at the moment of the call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from headgate.system.names import FUNCTIONS

__all__ = ["AbsentFunction", "AbsentModule", "absent"]


class AbsentFunction:
    """A function of Ignition that Headgate does not have; the call raises NotImplementedError."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"{self.__name__} is a function of Ignition that Headgate does not have; "
            "help(headgate.system) shows which it has"
        )

    def __repr__(self) -> str:
        return f"<{self.__name__}, which Headgate does not have>"


class AbsentModule:
    """A module of Ignition's functions of which Headgate has none."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __dir__(self) -> list[str]:
        return []

    def __repr__(self) -> str:
        return f"<system.{self._module}, which Headgate does not have>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> AbsentFunction | AbsentModule:
            return absent(self._module, name, of=self)


def absent(module: str, name: str, *, of: object) -> AbsentFunction | AbsentModule:
    """
    Return what stands for a name of Ignition that Headgate does not have.

    Looking it up is no error: a library may keep it, and never call it. A call is one.

    Args:
        module: The module that the name is looked up in, without ``system.``; empty for `system`.
        name: The name.
        of: Whose attribute is asked for.

    Raises:
        AttributeError: Ignition does not have it either.
    """
    full = f"{module}.{name}" if module else name
    if full in FUNCTIONS:
        return AbsentModule(full)
    if name in FUNCTIONS.get(module, ()):
        return AbsentFunction(f"system.{full}")
    place = f"system.{module}" if module else "system"
    raise AttributeError(f"{place} has no {name!r}, in Headgate or Ignition", name=name, obj=of)
