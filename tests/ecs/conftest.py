"""A local ECS for each test, and gateways to it."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import boto3
import pytest

from reconciler.ecs.client import make_client
from reconciler.ecs.gateway import Gateway
from reconciler.ecs.ratelimit import Limiter
from reconciler.localecs import LocalEcs, Settings
from tests.ecs.world import REGION, T0, MachineClock, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.seams import Clock


class MakeWorld(Protocol):
    def __call__(
        self,
        settings: Settings | None = None,
        *,
        clock: Clock | None = None,
        now: Callable[[], datetime] = ...,
        endpoint: str | None = None,
        session: boto3.Session | None = None,
        **server: Any,
    ) -> World: ...


@pytest.fixture(scope="session")
def aws() -> boto3.Session:
    """Credentials. Shared because it keeps botocore's description of ECS, which takes long to read."""
    return boto3.Session("key", "secret")


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch, aws: boto3.Session) -> Iterator[MakeWorld]:
    """Start a local ECS and a gateway to it, or to `endpoint`."""
    with ExitStack() as stack:

        def make(
            settings: Settings | None = None,
            *,
            clock: Clock | None = None,
            now: Callable[[], datetime] = lambda: T0,
            endpoint: str | None = None,
            session: boto3.Session | None = None,
            **server: Any,
        ) -> World:
            ecs = stack.enter_context(LocalEcs(settings=settings or Settings.unthrottled(), seed=1, **server))
            monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", endpoint or ecs.endpoint_url)
            clock = clock or MachineClock()
            client = make_client(REGION, threads=8, session=session or aws)
            calls: list[tuple[str, str]] = []
            limiter = Limiter(clock, launch_rate=10_000, launch_burst=10_000)
            gateway = Gateway(
                client,
                limiter,
                clock,
                deployment="test",
                now=now,
                resend_for=timedelta(minutes=20),
                on_call=lambda operation, result, _seconds: calls.append((operation, result)),
            )
            stack.callback(gateway.close)
            return World(ecs, gateway, client, limiter, calls)

        yield make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()
