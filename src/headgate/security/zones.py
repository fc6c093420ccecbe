"""Zones: from where a caller asks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HostPin", "Zone"]


@dataclass(frozen=True)
class Zone:
    """
    A part of the network, an entry of ``[zones]``.

    A caller is in it if its address or its verified host name is.
    """

    addresses: tuple[str, ...] = ()
    """Networks or single addresses, such as ``10.1.0.0/16``."""

    hosts: tuple[str, ...] = ()
    """Patterns of verified host names, such as ``panel-*``."""


@dataclass(frozen=True)
class HostPin:
    """
    From where a host name may be claimed, an entry of ``[hosts]``.

    A session that claims the name from there has it verified; from elsewhere it is not let in.
    """

    addresses: tuple[str, ...]
    """Networks or single addresses, such as ``10.1.4.7``."""
