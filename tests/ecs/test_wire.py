"""Far sides that are not ECS: nobody, a stranger, a half answer; and credentials that do not come."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reconciler.core.answer import Blocked, Unknown
from reconciler.core.errors import EcsUnavailable
from tests.ecs.world import T0

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.ecs.conftest import MakeWorld


@contextmanager
def far_side(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that reads one request, sends these bytes and hangs up; and so on."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        with context.wrap_socket(connection, server_side=True) if context else connection as stream:
                            _read_request(stream)
                            stream.sendall(answer)
                    except OSError:
                        continue  # the client left first, which some tests are about

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{'https' if context else 'http'}://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _read_request(stream: socket.socket) -> None:
    """Read an HTTP request, or whatever comes first if it is none."""
    with stream.makefile("rb") as lines:
        length = 0
        while (line := lines.readline(1000)).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        lines.read(length)


def http(body: bytes, *, length: int | None = None, status: str = "200 OK") -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode() + body


GARBAGE = {
    "no answer": b"",
    "half a body": http(b'{"tasks": [{"taskArn": "arn:aws:ecs:us-', length=4000),
    "half a body of the right length": http(b'{"tasks": [{"taskArn": "arn:aws:ecs:us-'),
    "an empty object": http(b"{}"),
    "nothing": http(b""),
    "a list": http(b"[1, 2]"),
    "not UTF-8": http(b"\xff\xfe\xfd"),
    "wrong types": http(b'{"tasks": 7, "taskArns": 7, "failures": "x"}'),
    "a gateway's page": http(b"<html>Bad Gateway</html>", status="502 Bad Gateway"),
    "a firewall's page": http(b"<html>Forbidden</html>", status="403 Forbidden"),
    "not HTTP": b"220 mail.example.org ESMTP\r\n",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_answer_that_is_not_ecs_s_proves_nothing(make_world: MakeWorld, answer: bytes) -> None:
    with far_side(answer) as endpoint:
        world = make_world(endpoint=endpoint)
        assert isinstance(world.run(), Unknown)


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_answer_that_is_not_ecs_s_is_not_an_empty_cluster(make_world: MakeWorld, answer: bytes) -> None:
    with far_side(answer) as endpoint:
        world = make_world(endpoint=endpoint)
        with pytest.raises(EcsUnavailable):
            world.gateway.list_tasks("default", "airflow-task", stopped=True)
        with pytest.raises(EcsUnavailable):
            world.gateway.describe("default", ["arn"])


def test_a_refused_connection_is_known_to_have_done_nothing(make_world: MakeWorld) -> None:
    with socket.socket() as taken:
        # Nobody else can listen there meanwhile.
        taken.bind(("127.0.0.1", 0))
        world = make_world(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
        answer = world.run()
    assert isinstance(answer, Blocked)
    assert "can not be reached" in answer.reason
    assert world.calls == [("RunTask", "network")]


def test_a_name_that_does_not_resolve_is_known_to_have_done_nothing(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unresolved(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    world = make_world(endpoint="http://ecs.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    assert isinstance(world.run(), Blocked)


def test_a_certificate_that_is_not_trusted_is_known_to_have_done_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    with far_side(b"", _self_signed(tmp_path)) as endpoint:
        world = make_world(endpoint=endpoint)
        assert isinstance(world.run(), Blocked)
        assert world.calls == [("RunTask", "network")]


def test_no_credentials_block_and_nothing_is_sent(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    world = make_world(session=boto3.Session())
    assert isinstance(world.run(), Blocked)
    assert world.heard("RunTask") == 0
    assert world.calls == [("RunTask", "credentials")]


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AssumeRole"),
        ClientError({"Error": {"Code": "InternalFailure"}, "ResponseMetadata": {"HTTPStatusCode": 500}}, "AssumeRole"),  # type: ignore[typeddict-item] # as short as a test may have it
    ],
)
def test_trouble_with_the_role_is_no_answer_of_ecs(make_world: MakeWorld, error: ClientError) -> None:
    def refresh() -> Any:
        raise error

    past = datetime(2020, 1, 1, tzinfo=UTC)
    inner = botocore.session.get_session()
    inner._credentials = RefreshableCredentials("key", "secret", "token", past, refresh, "assume-role")  # type: ignore[attr-defined] # a private member, to plant a fault
    world = make_world(session=boto3.Session(botocore_session=inner))
    assert isinstance(world.run(), Blocked)
    assert world.heard("RunTask") == 0


def _self_signed(directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(T0)
        .not_valid_after(T0 + timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
