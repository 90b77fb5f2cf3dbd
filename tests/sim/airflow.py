"""Airflow, as far as an executor can feel it: task instances, callbacks, the Execution API's fence, and users.

Sources: airflow/jobs/scheduler_job_runner.py, airflow/models/taskinstance.py,
airflow/api_fastapi/execution_api/routes/task_instances.py (3.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from reconciler.core.deliver import CallbackView, TaskInstanceView
from reconciler.core.task import TaskKey
from tests.virtual import EPOCH

if TYPE_CHECKING:
    import random
    from datetime import datetime

    from tests.sim.container import Runner
    from tests.sim.engine import Process, Sim

ACTIVE: Final = ("queued", "running", "restarting")
FINISHED: Final = ("success", "failed")
TASK_QUEUED_TIMEOUT: Final = 600.0
HEARTBEAT_TIMEOUT: Final = 300.0
MARGIN, SKEW = 120.0, 60.0
"""See reconciler/airflow/push.py, which only an environment with Airflow can import."""
API_PATIENCE: Final = 150.0
"""After so long without an API server a supervisor kills its task."""


@dataclass
class TaskInstance:
    """A row of `task_instance`. `program` is what the user's code does at each admission: seconds, outcome."""

    name: str
    program: list[tuple[float, str]]
    retries: int
    priority: int
    breaks: int
    """So many of its containers break before they come to call Airflow."""
    born: float
    poison: bool = False
    """Its `executor_config` is one that no launch can be made of."""
    queue: str = "default"
    incarnation: int = 1
    state: str | None = None
    try_number: int = 0
    max_tries: int = 0
    ext: str | None = None
    job: int | None = None
    queued_at: float = 0.0
    ready_at: float = 0.0
    resumes: bool = False
    """`next_method` is set: it goes on after a deferral."""
    stuck: int = 0
    queueings: int = 0
    gone: bool = False
    beat: float | None = None
    runner: Runner | None = None

    @property
    def id(self) -> str:
        return f"{self.name}#{self.incarnation}"

    @property
    def key(self) -> TaskKey:
        return TaskKey("dag", self.name, "run", -1, self.try_number)

    @property
    def eligible(self) -> bool:
        """is_eligible_to_retry"""
        return self.state == "restarting" or bool(self.retries and self.try_number <= self.max_tries)


@dataclass
class Callback:
    id: str
    code: int
    born: float
    state: str = "scheduled"


@dataclass
class Job:
    id: int
    process: Process
    state: str = "running"
    died_at: float | None = None


@dataclass
class Weather:
    """`locked`: the share of events that meet a locked row and are lost."""

    locked: float = 0.0
    fails_to_write: float = 0.0
    """The share of queueings whose savepoint fails: the row is written with a later heartbeat."""


def valid_for(intent: float, start_timeout: float) -> tuple[float, float]:
    """From when to when the Execution API takes the token of an intent, by the database's clock, leeway included."""
    leeway = 10.0
    return intent - SKEW - leeway, intent + start_timeout + MARGIN + leeway


