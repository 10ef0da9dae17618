"""Which addresses the service may contact for a stranger: public ones, and those that its operator has named.

A name is resolved once and the connection goes to the address that was checked, so a name that means something
else a moment later gains nothing. Each connection is checked, so each hop of a redirect is.
"""

import socket
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from anyio import to_thread

_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""Its last four bytes are an IPv4 address."""
_NOT_PUBLIC: Final = tuple(map(IPv6Network, ("fec0::/10", "3fff::/20", "2001::/23", "2001:db8::/32")))
"""Global to Python, and nobody's public server: site-local, documentation, protocol assignments."""


class AddressRefused(Exception):
    """The address is not public. Its text has no address, which may be one of ours."""

    def __init__(self) -> None:
        super().__init__("the address is not a public one")


def is_public(address: str) -> bool:
    """Whether a literal IP address is one of the public internet, also when it wraps an IPv4 address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        inner = _wrapped(found)
        if inner is not None:
            return is_public(str(inner))
        if any(found in network for network in _NOT_PUBLIC):
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


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


class AsyncCheckedBackend:
    """The same for asyncio."""

    def __init__(self, inner: Any, trusted: Trusted) -> None:
        self._inner = inner
        self._trusted = trusted

    async def connect_tcp(self, host: str, port: int, *arguments: Any, **options: Any) -> Any:
        """The first of the host's addresses that answers. Raises AddressRefused."""
        addresses: Collection[str] = await to_thread.run_sync(self._trusted.addresses, host, port)
        *others, last = addresses
        for address in others:
            try:
                return await self._inner.connect_tcp(address, port, *arguments, **options)
            except Exception:  # noqa: S112 - each library has its own; the last one's is raised
                continue
        return await self._inner.connect_tcp(last, port, *arguments, **options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> Any:
        raise AddressRefused

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def checked(transport: Any, trusted: Trusted) -> Any:
    """The same transport of httpx (or httpx2), sync or async, whose connections go to checked addresses only.

    Give it to the client as `transport=`: then no proxy of the environment takes the request past the check.
    """
    pool = transport._pool  # the transport takes no backend, and its pool does
    kind = AsyncCheckedBackend if hasattr(pool, "aclose") else CheckedBackend
    pool._network_backend = kind(pool._network_backend, trusted)
    return transport


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
