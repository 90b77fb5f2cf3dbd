"""Whatever is called in whatever order at whatever time, these things hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from reconciler.localecs import AwsError, Latencies, ResponseLost, StartContainer
from reconciler.localecs import Settings as EcsSettings
from reconciler.localecs.task import STATUSES
from tests.localecs.world import World

TOKENS = st.sampled_from(["a", "b", "c"])
SETTINGS = replace(
    EcsSettings.unthrottled(),
    latencies=Latencies(provisioning=10, pending=5, activating=20, jitter=0.5, stragglers=0.1),
    visibility_lag=2.0,
    list_lag=5.0,
    max_running_tasks=8,
)


class Ecs(RuleBasedStateMachine):
    """Launches, stops, exits, lost hosts and lost answers, at random times."""

    arns: Bundle[str] = Bundle("arns")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(SETTINGS)
        self.seen: dict[str, dict[str, Any]] = {}
        self.running: set[str] = set()
        self.by_token: dict[str, tuple[list[str], float]] = {}

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.world = World(SETTINGS, seed)

    @rule(target=arns, token=TOKENS, lost=st.booleans(), count=st.integers(1, 2))
    def launch(self, token: str, lost: bool, count: int) -> Any:
        if lost:
            self.world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
        arns: list[str] = []
        try:
            arns = [task["taskArn"] for task in self.world.run(clientToken=token, count=count)["tasks"]]
        except AwsError as error:
            if error.code != "ConflictException":
                raise
            arns = error.extra["resourceIds"]
            self.world.model.faults.clear()
        except ResponseLost:
            arns = [task["taskArn"] for task in self.world.run(clientToken=token, count=count)["tasks"]]
        known, since = self.by_token.get(token, (arns, self.world.now))
        if known != arns:
            # A new set of tasks under an old token: the token must have died first.
            dead = [self.seen[arn]["stoppedAt"] for arn in known if "stoppedAt" in self.seen.get(arn, {})]
            assert self.world.now >= since + 86400 or (len(dead) == len(known) and self.world.now >= max(dead) + 3600)
            self.by_token[token] = (arns, self.world.now)
        self.by_token.setdefault(token, (arns, since))
        return multiple(*arns)

    @rule(arn=arns)
    def stop(self, arn: str) -> None:
        try:
            self.world.call("StopTask", task=arn)
        except AwsError as error:
            if error.code != "InvalidParameterException":
                raise
            assert self.world.missing(arn)

    @rule(arn=arns, code=st.sampled_from([0, 1, 137]))
    def exit(self, arn: str, code: int) -> None:
        if arn in self.running:
            self.running.discard(arn)
            self.world.exit(arn, code)

    @rule(arn=consumes(arns))
    def lose_host(self, arn: str) -> None:
        if not self.world.missing(arn):
            self.world.model.lose_host(arn, self.world.now)

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 10.0, 31.0, 600.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        for effect in self.world.wait(seconds):
            if isinstance(effect, StartContainer):
                assert effect.task_arn not in self.running
                self.running.add(effect.task_arn)
            elif effect.signal == "SIGKILL" and effect.task_arn in self.running:
                self.running.discard(effect.task_arn)
                self.world.exit(effect.task_arn, 137)

    @invariant()
    def tasks_only_move_forward(self) -> None:
        known = self.world.model._tasks.known
        assert sum(not task.stopped for task in known.values()) == self.world.model.stats()["tasks"]["live"] <= 8
        for arn in known:
            if self.world.missing(arn):
                continue
            task = self.world.describe(arn)
            before = self.seen.get(arn, task)
            assert task["version"] >= before["version"]
            if task["version"] == before["version"]:
                assert task == before
            assert STATUSES.index(task["lastStatus"]) >= STATUSES.index(before["lastStatus"])
            assert (before["desiredStatus"], task["desiredStatus"]) != ("STOPPED", "RUNNING")
            if before["lastStatus"] == "STOPPED":
                assert task == before
            if task["lastStatus"] == "STOPPED":
                assert {"stopCode", "stoppedReason", "stoppedAt", "stoppingAt"} <= set(task)
                assert task["desiredStatus"] == "STOPPED"
            if "exitCode" in task["containers"][0]:
                assert "startedAt" in task
            self.seen[arn] = task


TestEcs = Ecs.TestCase
TestEcs.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
