"""The daemon's port: on which addresses it is served."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from reconciler.server import HttpServer, authority
from tests.site import IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def served(host: str) -> Iterator[int]:
    """The port on which it is served."""
    server = HttpServer(host, 0, CollectorRegistry(), lambda: (True, "alive"), lambda: (True, "ready"))
    server.start()
    try:
        yield server.port
    finally:
        server.close()


@pytest.mark.parametrize(
    ("host", "at"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),  # noqa: S104 - for as long as the test takes
        ("localhost", ["127.0.0.1"]),
        *((host, ["127.0.0.1", "::1"] if host == "::" else [host]) for host in IPV6),
    ],
)
def test_it_answers_at_the_addresses_that_its_host_means(host: str, at: list[str]) -> None:
    with served(host) as port:
        for address in at:
            with urllib.request.urlopen(f"http://{authority(address, port)}/livez", timeout=10) as answer:
                assert answer.read() == b"alive\n"


def test_a_name_of_both_families_is_served_by_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = [
        (family, socket.SOCK_STREAM, 0, "", (address, 0))
        for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved)
    with served("localhost") as port:
        monkeypatch.undo()
        socket.create_connection(("127.0.0.1", port), timeout=10).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "[::1]", "a..b"])
def test_a_host_that_can_not_be_listened_on_is_an_os_error_with_a_reason(host: str) -> None:
    with pytest.raises(OSError) as raised, served(host):
        pass
    assert raised.value.strerror


def test_an_address_of_ipv6_has_brackets_before_a_port() -> None:
    assert authority("::1", 9102) == "[::1]:9102"
    assert authority("127.0.0.1", 9102) == "127.0.0.1:9102"
    assert authority("localhost", 9102) == "localhost:9102"
