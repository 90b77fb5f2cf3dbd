"""The ports that the demo's servers are told to listen on."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.demo import ports
from reconciler.demo.ports import free_ports


@pytest.mark.skipif(sys.platform != "linux", reason="reads from Linux which ports outgoing connections get")
def test_no_outgoing_connection_gets_a_port_before_its_server_listens() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    if first < 32768:
        pytest.skip(f"connections of this machine take ports from {first} on, and not from 32768 as Linux has it")
    assert not {port for port in free_ports(20) if first <= port <= last}


def test_ports_are_different_and_nobody_listens_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    six = free_ports(6)
    monkeypatch.setattr(ports, "RANGE", six)
    with ExitStack() as taken:
        taken.enter_context(socket.create_server(("127.0.0.1", six[0])))
        assert sorted(free_ports(5)) == sorted(six[1:])
        with pytest.raises(OSError, match="fewer than 6 ports") as raised:
            free_ports(6)
    assert raised.value.errno == errno.EADDRINUSE
