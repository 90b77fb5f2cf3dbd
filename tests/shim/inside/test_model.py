"""Is the simulation's Airflow the real one? The same task instances are put before both, and compared.

What the simulation proves it proves of its model. So each rule of Airflow's that the protocol leans on is held here
against the code it was read from: `SchedulerJobRunner.process_executor_events`, with the executor's own delivery before
it, and the Execution API's `/run`.
"""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.utils.state import TaskInstanceState
from airflow.version import version

from reconciler.airflow import parts
from reconciler.core import deliver
from tests.shim.inside.both import ACTIVE, STATES, Case, numbered, same, sample
from tests.shim.inside.sides import Model, Real
from tests.sim import airflow as sim
from tests.sim.airflow import Buffered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.shim.inside.both import Owner
    from tests.shim.inside.world import World

SEED = f"{version}, {os.environ.get('SHIM_DATABASE', '').partition(':')[0]}"
"""Each version on each database gets cases of its own: together they cover more."""
COUNT = 550
HEARTBEATS = 4


@dataclass(frozen=True)
class Told(Case):
    """A task instance of which its executor tells something."""

    event: str = "failed"
    told_try: int = 1
    """The try that the event names."""
    held: bool = False
    """The executor has the task, as `has_task` sees it."""
    locked: bool = False
    """Another transaction holds the row while the event is read."""


_FIELDS = {
    "state": (*STATES, *ACTIVE * 6),
    "task": ("once", "again"),
    "tries": (1, 1, 1, 2),
    "max_tries": (0, 1, 2),
    "job": ("mine", "mine", "mine", "another's", "nobody's"),
    "ext": ("this", "another", None),
    "resumes": (False, True),
    "event": ("failed", "failed", "success", "success", "queued", "running"),
    "told_try": (1, 1, 1, 2),
    "held": (False, False, False, True),
    "locked": (False, False, False, True),
    "exists": (True,) * 9 + (False,),
}


def told() -> list[Told]:
    """Every active state under every event that ends it, and a sample of all the rest."""
    first = [
        Told(0, state=state, task=task, max_tries=max_tries, resumes=resumes, event=event, job=job, held=held)  # type: ignore[arg-type]  # a literal
        for state in ACTIVE
        for task, max_tries in (("once", 0), ("again", 2), ("again", 0))
        for resumes in (False, True)
        for event in ("failed", "success")
        for job, held in (("mine", False), ("mine", True), ("another's", False))
    ]
    more = [Told(0, **values) for values in sample(SEED, COUNT - len(first), **_FIELDS)]
    return numbered([*first, *more])


