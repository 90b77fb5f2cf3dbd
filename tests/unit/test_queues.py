"""Queues and their profiles: which options hold for which queue, and what is wrong is said at once."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config import ConfigError, shim_settings
from reconciler.core.quota import deal
from reconciler.core.runtask import RequestRefusedError
from reconciler.core.shares import Shares
from reconciler.core.spot import on_demand
from reconciler.core.task import Kind, Workload
from tests.unit.test_config import problems, reader, settings

OTHER = "arn:aws:iam::123456789012:role/airflow"


def queues(**said: dict[str, Any]) -> dict[str, str | None]:
    return {"ecs_reconciler__queues": json.dumps(said)}


def workload(queue: str, kind: Kind = Kind.TASK) -> Workload:
    return Workload("x", "prod", queue=queue, kind=kind)


def test_a_queue_has_what_it_sets_and_inherits_the_rest() -> None:
    found = settings(
        **queues(
            gpu={"task_definition": "train:4", "cluster": "gpu", "subnets": ["s2"], "start_timeout": 1200},
            small={"max_running_tasks": 7},
        ),
        aws_ecs_executor__subnets="s1",
        aws_ecs_executor__launch_type="FARGATE",
    ).profiles
    gpu, small = found.named["gpu"], found.named["small"]

    assert gpu.run_task == {
        **found.default.run_task,
        "taskDefinition": "train:4",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["s2"], "assignPublicIp": "DISABLED"}},
    }
    assert (gpu.cluster, gpu.start_timeout, gpu.max_running_tasks) == ("gpu", timedelta(seconds=1200), None)
    assert small.run_task == found.default.run_task
    assert (small.cluster, small.start_timeout, small.max_running_tasks) == ("airflow", timedelta(seconds=600), 7)
    assert [profile.name for profile in found.all()] == ["default", "gpu", "small"]


def test_the_default_profile_can_be_given_a_share_of_its_own_that_others_do_not_inherit() -> None:
    found = settings(**queues(default={"max_running_tasks": 5, "cluster": "other"}, gpu={})).profiles
    assert (found.default.max_running_tasks, found.default.cluster) == (5, "other")
    assert (found.named["gpu"].max_running_tasks, found.named["gpu"].cluster) == (None, "airflow")


@pytest.mark.parametrize(
    ("common", "said", "chosen"),
    [
        ({"launch_type": "FARGATE"}, {"capacity_provider_strategy": [{"capacityProvider": "gpu"}]}, "strategy"),
        ({"capacity_provider_strategy": '[{"capacityProvider": "FARGATE_SPOT"}]'}, {"launch_type": "EC2"}, "type"),
    ],
)
def test_a_queue_that_chooses_its_capacity_does_not_inherit_the_other_kind(
    common: dict[str, str], said: dict[str, Any], chosen: str
) -> None:
    found = settings(**queues(gpu=said), **{f"aws_ecs_executor__{name}": value for name, value in common.items()})
    run_task = found.profiles.named["gpu"].run_task
    assert ("capacityProviderStrategy" in run_task, "launchType" in run_task) == (
        chosen == "strategy",
        chosen == "type",
    )


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"task_defintion": "x"}, ['"gpu" sets task_defintion', "did you mean task_definition?"]),
        ({"CLUSTER": "x"}, ["did you mean cluster?"]),
        ({"zzz": 1}, ["no option of a queue", "it may set assign_public_ip"]),
        ({"conn_id": "aws"}, ['"gpu" sets conn_id', "holds for all queues", "by role_arn"]),
        ({"max_running_tasks": -1}, ['"gpu"', "max_running_tasks", "greater than or equal to 0"]),
        ({"launch_type": "LAMBDA"}, ['queues: "gpu"', "launch_type", "'LAMBDA'", "FARGATE"]),
        ({"security_groups": ["sg"]}, ['queues: "gpu"', "subnets is empty"]),
        (
            {"launch_type": "EC2", "capacity_provider_strategy": [{"capacityProvider": "x"}]},
            ['queues: "gpu"', "exclude one another"],
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_queue(said: dict[str, Any], words: list[str]) -> None:
    (problem,) = problems(**queues(gpu=said))
    for word in words:
        assert word in problem


@pytest.mark.parametrize("option", ["start_timeout", "max_running_vcpus", "max_running_tasks"])
@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e400", "1e14", pytest.param("1" + 400 * "0", id="10**400")])
def test_a_number_that_nothing_could_be_reckoned_with_is_refused(option: str, number: str) -> None:
    (problem,) = problems(ecs_reconciler__queues=f'{{"gpu": {{"{option}": {number}}}}}')
    assert problem.startswith(f'[ecs_reconciler] queues: "gpu": [ecs_reconciler] {option}: ')


@pytest.mark.parametrize("text", ["{oops", '["gpu"]', '{"gpu": "train:4"}'])
def test_what_is_not_an_object_of_objects_is_refused(text: str) -> None:
    (problem,) = problems(ecs_reconciler__queues=text)
    assert "[ecs_reconciler] queues" in problem


def test_a_queue_without_a_profile_uses_the_default_one_or_fails_with_a_sentence() -> None:
    lenient = settings(**queues(gpu={"cluster": "gpu"})).profiles
    assert lenient.of(workload("gpu")).name == "gpu"
    assert lenient.of(workload("celery")).name == "default"

    strict = settings(**queues(gpu={}), ecs_reconciler__unknown_queue="fail", operators__default_queue="main").profiles
    for queue in ("gpu", "main", "default"):
        strict.of(workload(queue))
    strict.of(workload("celery", Kind.CALLBACK))  # it has no queue of its own
    with pytest.raises(RequestRefusedError, match=r'queue "celery": add it to .* unknown_queue = default.* gpu, main'):
        strict.of(workload("celery"))


def test_the_shim_knows_the_shares_and_is_not_kept_from_starting_by_the_rest() -> None:
    found = shim_settings(reader(**queues(gpu={"max_running_tasks": 3}, odd={"max_running_tasks": "x", "zzz": 1})))
    assert found.shares == Shares({"gpu": 3, "odd": None})


@pytest.mark.parametrize("said", ["4", 4.0, " 4 "])
def test_the_shim_reads_a_number_as_the_daemon_does(said: Any) -> None:
    values = queues(gpu={"max_running_tasks": said})
    assert settings(**values).profiles.named["gpu"].max_running_tasks == 4
    assert shim_settings(reader(**values)).shares == Shares({"gpu": 4})


def test_a_share_of_everything_is_none() -> None:
    values = queues(gpu={"max_running_tasks": 500}, default={"max_running_tasks": 499})
    assert shim_settings(reader(**values)).shares == Shares({"gpu": None, "default": 499})


def test_the_shim_sets_aside_what_runs_in_other_accounts_and_regions() -> None:
    values = queues(
        near={"region_name": "eu-central-1", "max_running_tasks": 40},
        all={"max_running_tasks": 150},
        far={"region_name": "us-east-1", "max_running_tasks": "300"},
        theirs={"role_arn": OTHER, "max_running_tasks": 50},
    )
    found = shim_settings(reader(**values)).shares
    assert found.of == {"near": 40, "all": None, "far": 300, "theirs": 50}
    assert (found.away, found.home) == (("far", "theirs"), 150)
    moved = shim_settings(reader(**queues(default={"region_name": "us-east-1"}, old={"max_running_tasks": 10}))).shares
    assert (moved.away, moved.home) == (("old",), 490)


@given(
    st.dictionaries(
        st.sampled_from(["default", "a", "b", "c"]),
        st.fixed_dictionaries(
            {},
            optional={
                "region_name": st.sampled_from(["eu-central-1", "us-east-1"]),
                "role_arn": st.just(OTHER),
                "max_running_tasks": st.integers(0, 40),
            },
        ),
    ),
    st.sampled_from(["default", "a", "b", "etl"]),
    st.integers(0, 50),
)
def test_the_shim_sees_the_room_that_the_daemon_launches_in(
    said: dict[str, dict[str, Any]], busy: str, count: int
) -> None:
    values = {**queues(**said), "ecs_reconciler__max_running_tasks": "100"}
    try:
        profiles = settings(**values).profiles
    except ConfigError:
        return
    limits = profiles.limits(100)

    def left(queue: str, running: int) -> int:
        profile, of = profiles.of_queue(queue), profiles.of_queue(busy)
        own = 100 if profile.max_running_tasks is None else profile.max_running_tasks
        here, mine = profile.shard == of.shard, profile.name == of.name
        return min(limits[profile.shard] - running * here, own - running * mine)

    running = min(count, left(busy, 0))
    shares = shim_settings(reader(**values)).shares
    for queue in ("default", "a", "b", "c", "etl"):
        assert shares.room(queue, {busy: running}, 100) == left(queue, running)
        waiting = {queue: 200}
        blocked, at_home = shares.beyond(waiting, {busy: running})
        if shares.home is not None or shares.of.get(profiles.of_queue(queue).name) is not None:
            assert blocked + at_home == 200 - left(queue, running)


@given(st.integers(0, 50), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20)), st.integers(0, 9))
def test_room_is_dealt_out_fairly_and_to_the_last(room: int, wants: dict[str, int], turn: int) -> None:
    given_out = deal(room, wants, turn)
    assert sum(given_out.values()) == min(room, sum(wants.values()))
    assert all(0 <= given_out[name] <= wanted for name, wanted in wants.items())
    short = [given_out[name] for name, wanted in wants.items() if given_out[name] < wanted]
    most = max(given_out.values(), default=0)
    assert all(part >= most - 1 for part in short), "who got less than it wants got no less than anybody else"


def test_who_gets_the_last_one_changes() -> None:
    assert [deal(1, {"a": 1, "b": 1}, turn) for turn in (0, 1)] == [{"a": 1, "b": 0}, {"a": 0, "b": 1}]


def test_a_fallback_from_spot_needs_something_to_fall_back_on() -> None:
    spot, demand = {"capacityProvider": "FARGATE_SPOT", "weight": 1}, {"capacityProvider": "FARGATE", "weight": 0}
    (problem,) = problems(**queues(gpu={"spot_fallback_after": 3, "capacity_provider_strategy": [spot]}))
    assert 'queues: "gpu": spot_fallback_after is set' in problem
    found = settings(**queues(gpu={"spot_fallback_after": 3, "capacity_provider_strategy": [spot, demand]})).profiles
    assert on_demand(found.named["gpu"]).run_task["capacityProviderStrategy"] == [
        {"capacityProvider": "FARGATE", "weight": 1}
    ]


def test_a_profile_belongs_to_an_account_and_region() -> None:
    found = settings(
        **queues(
            near={},
            far={"region_name": "us-east-1", "max_running_tasks": 100},
            theirs={"role_arn": OTHER, "max_running_tasks": 20},
            theirs_too={"role_arn": OTHER, "max_running_tasks": 30},
        )
    ).profiles
    assert {profile.name: profile.shard for profile in found.all()} == {
        "default": "eu-central-1",
        "near": "eu-central-1",
        "far": "us-east-1",
        "theirs": "eu-central-1/123456789012",
        "theirs_too": "eu-central-1/123456789012",
    }
    assert [profile.name for profile in found.of_shard("eu-central-1")] == ["default", "near"]
    limits = found.limits(500)
    assert limits == {"eu-central-1": 350, "us-east-1": 100, "eu-central-1/123456789012": 50}
    assert sum(limits.values()) == 500


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"far": {"region_name": "us-east-1"}}, ['"far" runs in us-east-1', "max_running_tasks of its own"]),
        ({"far": {"region_name": "us-east-1", "max_running_tasks": 500}}, ["take 500 of them", "needs at least 1"]),
        (
            {
                "a": {"role_arn": OTHER, "max_running_tasks": 1},
                "b": {"role_arn": f"{OTHER}-2", "max_running_tasks": 1},
            },
            ['"b" assumes', "one account and region has one role"],
        ),
        (
            {"far": {"role_arn": "airflow"}},
            ['"far"', "role_arn", "'airflow'", "arn:aws:iam::123456789012:role/airflow"],
        ),
    ],
)
def test_what_is_wrong_between_accounts_and_regions_is_said(said: dict[str, Any], words: list[str]) -> None:
    (problem,) = problems(**queues(**said))
    for word in words:
        assert word in problem
