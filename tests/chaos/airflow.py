"""A scheduler with its Execution API: a small Airflow around the shim's real delivery, upkeep and SQL.

What Airflow does with task instances is as in `tests/sim/scheduler.py`, which is held against the real one; here it
runs in real time, on a real connection, and containers ask it over a real socket.
"""

from __future__ import annotations

import json
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import TYPE_CHECKING, Final

from reconciler.airflow.delivery import Delivery, Event, Owner
from reconciler.airflow.upkeep import Every, Upkeep
from reconciler.core.deliver import CallbackView, TaskInstanceView
from reconciler.core.errors import StoreUnavailable
from reconciler.core.task import Spec, TaskKey, Workload
from reconciler.store import shim
from reconciler.store.engine import translated, writing
from tests.chaos.ecs import DEPLOYMENT
from tests.transactions import Separate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from tests.chaos.history import History

JOB: Final = 1
OVER: Final = frozenset({"success", "failed"})


@dataclass(frozen=True)
class Program:
    """What a task does in its container."""

    seconds: float = 0.3
    uploads: float = 0.1
    """How long its container goes on when Airflow knows the outcome."""
    deferrals: int = 0
    """How often it is deferred and queued again, as the same task instance, before it succeeds."""
    broken: int = 0
    """How many of its containers end before they have asked Airflow for anything."""


@dataclass(eq=False)
class TaskInstance:
    """Airflow's row. `ext` is external_executor_id."""

    name: str
    program: Program
    state: str = "scheduled"
    ext: str | None = None
    queued: int = 0
    containers: int = 0
    deferred: int = 0
    arn: str | None = None
    """The container that runs it."""

    @property
    def id(self) -> str:
        return f"ti-{self.name}"

    @property
    def key(self) -> TaskKey:
        return TaskKey("chaos", self.name, "run", -1, 1)


