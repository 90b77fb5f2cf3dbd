"""What is heard from the queue of events, on real SQL and the pure models of ECS and SQS."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.controllers import listen
from reconciler.core.errors import EventsUnavailable, LeaseLost, StoreUnavailable
from reconciler.core.phase import Desired, Phase
from reconciler.localecs import AwsError, ResponseLost
from reconciler.store import shim
from tests.world import EVENTS_QUEUE, World

if TYPE_CHECKING:
    from collections.abc import Iterator

DENIED = AwsError("AccessDeniedException", "is not authorized to perform: sqs:ReceiveMessage", 403)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(events=True)
    yield made
    made.close()


def looks(world: World) -> int:
    """How many DescribeTasks calls ECS has answered."""
    return int(world.model.stats()["operations"]["DescribeTasks"]["answered"])


def run_fresh(world: World, *more: str, seconds: float = 3600.0) -> None:
    """Let tasks run until events are relied on."""
    world.behaviour.seconds = seconds
    world.queue("early", *more)
    world.run(30)
    world.queue("late")
    world.run_until(lambda: world.replica.freshness.reason is None, within=60)
    world.run(10)


def listen_alone(world: World, seconds: float = 1.0) -> None:
    """Let time pass in which the daemon does nothing but listen."""
    world.run(seconds, daemon=False)
    world.replica.listen.reconcile(world.lease())


def launch_alone(world: World, exec_id: str) -> None:
    """Call RunTask, and do nothing else."""
    world.queue(exec_id)
    world.replica.launch.reconcile(world.lease())
    world.run(0.1, daemon=False)


def event_of(world: World, exec_id: str, **changes: Any) -> dict[str, Any]:
    """An event like the last one of a workload's task."""
    (task,) = world.tasks(exec_id)
    detail = {**task, **changes}
    for name in [name for name in detail if name.endswith("At")]:
        detail[name] = "2026-01-01T00:00:00Z"
    return {
        "source": "aws.ecs",
        "detail-type": "ECS Task State Change",
        "time": "2026-01-01T00:00:00Z",
        "detail": detail,
    }


class TestApplied:
    """An event is one more look at one task."""

    def test_an_end_is_seen_without_a_look(self, world: World) -> None:
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
        before = looks(world)
        world.run(15, daemon=False)
        listen_alone(world)
        assert (world.row("a").phase, world.row("a").exit_code, looks(world)) == (Phase.EXITED, 0, before)
        assert world.waiting() == 0
        applied = [lag for result, lag in world.replica.events if result == "applied"]
        assert applied
        assert all(lag is not None and 0 <= lag < 20 for lag in applied)

    def test_a_launch_whose_answer_is_lost_is_given_its_task(self, world: World) -> None:
        world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
        launch_alone(world, "a")
        assert world.row("a").phase is Phase.LAUNCHING
        listen_alone(world)
        row = world.row("a")
        assert row.phase in (Phase.STARTED, Phase.RUNNING)
        assert row.task_arn == world.tasks("a")[0]["taskArn"]
        assert row.ecs_version > 0, "what the event tells besides is recorded in the same pass"
        world.run_until(lambda: world.row("a").terminal)
        assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]

    def test_a_task_of_another_cluster_is_not_given_to_a_launch(self, world: World) -> None:
        world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
        launch_alone(world, "a")
        (task,) = world.tasks("a")
        elsewhere = task["taskArn"].replace("task/airflow/", "task/other/")
        drain(world)
        world.send(json.dumps(event_of(world, "a", taskArn=elsewhere)))
        listen_alone(world, 0.0)
        assert world.waiting() == 0
        assert (world.row("a").phase, world.row("a").task_arn) == (Phase.LAUNCHING, None)

    @pytest.mark.parametrize("delivery", [{"copies": 3}, {"spread": 20.0}, {"copies": 2, "spread": 40.0}])
    def test_twice_and_in_any_order_is_as_good_as_once(self, world: World, delivery: dict[str, Any]) -> None:
        world.sqs.faults.on_delivery(times=None, **delivery)
        world.queue(*"abcdefgh")
        world.run_until(lambda: all(world.row(exec_id).terminal for exec_id in "abcdefgh"))
        world.run(120)
        assert {world.row(exec_id).phase for exec_id in "abcdefgh"} == {Phase.EXITED}
        assert {world.row(exec_id).exit_code for exec_id in "abcdefgh"} == {0}
        assert len(world.started) == 8
        assert world.waiting() == 0

    def test_what_comes_hours_late_changes_nothing(self, world: World) -> None:
        world.sqs.faults.on_delivery(times=None, delay=7200.0)
        world.sqs.call("SetQueueAttributes", retention(world, 86400), world.ecs_now)
        world.behaviour.by_exec_id["b"] = (10000.0, 0)
        world.queue("a", "b")
        world.run_until(lambda: world.row("a").terminal, step=10)
        before = world.row("a"), world.row("b")
        assert world.waiting() == 0, "they are still on their way"
        while world.clock.now < 8000:
            listen_alone(world, 100.0)
        assert {result for result, _ in world.replica.events} == {"stale"}
        assert (world.row("a"), world.row("b")) == before


