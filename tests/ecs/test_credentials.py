"""Credentials that come late, are refused, or can not be looked up."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from reconciler.core.errors import EcsUnavailable
from reconciler.ecs.access import Access
from reconciler.ecs.credentials import PAUSE, Renewed, make_session
from reconciler.localecs import AwsError
from tests.ecs.world import VirtualClock

if TYPE_CHECKING:
    from tests.ecs.conftest import MakeWorld
    from tests.ecs.world import World


class Site:
    """A gateway whose credentials are what `held` says: a key, None or an error. `signed`: its requests' keys."""

    def __init__(self, make_world: MakeWorld, held: str | Exception | None) -> None:
        self.held = held
        self.looks = 0
        self.clock = VirtualClock()
        self.signed: list[str] = []
        self.world: World = make_world(session=make_session(self._look_up, self.clock))
        self.world.client.meta.events.register("before-send.ecs", self._note)

    def _look_up(self) -> Credentials | None:
        self.looks += 1
        if isinstance(self.held, Exception):
            raise self.held
        return Credentials(self.held, "secret") if self.held else None

    def _note(self, request: Any, **_: Any) -> None:
        authorization = request.headers["Authorization"]
        text = authorization.decode() if isinstance(authorization, bytes) else authorization
        self.signed += re.findall(r"Credential=(\w+)/", text)

    def call(self) -> None:
        assert self.world.gateway.describe_cluster("default")


def test_credentials_that_come_after_the_start_are_found(make_world: MakeWorld) -> None:
    site = Site(make_world, None)
    with pytest.raises(EcsUnavailable, match="Unable to locate credentials"):
        site.call()
    site.held = "LATE"
    site.clock.wait(PAUSE)
    site.call()
    assert site.signed == ["LATE"]


@pytest.mark.parametrize("code", ["ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"])
def test_credentials_that_aws_refuses_are_looked_up_again(make_world: MakeWorld, code: str) -> None:
    site = Site(make_world, "OLD")
    site.call()
    site.held = "NEW"
    with site.world.ecs.lock:
        site.world.ecs.model.faults.on_call("DescribeClusters", AwsError(code, "no"))
    with pytest.raises(EcsUnavailable, match=code):
        site.call()
    site.clock.wait(PAUSE)
    site.call()
    assert site.signed == ["OLD", "OLD", "NEW"]
    assert site.looks == 2


def test_a_missing_permission_is_no_reason_to_look_again(make_world: MakeWorld) -> None:
    site = Site(make_world, "KEY")
    with site.world.ecs.lock:
        site.world.ecs.model.faults.on_call("DescribeClusters", AwsError("AccessDeniedException", "no"))
    with pytest.raises(EcsUnavailable, match="AccessDenied"):
        site.call()
    site.clock.wait(PAUSE)
    site.call()
    assert site.looks == 1


def test_between_two_looks_there_is_a_pause(make_world: MakeWorld) -> None:
    site = Site(make_world, None)
    for _ in range(3):
        with pytest.raises(EcsUnavailable):
            site.call()
    assert site.looks == 1


def test_a_look_up_that_fails_leaves_what_we_have(make_world: MakeWorld) -> None:
    site = Site(make_world, "OLD")
    site.call()
    site.held = LookupError("the secrets backend does not answer")
    with site.world.ecs.lock:
        site.world.ecs.model.faults.on_call("DescribeClusters", AwsError("ExpiredTokenException", "no"))
    with pytest.raises(EcsUnavailable, match="ExpiredTokenException"):
        site.call()
    site.clock.wait(PAUSE)
    site.call()
    assert site.signed == ["OLD", "OLD", "OLD"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LookupError("there is no connection 'x'"), "no connection 'x'"),
        (ValueError("aws://key:hunter2@"), "ValueError"),
    ],
)
def test_why_they_can_not_be_had_is_told_and_no_secret(make_world: MakeWorld, error: Exception, told: str) -> None:
    site = Site(make_world, error)
    with pytest.raises(EcsUnavailable, match=told) as caught:
        site.call()
    assert "hunter2" not in str(caught.value)


def test_many_threads_look_once() -> None:
    looks: list[None] = []

    def look_up() -> Credentials:
        looks.append(None)
        return Credentials("KEY", "secret")

    renewed = Renewed(look_up, VirtualClock())
    with pytest.raises(NoCredentialsError):
        Renewed(lambda: None, VirtualClock()).get_frozen_credentials()
    found: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(renewed.get_frozen_credentials().access_key)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, len(looks)) == (["KEY"] * 8, 1)


def test_refused_operations_are_named_until_they_are_allowed() -> None:
    heard: list[tuple[str, str]] = []
    access = Access(lambda operation, result, _: heard.append((operation, result)), VirtualClock(), listing_interval=60)
    access.called("RunTask", "credentials", 0.1)
    assert access.reason is None
    access.called("StopTask", "credentials", 0.1)
    access.called("DescribeTasks", "credentials", 0.1)
    access.called("DescribeTasks", "timeout", 0.1)
    assert "for DescribeTasks, StopTask" in str(access.reason)
    access.called("DescribeTasks", "ok", 0.1)
    access.called("StopTask", "ok", 0.1)
    assert access.reason is None
    assert len(heard) == 6


def test_a_refusal_that_is_not_repeated_lapses() -> None:
    """StopTask or DescribeTaskDefinition may not be called again for hours."""
    clock = VirtualClock()
    access = Access(lambda *_: None, clock, listing_interval=60)
    access.called("StopTask", "credentials", 0.1)
    for operation in ("RunTask", "DescribeTasks", "ListTasks"):
        access.called(operation, "ok", 0.1)
    clock.wait(299)
    assert "for StopTask" in str(access.reason)
    clock.wait(1)
    assert access.reason is None
    access.called("StopTask", "credentials", 0.1)
    assert "for StopTask" in str(access.reason)


@pytest.mark.parametrize("listing_interval", [1, 60, 3600])
def test_an_outage_stays_visible_where_nothing_is_called_but_a_listing(listing_interval: float) -> None:
    clock = VirtualClock()
    access = Access(lambda *_: None, clock, listing_interval=listing_interval)
    for _ in range(100):
        access.called("ListTasks", "credentials", 0.1)
        clock.wait(listing_interval)
        assert "for ListTasks" in str(access.reason)
