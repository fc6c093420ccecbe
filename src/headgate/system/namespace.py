"""What the modules of the manual's functions have in common: the scope that they call from."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from headgate.scope import Scope, current_scope
from headgate.system.absent import absent

if TYPE_CHECKING:
    from headgate.system.absent import AbsentFunction, AbsentModule

__all__ = ["Namespace"]


class Namespace:
    """
    The functions of one module of the manual, called from one scope.

    Args:
        scope: Where the calls are made from. Default: at each call, the scope that it is made in.
    """

    _module: ClassVar[str]

    def __init__(self, scope: Scope | None = None) -> None:
        self._bound = scope

    @property
    def _scope(self) -> Scope:
        return current_scope() if self._bound is None else self._bound

    def __dir__(self) -> list[str]:
        return [name for name in dir(type(self)) if not name.startswith("_")]

    def __repr__(self) -> str:
        return f"<system.{self._module}>"

    # Unseen by type checkers: they are to report a name that does not exist.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> AbsentFunction | AbsentModule:
            return absent(self._module, name, of=self)
