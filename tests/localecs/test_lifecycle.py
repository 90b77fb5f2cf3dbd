"""The life of a task: driven by time and by its containers, never by being looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.localecs import Latencies, Settings, StartContainer
from reconciler.localecs.task import STATUSES
from tests.localecs.world import DEFINITION, World

SLOW = replace(
    Settings.unthrottled(),
    latencies=Latencies(
        provisioning=10, pending=20, activating=30, notice=1, deactivating=2, stopping=3, deprovisioning=4
    ),
)


def with_sidecar(world: World, **sidecar: Any) -> str:
    containers = [
        {"name": "airflow", "image": "airflow:3"},
        {"name": "proxy", "image": "proxy:1", "command": ["proxy"], **sidecar},
    ]
    world.call("RegisterTaskDefinition", **{**DEFINITION, "family": "two", "containerDefinitions": containers})
    return "two"


def test_a_task_goes_through_all_states_when_their_time_has_come() -> None:
    world = World(SLOW)
    arn = world.launch()
    seen = [(world.now - 1_000_000, world.describe(arn)["lastStatus"])]
    for _ in range(60):
        world.wait(1)
        status = world.describe(arn)["lastStatus"]
        if status != seen[-1][1]:
            seen.append((world.now - 1_000_000, status))
    world.exit(arn)
    for _ in range(10):
        world.wait(1)
        status = world.describe(arn)["lastStatus"]
        if status != seen[-1][1]:
            seen.append((world.now - 1_000_000, status))
    assert seen == [
        (0, "PROVISIONING"),
        (10, "PENDING"),
        (30, "ACTIVATING"),
        (60, "RUNNING"),
        (61, "DEACTIVATING"),
        (63, "STOPPING"),
        (66, "DEPROVISIONING"),
        (70, "STOPPED"),
    ]
    assert [status for _, status in seen] == list(STATUSES)


def test_looking_late_shows_the_same_times_as_looking_often() -> None:
    often, late = World(SLOW), World(SLOW)
    arns = [world.launch() for world in (often, late)]
    for _ in range(100):
        often.wait(0.7)
        often.describe(arns[0])
    late.wait(often.now - late.now)
    assert often.describe(arns[0]) == late.describe(arns[1])
    assert late.describe(arns[1])["startedAt"] == 1_000_060


def test_an_exit_gives_the_exit_code_the_stop_code_and_the_times() -> None:
    world = World(SLOW)
    arn = world.launch()
    world.start(arn)
    assert "exitCode" not in world.describe(arn)["containers"][0]
    world.wait(5)
    world.exit(arn, 7)
    dying = world.describe(arn)
    assert (dying["lastStatus"], dying["desiredStatus"]) == ("RUNNING", "STOPPED")
    assert dying["containers"][0]["exitCode"] == 7
    world.reach(arn, "STOPPED")
    task = world.describe(arn)
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["stoppedReason"] == "Essential container in task exited"
    assert task["containers"][0] == task["containers"][0] | {"exitCode": 7, "lastStatus": "STOPPED"}
    times = {name: task[name] - 1_000_000 for name in task if name.endswith("At")}
    assert times == {
        "createdAt": 0,
        "connectivityAt": 10,
        "pullStartedAt": 30,
        "pullStoppedAt": 60,
        "startedAt": 60,
        "stoppingAt": 65,
        "executionStoppedAt": 65,
        "stoppedAt": 75,
    }


def test_the_container_is_told_its_command_and_environment() -> None:
    world = World()
    container = {
        "name": "airflow",
        "image": "airflow:3",
        "entryPoint": ["/entry"],
        "command": ["default"],
        "environment": [{"name": "A", "value": "definition"}, {"name": "B", "value": "definition"}],
    }
    world.call("RegisterTaskDefinition", **{**DEFINITION, "containerDefinitions": [container]})
    override = {"name": "airflow", "command": ["do", "it"], "environment": [{"name": "B", "value": "override"}]}
    arn = world.launch(overrides={"containerOverrides": [override]})
    world.start(arn)
    expected = StartContainer(arn, "airflow", ("/entry", "do", "it"), {"A": "definition", "B": "override"})
    assert world.effects == [expected]
    assert world.describe(arn)["overrides"]["containerOverrides"] == [override]


def test_without_an_override_the_definition_s_command_runs() -> None:
    world = World()
    arn = world.launch()
    world.start(arn)
    assert world.effects == [StartContainer(arn, "airflow", ("true",), {})]


def test_the_version_rises_with_every_change_and_only_then() -> None:
    world = World(SLOW)
    arn = world.launch()
    versions: dict[tuple[str, str, int | None], set[int]] = {}
    for _ in range(80):
        task = world.describe(arn)
        state = (task["lastStatus"], task["desiredStatus"], task["containers"][0].get("exitCode"))
        versions.setdefault(state, set()).add(task["version"])
        world.wait(1)
        if task["lastStatus"] == "RUNNING" and task["desiredStatus"] == "RUNNING":
            world.exit(arn)
    assert all(len(seen) == 1 for seen in versions.values())
    ordered = [version for seen in versions.values() for version in seen]
    assert ordered == sorted(set(ordered))
    assert ordered[0] == 1


def test_the_end_of_an_essential_container_ends_the_sidecar() -> None:
    world = World()
    arn = world.launch(taskDefinition=with_sidecar(world))
    world.start(arn)
    world.exit(arn, 0)
    world.reach(arn, "STOPPING")
    assert world.signals(arn) == ["SIGTERM"]
    world.exit(arn, 143, container="proxy")
    world.reach(arn, "STOPPED")
    codes = {container["name"]: container["exitCode"] for container in world.describe(arn)["containers"]}
    assert codes == {"airflow": 0, "proxy": 143}


def test_the_end_of_a_sidecar_that_is_not_essential_ends_nothing() -> None:
    world = World()
    arn = world.launch(taskDefinition=with_sidecar(world, essential=False))
    world.start(arn)
    world.exit(arn, 1, container="proxy")
    world.settle(60)
    task = world.describe(arn)
    assert (task["lastStatus"], task["desiredStatus"]) == ("RUNNING", "RUNNING")
    assert [container["lastStatus"] for container in task["containers"]] == ["RUNNING", "STOPPED"]


def test_a_stopped_task_never_changes_again() -> None:
    world = World()
    arn = world.launch()
    world.finish(arn, 3)
    before = world.describe(arn)
    world.exit(arn, 9)
    world.call("StopTask", task=arn, reason="again")
    world.wait(60)
    assert world.describe(arn) == before


def test_a_stopped_task_is_visible_for_exactly_an_hour() -> None:
    world = World()
    arn = world.launch()
    world.finish(arn)
    world.now = world.describe(arn)["stoppedAt"] + 3599.9
    world.wait(0)
    assert not world.missing(arn)
    assert world.listed(desiredStatus="STOPPED") == [arn]
    world.wait(0.2)
    assert world.missing(arn)
    assert world.listed(desiredStatus="STOPPED") == []


def test_the_news_of_a_forgotten_task_s_exit_is_ignored() -> None:
    world = World()
    arn = world.launch()
    world.finish(arn)
    world.wait(4000)
    world.exit(arn, 1)
    assert world.missing(arn)


def test_time_that_runs_backward_is_not_believed() -> None:
    world = World()
    arn = world.launch()
    world.start(arn)
    world.now -= 1000
    world.exit(arn, 0)
    task = world.describe(arn)
    assert task["stoppingAt"] >= task["startedAt"]


def test_stragglers_take_longer_to_start() -> None:
    latencies = Latencies(provisioning=10, pending=10, activating=10, stragglers=0.5, straggler_factor=10)
    world = World(replace(Settings.unthrottled(), latencies=latencies))
    arns = [task["taskArn"] for _ in range(5) for task in world.run(count=10)["tasks"]]
    world.settle(1000)
    took = {world.describe(arn)["startedAt"] - 1_000_000 for arn in arns}
    assert took == {30.0, 300.0}


def test_jitter_spreads_the_stays_within_its_bounds() -> None:
    latencies = Latencies(provisioning=10, pending=10, activating=10, jitter=0.5)
    world = World(replace(Settings.unthrottled(), latencies=latencies))
    arns = [task["taskArn"] for _ in range(5) for task in world.run(count=10)["tasks"]]
    world.settle(1000)
    took = [world.describe(arn)["startedAt"] - 1_000_000 for arn in arns]
    assert len(set(took)) == 50
    assert min(took) >= 15
    assert max(took) <= 45


def test_a_share_above_one_is_refused_with_its_name() -> None:
    with pytest.raises(ValueError, match=r"latencies.jitter is 2"):
        Latencies(jitter=2)


@pytest.mark.parametrize("profile", [Settings(), Settings.unthrottled(), Settings.realistic()])
def test_each_profile_brings_a_task_to_its_end(profile: Settings) -> None:
    world = World(profile)
    arn = world.launch()
    world.wait(600)
    assert world.describe(arn)["lastStatus"] == "RUNNING"
    world.exit(arn)
    world.wait(600)
    assert world.describe(arn)["lastStatus"] == "STOPPED"


def test_the_default_profile_starts_well_under_a_second() -> None:
    world = World(Settings())
    arn = world.launch()
    world.start(arn)
    assert world.describe(arn)["startedAt"] - world.describe(arn)["createdAt"] < 0.5


def test_the_same_seed_gives_the_same_names() -> None:
    assert World(seed=4).launch() == World(seed=4).launch()
    assert World(seed=4).launch() != World(seed=5).launch()
