"""Only public addresses are contacted for a stranger, and the one that was checked is the one that is used."""

import http.server
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import httpx
import pytest

from app.kit.addresses import AddressRefused, Trusted, checked, is_public, literal, public_addresses

INTERNAL = """
127.0.0.1 127.8.8.8 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 192.0.0.1 198.18.0.1
203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 192.0.0.192 168.63.129.16
:: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 2001:db8::1 3fff::1 2001:0:7f00:1::
ff0e::1 5f00::1 64:ff9b:1::808:808 2002:a9fe:a9fe:: 2606:4700::5efe:7f00:1 2606:4700::200:5efe:a00:1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2002:a00:1::
localhost example.com 1 0x7f.1
"""
PUBLIC = ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1111"]


@pytest.mark.parametrize("address", INTERNAL.split())
def test_an_internal_address_is_no_public_one(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_one(address: str) -> None:
    assert is_public(address)


def test_an_operator_allows_networks_of_his_own() -> None:
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00::/64"))
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::5"):
        assert is_public(text, allowed), text
    for text in ("10.2.0.1", "::ffff:10.2.0.1", "fd00:1::5", "127.0.0.1"):
        assert not is_public(text, allowed), text
    # Every IPv6 network at once does not open the way to IPv4 in disguise.
    assert not is_public("::ffff:127.0.0.1", (ip_network("::/0"),))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        *((host, "127.0.0.1") for host in ("127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7F000001")),
        *((host, "127.0.0.1") for host in ("0177.0.0.1", "017700000001", "127.0.0.1.", "127.0.1")),
        ("1.2.3", "1.2.0.3"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        *((host, None) for host in ("localhost", "example.com", "1.2.3.4.5", "256.1.1.1", "0x.example", "")),
        *((host, None) for host in ("99999999999", "08.0.0.1", "a.b", "0xzz", "\u0661.1", "1_0.1")),
    ],
)
def test_hosts_that_spell_an_address_in_any_way(host: str, address: str | None) -> None:
    assert literal(host) == (ip_address(address) if address is not None else None)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "017700000001", "::1", "0"])
def test_every_spelling_of_this_machine_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused):
        public_addresses(host, 80)


def test_one_internal_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 80)) for each in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: mixed)
    with pytest.raises(AddressRefused):
        public_addresses("mixed.example", 80)


@pytest.fixture
def inside() -> Iterator[tuple[str, list[str]]]:
    """URL of a server on this machine, which redirects to itself by another name, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302 if self.path == "/start" else 200)
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/secret")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_a_host_of_the_operators_is_reached_and_its_redirect_is_not_followed(
    inside: tuple[str, list[str]],
) -> None:
    url, asked = inside
    transport = checked(httpx.HTTPTransport(), Trusted(urls=[url]))
    with httpx.Client(transport=transport, follow_redirects=True) as client:
        with pytest.raises(AddressRefused) as refused:
            client.get(f"{url}/start")
        assert client.get(f"{url}/plain").status_code == 200
    assert asked == ["/start", "/plain"]
    assert "127" not in str(refused.value)
    named = checked(httpx.HTTPTransport(), Trusted(["localhost"], [url]))
    with httpx.Client(transport=named, follow_redirects=True) as client:
        assert client.get(f"{url}/start").url.path == "/secret"


def test_the_connection_goes_to_the_address_that_was_checked(
    inside: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means another address a moment later is asked for once, and its first answer is used."""
    port = int(inside[0].rpartition(":")[2])
    answers = iter(["8.8.8.8", "127.0.0.1"])
    resolve = socket.getaddrinfo

    def rebound(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve(next(answers) if host == "rebound.example" else host, *arguments, **options)

    connected: list[Any] = []

    class Backend:
        def connect_tcp(self, host: str, *_: Any, **__: Any) -> Any:
            connected.append(host)
            raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    transport = httpx.HTTPTransport()
    transport._pool._network_backend = Backend()  # type: ignore[attr-defined]
    with httpx.Client(transport=checked(transport, Trusted())) as client, pytest.raises(OSError):  # noqa: PT011
        client.get(f"http://rebound.example:{port}/")
    assert connected == ["8.8.8.8"]
    assert next(answers) == "127.0.0.1"
