"""Which addresses the service may contact for a stranger: public ones, and those that its operator has named.

A name is resolved once and the connection goes to the address that was checked, so a name that means something
else a moment later gains nothing. Each connection is checked, so each hop of a redirect is.
"""

import socket
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""Its last four bytes are an IPv4 address."""
_ISATAP: Final = {0x00005EFE, 0x02005EFE}
_LOW: Final = 0xFFFF_FFFF
_NOT_PUBLIC: Final[tuple[Network, ...]] = tuple(
    ip_network(each)
    for each in (
        "168.63.129.16/32",  # a cloud's own services, on a public address
        "192.0.0.0/24",  # protocol assignments; another cloud's metadata
        "192.88.99.0/24",  # relays of 6to4
        "::/96",  # IPv4-compatible, loopback, unspecified
        "64:ff9b:1::/48",  # NAT64 with a network's own prefix
        "2001::/23",  # protocol assignments; in Teredo's both ends are inside of the address
        "2001:db8::/32",  # for documents
        "3fff::/20",
        "5f00::/16",  # segment routing within one network
        "fec0::/10",  # site-local
    )
)
"""Global to some Python, and nobody's public server."""


class AddressRefused(Exception):
    """The address is not public. Its text has no address, which may be one of ours."""

    def __init__(self) -> None:
        super().__init__("the address is not a public one")


def network_of(client: Sequence[Any] | None) -> str:
    """Whose call it is, by its socket's (host, port): the address, and of IPv6 the network, all of which one host
    has."""
    if not client:
        return "local"
    try:
        address = ip_address(client[0])
    except ValueError:
        return str(client[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return str(address)


def is_public(address: str | Address, allowed: Collection[Network] = ()) -> bool:
    """Whether a literal IP address is one of the public internet, or of a network that an operator allows.

    An IPv6 address that stands for an IPv4 one (mapped, NAT64, 6to4, ISATAP) is judged by that one.
    """
    try:
        found = ip_address(address.partition("%")[0]) if isinstance(address, str) else address
    except ValueError:
        return False
    inner = _wrapped(found) if isinstance(found, IPv6Address) else None
    if inner is not None:
        return is_public(inner, allowed)
    if _within(found, allowed):
        return True
    return found.is_global and not (found.is_multicast or found.is_reserved or _within(found, _NOT_PUBLIC))


def literal(host: str) -> Address | None:
    """The address that a host of a URL spells, also in the forms that only resolvers know: `2130706433`,
    `0x7f.1`, `0177.0.0.1`. None for a name."""
    try:
        return ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    parts = host.rstrip(".").split(".")
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        return None
    if not 1 <= len(numbers) <= 4 or any(number > 255 for number in numbers[:-1]):
        return None
    value = sum(number << 8 * (3 - index) for index, number in enumerate(numbers[:-1])) + numbers[-1]
    return IPv4Address(value) if numbers[-1] < 256 ** (5 - len(numbers)) else None


def public_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, in the resolver's order. Raises AddressRefused when one of them is not public,
    OSError when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not all(map(is_public, addresses)):
        raise AddressRefused
    return addresses


class Trusted:
    """Hosts that an operator has named, whose addresses may be internal.

    hosts: `name` (at any port) or `name:port`. urls: whose hosts, at their ports, are meant too.
    """

    def __init__(self, hosts: Iterable[str] = (), urls: Iterable[str] = ()) -> None:
        self._hosts = {each.strip().lower() for each in hosts}
        for parts in map(urlsplit, urls):
            self._hosts.add(f"{parts.hostname}:{parts.port or _PORTS.get(parts.scheme)}")

    def covers(self, host: str, port: int) -> bool:
        """Whether the operator has named it."""
        return not self._hosts.isdisjoint((host.lower(), f"{host.lower()}:{port}"))

    def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect to: a named host as it is, else as `public_addresses`, with its errors."""
        return [host] if self.covers(host, port) else public_addresses(host, port)


class CheckedBackend:
    """A network backend of httpcore (or httpcore2) that connects to checked addresses only; TLS still asks for the
    host's name."""

    def __init__(self, inner: Any, trusted: Trusted) -> None:
        self._inner = inner
        self._trusted = trusted

    def connect_tcp(self, host: str, port: int, *arguments: Any, **options: Any) -> Any:
        """The first of the host's addresses that answers. Raises AddressRefused."""
        addresses = self._trusted.addresses(host, port)
        for address in addresses[:-1]:
            try:
                return self._inner.connect_tcp(address, port, *arguments, **options)
            except Exception:  # noqa: S112 - each library has its own; the last one's is raised
                continue
        return self._inner.connect_tcp(addresses[-1], port, *arguments, **options)

    def connect_unix_socket(self, *_: Any, **__: Any) -> Any:
        raise AddressRefused

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


def checked(transport: Any, trusted: Trusted) -> Any:
    """The same transport of httpx (or httpx2) whose connections go to checked addresses only.

    Give it to the client as `transport=`: then no proxy of the environment takes the request past the check.
    """
    pool = transport._pool  # the transport takes no backend, and its pool does
    pool._network_backend = CheckedBackend(pool._network_backend, trusted)
    return transport


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to."""
    number = int(address)
    if address in _NAT64 or (number >> 32) & _LOW in _ISATAP:
        return IPv4Address(number & _LOW)
    return address.ipv4_mapped or address.sixtofour


def _within(address: Address, networks: Collection[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _number(part: str) -> int:
    """As C reads it: 0x… hexadecimal, 0… octal. Raises ValueError."""
    if not part.isascii() or not part.isalnum():
        raise ValueError
    if part[:2] in ("0x", "0X"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if len(part) > 1 and part[0] == "0" else 10)
