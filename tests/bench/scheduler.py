"""Airflow's scheduler in a process of its own, with either executor, and notes of what it does.

It is Airflow's `SchedulerJobRunner` with its own loop, timers, critical section, heartbeat, events and adoption. Only
the part that looks at DAG runs is left out, unless `real` is asked for: task instances become SCHEDULED by the
benchmark, so that both executors get the same work at the same moment.

Every loop writes lines of JSON to `notes`; times are monotonic, and so the same in all processes of this machine.
"""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from airflow._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow._shared.observability.metrics.protocols import Timer
from airflow.jobs.job import Job, run_job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.observability.metrics import stats_utils
from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

HEARTBEAT: Final = "scheduler.executor_heartbeat_duration"
"""Airflow's own timer around `executor.heartbeat()`."""
LOOP: Final = "scheduler.scheduler_loop_duration"
_AGAIN: Final = text(
    "UPDATE task_instance SET state = 'scheduled', scheduled_dttm = now(), try_number = try_number + 1 "
    "WHERE dag_id = 'bench' AND run_id = 'run' AND state IS NULL"
)
"""What the scheduler does with task instances that it has reset."""


class Notes:
    """What the scheduler does, for those who judge it. `control` is a file that changes its settings meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._lines: TextIO = (folder / "notes").open("a")
        self._control, self._known = folder / "control", folder / "known"
        self._told_at = 0.0
        self._ever: set[str] = set()
        self._changed_at = 0
        self._running: set[int] = set()
        self.runner: Any = None

    def write(self, what: str, **facts: Any) -> None:
        self._lines.write(json.dumps({"what": what, "t": time.monotonic(), **facts}) + "\n")
        self._lines.flush()

    def heartbeat(self, seconds: float) -> None:
        """After each `executor.heartbeat()`, by Airflow's own timer."""
        executor = self.runner.executors[0]
        running = {key.map_index for key in executor.running if hasattr(key, "map_index")}
        waiting = len(executor.queued_tasks) + len(getattr(executor, "pending_workloads", ()))
        left, self._running = self._running - running, running
        self.write("beat", seconds=seconds, waiting=waiting, running=len(running), left=sorted(left))
        self._tell_known(executor)
        self._obey()

    def _tell_known(self, executor: Any) -> None:
        """The official executor keeps what it knows in memory: somebody must be able to ask whether that is all."""
        workers = getattr(executor, "active_workers", None)
        if workers is None or time.monotonic() < self._told_at + 1.0:
            return
        self._told_at = time.monotonic()
        self._ever.update(workers.get_all_arns())
        keys = {key.map_index for key in (*executor.queued_tasks, *executor.running)}
        keys |= {task.key.map_index for task in executor.pending_workloads}
        aside = self._known.with_suffix(".new")
        aside.write_text(json.dumps({"t": self._told_at, "arns": sorted(self._ever), "indexes": sorted(keys)}))
        aside.replace(self._known)

    def _obey(self) -> None:
        if self._control.exists() and (changed_at := self._control.stat().st_mtime_ns) != self._changed_at:
            self._changed_at = changed_at
            self.runner.job.max_tis_per_query = json.loads(self._control.read_text())["max_tis_per_query"]


class Timers(NoStatsLogger):
    """Airflow's statistics, of which two timers are listened to."""

    def __init__(self, listen: dict[str, Callable[[float], None]]) -> None:
        self._listen = listen

    def timer(self, stat: str | None = None, *_: Any, **__: Any) -> Timer:  # type: ignore[override]  # not a class method
        return Heard(self._listen.get(stat or ""))


class Heard(Timer):
    """A timer that says how long it ran."""

    def __init__(self, say: Callable[[float], None] | None) -> None:
        super().__init__()
        self._say = say

    def stop(self, send: bool = True) -> None:
        super().stop(send)
        if self._say and self.duration is not None:
            self._say(self.duration / 1000)


class Queueing(SchedulerJobRunner):
    """The whole scheduler, which notes what it queues."""

    notes: Notes

    def _do_scheduling(self, session: Session) -> int:
        self._queued_now: list[int] = []
        began = time.monotonic()
        number: int = super()._do_scheduling(session)
        if self._queued_now:
            # The transaction that makes them QUEUED has just been committed.
            self.notes.write("queued", indexes=self._queued_now, seconds=time.monotonic() - began)
        return number

    def _enqueue_task_instances_with_queued_state(self, task_instances: Any, executor: Any, session: Session) -> None:
        self._queued_now += [ti.map_index for ti in task_instances]
        super()._enqueue_task_instances_with_queued_state(task_instances, executor, session=session)


class Scheduler(Queueing):
    """The same without DAG runs to look at."""

    def _schedule_all_dag_runs(self, guard: Any, dag_runs: Any, session: Session) -> list[Any]:
        session.execute(_AGAIN)
        guard.commit()
        return []


def time_the_insert(executor: Any, notes: Notes) -> None:
    """How long the shim keeps a scheduler that queues: handing over, and writing at the commit."""
    enqueue = executor._parts.enqueue
    hand_over, write = executor.queue_workload, enqueue.write_in
    spent = [0.0]

    def timed_hand_over(*arguments: Any, **named: Any) -> None:
        began = time.perf_counter()
        hand_over(*arguments, **named)
        spent[0] += time.perf_counter() - began

    def timed_write(session: Any, workloads: Any) -> Any:
        began = time.perf_counter()
        written = write(session, workloads)
        seconds, spent[0] = time.perf_counter() - began + spent[0], 0.0
        notes.write("inserted", number=len(workloads), seconds=seconds)
        return written

    executor.queue_workload, enqueue.write_in = timed_hand_over, timed_write


def main(folder: Path, *, real: bool) -> None:
    notes = Notes(folder)
    timers = Timers({HEARTBEAT: notes.heartbeat, LOOP: lambda seconds: notes.write("loop", seconds=seconds)})
    stats_utils.get_stats_factory = lambda: lambda: timers
    runner = (Queueing if real else Scheduler)(job=Job())
    runner.notes, notes.runner = notes, runner
    executor = runner.executors[0]
    start = executor.start

    def start_and_time() -> None:
        start()
        if hasattr(executor, "_parts"):
            time_the_insert(executor, notes)
        notes.write("started")

    executor.start = start_and_time  # type: ignore[method-assign]  # the executor is made by Airflow
    run_job(job=runner.job, execute_callable=runner._execute)


if __name__ == "__main__":
    main(Path(sys.argv[1]), real=sys.argv[2:] == ["real"])
