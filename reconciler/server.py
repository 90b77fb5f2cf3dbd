"""The daemon's HTTP port: /metrics, /livez, /readyz and the status page. It serves no verb that changes anything."""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import CollectorRegistry

    from reconciler.page.pages import Pages

__all__ = ["HttpServer", "authority"]

log = structlog.get_logger()

Check = tuple[bool, str]


class HttpServer:
    """Serves in threads of its own until closed. `live` and `ready` return whether, and why (not).

    `host`: `::` is every address, of IPv6 and IPv4. `pages`: the status page. None: it is switched off.
    Raises OSError where it can not listen.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        live: Callable[[], Check],
        ready: Callable[[], Check],
        *,
        pages: Pages | None = None,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                path = self.path.split("?", 1)[0]
                if path == "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, encode(registry), content_type)
                elif path in ("/livez", "/readyz"):
                    good, why = live() if path == "/livez" else ready()
                    self._answer(200 if good else 503, f"{why}\n".encode(), "text/plain; charset=utf-8")
                elif pages and (page := pages.answer(self.path, self.headers.get("Authorization", ""))):
                    self._answer(page.status, page.body, page.content_type, page.headers)
                else:
                    self._answer(404, b"try /metrics, /livez or /readyz\n", "text/plain; charset=utf-8")

            def _answer(
                self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] = MappingProxyType({})
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
                """Say nothing: scrapes and probes would drown the log."""

        self._server = _Server(host, port, Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """Listens on an address of IPv4 or of IPv6, and writes nothing beside the log."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = _family(host)
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        # What this is by default is the machine's choice.
        if self.address_family == socket.AF_INET6 and socket.has_dualstack_ipv6():
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the shape of the base class's
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):  # a reader may leave whenever it likes
            log.exception("a request could not be answered")


def _family(host: str) -> socket.AddressFamily:
    """IPv4 for a name that has addresses of both. Raises OSError for one that has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # it can not even be asked for
        raise socket.gaierror(socket.EAI_NONAME, "no name of a host") from None
    families = {family for family, *_ in found}
    return socket.AF_INET if socket.AF_INET in families else socket.AF_INET6


def authority(host: str, port: int) -> str:
    """Host and port as a URL has them: an address of IPv6 is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