def test_executor_events(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    cases = told()
    real, model = Real(world, cases), Model(cases)
    for case in cases:
        if case.held:
            world.executor.running.add(real.key(case))
            model.scheduler.running.add(model.key(case))
    # Those that can disturb the others of their batch come one by one; `test_a_batch...` is about them.
    alone = [case for case in cases if (case.state, case.event) == ("restarting", "success")]
    for batch in [[case for case in cases if case not in alone], *([case] for case in alone)]:
        _tell(world, real, model, batch)

    same(capsys, cases, real.outcomes(), model.outcomes())
    heard = real.heard()
    assert heard == model.heard()
    # The sample reaches both sides of each rule.
    assert len(cases) >= 500
    assert 50 < len(heard) < len(cases) - 50
    assert {case.state for case in cases if case.number in heard} == set(ACTIVE)


def test_a_difference_would_be_found(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a RESTARTING task is tried again only as long as it has tries left."""
    monkeypatch.setattr(sim.TaskInstance, "eligible", property(lambda ti: ti.try_number <= ti.max_tries))

    with pytest.raises(pytest.fail.Exception, match=r"(?s)differ:\nt\d+: state='restarting'.*Airflow: .*model: "):
        test_executor_events(world, capsys)


def _tell(world: World, real: Real, model: Model, batch: Sequence[Told]) -> None:
    """Their executor says what it has to say, and both schedulers read it."""
    for case in batch:
        info = case.exec_id("told")
        world.executor.event_buffer[real.key(case, case.told_try)] = (TaskInstanceState(case.event), info)
        model.scheduler.buffer[model.key(case, case.told_try)] = Buffered(case.event, info, None)
    locked = [case for case in batch if case.locked and real.locks]
    with real.locked(locked):
        world.process_events()
    model.process_events(locked)


def test_a_batch_in_which_several_cleared_tasks_end(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Only one gets its retries back: setting its state closes Airflow's session, and the others' changes are lost."""
    cases = numbered([Told(0, state="restarting", task="again", max_tries=2, event="success")] * 3)
    real, model = Real(world, cases), Model(cases)

    _tell(world, real, model, cases)

    # Which one it is depends on the order in which the database gives them.
    theirs, ours = (
        sorted((found.state or "", found.max_tries) for found in side.outcomes().values() if found)
        for side in (real, model)
    )
    assert theirs == ours == [("", 2), ("", 2), ("", 3)]


@dataclass(frozen=True)
class Delivered(Case):
    """A task instance with a workload, whose outcome the executor delivers or which it withdraws."""

    cleared: bool = False
    """It has another id by now than the workload knows."""
    locked: bool = False
    """Another transaction holds its row at the first heartbeat."""
    phase: str = "EXITED"
    desired: str = "RUN"
    refused: bool = False
    exit_code: int | None = 1
    start_failures: int = 0
    stopped: float = 100.0
    """Seconds since the container's end."""
    waited: float = 5.0
    """Seconds since it was queued."""
    acknowledged: bool = False
    owner: Owner = "mine"
    later: str | None = None
    """The phase of the workload of a later queueing."""


_DELIVERED = {
    "state": (*STATES, *ACTIVE * 6, "queued", "queued"),
    "task": ("once", "again"),
    "tries": (1, 1, 1, 2),
    "max_tries": (0, 2),
    "job": ("mine", "mine", "mine", "another's", "nobody's"),
    "ext": ("this", "this", "another", None),
    "resumes": (False, True),
    "exists": (True,) * 9 + (False,),
    "beat": (None, 10.0, 400.0),
    "cleared": (False, False, True),
    "locked": (False, False, True),
    "phase": ("EXITED", "EXITED", "FAILED_START", "CANCELLED", "LOST", "PENDING", "PENDING", "LAUNCHING", "RUNNING"),
    "desired": ("RUN", "RUN", "RUN", "STOP"),
    "refused": (False, False, True),
    "exit_code": (None, 0, 1),
    "start_failures": (0, 0, 2),
    "stopped": (5.0, 100.0),
    "waited": (5.0, 5.0, 1000.0),
    "acknowledged": (False, False, False, True),
    "owner": ("mine", "mine", "mine", "of the dead"),
    "later": (None, None, None, "PENDING", "RUNNING", "FAILED_START"),
}


def test_outcomes_as_the_executor_delivers_them(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row, task instance and the event that the executor makes of them, heartbeat after heartbeat."""
    # The model has no audit log that a heartbeat would leave upkeep out for.
    monkeypatch.setattr(parts, "PUT_OFF", HEARTBEATS)
    # Halfway between the two ages of a heartbeat in the sample: this test may take a minute, of which the model knows
    # nothing.
    monkeypatch.setattr(deliver, "SILENCE", timedelta(seconds=200))
    cases = numbered([Delivered(0, **values) for values in sample(SEED, COUNT, **_DELIVERED)])
    real, model = Real(world, cases), Model(cases)
    model.scheduler._sync()  # as the other scheduler's first heartbeat, which is behind it
    real.write_rows(cases)
    model.write_rows(cases)

    for heartbeat in range(HEARTBEATS):
        locked = [case for case in cases if case.locked and real.locks and heartbeat == 0]
        world.executor.heartbeat()
        model.sim.now += 10.0
        model.scheduler._sync()
        for batch in _apart(world.executor.event_buffer, lambda event: event[0] == "success"):
            world.executor.event_buffer = batch
            with real.locked(locked):
                world.process_events()
        for batch in _apart(model.scheduler.buffer, lambda event: event.event == "success"):
            model.scheduler.buffer = batch
            model.process_events(locked)
        same(capsys, cases, real.outcomes(), model.outcomes())
        same(capsys, cases, real.rows(), model.rows())

    assert not [event for event in model.sim.trace if event["kind"] == "unforeseen"]
    reached = Counter(_what_became(case, model) for case in cases)
    assert all(reached[what] >= 5 for what in ("failed", "given back", "withdrawn", "acknowledged", "refused")), reached


def _apart(buffer: dict[Any, Any], disturbs: Callable[[Any], bool]) -> list[dict[Any, Any]]:
    """The events in batches of which none can disturb another: see `test_a_batch_...`."""
    alone = [{key: event} for key, event in buffer.items() if disturbs(event)]
    return [{key: event for key, event in buffer.items() if not disturbs(event)}, *alone]


def _what_became(case: Delivered, model: Model) -> str:
    """To see that the sample reaches what it is about."""
    row, ti = model.rows()[case.number], model.outcomes()[case.number]
    assert row is not None
    if row.phase != case.phase:
        return "given back"
    if row.desired != case.desired:
        return "withdrawn"
    if row.refused != case.refused:
        return "refused"
    if ti and ti.state != case.state:
        return "failed" if ti.state in ("failed", "up_for_retry") else "restarted"
    return "acknowledged" if row.acknowledged != case.acknowledged else "left alone"
