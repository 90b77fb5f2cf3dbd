"""Delivery and upkeep with somebody else in Airflow's place, as a simulator has it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.airflow import upkeep as upkeep_module
from reconciler.airflow.delivery import Delivery, Event, Owner
from reconciler.airflow.upkeep import Every, Upkeep
from reconciler.core.deliver import CallbackView, TaskInstanceView
from reconciler.core.phase import Desired, Phase
from reconciler.core.task import TaskKey, Workload
from reconciler.store.engine import writing
from tests.transactions import Separate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Connection

    from tests.conftest import Deployment

OWNER = Owner("prod", 7)
KEY = TaskKey("etl", "work", "run_1", -1, 1)


@dataclass
class PaperAirflow:
    """Airflow as a few dictionaries."""

    tis: dict[TaskKey, TaskInstanceView] = field(default_factory=dict)
    events: list[tuple[str, Event, str | None]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    given_back: list[str] = field(default_factory=list)

    def task_instances(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, TaskInstanceView]:
        return {key: self.tis[key] for key in keys if key in self.tis}

    def callbacks(self, ids: Collection[str]) -> Mapping[str, CallbackView]:
        return {callback_id: CallbackView("queued") for callback_id in ids}

    def in_doubt(self, connection: Connection, owner: Owner, exec_ids: Collection[str]) -> set[str]:
        return set(exec_ids)

    def give_back(self, connection: Connection, workloads: Sequence[Workload]) -> None:
        assert connection.in_transaction()
        self.given_back += [w.exec_id for w in workloads]

    def abandoned(self, connection: Connection, deployment: str, team: str | None) -> set[str]:
        del connection, deployment, team  # nobody dies here
        return set()

    def emit(self, workload: Workload, event: Event, info: str | None = None) -> None:
        self.events.append((workload.exec_id, event, info))

    def hold(self, workloads: Sequence[Workload]) -> None:
        self.held = {w.exec_id for w in workloads}

    def release(self, workload: Workload) -> None:
        self.held.discard(workload.exec_id)


@pytest.fixture
def airflow() -> PaperAirflow:
    return PaperAirflow({KEY: TaskInstanceView("ti-a", "queued", 1, "a", queued_by_job_id=7)})


@pytest.fixture
def delivery(prod: Deployment, airflow: PaperAirflow) -> Delivery:
    return Delivery(Separate(writing(prod.engine).begin), airflow, OWNER, max_run_task_attempts=3)


@pytest.fixture
def upkeep(prod: Deployment, airflow: PaperAirflow) -> Upkeep:
    return Upkeep(Separate(writing(prod.engine).begin), airflow, OWNER, shed_after=timedelta(seconds=200))


def test_an_outcome_is_told_until_it_has_been_heard(
    prod: Deployment, airflow: PaperAirflow, delivery: Delivery
) -> None:
    prod.queue("a", key=KEY)
    prod.move("a", Phase.FAILED_START, reason="no such image")
    airflow.held = {"a"}

    delivery.deliver()
    delivery.deliver()

    assert [(exec_id, event) for exec_id, event, _ in airflow.events] == [("a", Event.FAILED)] * 2
    assert airflow.held == set()
    airflow.tis[KEY] = TaskInstanceView("ti-a", "failed", 1, "a", queued_by_job_id=7)
    delivery.deliver()
    delivery.deliver()
    assert len(airflow.events) == 2
    assert prod.get("a").acked_version == prod.get("a").version


def test_a_delivery_that_fails_keeps_the_rest_from_nothing(
    prod: Deployment, airflow: PaperAirflow, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upkeep goes by the clock that delivery reads, and is what would withdraw the cause."""

    def fail(_: object) -> dict[TaskKey, TaskInstanceView]:
        raise ValueError("no task instance has such a key")

    prod.queue("a", key=KEY)
    prod.move("a", Phase.FAILED_START, reason="no such image")
    monkeypatch.setattr(airflow, "task_instances", fail)
    for _ in range(2):
        before = prod.store.now()
        with pytest.raises(ValueError, match="no task instance"):
            delivery.deliver()
        assert delivery.now is not None
        assert delivery.now >= before


def test_outcomes_of_others_are_not_ours_to_tell(prod: Deployment, airflow: PaperAirflow, delivery: Delivery) -> None:
    prod.queue("a", key=KEY, owner_job_id=8)
    prod.queue("b", key=KEY, team="blue")
    for exec_id in ("a", "b"):
        prod.move(exec_id, Phase.FAILED_START)

    delivery.deliver()

    assert airflow.events == []
    assert prod.get("a").acked_version == prod.get("b").acked_version == 0


def test_upkeep_withdraws_gives_back_and_holds_the_rest(
    prod: Deployment, airflow: PaperAirflow, upkeep: Upkeep
) -> None:
    now = prod.store.now()
    prod.queue("a", key=KEY)
    prod.queue("old", key=TaskKey("etl", "other", "run_1", -1, 1))
    airflow.tis[TaskKey("etl", "other", "run_1", -1, 1)] = TaskInstanceView("ti-old", "queued", 1, "old")
    prod.set("old", created_at=now - timedelta(seconds=201))
    prod.queue("gone", key=TaskKey("etl", "gone", "run_1", -1, 1))

    upkeep.run(now)
    upkeep.run(now)

    assert airflow.given_back == ["old"]
    assert airflow.held == {"a", "gone"}
    assert [prod.get(w).desired for w in ("a", "gone")] == [Desired.RUN, Desired.STOP]


