"""The executor as Airflow's scheduler sees it: it writes down what Airflow wants and tells it what became of that.

No method blocks, and none but `start` raises: Airflow catches nothing, and an exception would end the scheduler.
The contract: airflow/executors/base_executor.py and airflow/jobs/scheduler_job_runner.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from airflow import settings
from airflow.executors.base_executor import PARALLELISM, BaseExecutor
from airflow.executors.workloads import ExecuteCallback, ExecuteTask
from sqlalchemy.orm import object_session

from reconciler.airflow.log_reader import LogReader, running
from reconciler.airflow.parts import Parts
from reconciler.airflow.trouble import Trouble, contained
from reconciler.core.task import TaskKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

__all__ = ["EcsReconcilerExecutor"]

_NONE: Sequence[TaskInstance] = ()
_NO_LINES: tuple[list[str], list[str]] = ([], [])


class EcsReconcilerExecutor(BaseExecutor):
    """Runs tasks in Amazon ECS, through a table that a daemon of its own reconciles with it."""

    supports_callbacks = True
    supports_multi_team = True
    pre_assigns_external_executor_id: ClassVar[bool] = True

    jwt_generator: Any = None
    """Airflow would sign a token for each workload in its critical section. The daemon signs one when it launches."""

    def __init__(self, parallelism: int = PARALLELISM, team_name: str | None = None) -> None:
        super().__init__(parallelism=parallelism, team_name=team_name)
        self.trouble = Trouble(self.log)
        self._parts: Parts | None = None
        self._log_reader = LogReader(time.monotonic)  # noqa: TID251 - Airflow makes executors: there is no root of ours above

    def start(self) -> None:
        """Raises ConfigError, with a sentence for each problem: a scheduler that can not work had better say so."""
        self._parts = Parts(self, self.trouble)

    @contained(otherwise=None)
    def queue_workload(self, workload: Any, session: Session) -> None:
        if self._parts is None or not isinstance(workload, (ExecuteTask, ExecuteCallback)):
            raise TypeError(f"this executor has not been started, or can not run a {type(workload).__name__}")
        with self.trouble.timed("queue"):
            self._parts.queue(workload, session)

    @contained(otherwise=None)
    def heartbeat(self) -> None:
        with self.trouble.timed("heartbeat"):
            super().heartbeat()

    @contained(otherwise=None)
    def sync(self) -> None:
        """The outcomes that Airflow does not know yet, each time; all the rest, from time to time."""
        if self._parts is not None:
            self._parts.sync()

    @contained(otherwise=_NONE)
    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Returns those that can not be adopted, which Airflow starts anew.

        When in trouble, all are adopted: their workloads are taken over later, while starting them anew would end
        hundreds of containers because of one database error.
        """
        session = object_session(tis[0]) if tis else None
        if self._parts is None or session is None:
            return tis
        return self._parts.adopt(session, tis)

    @contained(otherwise=None)
    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Airflow queues this task again, or gives it up. Its container must not run any more."""
        if self._parts is not None:
            self._parts.revoke(ti)

    @contained(otherwise=_NO_LINES)
    def get_task_log(self, ti: TaskInstance, try_number: int) -> tuple[list[str], list[str]]:
        """The container's output from CloudWatch Logs. Called in the API server, where nothing is started."""
        key = TaskKey(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, try_number)
        return self._log_reader.read(running(settings.get_engine(), key))  # type: ignore[no-untyped-call]  # Airflow's

    @property
    def slots_available(self) -> int:
        """What Airflow's own parallelism and the quota of ECS tasks leave."""
        if self._parts is None:
            return 0
        return max(min(int(super().slots_available), self._parts.slots.free), 0)

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        """Nothing to do: a workload is in the table as soon as it is queued."""

    @contained(otherwise=None)
    def end(self) -> None:
        """The scheduler stops. The containers go on, and so does the daemon; the next scheduler adopts them."""
        if self._parts is not None:
            self._parts.end()

    def terminate(self) -> None:
        """Nothing to do, for the same reason."""

    @contained(otherwise=None)
    def debug_dump(self) -> None:
        super().debug_dump()  # type: ignore[no-untyped-call]  # Airflow's
        if self._parts is not None:
            self.log.info(
                "workloads that wait to be written: %d, free slots: %d, errors in a row: %s",
                len(self._parts.enqueue.late),
                self._parts.slots.free,
                dict(self.trouble.in_a_row),
            )