class TestDeleted:
    """A message is deleted only after what it tells, or something newer, is committed."""

    def test_what_can_not_be_written_comes_again(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
        world.run(15, daemon=False)
        with monkeypatch.context() as broken:
            broken.setattr(world.replica.listen._store, "save", refusing(StoreUnavailable("no answer")))
            with pytest.raises(StoreUnavailable):
                listen_alone(world)
        assert world.row("a").phase is Phase.RUNNING
        assert world.waiting() > 0
        listen_alone(world, 40.0)
        assert world.row("a").phase is Phase.EXITED
        assert world.waiting() == 0

    def test_a_replica_that_leads_no_more_deletes_nothing(self, world: World) -> None:
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
        lease = world.lease()
        world.run(20, daemon=False)
        assert world.store.hold(lease.name, "another", timedelta(seconds=60))
        with pytest.raises(LeaseLost):
            world.replica.listen.reconcile(lease)
        assert world.row("a").phase is Phase.RUNNING
        assert world.waiting() > 0

    @pytest.mark.parametrize(("times", "applied"), [(1, True), (listen.ROUNDS, False)])
    def test_a_row_that_moves_on_meanwhile_is_read_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch, times: int, applied: bool
    ) -> None:
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
        world.run(15, daemon=False)
        store = world.replica.listen._store
        find, left = store.find, [times]

        def overtaken(ids: Any) -> Any:
            found = find(ids)
            if left[0]:
                left[0] -= 1
                with world.engine.begin() as conn:
                    conn.exec_driver_sql("UPDATE ecs_workload SET version = version + 1")
            return found

        monkeypatch.setattr(store, "find", overtaken)
        listen_alone(world)
        assert (world.row("a").phase is Phase.EXITED) is applied
        assert (world.waiting() == 0) is applied

    def test_an_end_that_does_not_show_our_container_is_looked_at_first(self, world: World) -> None:
        """Were it believed, an exit code would be lost, or a container that ran be taken for one that did not."""
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
        world.run(15, daemon=False)
        drain(world)
        world.send(json.dumps(event_of(world, "a", overrides={})))
        listen_alone(world)
        assert world.row("a").phase is Phase.RUNNING
        assert world.waiting() == 1
        world.replica.sweep.reconcile(world.lease())
        assert (world.row("a").phase, world.row("a").exit_code) == (Phase.EXITED, 0)
        listen_alone(world, 40.0)
        assert world.waiting() == 0


