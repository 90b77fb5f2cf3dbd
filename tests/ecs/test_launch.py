"""RunTask over HTTP: what really happened at ECS, and what the gateway made of it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator

from reconciler.core import identity, runtask
from reconciler.core.answer import Accepted, Blocked, Existing, Invalid, NotStarted, Throttled, Unknown
from reconciler.core.phase import Desired
from reconciler.ecs import client as client_module
from reconciler.localecs import AwsError, Rate, ResponseLost, Settings
from tests.ecs.world import COMMAND, PROFILE, T0, SteppedClock, VirtualClock, eventually, launching

if TYPE_CHECKING:
    from tests.ecs.conftest import MakeWorld
    from tests.ecs.world import World

OUTAGE = AwsError("ServerException", "Service Unavailable. Please try again later.", 500)


def test_a_launch_makes_one_task_that_carries_its_name(world: World) -> None:
    answer = world.run(launching("w-7", attempt=3))
    assert isinstance(answer, Accepted)
    assert identity.parse_started_by(answer.task.started_by, "test") == ("w-7", 3)
    assert world.made() == 1
    assert world.calls == [("RunTask", "ok")]


def test_the_container_gets_command_and_name(world: World) -> None:
    arn = world.run(launching("w-7")).task.arn
    (override,) = world.shown(arn)["overrides"]["containerOverrides"]
    assert override["command"] == COMMAND
    assert {"name": runtask.EXEC_ID_VARIABLE, "value": "w-7"} in override["environment"]


def test_a_repeated_launch_finds_the_task_of_the_first(world: World) -> None:
    first, second = world.run(), world.run()
    assert second.task.arn == first.task.arn
    assert world.made() == 1


def test_another_attempt_is_another_task(world: World) -> None:
    assert world.run(launching(attempt=1)).task.arn != world.run(launching(attempt=2)).task.arn


def test_a_repeated_launch_of_a_stopped_task_still_finds_it(world: World) -> None:
    arn = world.run().task.arn
    world.gateway.stop("default", arn, "test")
    eventually(lambda: world.gateway.describe("default", [arn]).tasks[0].stopped)
    again = world.run()
    assert (again.task.arn, again.task.stopped, again.task.container) == (arn, True, None)


def test_an_answer_whose_task_can_not_be_read_is_unknown(world: World) -> None:
    def spoil(parsed: dict[str, Any], **_: Any) -> None:
        del parsed["tasks"][0]["taskArn"]

    world.client.meta.events.register("after-call.ecs.RunTask", spoil)
    assert isinstance(world.run(), Unknown)
    assert world.made() == 1
    world.client.meta.events.unregister("after-call.ecs.RunTask", spoil)
    assert isinstance(world.run(), Accepted)
    assert world.made() == 1


@pytest.mark.parametrize(
    ("error", "after_effect", "made", "result"),
    [
        (ResponseLost(), False, 0, "network"),
        (ResponseLost(), True, 1, "network"),
        (OUTAGE, False, 0, "server_error"),
        (OUTAGE, True, 1, "server_error"),
        (AwsError("ServiceUnavailable", "", 503), True, 1, "server_error"),
        (AwsError("SomethingNew", "never heard of", 400), True, 1, "client_error"),
    ],
)
def test_an_answer_that_proves_nothing_is_unknown_and_the_repeat_settles_it(
    world: World, error: AwsError | ResponseLost, after_effect: bool, made: int, result: str
) -> None:
    world.faults.on_call("RunTask", error, after_effect=after_effect)
    assert isinstance(world.run(), Unknown)
    # One call, not three: the SDK must not repeat by itself.
    assert (world.heard("RunTask"), world.made()) == (1, made)
    assert world.calls == [("RunTask", result)]
    assert isinstance(world.run(), Accepted)
    assert world.made() == 1


def test_an_answer_that_comes_too_late_is_unknown(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 0.1)
    world = make_world(Settings(rates={}, answer_latency={"RunTask": 1.0}))
    assert isinstance(world.run(), Unknown)
    eventually(lambda: world.made() == 1)
    assert world.calls == [("RunTask", "timeout")]


@pytest.mark.parametrize(
    "error",
    [
        AwsError("ThrottlingException", "Rate exceeded"),
        AwsError(
            "InvalidParameterException",
            "Error retrieving security group information for [sg-1]: Request limit exceeded. "
            "(ErrorCode: RequestLimitExceeded)",
        ),
        AwsError("ClientException", "You've reached the quota of tasks in the PROVISIONING state per cluster."),
    ],
    ids=lambda error: error.code,
)
def test_a_refusal_for_the_rate_slows_down_and_nothing_is_made(world: World, error: AwsError) -> None:
    world.faults.on_call("RunTask", error)
    assert isinstance(world.run(), Throttled)
    assert world.made() == 0
    assert world.calls == [("RunTask", "throttled")]
    level = world.limiter.levels()["launch"]
    assert level.allowed < 0.6 * level.rate


def test_a_real_throttle_is_waited_out(make_world: MakeWorld) -> None:
    world = make_world(Settings(rates={"fargate-run-task": Rate(1, 0)}))
    answers = [world.run(launching(f"w-{n}")) for n in range(3)]
    assert [type(answer) for answer in answers] == [Accepted, Throttled, Throttled]
    assert world.made() == 1


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("AccessDeniedException", "credentials"),
        ("ExpiredTokenException", "credentials"),
        ("UnrecognizedClientException", "credentials"),
        ("BlockedException", "client_error"),
        ("ClusterNotFoundException", "client_error"),
    ],
)
def test_the_account_s_troubles_are_not_the_workload_s(world: World, code: str, result: str) -> None:
    world.faults.on_call("RunTask", AwsError(code, "no"))
    assert world.run() == Blocked(f"{code}: no", denied=code == "AccessDeniedException")
    assert world.calls == [("RunTask", result)]


def test_an_unknown_cluster_blocks(world: World) -> None:
    answer = world.run(launching(profile=replace(PROFILE, cluster="elsewhere")))
    assert answer == Blocked("ClusterNotFoundException: Cluster not found.")


def test_what_ecs_can_not_run_is_invalid_with_ecs_s_words(world: World) -> None:
    answer = world.run(launching(profile=replace(PROFILE, container_name="sidecar")))
    assert isinstance(answer, Invalid)
    assert "container named sidecar" in answer.reason


def test_what_botocore_refuses_is_invalid_and_never_sent(world: World) -> None:
    profile = replace(PROFILE, run_task={**PROFILE.run_task, "tags": "team=data"})
    answer = world.run(launching(profile=profile))
    assert isinstance(answer, Invalid)
    assert "tags" in answer.reason
    assert world.heard("RunTask") == 0


def test_overrides_that_are_too_long_are_invalid_and_never_sent(world: World) -> None:
    answer = world.gateway.run(launching(), ["x" * runtask.OVERRIDES_LIMIT])
    assert isinstance(answer, Invalid)
    assert "shorten" in answer.reason
    assert world.heard("RunTask") == 0


def test_the_same_launch_with_another_command_finds_the_first_task(world: World) -> None:
    arn = world.run().task.arn
    assert world.gateway.run(launching(), ["something", "else"]) == Existing((arn,))
    assert world.made() == 1


def test_a_launch_that_is_not_wanted_any_more_is_found_by_its_token(world: World) -> None:
    arn = world.run().task.arn
    assert world.run(replace(launching(), desired=Desired.STOP)) == Existing((arn,))
    assert world.made() == 1


def test_a_launch_that_is_not_wanted_any_more_begins_nothing(world: World) -> None:
    """Airflow may have queued its task instance again, and would admit this container in place of the right one."""
    answer = world.run(replace(launching(), desired=Desired.STOP))
    assert isinstance(answer, Accepted)
    assert world.shown(answer.task.arn)["overrides"]["containerOverrides"][0]["command"] == list(runtask.NOTHING)
    assert world.run() == Existing((answer.task.arn,)), "and what is still on its way begins nothing either"
    assert world.made() == 1


def test_a_conflict_without_a_task_names_none(world: World) -> None:
    world.faults.on_placement("AGENT")
    world.run()
    assert world.gateway.run(launching(), ["something", "else"]) == Existing(())


@pytest.mark.parametrize(
    ("reason", "capacity"),
    [
        ("RESOURCE:CPU", True),
        ("RESOURCE:ENI", True),
        ("AGENT", True),
        (
            "Capacity is unavailable at this time. Please try again later or in a different availability zone",
            True,
        ),
        ("You've reached the limit on the number of vCPUs you can run concurrently", True),
        ("NO ACTIVE INSTANCES", True),
        ("EMPTY CAPACITY PROVIDER", True),
        ("ATTRIBUTE", False),
        ("LOCATION", False),
        ("MISSING", False),
        ("INACTIVE", False),
        ("MemberOf placement constraint unsatisfied.", False),
    ],
)
def test_failures_prove_that_nothing_started(world: World, reason: str, capacity: bool) -> None:
    world.faults.on_placement(reason)
    assert world.run() == NotStarted(reason, capacity=capacity)
    assert world.made() == 0
    # Remembered under the token: the repeat says the same although there is room now.
    assert world.run() == NotStarted(reason, capacity=capacity)
    assert isinstance(world.run(launching(attempt=2)), Accepted)


def test_the_same_launch_is_the_same_bytes(make_world: MakeWorld) -> None:
    worlds = [make_world(), make_world()]
    bodies: list[bytes] = []
    for world in worlds:
        world.client.meta.events.register("before-send.ecs", lambda request, **_: bodies.append(bytes(request.body)))
    as_decided = launching()
    # As a database gives it back that keeps members in an order of its own.
    as_read = replace(as_decided, params=json.loads(json.dumps(_reversed(as_decided.params))))
    worlds[0].run(as_decided)
    worlds[0].run(as_read)
    worlds[1].run(as_read)
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert json.loads(bodies[0])["clientToken"] == identity.client_token("default", "w-1", 1)


def test_every_parameter_that_may_be_set_is_one_of_run_task(world: World) -> None:
    profile = runtask.Profile(
        cluster="default",
        container_name="airflow",
        run_task={"taskDefinition": "airflow-task", "volumeConfigurations": [{"name": "data"}]},
        allowed=frozenset({"taskRoleArn", "executionRoleArn", "enableExecuteCommand"}),
    )
    config: dict[str, Any] = {
        "capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1, "base": 0}],
        "enableECSManagedTags": True,
        "enableExecuteCommand": False,
        "group": "family:airflow-task",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["s"], "assignPublicIp": "DISABLED"}},
        "overrides": {
            "containerOverrides": [{"name": "airflow", "cpu": 256, "memory": 512, "memoryReservation": 256}],
            "cpu": "1024",
            "memory": "2048",
            "ephemeralStorage": {"sizeInGiB": 30},
            "taskRoleArn": "arn:aws:iam::1:role/task",
            "executionRoleArn": "arn:aws:iam::1:role/execution",
        },
        "placementConstraints": [{"type": "distinctInstance"}],
        "placementStrategy": [{"type": "spread", "field": "host"}],
        "platformVersion": "LATEST",
        "propagateTags": "TASK_DEFINITION",
        "tags": [{"key": "team", "value": "data"}],
    }
    sent: list[dict[str, Any]] = []
    world.client.meta.events.register("before-parameter-build.ecs", lambda params, **_: sent.append(params))
    world.run(replace(launching(), params=runtask.plan(profile, "w-1", config)))
    shape = get_session().get_service_model("ecs").operation_model("RunTask").input_shape
    assert shape is not None
    assert {*config, "clientToken", "startedBy", "count", "cluster"} <= set(sent[0])
    assert not ParamValidator().validate(sent[0], shape).has_errors()


def test_a_launch_that_is_too_old_is_not_sent(make_world: MakeWorld) -> None:
    world = make_world(now=lambda: T0 + timedelta(minutes=20))
    assert isinstance(world.run(), Unknown)
    assert world.heard("RunTask") == 0


def test_a_launch_within_its_time_is_sent(make_world: MakeWorld) -> None:
    world = make_world(now=lambda: T0 + timedelta(minutes=19))
    assert isinstance(world.run(), Accepted)


@pytest.mark.parametrize("stage", ["request-created.ecs", "before-parameter-build.ecs"])
def test_a_process_that_pauses_before_sending_does_not_send_late(make_world: MakeWorld, stage: str) -> None:
    clock = VirtualClock()
    world = make_world(clock=clock)
    # The machine sleeps for 21 minutes while botocore signs, or earlier.
    world.client.meta.events.register(stage, lambda **_: clock.wait(21 * 60))
    assert isinstance(world.run(), Unknown)
    assert world.heard("RunTask") == 0


def test_a_pause_while_the_database_s_clock_is_read_counts(make_world: MakeWorld) -> None:
    clock = VirtualClock()

    def slow_now() -> datetime:
        clock.wait(21 * 60)
        return T0

    world = make_world(clock=clock, now=slow_now)
    assert isinstance(world.run(), Unknown)
    assert world.heard("RunTask") == 0


def test_a_launch_whose_fate_is_unknown_goes_before_a_new_one(make_world: MakeWorld) -> None:
    clock = SteppedClock()
    world = make_world(clock=clock, now=lambda: T0 + timedelta(minutes=5))
    world.limiter.start_empty()
    old, new = launching("old"), replace(launching("new"), intent_at=T0 + timedelta(minutes=5))
    threads = []
    for number, workload in enumerate((new, old), start=1):
        threads.append(threading.Thread(target=world.run, args=[workload]))
        threads[-1].start()
        eventually(lambda number=number: clock.waiting == number)  # type: ignore[misc] # a lambda with a default has no type
    clock.step(0.028)
    eventually(lambda: world.made() == 1)
    assert world.shown()["startedBy"] == "test/old/1"
    clock.step(0.028)
    for thread in threads:
        thread.join()
    assert world.made() == 2


def test_a_workload_without_an_intent_is_never_launched(world: World) -> None:
    with pytest.raises(ValueError, match="no intent"):
        world.run(replace(launching(), intent_at=None))
    assert world.heard("RunTask") == 0


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _reversed(value[name]) for name in reversed(value)}
    if isinstance(value, list | tuple):
        return [_reversed(item) for item in value]
    return value