class Airflow:
    """The metadata database's other half, and the API server."""

    def __init__(self, sim: Sim, chance: random.Random, skew: float) -> None:
        self.sim, self.chance, self.skew = sim, chance, skew
        self.tis: dict[str, TaskInstance] = {}
        self.callbacks: dict[str, Callback] = {}
        self.jobs: dict[int, Job] = {}
        self.weather = Weather()
        self.api_down = self.healed = False
        self.api_down_since = 0.0
        self._api_troubles: set[str] = set()
        self._by_exec: dict[str, TaskInstance] = {}
        self._broken: dict[str, int] = {}

    def datetime(self, at: float) -> datetime:
        return EPOCH + timedelta(seconds=at + self.skew)

    # -- changes --------------------------------------------------------------------------------------------------

    def move(self, ti: TaskInstance, state: str | None, why: str, **changes: Any) -> None:
        """The only way a task instance changes."""
        old, old_id = ti.state, ti.id
        ti.beat = self.last_heartbeat(ti)
        ti.state = state
        for name, value in changes.items():
            setattr(ti, name, value)
        self.sim.note(
            "ti", name=ti.name, id=ti.id, was=old, state=state, tries=ti.try_number, ext=ti.ext, job=ti.job, why=why
        )
        if ti.runner is not None and (state != "running" or ti.id != old_id):
            ti.runner.notice()
            ti.runner = None
        self.sim.happen()

    def handle_failure(self, ti: TaskInstance, why: str) -> None:
        """TaskInstance.fetch_handle_failure_context"""
        if not ti.eligible:
            self.move(ti, "failed", why, resumes=False)
        else:
            # Only a RUNNING one is given a new id here. A QUEUED one keeps it for its next try.
            renewed = {"incarnation": ti.incarnation + 1} if ti.state == "running" else {}
            self.move(ti, "up_for_retry", why, ready_at=self.sim.now + 60, resumes=False, **renewed)

    def queue(self, ti: TaskInstance, job: int) -> str:
        """SCHEDULED to QUEUED with a fresh id, as `pre_assigns_external_executor_id` has it."""
        ti.queueings += 1
        exec_id = f"{ti.name}-{ti.queueings}"
        self._by_exec[exec_id] = ti
        self.move(ti, "queued", "queued", ext=exec_id, job=job, queued_at=self.sim.now)
        return exec_id

    def something_to_queue(self) -> bool:
        return any((ti.state == "scheduled" and not ti.gone) or self._ready(ti) for ti in self.tis.values()) or any(
            callback.state == "scheduled" and callback.born <= self.sim.now for callback in self.callbacks.values()
        )

    def _ready(self, ti: TaskInstance) -> bool:
        if ti.gone or ti.born > self.sim.now:
            return False
        waited = ti.state in ("up_for_retry", "up_for_reschedule") and ti.ready_at <= self.sim.now
        return ti.state is None or waited

    def schedule(self) -> None:
        """What became ready goes to SCHEDULED. A rescheduled one stays at its try."""
        for ti in self.tis.values():
            if self._ready(ti):
                tries = ti.try_number + (ti.state != "up_for_reschedule")
                # How often it was stuck is counted anew for each try.
                stuck = ti.stuck if tries == ti.try_number else 0
                self.move(ti, "scheduled", "ready", try_number=tries, stuck=stuck)

    def clear(self, ti: TaskInstance) -> None:
        """clear_task_instances"""
        if ti.gone or ti.try_number == 0:
            return
        if ti.state == "running":
            self.move(ti, "restarting", "cleared", incarnation=ti.incarnation + 1)
        else:
            ti.max_tries = ti.try_number + ti.retries
            self.move(ti, None, "cleared", incarnation=ti.incarnation + 1, ext=None, resumes=False)

    def mark(self, ti: TaskInstance, state: str) -> None:
        """A user sets the state by hand."""
        if not ti.gone and ti.state not in (None, *FINISHED):
            self.move(ti, state, "marked by a user", resumes=False)

    def drop(self, ti: TaskInstance) -> None:
        """A user deletes the DAG run."""
        if not ti.gone:
            self.move(ti, None, "deleted")
            ti.gone = True

    # -- views ----------------------------------------------------------------------------------------------------

    def last_heartbeat(self, ti: TaskInstance) -> float | None:
        runner = ti.runner
        if runner is not None and runner.works:
            seen = self.api_down_since if self.api_down else self.sim.now
            return max(ti.beat or 0.0, seen - 5.0)
        return ti.beat

    def view(self, key: TaskKey) -> TaskInstanceView | None:
        ti = self.tis.get(key.task_id)
        if ti is None or ti.gone:
            return None
        beat = self.last_heartbeat(ti)
        seen = None if beat is None else self.datetime(beat)
        return TaskInstanceView(ti.id, ti.state, ti.try_number, ti.ext, ti.job, seen)

    def callback_view(self, callback_id: str) -> CallbackView | None:
        callback = self.callbacks.get(callback_id)
        return CallbackView(callback.state) if callback else None

    # -- what containers ask --------------------------------------------------------------------------------------

    def api_goes(self, *, down: bool, why: str) -> None:
        """The API server is away for this reason, or the reason is gone. It needs the database as well."""
        (self._api_troubles.add if down else self._api_troubles.discard)(why)
        down = bool(self._api_troubles)
        if down != self.api_down:
            self._api_goes(down)

    def _api_goes(self, down: bool) -> None:
        self.sim.note("api", down=down)
        if down and not self.api_down:
            for ti in self.tis.values():
                ti.beat = self.last_heartbeat(ti)
            self.api_down_since = self.sim.now
            since = self.sim.now
            self.sim.at(since + API_PATIENCE, lambda: self._supervisors_give_up(since))
        self.api_down = down
        self.sim.happen()

    def _supervisors_give_up(self, since: float) -> None:
        if self.api_down and self.api_down_since == since:
            for ti in self.tis.values():
                if ti.runner is not None:
                    ti.runner.give_up()

    def breaks_before_start(self, exec_id: str) -> bool:
        ti = self._by_exec.get(exec_id)
        if ti is None or self._broken.get(ti.name, 0) >= ti.breaks:
            return False
        self._broken[ti.name] = self._broken.get(ti.name, 0) + 1
        return True

    def _of(self, ti_id: str) -> TaskInstance | None:
        ti = self.tis.get(ti_id.partition("#")[0])
        return ti if ti is not None and ti.id == ti_id and not ti.gone else None

    def api_run(self, runner: Runner) -> bool:
        """PATCH /run: 409 or 404 unless QUEUED or RESTARTING, or RUNNING in this very container. 403 out of time."""
        ti = self._of(runner.ti_id)
        begin, end = runner.valid
        if not begin <= self.sim.now + self.skew < end:
            ti = None
        if ti is not None and ti.state == "running" and ti.runner is runner:
            return True
        ok = ti is not None and ti.state in ("queued", "restarting")
        self.sim.note(
            "admission",
            arn=runner.arn,
            id=runner.exec_id,
            attempt=runner.attempt,
            ti=runner.ti_id,
            ok=ok,
            ext=ti.ext if ti else None,
        )
        if ti is not None and ok:
            self.move(ti, "running", "admitted", stuck=0)
            ti.runner, ti.beat = runner, self.sim.now
        return ok

    def program_of(self, ti_id: str) -> tuple[float, str]:
        ti = self._of(ti_id)
        assert ti is not None
        return ti.program.pop(0) if len(ti.program) > 1 else ti.program[0]

    def is_mine(self, runner: Runner) -> bool:
        ti = self._of(runner.ti_id)
        return ti is not None and ti.state == "running" and ti.runner is runner

    def api_report(self, runner: Runner, outcome: str) -> None:
        """PATCH /state: accepted from RUNNING only."""
        ti = self._of(runner.ti_id)
        if ti is None or ti.state != "running":
            return
        self.sim.note("report", arn=runner.arn, id=runner.exec_id, ti=ti.id, outcome=outcome)
        if outcome == "success":
            self.move(ti, "success", "reported")
        elif outcome == "defer":
            self.move(ti, "deferred", "reported")
            wait = self.chance.choice([0.5, 30.0, 600.0]) if not self.healed else 0.5
            self.sim.at(self.sim.now + wait * self.chance.random(), lambda: self._trigger_fires(ti, ti.id))
        elif outcome == "reschedule":
            self.move(ti, "up_for_reschedule", "reported", ready_at=self.sim.now + 120 * self.chance.random())
        else:
            self.handle_failure(ti, "reported")

    def _trigger_fires(self, ti: TaskInstance, ti_id: str) -> None:
        if ti.state == "deferred" and ti.id == ti_id and not ti.gone:
            self.move(ti, "scheduled", "trigger", resumes=True)

    def container_gone(self, runner: Runner) -> None:
        """Its heartbeats end."""
        ti = self._of(runner.ti_id)
        if ti is not None and ti.runner is runner:
            ti.beat = self.last_heartbeat(ti) if runner.works else ti.beat
            ti.runner = None

    def callback_code(self, callback_id: str) -> int:
        callback = self.callbacks.get(callback_id)
        return callback.code if callback else 0

    # -- backups --------------------------------------------------------------------------------------------------

    def backup(self) -> dict[str, Any]:
        kept = ("state", "try_number", "max_tries", "incarnation", "ext", "job", "queued_at", "ready_at", "stuck")
        return {
            "tis": {
                ti.name: {name: getattr(ti, name) for name in (*kept, "gone", "resumes")} for ti in self.tis.values()
            },
            "callbacks": {callback.id: callback.state for callback in self.callbacks.values()},
        }

    def restore(self, backup: dict[str, Any]) -> None:
        """As it was. Names that were used since are never used again: they were UUIDs."""
        for name, kept in backup["tis"].items():
            values = dict(kept)
            ti = self.tis[name]
            self.move(ti, values.pop("state"), "restored", **values)
            if ti.state == "deferred":  # the triggerer reads the restored trigger as well
                self.sim.at(self.sim.now + 30.0, partial(self._trigger_fires, ti, ti.id))
        for callback_id, state in backup["callbacks"].items():
            self.callbacks[callback_id].state = state


@dataclass
class Buffered:
    """An event on its way from an executor to its scheduler."""

    event: str
    info: str | None
    exec_id: str | None
    at: float = field(default=0.0)
