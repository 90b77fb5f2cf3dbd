"""A scheduler: Airflow's loop as a model, around the real delivery, upkeep and slots."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from reconciler.airflow.delivery import Delivery, Event, Owner
from reconciler.airflow.slots import Slots
from reconciler.airflow.upkeep import Every, Upkeep
from reconciler.core.shares import NO_SHARES
from reconciler.core.task import Kind, Spec, Workload
from reconciler.store import shim
from tests.sim.airflow import HEARTBEAT_TIMEOUT, TASK_QUEUED_TIMEOUT, Buffered
from tests.sim.database import DatabaseDown
from tests.transactions import Separate
from tests.world import DEPLOYMENT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

    from reconciler.core.deliver import CallbackView, TaskInstanceView
    from reconciler.core.shares import Shares
    from reconciler.core.task import TaskKey
    from tests.sim.airflow import Airflow, Job, TaskInstance
    from tests.sim.database import Database
    from tests.sim.engine import Process, Sim

MAX_STUCK: Final = 2
ADOPT_EVERY, STUCK_EVERY, PURGE_EVERY = 300.0, 120.0, 30.0
DEAD_AFTER: Final = 30.0

Key = "TaskKey | str"


class Scheduler:
    """One scheduler process. Implements `AirflowSide` for its own delivery and upkeep."""

    def __init__(
        self,
        sim: Sim,
        process: Process,
        database: Database,
        airflow: Airflow,
        job: Job,
        *,
        max_running_tasks: int,
        max_run_task_attempts: int,
        pools: Mapping[str, int] | None = None,
        shares: Shares = NO_SHARES,
    ) -> None:
        self.sim, self.process, self.database, self.airflow, self.job = sim, process, database, airflow, job
        self.owner = Owner(DEPLOYMENT, job.id)
        self.running: set[TaskKey | str] = set()
        self.late: dict[str | None, Workload] = {}
        self.buffer: dict[TaskKey | str, Buffered] = {}
        self.pools, self.shares = pools or {}, shares
        self.slots = Slots(max_running_tasks, backlog=2)
        self.delivery = Delivery(Separate(partial(self._begin, "delivery")), self, self.owner, max_run_task_attempts)
        shed_after = timedelta(seconds=TASK_QUEUED_TIMEOUT) / 3
        self.upkeep = Upkeep(Separate(partial(self._begin, "upkeep")), self, self.owner, shed_after)
        self._upkeep_due = Every(timedelta(seconds=max(5.0, 1.5 * sim.pace)))
        self._ok = self._detached = False
        self._adopt_at = self._stuck_at = self._purge_at = 0.0

    def run(self) -> None:
        """The scheduler's loop. It ends with its process."""
        while True:
            self._loop()
            self.process.doze(1.0)

    def _loop(self) -> None:
        now = self.sim.now
        if not self.database.weather.down:
            # Job.heartbeat merges the job as this process knows it: one that was declared dead is back.
            self.job.state = "running"
        if now >= self._adopt_at:
            self._adopt_at = now + ADOPT_EVERY
            if any(job.state != "running" or _dead(job, now) for job in self.airflow.jobs.values()):
                with self._contained("adopt"):
                    self._adopt()
        if self.airflow.something_to_queue():
            with self._contained("demand"):
                self._read_demand()
            with self._contained("queue"):
                self._queue()
        self._sync()
        with self._contained("process events"):
            self._process_events()
        if now >= self._stuck_at:
            self._stuck_at = now + STUCK_EVERY
            with self._contained("stuck"):
                self._stuck_in_queued()
        if now >= self._purge_at:
            self._purge_at = now + PURGE_EVERY
            self._purge()

    @contextmanager
    def _contained(self, what: str) -> Iterator[None]:
        try:
            yield
        except DatabaseDown:
            self._ok = False
        except Exception as error:  # noqa: BLE001 - the executor contains what it did not foresee; here it is a finding
            self._ok = False
            self.sim.note("unforeseen", who=self.process.name, what=what, error=f"{type(error).__name__}: {error}")

    def _begin(self, via: str) -> AbstractContextManager[Connection]:
        return self.database.transaction(self.process, via)

    def _tis(self) -> list[TaskInstance]:
        return [ti for ti in self.airflow.tis.values() if not ti.gone]

    # -- the executor ---------------------------------------------------------------------------------------------

    def _sync(self) -> None:
        """EcsReconcilerExecutor.sync: see reconciler/airflow/parts.py."""
        now = self.delivery.now
        self._ok = now is not None
        with self._contained("late workloads"):
            self._write_late()
        upkept = False
        if now is not None and self._upkeep_due.due(now):
            with self._contained("upkeep"):
                self.upkeep.run(now)
                upkept = True
        with self._contained("delivery"):
            self.delivery.deliver()
        held = sorted((key, 0) if isinstance(key, str) else (key.task_id, key.try_number) for key in self.running)
        self.sim.note("synced", job=self.job.id, ok=self._ok, upkept=upkept, held=held)

    def _read_demand(self) -> None:
        """The executor reads it once a second; here, where somebody asks for it."""
        with self._begin("demand") as connection:
            demand = shim.demand(connection, DEPLOYMENT, self.shares)
        self.slots.refresh(demand)

    def _write_late(self) -> None:
        if self.late:
            late = list(self.late.values())
            with self._begin("late") as connection:
                shim.insert(connection, late)
            self.late.clear()

    # -- Airflow's own steps --------------------------------------------------------------------------------------

    def _queue(self) -> None:
        """The critical section: task instances become QUEUED and their rows are written in one transaction."""
        new: list[Workload] = []
        with self._begin("queue") as connection:
            self.airflow.schedule()
            ready = sorted(
                (ti for ti in self._tis() if ti.state == "scheduled"), key=lambda ti: (-ti.priority, ti.name)
            )
            taken = Counter(ti.queue for ti in self._tis() if ti.state in ("queued", "running"))
            admitted: list[TaskInstance] = []
            for ti in ready:
                # A pool for each queue: what it has no slot for is passed over, and takes none of the executor's.
                if taken[ti.queue] < self.pools.get(ti.queue, len(self.airflow.tis)):
                    taken[ti.queue] += 1
                    admitted.append(ti)
            for ti in admitted[: max(0, min(16, self.slots.free))]:
                exec_id = self.airflow.queue(ti, self.job.id)
                new.append(self._workload(ti, exec_id))
            for callback in self.airflow.callbacks.values():
                if callback.state == "scheduled" and callback.born <= self.sim.now:
                    callback.state = "queued"
                    new.append(
                        Workload(
                            exec_id=f"{callback.id}-1",
                            deployment=DEPLOYMENT,
                            kind=Kind.CALLBACK,
                            ti_id=callback.id,
                            owner_job_id=self.job.id,
                            spec=Spec("{}"),
                        )
                    )
            # Not a callback's: were its scheduler to die then, nobody would ever find it. Airflow adopts tasks only.
            tasks_only = all(w.kind is Kind.TASK for w in new)
            written = not tasks_only or self.sim.chance.random() >= self.airflow.weather.fails_to_write
            if written:
                shim.insert(connection, new)
        for w in new:  # after the commit
            self.running.add(_key(w))
            self.upkeep.learn(w)
            self.slots.take()
            if not written:
                self.sim.note("late", id=w.exec_id)
                self.late[w.ti_id] = w

    def _workload(self, ti: TaskInstance, exec_id: str) -> Workload:
        return Workload(
            exec_id=exec_id,
            deployment=DEPLOYMENT,
            ti_id=ti.id,
            key=ti.key,
            queue=ti.queue,
            priority=ti.priority,
            owner_job_id=self.job.id,
            spec=Spec("{}", {"clientToken": "mine"} if ti.poison else {}),
        )

    def _process_events(self) -> None:
        """SchedulerJobRunner.process_executor_events. The buffer is emptied first: what fails now is lost."""
        buffer, self.buffer = self.buffer, {}
        if not buffer:
            return
        self._detached = False
        with self._begin("process events"):
            for key, event in buffer.items():
                if isinstance(key, str):
                    if callback := self.airflow.callbacks.get(key):
                        callback.state = str(event.event)
                        self.sim.note("callback", id=key, state=callback.state)
                        self.sim.happen()
                    continue
                self._process_event(key, event)

    def _process_event(self, key: TaskKey, event: Buffered) -> None:
        ti = self.airflow.tis.get(key.task_id)
        if ti is None or ti.gone:
            return
        if self.sim.chance.random() < self.airflow.weather.locked:
            self.sim.note("event_lost", id=event.exec_id, event=event.event)
            return
        if event.event in ("queued", "running"):
            if self._detached:
                return
            ti.ext = event.info
            self.sim.note("ti", name=ti.name, id=ti.id, was=ti.state, state=ti.state, tries=ti.try_number, ext=ti.ext,
                          job=ti.job, why="event overwrote the id")  # fmt: skip
            return
        queued = ti.try_number == key.try_number and ti.state in ("scheduled", "queued", "running", "restarting")
        requeued = (
            ti.job != self.job.id
            or ti.key in self.running
            or (ti.state == "scheduled" and event.event == "success" and ti.resumes)
        )
        if not queued or requeued:
            return
        self.sim.note(
            "applied", id=event.exec_id, event=event.event, name=ti.name, state=ti.state, ext=ti.ext, ti=ti.id
        )
        if ti.state == "restarting" and event.event == "success":
            # `set_state` closes the session: of the task instances that come after this one in the same batch, Airflow
            # loses what it changes in them itself.
            if not self._detached:
                ti.max_tries = ti.try_number + ti.retries
            self._detached = True
            self.airflow.move(ti, None, "restarts")
        else:
            self.airflow.handle_failure(ti, f"event: {event.info}")

    def _stuck_in_queued(self) -> None:
        """_handle_tasks_stuck_in_queued, with the executor's revoke_task in the same transaction."""
        limit = self.sim.now - TASK_QUEUED_TIMEOUT
        for ti in self._tis():
            if ti.state != "queued" or ti.job != self.job.id or ti.queued_at >= limit:
                continue
            with self._begin("stuck") as connection:
                if ti.state != "queued" or ti.job != self.job.id:
                    continue
                self.late.pop(ti.id, None)
                self.running.discard(ti.key)
                if ti.ext:
                    why = "it was QUEUED for longer than task_queued_timeout"
                    shim.want_stop(connection, [ti.ext], why)
                if ti.stuck < MAX_STUCK:
                    self.airflow.move(ti, "scheduled", "stuck", stuck=ti.stuck + 1, job=None)
                else:
                    self.airflow.move(ti, "failed", "stuck too often")
                    self.buffer[ti.key] = Buffered("failed", None, None)

    def _purge(self) -> None:
        """_find_and_purge_task_instances_without_heartbeats"""
        limit = self.sim.now - HEARTBEAT_TIMEOUT
        for ti in self._tis():
            beat = self.airflow.last_heartbeat(ti)
            silent = ti.state in ("running", "restarting") and beat is not None and beat < limit
            if silent and ti.job == self.job.id:
                self.buffer[ti.key] = Buffered("failed", "heartbeat timeout", None)
                self.running.discard(ti.key)
                self.sim.note("purge", name=ti.name)

    def _adopt(self) -> None:
        """adopt_or_reset_orphaned_tasks, with the executor's try_adopt_task_instances in the same transaction."""
        with self._begin("adopt") as connection:
            for job in self.airflow.jobs.values():
                if job.state == "running" and _dead(job, self.sim.now):
                    job.state = "failed"
            tis = [
                ti
                for ti in self._tis()
                if ti.state in ("queued", "running", "restarting")
                and ti.job is not None
                and self.airflow.jobs[ti.job].state != "running"
            ]
            if not tis:
                return
            owned = shim.adopt(connection, [ti.ext for ti in tis if ti.ext], self.job.id, None)
            mine = shim.open_workloads(connection, DEPLOYMENT, self.job.id).workloads
            self.running.update(_key(w) for w in mine)
            new: list[Workload] = []
            for ti in tis:
                adopted = ti.ext in owned
                if not adopted and ti.state == "queued" and ti.ext:
                    new.append(self._workload(ti, ti.ext))
                    adopted = True
                elif not adopted:
                    adopted = ti.state == "running" and self.airflow.last_heartbeat(ti) is not None
                if adopted:
                    self.airflow.move(ti, ti.state, "adopted", job=self.job.id)
                    if ti.beat is None:
                        ti.beat = self.sim.now
                else:
                    self.airflow.move(
                        ti, None, "reset", incarnation=ti.incarnation + 1, job=None, ext=None, resumes=False
                    )
            shim.insert(connection, new)
        self.running.update(_key(w) for w in new)

    # -- AirflowSide ----------------------------------------------------------------------------------------------

    def task_instances(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, TaskInstanceView]:
        if not keys:
            return {}
        with self._begin("task instances"):
            views = {key: self.airflow.view(key) for key in keys}
        return {key: view for key, view in views.items() if view is not None}

    def callbacks(self, ids: Collection[str]) -> Mapping[str, CallbackView]:
        if not ids:
            return {}
        with self._begin("callbacks"):
            views = {callback_id: self.airflow.callback_view(callback_id) for callback_id in ids}
        return {callback_id: view for callback_id, view in views.items() if view is not None}

    def in_doubt(self, connection: Connection, owner: Owner, exec_ids: Collection[str]) -> set[str]:
        active = {ti.ext for ti in self._tis() if ti.state in ("queued", "running") and ti.job in (self.job.id, None)}
        return {exec_id for exec_id in exec_ids if exec_id not in active}

    def give_back(self, connection: Connection, workloads: Sequence[Workload]) -> None:
        for w in workloads:
            ti = self.airflow.tis.get(w.key.task_id)
            if ti and not ti.gone and ti.id == w.ti_id and ti.state == "queued" and ti.ext == w.exec_id:
                self.airflow.move(ti, "scheduled", "given back", job=None)

    def abandoned(self, connection: Connection, deployment: str, team: str | None) -> set[str]:
        assert team is None
        statement = (
            "SELECT exec_id, owner_job_id FROM ecs_workload WHERE deployment = ? AND owner_job_id IS NOT NULL "
            "AND (phase NOT IN ('EXITED', 'FAILED_START', 'CANCELLED', 'LOST') OR version > acked_version)"
        )
        found = connection.exec_driver_sql(statement, (deployment,)).all()
        return {exec_id for exec_id, owner in found if self.airflow.jobs[owner].state != "running"}

    def emit(self, workload: Workload, event: Event, info: str | None = None) -> None:
        key = _key(workload)
        self.buffer[key] = Buffered(event.value, info, workload.exec_id)
        self.running.discard(key)
        ti = self.airflow.tis.get(workload.key.task_id)
        self.sim.note(
            "emit",
            job=self.job.id,
            id=workload.exec_id,
            event=event.value,
            what=workload.kind.value,
            info=info,
            state=ti.state if ti else None,
        )

    def hold(self, workloads: Sequence[Workload]) -> None:
        self.running = {_key(w) for w in (*workloads, *self.late.values())}

    def release(self, workload: Workload) -> None:
        self.running.discard(_key(workload))


def _key(w: Workload) -> TaskKey | str:
    return replace(w.key) if w.kind is Kind.TASK else w.ti_id or ""


def _dead(job: Job, now: float) -> bool:
    """No heartbeat for half a minute."""
    if not job.process.alive:
        return job.died_at is None or now - job.died_at > DEAD_AFTER
    return job.process.stalled_until - now > DEAD_AFTER
