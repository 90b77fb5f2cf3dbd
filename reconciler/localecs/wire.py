"""AWS JSON over HTTP: one POST for every call, errors in AWS's format, and two paths to look at the server."""

from __future__ import annotations

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Protocol

from reconciler.localecs.errors import AwsError, ResponseLost
from reconciler.localecs.sqs_server import error_names

if TYPE_CHECKING:
    from collections.abc import Mapping

TARGET_PREFIX = "AmazonEC2ContainerServiceV20141113."
LOGS_PREFIX = "Logs_20140328."
SQS_PREFIX = "AmazonSQS."
PLAIN = {"Content-Type": "application/json"}


class Ecs(Protocol):
    """What is behind the wire."""

    @property
    def healthy(self) -> bool:
        """Whether tasks still move."""

    def call(self, operation: str, request: Any) -> dict[str, Any]:
        """Answer one ECS call. Raises AwsError, and ResponseLost for an answer that must not arrive."""

    def call_logs(self, operation: str, request: Any) -> dict[str, Any]:
        """Answer one call of CloudWatch Logs. Raises AwsError."""

    def call_sqs(self, operation: str, request: Any) -> dict[str, Any]:
        """Answer one call of SQS, which may wait for a message. Raises AwsError and ResponseLost."""

    def stats(self) -> dict[str, Any]:
        """What has been called and what exists, for people and tests."""


class HttpServer(ThreadingHTTPServer):
    """A thread per connection. Connections are kept, so that `close` can end those that idle."""

    request_queue_size = 256
    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], ecs: Ecs) -> None:
        self.ecs = ecs
        self.request_ids = count(1)
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that one asks the DNS for our name, which can take seconds and is of no use.
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up whenever it likes
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        """End the connections that clients keep open."""
        with self._guard:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was first


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one piece
    server: HttpServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        target = self.headers.get("X-Amz-Target", "")
        sqs = target.startswith(SQS_PREFIX)
        headers = {"Content-Type": f"application/x-amz-json-1.{0 if sqs else 1}"}
        try:
            if sqs:
                answer = self.server.ecs.call_sqs(target.removeprefix(SQS_PREFIX), _parsed(body))
            elif target.startswith(LOGS_PREFIX):
                answer = self.server.ecs.call_logs(target.removeprefix(LOGS_PREFIX), _parsed(body))
            else:
                answer = self.server.ecs.call(_operation(target), _parsed(body))
        except ResponseLost:
            self.close_connection = True
        except AwsError as error:
            kind = error.code
            if sqs:
                kind, headers["x-amzn-query-error"] = error_names(error)
            content = {"__type": kind, "message": error.message, **error.extra}
            self._answer(error.status, content, headers | {"x-amzn-errortype": kind})
        else:
            self._answer(200, answer, headers)

    def do_GET(self) -> None:
        ecs = self.server.ecs
        if self.path == "/_local/health":
            self._answer(200 if ecs.healthy else 503, {"healthy": ecs.healthy}, PLAIN)
        elif self.path == "/_local/stats":
            self._answer(200, ecs.stats(), PLAIN)
        else:
            said = "The paths are /_local/health and /_local/stats; AWS calls are POST /."
            self._answer(404, {"message": said}, PLAIN)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        """Quiet: /_local/stats counts the calls."""

    def _answer(self, status: int, content: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("x-amzn-RequestId", f"local-{next(self.server.request_ids)}")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # the client did not wait for the answer; the effect stands


def _operation(target: str) -> str:
    if not target.startswith(TARGET_PREFIX):
        raise AwsError("UnknownOperationException", "X-Amz-Target does not name an operation of ECS.")
    return target.removeprefix(TARGET_PREFIX)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError:
        raise AwsError("SerializationException", "The body is not JSON.") from None
