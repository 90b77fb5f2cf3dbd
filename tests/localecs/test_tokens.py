"""RunTask's clientToken. The rules are plain functions, so that broken models can be shown to break them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reconciler.localecs import AwsError, Rate, ResponseLost, Settings
from tests.localecs.world import World, refused

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3600.0


def the_same_token_gives_the_same_task(world: World) -> None:
    first = world.launch(clientToken="t", startedBy="a")
    assert world.launch(clientToken="t", startedBy="a") == first
    assert world.listed() == [first]


def a_repeated_call_shows_the_current_status(world: World) -> None:
    arn = world.launch(clientToken="t")
    world.start(arn)
    [task] = world.run(clientToken="t")["tasks"]
    assert task["lastStatus"] == "RUNNING"
    assert task["startedAt"] > task["createdAt"]


def a_repeated_call_shows_little_of_a_stopped_task(world: World) -> None:
    arn = world.launch(clientToken="t")
    world.finish(arn)
    [task] = world.run(clientToken="t")["tasks"]
    assert task == {"taskArn": arn, "lastStatus": "STOPPED", "desiredStatus": "STOPPED"}


def other_parameters_conflict_and_name_the_tasks(world: World) -> None:
    arns = [task["taskArn"] for task in world.run(clientToken="t", count=2)["tasks"]]
    with refused("ConflictException") as caught:
        world.run(clientToken="t", count=2, startedBy="changed")
    assert caught.value.extra == {"resourceIds": arns}
    assert world.listed() == arns


def a_conflict_with_a_call_that_made_nothing_names_nothing(world: World) -> None:
    world.model.faults.on_placement("RESOURCE:CPU")
    world.run(clientToken="t")
    with refused("ConflictException") as caught:
        world.run(clientToken="t", startedBy="changed")
    assert caught.value.extra == {"resourceIds": []}


def a_token_belongs_to_one_cluster(world: World) -> None:
    world.call("CreateCluster", clusterName="other")
    here = world.launch(clientToken="t")
    there = world.launch(clientToken="t", cluster="other")
    assert here != there
    assert world.launch(clientToken="t", cluster="arn:aws:ecs:us-east-1:123456789012:cluster/other") == there


def a_token_is_case_sensitive(world: World) -> None:
    assert world.launch(clientToken="t") != world.launch(clientToken="T")


def failures_are_remembered(world: World) -> None:
    world.model.faults.on_placement("RESOURCE:MEMORY")
    first = world.run(clientToken="t")
    assert first == {"tasks": [], "failures": [{"reason": "RESOURCE:MEMORY"}]}
    assert world.run(clientToken="t") == first
    assert world.listed() == []


def old_failures_are_only_counted(world: World) -> None:
    world.model.faults.on_placement("RESOURCE:MEMORY", times=2)
    world.run(clientToken="t", count=2)
    world.wait(HOUR)
    assert world.run(clientToken="t", count=2) == {"tasks": [], "failures": [{}, {}]}


def a_token_ends_an_hour_after_its_task_stopped(world: World) -> None:
    first = world.launch(clientToken="t")
    world.finish(first)
    world.wait(HOUR - 1)
    assert world.launch(clientToken="t") == first
    world.wait(1)
    assert world.launch(clientToken="t") != first


def a_token_with_two_tasks_ends_an_hour_after_the_last_one(world: World) -> None:
    first = [task["taskArn"] for task in world.run(clientToken="t", count=2)["tasks"]]
    world.finish(first[0])
    world.wait(HOUR / 2)
    world.finish(first[1])
    world.wait(HOUR - 1)
    assert [task["taskArn"] for task in world.run(clientToken="t", count=2)["tasks"]] == first
    world.wait(1)
    assert [task["taskArn"] for task in world.run(clientToken="t", count=2)["tasks"]] != first


def a_token_ends_after_a_day_even_if_its_task_runs(world: World) -> None:
    first = world.launch(clientToken="t")
    world.start(first)
    world.wait(24 * HOUR - 1)
    assert world.launch(clientToken="t") == first
    world.wait(1)
    assert world.launch(clientToken="t") != first


def a_token_of_failures_ends_after_a_day(world: World) -> None:
    world.model.faults.on_placement("RESOURCE:MEMORY")
    world.run(clientToken="t")
    world.wait(24 * HOUR - 1)
    assert world.run(clientToken="t")["tasks"] == []
    world.wait(1)
    assert len(world.run(clientToken="t")["tasks"]) == 1


def a_refused_call_does_not_use_up_the_token(world: World) -> None:
    with refused("InvalidParameterException"):
        world.run(clientToken="t", count=11)
    with refused("ClusterNotFoundException"):
        world.run(clientToken="t", cluster="nowhere")
    world.launch(clientToken="t", startedBy="good")


def an_error_before_the_effect_does_not_use_up_the_token(world: World) -> None:
    world.model.faults.on_call("RunTask", AwsError("ServerException", "Service unavailable.", 500))
    with pytest.raises(AwsError, match="ServerException"):
        world.run(clientToken="t", startedBy="first")
    world.launch(clientToken="t", startedBy="second")


def a_lost_answer_is_found_again_by_the_token(world: World) -> None:
    world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
    with pytest.raises(ResponseLost):
        world.run(clientToken="t")
    [made] = world.listed()
    assert world.launch(clientToken="t") == made


def without_a_token_every_call_launches(world: World) -> None:
    assert world.launch() != world.launch()


def tasks_are_counted_by_token(world: World) -> None:
    world.run(clientToken="t", count=3)
    world.run(clientToken="t", count=3)
    assert world.model.stats()["tasks_by_client_token"] == {"t": 3}


RULES: list[Callable[[World], None]] = [
    the_same_token_gives_the_same_task,
    a_repeated_call_shows_the_current_status,
    a_repeated_call_shows_little_of_a_stopped_task,
    other_parameters_conflict_and_name_the_tasks,
    a_conflict_with_a_call_that_made_nothing_names_nothing,
    a_token_belongs_to_one_cluster,
    a_token_is_case_sensitive,
    failures_are_remembered,
    old_failures_are_only_counted,
    a_token_ends_an_hour_after_its_task_stopped,
    a_token_with_two_tasks_ends_an_hour_after_the_last_one,
    a_token_ends_after_a_day_even_if_its_task_runs,
    a_token_of_failures_ends_after_a_day,
    a_refused_call_does_not_use_up_the_token,
    an_error_before_the_effect_does_not_use_up_the_token,
    a_lost_answer_is_found_again_by_the_token,
    without_a_token_every_call_launches,
    tasks_are_counted_by_token,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tokens_keep_the_rule(rule: Callable[[World], None]) -> None:
    rule(World())


def test_a_throttled_call_does_not_use_up_the_token() -> None:
    world = World(Settings(rates={"fargate-run-task": Rate(1, 1)}))
    world.launch(clientToken="other")
    with refused("ThrottlingException", "Rate exceeded"):
        world.run(clientToken="t", startedBy="first")
    world.wait(1)
    world.launch(clientToken="t", startedBy="second")


# -- models that are broken on purpose: each must break the rules named beside it ----------------------------------


def ignores_tokens(world: World) -> None:
    honest = world.model.call

    def call(operation: str, request: Any, now: float) -> dict[str, Any]:
        return honest(operation, {name: value for name, value in request.items() if name != "clientToken"}, now)

    world.model.call = call  # type: ignore[method-assign]  # planting a fault


def keeps_tokens_for_ever(world: World) -> None:
    world.model._tasks.tokens._forget = lambda _now: None  # type: ignore[method-assign,assignment]  # planting a fault


def shares_tokens_among_clusters(world: World) -> None:
    tokens = world.model._tasks.tokens
    find, store = tokens.find, tokens.store
    tokens.find = lambda key, *rest: find(("", key[1]), *rest)  # type: ignore[method-assign]  # planting a fault
    tokens.store = lambda key, *rest: store(("", key[1]), *rest)  # type: ignore[method-assign]  # planting a fault


def never_shortens_the_day(world: World) -> None:
    world.model._tasks.tokens.task_stopped = lambda _key, _at: None  # type: ignore[method-assign,assignment]  # planting a fault


def repeats_the_first_answer(world: World) -> None:
    honest = world.model.call
    answers: dict[str, dict[str, Any]] = {}

    def call(operation: str, request: Any, now: float) -> dict[str, Any]:
        answer = honest(operation, request, now)
        return answers.setdefault(request["clientToken"], answer) if "clientToken" in request else answer

    world.model.call = call  # type: ignore[method-assign]  # planting a fault


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        (ignores_tokens, {the_same_token_gives_the_same_task, a_lost_answer_is_found_again_by_the_token}),
        (keeps_tokens_for_ever, {a_token_ends_an_hour_after_its_task_stopped, a_token_of_failures_ends_after_a_day}),
        (shares_tokens_among_clusters, {a_token_belongs_to_one_cluster}),
        (never_shortens_the_day, {a_token_ends_an_hour_after_its_task_stopped}),
        (repeats_the_first_answer, {a_repeated_call_shows_the_current_status}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_model_breaks_the_rules(fault: Callable[[World], None], broken: set[Callable[[World], None]]) -> None:
    kept = set()
    for rule in RULES:
        world = World()
        fault(world)
        try:
            rule(world)
        except (AssertionError, AwsError, pytest.fail.Exception):
            continue
        kept.add(rule)
    assert not kept & broken