class Scheduler:
    """Implements `delivery.AirflowSide`. `engine` leads to the database over whatever network the test wants."""

    def __init__(self, engine: Engine, history: History, folder: Path) -> None:
        self._engine, self._history, self._folder = engine, history, folder
        self._lock = threading.RLock()
        self.tis: dict[str, TaskInstance] = {}
        self.running: set[TaskKey] = set()
        self._late: dict[str, Workload] = {}
        self._events: list[tuple[Workload, Event, str | None]] = []
        owner = Owner(DEPLOYMENT, JOB)
        self._owner = owner
        self._delivery = Delivery(Separate(self._begin), self, owner, max_run_task_attempts=3)
        self._upkeep = Upkeep(Separate(self._begin), self, owner, shed_after=timedelta(minutes=10))
        self._upkeep_due = Every(timedelta(seconds=1))
        self._stopping = threading.Event()
        self._loop = threading.Thread(target=self._run, name="scheduler")
        self._api = _Api(str(folder / "api"), self)
        self._serving = threading.Thread(target=self._api.serve_forever, kwargs={"poll_interval": 0.05}, name="api")
        self.unforeseen: list[str] = []

    def start(self) -> None:
        self._serving.start()
        self._loop.start()

    def close(self) -> None:
        self._stopping.set()
        self._loop.join()
        self._api.shutdown()
        self._serving.join()
        self._api.server_close()

    # -- what users and time do --------------------------------------------------------------------------------------

    def add(self, program: Program) -> str:
        """A task instance that is to run. Returns its name."""
        with self._lock:
            ti = TaskInstance(f"t{len(self.tis) + 1}", program)
            self.tis[ti.name] = ti
            return ti.name

    def mark_failed(self, name: str) -> None:
        """A user has enough of it."""
        with self._lock:
            if (ti := self.tis[name]).state not in OVER:
                self._move(ti, "failed", "marked by a user")

    def requeue(self, name: str) -> bool:
        """It is stuck in QUEUED: withdrawn, and queued again as the same task instance. Says whether it was."""
        with self._lock:
            ti = self.tis[name]
            if ti.state != "queued" or ti.ext is None:
                return False
            try:
                with translated(), self._begin() as connection:
                    shim.want_stop(connection, [ti.ext], "stuck in queued")
            except StoreUnavailable:
                return False
            self._late.pop(ti.ext, None)
            self._move(ti, "scheduled", "stuck in queued")
            return True

    @property
    def over(self) -> bool:
        """Whether no task instance is left to do."""
        with self._lock:
            return all(ti.state in OVER for ti in self.tis.values())

    # -- the scheduler's loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(0.1):
            try:
                with translated():
                    self._beat()
            except StoreUnavailable:
                continue
            except Exception:  # noqa: BLE001 - a finding, which the test reports
                self.unforeseen.append(traceback.format_exc())

    def _beat(self) -> None:
        with self._lock:
            self._queue()
            self._delivery.deliver()
            self._process_events()
            now = self._delivery.now
            if now is not None and self._upkeep_due.due(now):
                self._upkeep.run(now)
                # Here the bookkeeping is healed: what is held by now is held for good.
                held = sorted((key.task_id, key.try_number) for key in self.running)
                self._history.note("synced", job=JOB, ok=True, upkept=True, held=held)

    def _queue(self) -> None:
        for ti in self.tis.values():
            if ti.state == "scheduled":
                ti.queued += 1
                ti.ext, ti.arn = f"{ti.name}-{ti.queued}", None
                self._move(ti, "queued", "queued")
                self._late[ti.ext] = self._workload(ti)
        if self._late:
            late = list(self._late.values())
            with self._begin() as connection:
                shim.insert(connection, late)
            for w in late:
                self.running.add(w.key)
                self._upkeep.learn(w)
            self._late.clear()

    def _workload(self, ti: TaskInstance) -> Workload:
        told = {
            "ti": ti.id,
            "seconds": ti.program.seconds,
            "uploads": ti.program.uploads,
            "api": str(self._folder / "api"),
            "lines": str(self._history.lines),
        }
        spec = Spec(json.dumps({"chaos": told}))
        return Workload(ti.ext or "", DEPLOYMENT, ti_id=ti.id, key=ti.key, owner_job_id=JOB, spec=spec)

    def _process_events(self) -> None:
        """SchedulerJobRunner.process_executor_events."""
        events, self._events = self._events, []
        for w, event, info in events:
            ti = self.tis[w.key.task_id]
            if ti.state in ("scheduled", "queued", "running") and ti.key not in self.running:
                facts = {"id": w.exec_id, "event": str(event), "name": ti.name, "ti": ti.id}
                self._history.note("applied", **facts, state=ti.state, ext=ti.ext)
                self._move(ti, str(event), f"event: {info}")

    def _move(self, ti: TaskInstance, state: str, why: str) -> None:
        ti.state = state
        self._history.note("ti", name=ti.name, id=ti.id, state=state, ext=ti.ext, why=why)

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with writing(self._engine).begin() as connection:
            shim.lose_patience(connection)
            yield connection

    # -- delivery.AirflowSide ----------------------------------------------------------------------------------------

    def task_instances(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, TaskInstanceView]:
        tis = [ti for ti in self.tis.values() if ti.key in keys]
        return {ti.key: TaskInstanceView(ti.id, ti.state, 1, ti.ext, JOB) for ti in tis}

    def callbacks(self, ids: Collection[str]) -> Mapping[str, CallbackView]:
        return {}

    def in_doubt(self, connection: Connection, owner: Owner, exec_ids: Collection[str]) -> set[str]:
        active = {ti.ext for ti in self.tis.values() if ti.state in ("queued", "running")}
        return {exec_id for exec_id in exec_ids if exec_id not in active}

    def give_back(self, connection: Connection, workloads: Sequence[Workload]) -> None:
        for w in workloads:
            self._move(self.tis[w.key.task_id], "scheduled", "given back")

    def abandoned(self, connection: Connection, deployment: str, team: str | None) -> set[str]:
        return set()

    def emit(self, workload: Workload, event: Event, info: str | None = None) -> None:
        self._history.note("emit", what="task", event=str(event), id=workload.exec_id, info=info)
        self._events.append((workload, event, info))

    def hold(self, workloads: Sequence[Workload]) -> None:
        self.running = {w.key for w in (*workloads, *self._late.values())}

    def release(self, workload: Workload) -> None:
        self.running.discard(workload.key)

    # -- the Execution API -------------------------------------------------------------------------------------------

    def answer(self, what: str, arn: str, ti_id: str) -> str:
        """What a container is told: `go`, or why not."""
        with self._lock:
            ti = self.tis[ti_id.removeprefix("ti-")]
            if what == "run":
                return self._admit(ti, arn)
            if ti.state != "running" or ti.arn != arn:
                return "fenced"
            if what == "report":
                self._report(ti)
            return "go"

    def _admit(self, ti: TaskInstance, arn: str) -> str:
        ti.containers += 1
        if ti.containers <= ti.program.broken:
            return "broken"
        admitted = ti.state == "queued"
        self._history.note("admission", arn=arn, ok=admitted, ti=ti.id, ext=ti.ext)
        if not admitted:
            return "refused"
        ti.arn = arn
        self._move(ti, "running", "admitted")
        return "go"

    def _report(self, ti: TaskInstance) -> None:
        if ti.deferred < ti.program.deferrals:
            ti.deferred += 1
            # Its trigger fires at once: it is queued again while its container still uploads its logs.
            self._move(ti, "deferred", "reported")
            self._move(ti, "scheduled", "its trigger fired")
        else:
            self._move(ti, "success", "reported")


class _Api(ThreadingUnixStreamServer):
    """Answers containers."""

    daemon_threads = True

    def __init__(self, path: str, scheduler: Scheduler) -> None:
        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                asked = json.loads(self.rfile.read())
                self.wfile.write(scheduler.answer(asked["what"], asked["arn"], asked["ti"]).encode())

        super().__init__(path, Handler)
