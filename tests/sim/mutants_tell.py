"""Planted faults in telling Airflow, and in looking after what a scheduler owns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from reconciler.airflow import delivery as delivery_module
from reconciler.airflow.delivery import Delivery
from reconciler.airflow.upkeep import Upkeep
from reconciler.core import deliver
from reconciler.core.deliver import Acknowledge, Fail, Succeed
from reconciler.core.phase import Phase
from reconciler.core.task import Kind
from reconciler.store import shim
from tests.sim.planting import mutant, set_in
from tests.sim.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack


# -- telling Airflow ---------------------------------------------------------------------------------------------


def _verdict(stack: ExitStack, change: Callable[..., Any]) -> None:
    real = deliver.deliver_task
    told = delivery_module
    set_in(stack, told, "deliver_task", lambda w, ti, *rest, **more: change(w, ti, real(w, ti, *rest, **more)))


@mutant
def _acknowledged_when_emitted(stack: ExitStack) -> None:
    real = Delivery._apply

    def apply(self: Delivery, judged: Any, tis: Any) -> None:
        real(self, judged, tis)
        told = [w for w, verdict in judged if isinstance(verdict, Fail | Succeed)]
        if told:
            with self._transactions.begin() as connection:
                shim.acknowledge(connection, told)

    set_in(stack, Delivery, "_apply", apply)


@mutant
def _told_only_once(stack: ExitStack) -> None:
    """Although the event may have met a locked row and be lost."""
    real = Delivery._apply

    def apply(self: Delivery, judged: Any, tis: Any) -> None:
        told: set[tuple[str, int]] = vars(self).setdefault("told", set())
        outcomes = {(w.exec_id, w.version) for w, verdict in judged if isinstance(verdict, Fail | Succeed)}
        real(self, [(w, verdict) for w, verdict in judged if (w.exec_id, w.version) not in told], tis)
        told |= outcomes

    set_in(stack, Delivery, "_apply", apply)


@mutant
def _success_for_what_is_not_finished(stack: ExitStack) -> None:
    _verdict(stack, lambda w, _, verdict: Succeed() if isinstance(verdict, Fail) and w.exit_code == 0 else verdict)


@mutant
def _failed_for_a_cleared_task(stack: ExitStack) -> None:
    _verdict(stack, lambda _, __, verdict: Fail("it ended") if isinstance(verdict, Succeed) else verdict)


@mutant
def _running_is_told_for_tasks(stack: ExitStack) -> None:
    real = Upkeep.run
    running: Any = SimpleNamespace(value="running")

    def run(self: Upkeep, now: Any) -> None:
        real(self, now)
        with self._transactions.begin() as connection:
            rows = shim.open_workloads(connection, self._owner.deployment, self._owner.job_id).workloads
        for w in rows:
            if w.kind is Kind.TASK and w.phase is Phase.RUNNING:
                self._airflow.emit(w, running, w.task_arn)

    set_in(stack, Upkeep, "run", run)


@mutant
def _slot_kept_after_the_end(stack: ExitStack) -> None:
    set_in(stack, Scheduler, "release", lambda *_: None)
    real = Scheduler.hold

    def hold(self: Scheduler, workloads: Any) -> None:
        before = set(self.running)
        real(self, workloads)
        self.running |= before

    set_in(stack, Scheduler, "hold", hold)


@mutant
def _failed_although_scheduled_again(stack: ExitStack) -> None:
    def change(w: Any, ti: Any, verdict: Any) -> Any:
        waits = isinstance(verdict, Acknowledge) and ti is not None and ti.state == "scheduled"
        return Fail("it ended") if waits and ti.external_executor_id == w.exec_id else verdict

    _verdict(stack, change)


@mutant
def _task_instances_read_before_rows(stack: ExitStack) -> None:
    """And one look is enough: what was queued in between is withdrawn."""

    def run(self: Upkeep, _: Any) -> None:
        model: Any = self._airflow
        with self._transactions.begin():
            active = {ti.ext for ti in model.airflow.tis.values() if ti.state in ("queued", "running")}
        with self._transactions.begin() as connection:
            rows = shim.open_workloads(connection, self._owner.deployment, self._owner.job_id).workloads
        gone = [w.exec_id for w in rows if w.kind is Kind.TASK and w.exec_id not in active]
        with self._transactions.begin() as connection:
            shim.want_stop(connection, gone, "not active")

    set_in(stack, Upkeep, "run", run)


@mutant
def _nobody_takes_over(stack: ExitStack) -> None:
    """What is left of dead schedulers, where adoption does not reach."""
    set_in(stack, Upkeep, "_take_over", lambda _: None)


@mutant
def _never_given_back(stack: ExitStack) -> None:
    set_in(stack, Upkeep, "_shed", lambda _: None)


@mutant
def _never_withdrawn(stack: ExitStack) -> None:
    set_in(stack, Upkeep, "_withdraw", lambda *_: None)
