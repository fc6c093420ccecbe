"""Zones: from where a caller asks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from headgate.errors import ConfigurationError
from headgate.handler import known_names
from headgate.security.patterns import folded, matcher

__all__ = ["HostPin", "Networks", "Zone", "Zones"]


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


class Networks:
    """
    Networks of IP addresses: ``"10.1.2.3" in Networks(["10.1.0.0/16"], of="zone 'plant'")``.

    An IPv4 address that is written as an IPv6 one, ``::ffff:10.1.2.3``, is that IPv4 address.

    Args:
        addresses: Networks or single addresses.
        of: Whose they are, for the error.

    Raises:
        ConfigurationError: One of them is none.
    """

    def __init__(self, addresses: Collection[str], *, of: str) -> None:
        self._networks = tuple(_network(text, of) for text in addresses)

    def __contains__(self, address: str) -> bool:
        found = _address(address) if self._networks else None
        return found is not None and any(found in network for network in self._networks)


class Zones:
    """
    All zones of a gateway.

    Args:
        zones: The zones by name.

    Raises:
        ConfigurationError: A zone has an address that is none.
    """

    def __init__(self, zones: Mapping[str, Zone]) -> None:
        self._zones = {name: _compiled(name, zone) for name, zone in zones.items()}

    @property
    def names(self) -> Collection[str]:
        """The names of the zones."""
        return self._zones.keys()

    def require(self, names: Collection[str], *, where: str) -> None:
        """
        Check that zones exist.

        Args:
            names: The names of the zones.
            where: What names them, for the error.

        Raises:
            ConfigurationError: One of them does not; with the nearest that does.
        """
        for name in names:
            if name not in self._zones:
                raise ConfigurationError(
                    f"{where}: there is no zone {name!r}",
                    cure=f"{known_names(name, self._zones)}. Zones stand in [zones]",
                )

    def of(self, address: str, host: str) -> frozenset[str]:
        """
        Return the names of the zones that a caller is in.

        Args:
            address: The IP address that it connects from; empty for none.
            host: Its verified host name; empty for none.
        """
        name_of_host = folded(host)
        return frozenset(
            name
            for name, (networks, hosts) in self._zones.items()
            if address in networks or (host and hosts(name_of_host))
        )


def _compiled(name: str, zone: Zone) -> tuple[Networks, Callable[[str], object]]:
    return Networks(zone.addresses, of=f"Zone {name!r}"), (
        matcher(zone.hosts, fold=True) if zone.hosts else lambda _: False
    )


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        # Of a link-local address, what stands behind % is the interface's name on this machine.
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _network(text: str, of: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError:
        raise ConfigurationError(
            f"{of}: {text!r} is no address or network", cure=_cure(text)
        ) from None
    first = getattr(network.network_address, "ipv4_mapped", None)
    if first is not None and network.prefixlen >= 96:
        return IPv4Network((first, network.prefixlen - 96))
    return network


def _cure(text: str) -> str:
    try:
        whole = ip_network(text, strict=False)
    except ValueError:
        return "Write one such as 10.1.0.0/16, 10.1.4.7 or fd00::/8"
    return f"Write {whole} for the whole network, or {text.partition('/')[0]} for the address"
