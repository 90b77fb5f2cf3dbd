"""The HTTP port, when readers leave and when answers fail."""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from reconciler.server import HttpServer

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from typing import Any

    import pytest


class Metrics:
    """Metrics that are ready when the test says so."""

    def __init__(self) -> None:
        self.asked, self.ready = threading.Event(), threading.Event()

    def collect(self) -> Iterator[Any]:
        self.asked.set()
        assert self.ready.wait(30)
        return iter(())


def answered(path: str, metrics: Metrics, *, reset: bool) -> list[MutableMapping[str, Any]]:
    """What is logged when a reader asks for `path` and leaves before it is answered."""

    def check() -> tuple[bool, str]:
        list(metrics.collect())
        raise RuntimeError("this can not be answered")

    registry = CollectorRegistry()
    registry.register(metrics)
    server = HttpServer("127.0.0.1", 0, registry, check, check)
    server.start()
    with structlog.testing.capture_logs() as logs:
        with socket.create_connection(("127.0.0.1", server.port)) as reader:
            reader.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
            assert metrics.asked.wait(30)
            if reset:  # instead of an orderly end
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        metrics.ready.set()
        for thread in threading.enumerate():
            if "process_request_thread" in thread.name:
                thread.join(30)
        server.close()
    return logs


def test_a_reader_that_leaves_while_it_is_answered_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    assert answered("/metrics", Metrics(), reset=True) == []
    assert capfd.readouterr().err == ""


def test_an_answer_that_fails_is_logged_and_nothing_is_written_beside_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    (line,) = answered("/livez", Metrics(), reset=False)
    assert (line["log_level"], line["exc_info"]) == ("error", True)
    assert capfd.readouterr().err == ""
