"""Faults planted into the protocol. A simulation that does not find them proves nothing.

Each changes one thing in the real code for as long as it is planted; nothing of it is ever shipped.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from sqlalchemy import bindparam, or_, select, update

from reconciler.airflow import delivery as delivery_module
from reconciler.airflow.delivery import Delivery
from reconciler.airflow.upkeep import Upkeep
from reconciler.controllers import cleanup
from reconciler.controllers.adopt import Adopt, Breaker
from reconciler.controllers.cleanup import Cleanup
from reconciler.controllers.launch import Launch
from reconciler.controllers.retry import Retry
from reconciler.core import decide, deliver, identity
from reconciler.core.answer import Blocked
from reconciler.core.deliver import Acknowledge, Fail, Refuse, Succeed
from reconciler.core.phase import Phase
from reconciler.core.task import Container, EcsTask, Kind
from reconciler.ecs import gateway as gateway_module
from reconciler.ecs import shown
from reconciler.store import schema, shim, statements
from reconciler.store.daemon import SqlStore
from reconciler.store.rows import STATUS, WHOLE, now, seconds
from reconciler.store.schema import workloads
from tests.sim import daemon
from tests.sim.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Plant = Callable[[ExitStack], None]

_w = workloads.c
MUTANTS: Final[dict[str, Plant]] = {}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """With this fault in the code, or with none."""
    with ExitStack() as stack:
        if name is not None:
            MUTANTS[name](stack)
        yield


def _mutant(plant: Plant) -> Plant:
    MUTANTS[plant.__name__.strip("_")] = plant
    return plant


def _set(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.enter_context(patch.object(owner, name, value))


def _policy(stack: ExitStack, **changes: Any) -> None:
    whole = decide.Policy(**changes)
    _set(stack, daemon, "POLICY", whole)


# -- the table ---------------------------------------------------------------------------------------------------


def _without_version(stack: ExitStack) -> None:
    blind = update(workloads).where(_w.exec_id == bindparam("id"), _w.deployment == bindparam("of"))
    blind = blind.values({name: bindparam(f"new_{name}", type_=_w[name].type) for name in STATUS})
    for name in ("update", "intend"):
        _set(stack, SqlStore, name, blind)

    def lock(_: SqlStore, __: Any, wanted: Any) -> dict[str, int]:
        return {exec_id: old.version for exec_id, (old, _) in wanted.items()}

    _set(stack, SqlStore, "_lock", lock)


@_mutant
def _no_compare_and_swap(stack: ExitStack) -> None:
    _without_version(stack)


@_mutant
def _epoch_ignored_together_with_the_version(stack: ExitStack) -> None:
    _without_version(stack)
    _set(stack, statements, "FENCE", select(bindparam("epoch"), bindparam("name")))


@_mutant
def _no_predecessor_barrier(stack: ExitStack) -> None:
    _set(stack, SqlStore, "intend", statements.UPDATE)
    open_to_all = (
        select(*WHOLE)
        .where(
            _w.deployment == bindparam("of"),
            schema.pending(workloads),
            or_(_w.not_before.is_(None), _w.not_before <= now()),
        )
        .order_by(_w.priority.desc(), _w.created_at, _w.exec_id)
        .limit(bindparam("limit"))
    )
    _set(stack, statements, "LAUNCHABLE", open_to_all)
    in_queues = open_to_all.where(_w.queue.in_(bindparam("queues", expanding=True)))
    _set(stack, statements, "LAUNCHABLE_IN", in_queues)


@_mutant
def _given_back_without_compare_and_swap(stack: ExitStack) -> None:
    def shed(connection: Any, some: Any) -> Any:
        sql = (
            "UPDATE ecs_workload SET phase = 'CANCELLED', version = version + 1, acked_version = version + 1 "
            "WHERE exec_id = ?"
        )
        for w in some:
            connection.exec_driver_sql(sql, (w.exec_id,))
        return list(some)

    _set(stack, shim, "shed", shed)


@_mutant
def _pruned_without_acknowledgement(stack: ExitStack) -> None:
    careless = (
        select(_w.exec_id)
        .where(_w.deployment == bindparam("of"), schema.finished(workloads))
        .where(_w.updated_at < now(seconds("age")))
        .limit(bindparam("limit"))
    )
    _set(stack, statements, "PRUNABLE", careless)


# -- launching ---------------------------------------------------------------------------------------------------


@_mutant
def _random_token(stack: ExitStack) -> None:
    counter = itertools.count()
    real = identity.client_token

    def token(cluster: str, exec_id: str, attempt: int) -> str:
        return real(cluster, f"{exec_id}/{next(counter)}", attempt)

    _set(stack, identity, "client_token", token)


@_mutant
def _no_intent(stack: ExitStack) -> None:
    """The call first, the row when its answer is known."""
    real = SqlStore.save

    def save(self: SqlStore, changes: Any, lease: Any) -> Any:
        intents = [new for old, new in changes if (old.phase, new.phase) == (Phase.PENDING, Phase.LAUNCHING)]
        if intents:
            return intents
        for old in [old for old, _ in changes if old.phase is Phase.LAUNCHING]:
            row = next(iter(self.find([old.exec_id]).workloads), None)
            if row is not None and row.phase is Phase.PENDING:
                real(self, [(row, old)], lease)
        return real(self, changes, lease)

    _set(stack, SqlStore, "save", save)


@_mutant
def _token_used_after_its_life(stack: ExitStack) -> None:
    _policy(stack, resend_for=timedelta(hours=10), absent_after=timedelta(hours=11), absent_before=timedelta(hours=12))


@_mutant
def _request_sent_however_old(stack: ExitStack) -> None:
    _set(
        stack,
        gateway_module.Gateway,
        "_before_send",
        lambda *_, **__: setattr(gateway_module._SENDING.get(), "sent", True),
    )


@_mutant
def _absent_at_any_age(stack: ExitStack) -> None:
    _policy(stack, absent_after=timedelta(0))


@_mutant
def _absence_proven_for_ever(stack: ExitStack) -> None:
    _policy(stack, absent_before=timedelta(hours=48))


@_mutant
def _absence_judged_as_of_now(stack: ExitStack) -> None:
    real = decide.absent
    _set(stack, decide, "absent", lambda w, _, ended, policy: real(w, ended, ended, policy))


@_mutant
def _every_refusal_is_certain(stack: ExitStack) -> None:
    real = decide.answered
    _set(stack, decide, "answered", lambda w, answer, now, policy, **_: real(w, answer, now, policy, certain=True))


@_mutant
def _certain_whatever_was_answered(stack: ExitStack) -> None:
    """What an accepted answer proves is forgotten when it can not be written."""
    _set(stack, decide, "unproven", lambda w, now, policy: None if decide.may_resend(w, now, policy) else
         decide._not_started(w, now, policy, "ECS refused every call of this launch", counts=False))  # fmt: skip
    real = Launch._resolve

    def resolve(self: Launch, lease: Any) -> int:
        self._certain |= {(w.exec_id, w.attempt) for w in self._store.launching().workloads}
        return real(self, lease)

    _set(stack, Launch, "_resolve", resolve)


@_mutant
def _unreachable_is_the_workloads_fault(stack: ExitStack) -> None:
    real = Launch._judge

    def judge(self: Launch, w: Any, answer: Any) -> Any:
        if isinstance(answer, Blocked):
            answer = Blocked(answer.reason, denied=True)
        return real(self, w, answer)

    _set(stack, Launch, "_judge", judge)
    _set(stack, Launch, "_own_fault", lambda self, w: self._strikes.setdefault(w.exec_id, (0, 0)) and _strike(self, w))


def _strike(launch: Launch, w: Any) -> bool:
    times = launch._strikes[w.exec_id][0] + 1
    launch._strikes[w.exec_id] = (times, 0)
    return times >= 3


# -- watching ----------------------------------------------------------------------------------------------------


@_mutant
def _missing_is_lost_at_once(stack: ExitStack) -> None:
    _policy(stack, missing_grace=timedelta(0))


@_mutant
def _missing_is_counted_from_the_intent(stack: ExitStack) -> None:
    real = decide.missing
    _set(stack, decide, "missing", lambda w, _, now, policy: real(w, w.intent_at, now, policy))


@_mutant
def _no_breaker(stack: ExitStack) -> None:
    _set(stack, Breaker, "look", lambda *_: True)


@_mutant
def _rows_listed_before_ecs(stack: ExitStack) -> None:
    """And no second look: a task that was launched in between is taken for an orphan."""
    real = Adopt._list

    def listing(self: Adopt, lease: Any, failures: Any, **more: Any) -> int:
        before = self._store.in_phase(*Phase)
        store = self._store

        class Stale:
            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            def find(self, ids: Any) -> Any:
                return type(before)(before.now, tuple(w for w in before.workloads if w.exec_id in ids))

        self._store = Stale()
        self.orphans = _Ever()
        try:
            return real(self, lease, failures, **more)
        finally:
            self._store = store

    _set(stack, Adopt, "_list", listing)


class _Ever(dict[str, float]):
    """Every task has been an orphan for ever."""

    def __contains__(self, _: object) -> bool:
        return True

    def __getitem__(self, _: str) -> float:
        return float("-inf")

    def get(self, *_: Any) -> float:
        return float("-inf")


@_mutant
def _tasks_of_others_are_taken_for_ours(stack: ExitStack) -> None:
    def parse(value: str | None, _: str) -> Any:
        parts = (value or "somebody").split("/")
        return (parts[1], 1) if len(parts) > 1 else (parts[0], 1)

    _set(stack, identity, "parse_started_by", parse)


@_mutant
def _old_news_is_believed(stack: ExitStack) -> None:
    real = decide.observed
    _set(stack, decide, "observed", lambda w, task, now: real(replace(w, ecs_version=0), task, now))


@_mutant
def _orphans_are_left_alone(stack: ExitStack) -> None:
    _set(stack, Adopt, "_stop_orphans", lambda *_: 0)


@_mutant
def _sidecar_decides(stack: ExitStack) -> None:
    def first(task: Any) -> Any:
        for container in task.get("containers", ()):
            return Container(
                exit_code=container.get("exitCode"),
                reason=container.get("reason"),
                runtime_id=container.get("runtimeId"),
            )
        return None

    _set(stack, shown, "_our_container", first)


# -- trying again ------------------------------------------------------------------------------------------------


@_mutant
def _launched_again_after_it_ran(stack: ExitStack) -> None:
    _set(stack, EcsTask, "never_started", property(lambda task: task.stopped))


@_mutant
def _refused_although_it_was_admitted(stack: ExitStack) -> None:
    _set(
        stack,
        deliver,
        "_running",
        lambda w, *_: Refuse() if w.phase is Phase.EXITED and not w.refused else Fail("it ended"),
    )


@_mutant
def _api_outages_are_counted(stack: ExitStack) -> None:
    _set(stack, Retry, "_own_fault", lambda *_: True)


@_mutant
def _callbacks_are_launched_again(stack: ExitStack) -> None:
    real = Delivery._judge

    def judge(self: Delivery, w: Any, *rest: Any) -> Any:
        again = w.kind is Kind.CALLBACK and w.phase is Phase.EXITED and not w.refused
        return Refuse() if again else real(self, w, *rest)

    _set(stack, Delivery, "_judge", judge)


# -- stopping ----------------------------------------------------------------------------------------------------


@_mutant
def _stopped_before_its_logs_are_uploaded(stack: ExitStack) -> None:
    _policy(stack, stop_grace=timedelta(0))


@_mutant
def _late_starts_are_stopped_unseen(stack: ExitStack) -> None:
    def starts(self: Cleanup, lease: Any, _: Any) -> int:
        snapshot = self._store.in_phase(Phase.STARTED)
        changes = [
            (w, new)
            for w in snapshot.workloads
            if (why := self._why(w, snapshot.now, may_run=False)) and (new := decide.stopping(w, snapshot.now, why))
        ]
        return len(self._store.save(changes, lease)) if changes else 0

    _set(stack, Cleanup, "_starts", starts)


@_mutant
def _late_although_ecs_does_not_show_it(stack: ExitStack) -> None:
    real = Cleanup._ended
    _set(
        stack,
        Cleanup,
        "_ended",
        lambda self, w, task, now: (
            real(self, w, task, now)
            if task or not (why := self._why(w, now, may_run=True))
            else decide.stopping(w, now, why)
        ),
    )


@_mutant
def _stop_is_sent_once(stack: ExitStack) -> None:
    """And not again if its answer, or the call itself, was lost."""
    _set(stack, cleanup, "STOP_AGAIN", float("inf"))


# -- telling Airflow ---------------------------------------------------------------------------------------------


def _verdict(stack: ExitStack, change: Callable[..., Any]) -> None:
    real = deliver.deliver_task
    told = delivery_module
    _set(stack, told, "deliver_task", lambda w, ti, *rest, **more: change(w, ti, real(w, ti, *rest, **more)))


@_mutant
def _acknowledged_when_emitted(stack: ExitStack) -> None:
    real = Delivery._apply

    def apply(self: Delivery, judged: Any, tis: Any) -> None:
        real(self, judged, tis)
        told = [w for w, verdict in judged if isinstance(verdict, Fail | Succeed)]
        if told:
            with self._begin() as connection:
                shim.acknowledge(connection, told)

    _set(stack, Delivery, "_apply", apply)


@_mutant
def _success_for_what_is_not_finished(stack: ExitStack) -> None:
    _verdict(stack, lambda w, _, verdict: Succeed() if isinstance(verdict, Fail) and w.exit_code == 0 else verdict)


@_mutant
def _failed_for_a_cleared_task(stack: ExitStack) -> None:
    _verdict(stack, lambda _, __, verdict: Fail("it ended") if isinstance(verdict, Succeed) else verdict)


@_mutant
def _running_is_told_for_tasks(stack: ExitStack) -> None:
    real = Upkeep.run
    running: Any = SimpleNamespace(value="running")

    def run(self: Upkeep, now: Any) -> None:
        real(self, now)
        with self._begin() as connection:
            rows = shim.open_workloads(connection, self._owner.deployment, self._owner.job_id).workloads
        for w in rows:
            if w.kind is Kind.TASK and w.phase is Phase.RUNNING:
                self._airflow.emit(w, running, w.task_arn)

    _set(stack, Upkeep, "run", run)


@_mutant
def _slot_kept_after_the_end(stack: ExitStack) -> None:
    _set(stack, Scheduler, "release", lambda *_: None)
    real = Scheduler.hold

    def hold(self: Scheduler, workloads: Any) -> None:
        before = set(self.running)
        real(self, workloads)
        self.running |= before

    _set(stack, Scheduler, "hold", hold)


@_mutant
def _failed_although_scheduled_again(stack: ExitStack) -> None:
    def change(w: Any, ti: Any, verdict: Any) -> Any:
        waits = isinstance(verdict, Acknowledge) and ti is not None and ti.state == "scheduled"
        return Fail("it ended") if waits and ti.external_executor_id == w.exec_id else verdict

    _verdict(stack, change)


@_mutant
def _task_instances_read_before_rows(stack: ExitStack) -> None:
    """And one look is enough: what was queued in between is withdrawn."""

    def run(self: Upkeep, _: Any) -> None:
        model: Any = self._airflow
        with self._begin():
            active = {ti.ext for ti in model.airflow.tis.values() if ti.state in ("queued", "running")}
        with self._begin() as connection:
            rows = shim.open_workloads(connection, self._owner.deployment, self._owner.job_id).workloads
        gone = [w.exec_id for w in rows if w.kind is Kind.TASK and w.exec_id not in active]
        with self._begin() as connection:
            shim.want_stop(connection, gone, "not active")

    _set(stack, Upkeep, "run", run)


@_mutant
def _nobody_takes_over(stack: ExitStack) -> None:
    """What is left of dead schedulers, where adoption does not reach."""
    _set(stack, Upkeep, "_take_over", lambda _: None)


@_mutant
def _never_given_back(stack: ExitStack) -> None:
    _set(stack, Upkeep, "_shed", lambda _: None)


@_mutant
def _never_withdrawn(stack: ExitStack) -> None:
    _set(stack, Upkeep, "_withdraw", lambda *_: None)