def test_a_pass_takes_on_so_much_and_the_next_one_comes_soon(
    prod: Deployment, airflow: PaperAirflow, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler waits meanwhile."""
    now = prod.store.now()
    for limit in ("NEW", "DOUBTED", "SHED"):
        monkeypatch.setattr(upkeep_module, limit, 2)
    gone, old = ["gone-a", "gone-b", "gone-c"], ["old-a", "old-b", "old-c"]
    for name in (*gone, *old):
        prod.queue(name, key=(key := TaskKey("etl", name, "run_1", -1, 1)))
        if name in gone:
            prod.move(name, Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING)
        else:
            airflow.tis[key] = TaskInstanceView(f"ti-{name}", "queued", 1, name, queued_by_job_id=7)
            prod.set(name, created_at=now - timedelta(seconds=201))

    def outcome() -> tuple[int, list[Desired], list[str]]:
        upkeep.run(now)
        assert upkeep.hurry
        return len(airflow.held), [prod.get(name).desired for name in gone], list(airflow.given_back)

    run, stop = Desired.RUN, Desired.STOP
    # While it does not know all, it heals no bookkeeping, and does what it can.
    assert outcome() == (0, [run, run, run], ["old-a", "old-b"])
    # What has not begun is looked at first: old-c, and then one of the others.
    assert outcome() == (3, [stop, run, run], ["old-a", "old-b", "old-c"])
    upkeep.run(now)
    assert not upkeep.hurry
    upkeep.run(now)
    assert [prod.get(name).desired for name in gone] == [stop] * 3


@pytest.mark.parametrize("state", ["running", "restarting"])
def test_what_airflow_runs_under_a_workload_that_waits_is_not_given_back(
    prod: Deployment, airflow: PaperAirflow, upkeep: Upkeep, state: str
) -> None:
    """It has admitted the container of an earlier queueing."""
    prod.queue("a", key=KEY)
    prod.set("a", created_at=prod.store.now() - timedelta(seconds=300))
    airflow.tis[KEY] = TaskInstanceView("ti-a", state, 1, "a", queued_by_job_id=7)
    upkeep.run(prod.store.now())
    assert (airflow.given_back, prod.get("a").phase) == ([], Phase.PENDING)
    airflow.tis[KEY] = TaskInstanceView("ti-a", "queued", 1, "a", queued_by_job_id=7)
    upkeep.run(prod.store.now())
    assert (airflow.given_back, prod.get("a").phase) == (["a"], Phase.CANCELLED)


def test_what_is_given_back_is_given_back_in_parts(
    prod: Deployment, airflow: PaperAirflow, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "SHED", 2)
    now = prod.store.now()
    for name in "abc":
        key = TaskKey("etl", name, "run_1", -1, 1)
        prod.queue(name, key=key)
        airflow.tis[key] = TaskInstanceView(f"ti-{name}", "queued", 1, name, queued_by_job_id=7)
        prod.set(name, created_at=now - timedelta(seconds=201))

    upkeep.run(now)
    assert (airflow.given_back, airflow.held, upkeep.hurry) == (["a", "b"], {"c"}, True)
    upkeep.run(now)
    assert (airflow.given_back, airflow.held, upkeep.hurry) == (["a", "b", "c"], set(), False)


def test_what_was_queued_here_is_known_at_once_and_what_was_not_written_is_not_held(
    prod: Deployment, airflow: PaperAirflow, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "NEW", 1)
    names = ["a", "b", "c"]
    for name in names:
        upkeep.learn(prod.queue(name))
    upkeep.learn(Workload(exec_id="late", deployment="prod", owner_job_id=7))
    upkeep.run(prod.store.now())
    assert airflow.held == set(names), "one would have been read, and none held before all are known"


def test_what_can_not_be_read_keeps_nothing_else_from_being_looked_after(
    prod: Deployment, airflow: PaperAirflow, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "NEW", 1)
    for name in ("bad-1", "bad-2", "good"):
        prod.queue(name, key=KEY)
    with prod.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE ecs_workload SET kind = 'dance' WHERE exec_id <> 'good'")

    for _ in range(3):
        upkeep.run(prod.store.now())
    assert airflow.held == {"good"}
    with prod.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE ecs_workload SET kind = 'task' WHERE exec_id = 'bad-1'")
    upkeep.run(prod.store.now())
    assert airflow.held == {"good", "bad-1"}


def test_every_so_often_by_a_clock_that_may_be_set_back(prod: Deployment) -> None:
    now = prod.store.now()
    every = Every(timedelta(seconds=5))
    looks = [0, 1, 4.9, 5, 9, 10, 3, 7, 8]

    assert [second for second in looks if every.due(now + timedelta(seconds=second))] == [0, 5, 10, 3, 8]


def test_none_of_it_needs_airflow() -> None:
    code = (
        "import sys\n"
        "import reconciler.airflow.delivery, reconciler.airflow.slots, reconciler.airflow.upkeep\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('airflow', 'boto3')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
