"""Planted faults in the table and in launching."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, or_, select, update

from reconciler.controllers.launch import Launch
from reconciler.core import decide, identity
from reconciler.core.answer import Blocked
from reconciler.core.phase import Desired, Phase
from reconciler.ecs import gateway as gateway_module
from reconciler.store import schema, shim, statements
from reconciler.store.daemon import SqlStore
from reconciler.store.rows import STATUS, WHOLE, now, seconds
from reconciler.store.schema import workloads
from tests.sim.planting import mutant, set_in, set_policy

if TYPE_CHECKING:
    from contextlib import ExitStack

_w = workloads.c


# -- the table ---------------------------------------------------------------------------------------------------


def _without_version(stack: ExitStack) -> None:
    blind = update(workloads).where(_w.exec_id == bindparam("id"), _w.deployment == bindparam("of"))
    blind = blind.values({name: bindparam(f"new_{name}", type_=_w[name].type) for name in STATUS})
    for name in ("update", "intend"):
        set_in(stack, SqlStore, name, blind)

    def lock(_: SqlStore, __: Any, wanted: Any) -> dict[str, int]:
        return {exec_id: old.version for exec_id, (old, _) in wanted.items()}

    set_in(stack, SqlStore, "_lock", lock)


@mutant
def _no_compare_and_swap(stack: ExitStack) -> None:
    _without_version(stack)


@mutant
def _epoch_ignored_together_with_the_version(stack: ExitStack) -> None:
    _without_version(stack)
    set_in(stack, statements, "FENCE", select(bindparam("epoch"), bindparam("name")))


@mutant
def _no_predecessor_barrier(stack: ExitStack) -> None:
    set_in(stack, SqlStore, "intend", statements.UPDATE)
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
    set_in(stack, statements, "LAUNCHABLE", open_to_all)
    in_queues = open_to_all.where(_w.queue.in_(bindparam("queues", expanding=True)))
    set_in(stack, statements, "LAUNCHABLE_IN", in_queues)


@mutant
def _given_back_without_compare_and_swap(stack: ExitStack) -> None:
    def shed(connection: Any, some: Any) -> Any:
        sql = (
            "UPDATE ecs_workload SET phase = 'CANCELLED', version = version + 1, acked_version = version + 1 "
            "WHERE exec_id = ?"
        )
        for w in some:
            connection.exec_driver_sql(sql, (w.exec_id,))
        return list(some)

    set_in(stack, shim, "shed", shed)


@mutant
def _pruned_without_acknowledgement(stack: ExitStack) -> None:
    careless = (
        select(_w.exec_id)
        .where(_w.deployment == bindparam("of"), schema.finished(workloads))
        .where(_w.updated_at < now(seconds("age")))
        .limit(bindparam("limit"))
    )
    set_in(stack, statements, "PRUNABLE", careless)


# -- launching ---------------------------------------------------------------------------------------------------


@mutant
def _random_token(stack: ExitStack) -> None:
    counter = itertools.count()
    real = identity.client_token

    def token(cluster: str, exec_id: str, attempt: int) -> str:
        return real(cluster, f"{exec_id}/{next(counter)}", attempt)

    set_in(stack, identity, "client_token", token)


@mutant
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

    set_in(stack, SqlStore, "save", save)


@mutant
def _token_used_after_its_life(stack: ExitStack) -> None:
    set_policy(
        stack, resend_for=timedelta(hours=10), absent_after=timedelta(hours=11), absent_before=timedelta(hours=12)
    )


@mutant
def _request_sent_however_old(stack: ExitStack) -> None:
    set_in(
        stack,
        gateway_module.Gateway,
        "_before_send",
        lambda *_, **__: setattr(gateway_module._SENDING.get(), "sent", True),
    )


@mutant
def _withdrawn_launch_is_sent_as_it_was(stack: ExitStack) -> None:
    real = gateway_module.Gateway.run

    def run(self: Any, workload: Any, command: Any) -> Any:
        return real(self, replace(workload, desired=Desired.RUN), command)

    set_in(stack, gateway_module.Gateway, "run", run)


@mutant
def _absent_at_any_age(stack: ExitStack) -> None:
    set_policy(stack, absent_after=timedelta(0))


@mutant
def _absence_proven_for_ever(stack: ExitStack) -> None:
    set_policy(stack, absent_before=timedelta(hours=48))


@mutant
def _absence_judged_as_of_now(stack: ExitStack) -> None:
    real = decide.absent
    set_in(stack, decide, "absent", lambda w, _, ended, policy: real(w, ended, ended, policy))


@mutant
def _every_refusal_is_certain(stack: ExitStack) -> None:
    real = decide.answered
    set_in(stack, decide, "answered", lambda w, answer, now, policy, **_: real(w, answer, now, policy, certain=True))


@mutant
def _certain_whatever_was_answered(stack: ExitStack) -> None:
    """What an accepted answer proves is forgotten when it can not be written."""
    set_in(stack, decide, "unproven", lambda w, now, policy: None if decide.may_resend(w, now, policy) else
         decide._not_started(w, now, policy, "ECS refused every call of this launch", counts=False))  # fmt: skip
    real = Launch._resolve

    def resolve(self: Launch, lease: Any) -> int:
        self._certain |= {(w.exec_id, w.attempt) for w in self._store.launching(lease).workloads}
        return real(self, lease)

    set_in(stack, Launch, "_resolve", resolve)


@mutant
def _unreachable_is_the_workloads_fault(stack: ExitStack) -> None:
    real = Launch._judge

    def judge(self: Launch, w: Any, answer: Any) -> Any:
        if isinstance(answer, Blocked):
            answer = Blocked(answer.reason, denied=True)
        return real(self, w, answer)

    set_in(stack, Launch, "_judge", judge)
    set_in(
        stack, Launch, "_own_fault", lambda self, w: self._strikes.setdefault(w.exec_id, (0, 0)) and _strike(self, w)
    )


def _strike(launch: Launch, w: Any) -> bool:
    times = launch._strikes[w.exec_id][0] + 1
    launch._strikes[w.exec_id] = (times, 0)
    return times >= 3
