"""Everything together: a server, a cluster, a scheduler, two daemons, and the end that a healed world must come to."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import select, text

from reconciler.store.engine import make_engine
from reconciler.store.migrate import migrate
from reconciler.store.rows import LIGHT, read
from tests.chaos import history as history_module
from tests.chaos.airflow import Scheduler
from tests.chaos.ecs import DEPLOYMENT, ChaosEcs
from tests.chaos.history import History
from tests.chaos.proxy import Network
from tests.chaos.replica import COMMAND, Replica
from tests.postgres import postgres_server
from tests.sim.check import Violation, check

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from reconciler.core.task import Workload

PATIENCE: Final = 240.0
"""Seconds that anything may take here: conditions are waited for, and a busy machine starts a daemon in a minute."""
FOREIGN: Final = ("somebody", f"{DEPLOYMENT}x/t1-1/1", f"{DEPLOYMENT}/t1-1")


class NotInTimeError(AssertionError):
    """What was waited for did not happen."""


class World:
    """`with World(folder) as world:` everything runs, and is ended whatever happens."""

    def __init__(
        self, folder: Path, *, seed: int = 0, command: Sequence[str] = COMMAND, replicas: int = 2, **settings: Any
    ) -> None:
        self.folder = folder
        self._seed, self._command, self._count, self._settings = seed, command, replicas, settings

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._start(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _start(self, undo: ExitStack) -> None:
        self.server = undo.enter_context(postgres_server())
        maintenance = make_engine(self._url("postgres"))
        with maintenance.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("CREATE DATABASE chaos"))
        maintenance.dispose()
        self.engine = make_engine(self._url("chaos") + "&application_name=scheduler")
        undo.callback(self.engine.dispose)
        migrate(self.engine)
        history_module.install(self.engine)
        self.history = History(self.folder / "lines")
        self.network = undo.enter_context(Network())
        self.ecs = undo.enter_context(ChaosEcs(self.history, self.folder, self._seed))
        for name in FOREIGN:
            self.ecs.start_foreign(name)
        self.scheduler = Scheduler(self.engine, self.history, self.folder)
        self.scheduler.start()
        undo.callback(self.scheduler.close)
        self.replicas = []
        for name in "abc"[: self._count]:
            replica = Replica(
                name,
                self.network,
                self.folder,
                database=self.server.socket,
                user=self.server.user,
                ecs_port=int(self.ecs.endpoint_url.rpartition(":")[2]),
                command=self._command,
                **self._settings,
            )
            undo.callback(replica.kill)
            replica.start()
            self.replicas.append(replica)

    def _url(self, database: str) -> str:
        return f"postgresql://{self.server.user}@/{database}?host={self.server.folder}"

    # -- looking -----------------------------------------------------------------------------------------------------

    def rows(self) -> list[Workload]:
        with self.engine.connect() as conn:
            return read(conn, select(*LIGHT).order_by(LIGHT[0]))

    def leader(self) -> Replica | None:
        """The replica that holds the lease."""
        with self.engine.connect() as conn:
            holder = conn.execute(text("SELECT holder FROM ecs_lease WHERE expires_at > clock_timestamp()")).scalar()
        pid = int(holder.split("-")[-2]) if holder else None
        return next((replica for replica in self.replicas if replica.alive and replica.pid == pid), None)

    def until(self, condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> Any:
        """Wait until `condition` holds, and return what it returned."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise NotInTimeError(f"waited {seconds:.0f} s in vain for {what}\n{self.told()}")
            time.sleep(0.05)
        return found

    def wait_for_leader(self) -> Replica:
        found: Replica = self.until(self.leader, "a leader")
        return found

    def told(self) -> str:
        """The end of the daemons' logs, for the person who has to find out."""
        ends = [f"-- {replica.name}\n{replica.log.read_text()[-3000:]}" for replica in self.replicas]
        return "\n".join([f"files: {self.folder}", *(f"{w.exec_id} {w.phase}" for w in self.rows()), *ends])

    # -- the end -----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """All parts run, and the network is good."""
        self.until(self._answers, "the database")
        for replica in self.replicas:
            replica.heal()

    def _answers(self) -> bool:
        """Whether the database answers. The pool finds out here that its connections are gone."""
        try:
            with self.engine.connect() as conn:
                return bool(conn.execute(text("SELECT true")).scalar())
        except Exception:  # noqa: BLE001 - not yet
            return False

    def judge(self) -> list[Violation]:
        """Heal, wait for rest, and let the checker read the history."""
        self.heal()
        self.history.note("heal")
        try:
            self.until(self._rests, "rest")
            rest = True
        except NotInTimeError:
            rest = False
        tis = [f"{ti.name} {ti.state}" for ti in self.scheduler.tis.values() if ti.state not in ("success", "failed")]
        rows = [f"{w.exec_id} {w.phase}" for w in self.rows() if not w.terminal or w.acked_version < w.version]
        self.history.note(
            "end", rest=rest, tis=tis, rows=rows, tasks=[history_module.short(arn) for arn in self._ours()]
        )
        for error in self.scheduler.unforeseen:
            self.history.note("unforeseen", who="scheduler", error=error)
        violations = check(self.history.trace(self.engine))
        return violations + self._ran_twice() + self._left_alone()

    def _rests(self) -> bool:
        if not self.scheduler.over or self._ours():
            return False
        return all(w.terminal and w.acked_version >= w.version for w in self.rows()) and not self.scheduler.running

    def _ours(self) -> list[str]:
        return [arn for arn, started_by in self.ecs.live() if started_by not in FOREIGN]

    def _ran_twice(self) -> list[Violation]:
        """What really ran, by what containers wrote themselves."""
        began: dict[str, list[str]] = {}
        admitted: dict[str, list[str]] = {}
        for line in self.history.containers():
            if line["kind"] == "container":
                began.setdefault(line["arn"], []).append(line["id"])
            elif line["kind"] == "user_end":
                admitted.setdefault(line["id"], []).append(line["arn"])
        twice = [Violation("a container runs once", 0, arn, (arn,)) for arn, ids in began.items() if len(ids) > 1]
        return twice + [Violation("user code runs once", 0, i, (i,)) for i, arns in admitted.items() if len(arns) > 1]

    def _left_alone(self) -> list[Violation]:
        live = {started_by for _, started_by in self.ecs.live()}
        return [Violation("tasks of others are not touched", 0, name) for name in FOREIGN if name not in live]