class TestNoConcernOfOurs:
    """Messages that tell nothing of a workload of this shard."""

    def test_tasks_of_others_are_passed_over_before_the_database(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in (None, "other/a/1", "testx/a/1", "test/a/1/2", "test/a/²", "ecs-svc/123", "test//1"):
            world.send(json.dumps(foreign(name)))
        world.send(json.dumps({"source": "aws.ecs", "detail-type": "ECS Service Action", "detail": {}}))
        monkeypatch.setattr(world.replica.listen._store, "find", refusing(AssertionError("the database was asked")))
        listen_alone(world)
        assert world.replica.events == [("foreign", None)] * 8
        assert world.waiting() == 0

    def test_what_can_not_be_read_is_counted_and_deleted_and_keeps_nobody_waiting(self, world: World) -> None:
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
        world.run(15, daemon=False)
        good = event_of(world, "a")
        drain(world)
        wrong: list[Any] = [
            "no JSON, but secret",
            "[" * 100_000,
            "[]",
            '"text"',
            json.dumps({name: part for name, part in good.items() if name != "detail"}),
            json.dumps({name: part for name, part in good.items() if name != "time"}),
            json.dumps(good | {"time": None}),
            json.dumps(good | {"detail": None}),
            json.dumps(good | {"detail": []}),
            json.dumps(good | {"detail": {}}),
            json.dumps(good | {"detail": good["detail"] | {"version": "7"}}),
            json.dumps(good | {"detail": good["detail"] | {"version": 2**70}}),
            json.dumps(good | {"detail": good["detail"] | {"lastStatus": "STOP\u0000PED"}}),
            json.dumps(good | {"detail": good["detail"] | {"startedBy": "test/\ud800/1"}}),
            json.dumps(good | {"detail": good["detail"] | {"containers": 7}}),
            json.dumps(good | {"detail": good["detail"] | {"stoppedAt": "soon"}}),
            json.dumps(good | {"detail": good["detail"] | {"stoppedAt": 1e17}}),
            json.dumps(good | {"detail": good["detail"] | {"updatedAt": 7}}),
            json.dumps(good | {"padding": "x" * 300_000}),
        ]
        for body in [*wrong, json.dumps(good)]:
            world.send(body)
        listen_alone(world)
        listen_alone(world)
        results = [result for result, _ in world.replica.events]
        assert results.count("poison") == len(wrong)
        assert world.row("a").phase is Phase.EXITED
        assert world.waiting() == 0

    def test_an_earlier_attempt_and_another_task_are_not_this_one(self, world: World) -> None:
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
        drain(world)
        before = world.row("a")
        stopped = {"lastStatus": "STOPPED", "version": 99}
        other = before.task_arn[:-4] + "beef" if before.task_arn else ""
        for changes in ({"startedBy": "test/a/2"}, {"startedBy": "test/b/1"}, {"taskArn": other}):
            world.send(json.dumps(event_of(world, "a", **stopped, **changes)))
        listen_alone(world)
        assert world.row("a") == before
        assert world.waiting() == 0

    def test_rows_of_another_shard_are_left_to_its_leader(self, world: World) -> None:
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
        with world.engine.begin() as conn:
            conn.exec_driver_sql("UPDATE ecs_workload SET shard = 'elsewhere'")
        before = world.row("a")
        world.run(15, daemon=False)
        listen_alone(world)
        assert world.row("a") == before


class TestPace:
    """With events looks become rare, and as soon as events fail they become frequent again."""

    def test_looks_become_rare_and_ends_are_seen_at_once(self, world: World) -> None:
        run_fresh(world, *(f"w{n}" for n in range(8)))
        before = looks(world)
        world.run(60)
        assert looks(world) - before <= 60 / 6 + 1 + 1, "a small look every six seconds, and a listing"
        world.behaviour.by_exec_id["short"] = (5.0, 3)
        world.queue("short")
        world.run_until(lambda: world.row("short").terminal, within=12)
        assert world.row("short").exit_code == 3
        assert world.replica.freshness.reason is None

    def test_no_event_of_a_launch_means_that_events_are_not_relied_on(self, world: World) -> None:
        run_fresh(world)
        world.sqs.faults.on_delivery(copies=0, times=None)
        world.queue("a")
        world.run_until(lambda: world.replica.freshness.reason is not None, within=14)
        before = looks(world)
        world.run(10)
        assert looks(world) - before >= 9

    def test_an_end_that_no_event_tells_is_found_and_events_are_not_relied_on(self, world: World) -> None:
        world.behaviour.by_exec_id["early"] = (100.0, 0)
        run_fresh(world)
        world.sqs.faults.on_delivery(copies=0, times=None)
        world.run_until(lambda: world.row("early").terminal, within=160 - world.clock.now)
        world.run_until(lambda: world.replica.freshness.reason is not None, within=7)

    @pytest.mark.parametrize("fault", [DENIED, ResponseLost(), AwsError("ServiceUnavailable", "", 503)])
    def test_a_queue_that_can_not_be_read_is_not_relied_on(self, world: World, fault: Exception) -> None:
        run_fresh(world)
        rule = world.sqs.faults.on_call("ReceiveMessage", fault, times=None)  # type: ignore[arg-type] # either kind
        world.run(2)
        assert world.replica.freshness.reason is not None
        assert isinstance(world.replica.errors[-1], EventsUnavailable)
        before = looks(world)
        world.run(10)
        assert looks(world) - before >= 9
        world.sqs.faults.remove(rule)
        world.queue("a")
        world.run_until(lambda: world.replica.freshness.reason is None, within=60)

    def test_messages_that_can_not_be_deleted_do_no_harm(self, world: World) -> None:
        world.sqs.faults.on_delete(times=40)
        world.queue(*"abcd")
        world.run_until(lambda: all(world.row(exec_id).terminal for exec_id in "abcd"))
        world.run(200)
        assert world.waiting() == 0
        assert {world.row(exec_id).phase for exec_id in "abcd"} == {Phase.EXITED}

    def test_a_new_leader_does_not_rely_on_events_until_it_has_seen_them(self, world: World) -> None:
        run_fresh(world)
        world.restart()
        world.run(5)
        assert world.replica.freshness.reason is not None
        world.queue("a")
        world.run_until(lambda: world.replica.freshness.reason is None, within=60)


class TestMissing:
    """However rare looks are, nothing is concluded any sooner from what ECS hides."""

    def test_one_that_is_missing_is_looked_at_as_often_as_without_events(self, world: World) -> None:
        run_fresh(world, *(f"w{n}" for n in range(8)))
        arn = world.row("w1").task_arn or ""
        world.model.faults.hide(arn)
        world.run_until(lambda: bool(world.replica.sweep._missed), within=61)
        began = world.clock.now
        before = looks(world)
        world.run(240)
        assert looks(world) - before >= 240
        assert world.row("w1").phase is Phase.RUNNING
        world.run_until(lambda: world.row("w1").phase is Phase.LOST, within=70)
        assert world.clock.now - began >= 299

    @pytest.mark.parametrize(("fresh", "tasks"), [(True, 30), (False, 310)])
    def test_many_that_are_hidden_at_once_are_not_lost(self, fresh: bool, tasks: int) -> None:
        """They are looked at in turns, so the first turn's could be lost before the last one's are suspicious."""
        world = World(events=fresh)
        ids = [f"w{n}" for n in range(tasks)]
        if fresh:
            run_fresh(world, *ids)
        else:
            world.behaviour.seconds = 3600.0
            world.queue(*ids)
            world.run(13)
        for task in world.live():
            world.model.faults.hide(task["taskArn"])
        world.run(360, step=6)
        assert world.replica.sweep.breaker.tripped
        assert {world.row(exec_id).phase for exec_id in ids} == {Phase.RUNNING}
        world.model.faults.clear()
        world.run_until(lambda: not world.replica.sweep.breaker.tripped, within=10)
        world.close()

    def test_absence_is_not_believed_while_ecs_hides_what_we_know(self, world: World) -> None:
        """The look at all that is known comes right before the listing, however long ago each had its turn."""
        world.behaviour.seconds = 7200.0
        world.queue(*(f"w{n}" for n in range(8)))
        world.run(5)
        world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True, times=None)
        world.sqs.faults.on_delivery(copies=0, times=None)
        world.queue("lost")
        world.turn()
        (made,) = world.tasks("lost")
        world.model.faults.hide(made["taskArn"])
        world.run(39 * 60, step=30)
        world.run(120, daemon=False)
        for task in world.live():
            world.model.faults.hide(task["taskArn"])
        world.replica.listen.reconcile(world.lease())
        # As if events had been timely to the last, and nobody's turn to be looked at had come since ECS began to hide.
        world.replica.freshness.reason = None
        world.replica.sweep._look_at = world.clock.now + 5
        assert not world.replica.sweep._missed
        world.replica.adopt.reconcile(world.lease())
        assert world.row("lost").phase is Phase.LAUNCHING
        assert world.model.stats()["tasks"]["created"] == 9

    def test_a_task_that_is_not_wanted_any_more_is_stopped_with_events_too(self, world: World) -> None:
        run_fresh(world, "a")
        with world.engine.begin() as conn:
            shim.want_stop(conn, ["a"], "cleared")
        world.run_until(lambda: world.row("a").terminal, within=200)
        assert world.row("a").desired is Desired.STOP
        assert world.replica.freshness.reason is None


def drain(world: World) -> None:
    """Take all messages out of the queue, unread."""
    url = world.sqs.url(EVENTS_QUEUE)
    while messages := world.sqs.call("ReceiveMessage", {"QueueUrl": url, "MaxNumberOfMessages": 10}, world.ecs_now).get(
        "Messages"
    ):
        for message in messages:
            request = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}
            world.sqs.call("DeleteMessage", request, world.ecs_now)


def retention(world: World, seconds: int) -> dict[str, Any]:
    url = world.sqs.url(EVENTS_QUEUE)
    return {"QueueUrl": url, "Attributes": {"MessageRetentionPeriod": str(seconds)}}


def foreign(started_by: str | None) -> dict[str, Any]:
    detail = {"taskArn": "arn:aws:ecs:us-east-1:1:task/airflow/x", "lastStatus": "RUNNING", "version": 1}
    if started_by is not None:
        detail["startedBy"] = started_by
    return {
        "source": "aws.ecs",
        "detail-type": "ECS Task State Change",
        "time": "2026-01-01T00:00:00Z",
        "detail": detail,
    }


def refusing(error: BaseException) -> Any:
    def refuse(*_: Any) -> Any:
        raise error

    return refuse
