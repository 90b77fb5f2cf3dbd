"""Planted faults in watching ECS, in trying again and in stopping."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reconciler.airflow.delivery import Delivery
from reconciler.controllers import cleanup
from reconciler.controllers.adopt import Adopt
from reconciler.controllers.cleanup import Cleanup
from reconciler.controllers.listen import Listen
from reconciler.controllers.retry import Retry
from reconciler.core import decide, deliver, identity
from reconciler.core.breaker import Breaker
from reconciler.core.deliver import Fail, Refuse
from reconciler.core.phase import Phase
from reconciler.core.task import Container, EcsTask, Kind
from reconciler.ecs import shown
from tests.sim.planting import mutant, set_in, set_policy

if TYPE_CHECKING:
    from contextlib import ExitStack


# -- watching ----------------------------------------------------------------------------------------------------


@mutant
def _missing_is_lost_at_once(stack: ExitStack) -> None:
    set_policy(stack, missing_grace=timedelta(0))


@mutant
def _missing_is_counted_from_the_intent(stack: ExitStack) -> None:
    real = decide.missing
    set_in(stack, decide, "missing", lambda w, _, now, policy: real(w, w.intent_at, now, policy))


@mutant
def _no_breaker(stack: ExitStack) -> None:
    set_in(stack, Breaker, "look", lambda *_: True)


@mutant
def _rows_listed_before_ecs(stack: ExitStack) -> None:
    """And no second look: a task that was launched in between is taken for an orphan."""
    families, stop = Adopt._families, Adopt._stop_orphans
    rows: dict[Adopt, Any] = {}

    def begin(self: Adopt) -> Any:
        rows[self] = self._store.in_phase(*Phase)
        return families(self)

    def end(self: Adopt, failures: Any) -> int:
        before, store = rows[self], self._store

        class Stale:
            def find(self, ids: Any) -> Any:
                return type(before)(before.now, tuple(w for w in before.workloads if w.exec_id in ids))

        self._store, self.orphans = Stale(), _Ever()  # type: ignore[assignment] # all that is asked of it
        try:
            return stop(self, failures)
        finally:
            self._store = store

    set_in(stack, Adopt, "_families", begin)
    set_in(stack, Adopt, "_stop_orphans", end)


class _Ever(dict[str, float]):
    """Every task has been an orphan for ever."""

    def __contains__(self, _: object) -> bool:
        return True

    def __getitem__(self, _: str) -> float:
        return float("-inf")

    def get(self, *_: Any) -> float:
        return float("-inf")


@mutant
def _tasks_of_others_are_taken_for_ours(stack: ExitStack) -> None:
    def parse(value: str | None, _: str) -> Any:
        parts = (value or "somebody").split("/")
        return (parts[1], 1) if len(parts) > 1 else (parts[0], 1)

    set_in(stack, identity, "parse_started_by", parse)


@mutant
def _old_news_is_believed(stack: ExitStack) -> None:
    real = decide.observed
    set_in(stack, decide, "observed", lambda w, task, now: real(replace(w, ecs_version=0), task, now))


@mutant
def _orphans_are_left_alone(stack: ExitStack) -> None:
    set_in(stack, Adopt, "_stop_orphans", lambda *_: 0)


@mutant
def _sidecar_decides(stack: ExitStack) -> None:
    def first(task: Any) -> Any:
        for container in task.get("containers", ()):
            return Container(
                exit_code=container.get("exitCode"),
                reason=container.get("reason"),
                runtime_id=container.get("runtimeId"),
            )
        return None

    set_in(stack, shown, "_our_container", first)


@mutant
def _event_deleted_before_the_commit(stack: ExitStack) -> None:
    real = Listen._apply

    def apply(self: Listen, heard: Any, lease: Any) -> Any:
        self._events.delete([event.receipt for one in heard for event in one.events])
        return real(self, heard, lease)

    set_in(stack, Listen, "_apply", apply)


@mutant
def _older_event_is_believed(stack: ExitStack) -> None:
    real = decide.heard
    set_in(stack, decide, "heard", lambda w, *rest: real(replace(w, ecs_version=0), *rest))


# -- trying again ------------------------------------------------------------------------------------------------


@mutant
def _launched_again_after_it_ran(stack: ExitStack) -> None:
    set_in(stack, EcsTask, "never_started", property(lambda task: task.stopped))


@mutant
def _refused_although_it_was_admitted(stack: ExitStack) -> None:
    set_in(
        stack,
        deliver,
        "_running",
        lambda w, *_: Refuse() if w.phase is Phase.EXITED and not w.refused else Fail("it ended"),
    )


@mutant
def _api_outages_are_counted(stack: ExitStack) -> None:
    set_in(stack, Retry, "_own_fault", lambda *_: True)


@mutant
def _callbacks_are_launched_again(stack: ExitStack) -> None:
    real = Delivery._judge

    def judge(self: Delivery, w: Any, *rest: Any) -> Any:
        again = w.kind is Kind.CALLBACK and w.phase is Phase.EXITED and not w.refused
        return Refuse() if again else real(self, w, *rest)

    set_in(stack, Delivery, "_judge", judge)


# -- stopping ----------------------------------------------------------------------------------------------------


@mutant
def _stopped_before_its_logs_are_uploaded(stack: ExitStack) -> None:
    set_policy(stack, stop_grace=timedelta(0))


@mutant
def _late_starts_are_stopped_unseen(stack: ExitStack) -> None:
    def starts(self: Cleanup, lease: Any, _: Any) -> int:
        snapshot = self._store.in_phase(Phase.STARTED)
        changes = [
            (w, new)
            for w in snapshot.workloads
            if (why := self._why(w, snapshot.now, may_run=False)) and (new := decide.stopping(w, snapshot.now, why))
        ]
        return len(self._store.save(changes, lease)) if changes else 0

    set_in(stack, Cleanup, "_starts", starts)


@mutant
def _late_although_ecs_does_not_show_it(stack: ExitStack) -> None:
    real = Cleanup._ended
    set_in(
        stack,
        Cleanup,
        "_ended",
        lambda self, w, task, now: (
            real(self, w, task, now)
            if task or not (why := self._why(w, now, may_run=True))
            else decide.stopping(w, now, why)
        ),
    )


@mutant
def _stop_is_sent_once(stack: ExitStack) -> None:
    """And not again if its answer, or the call itself, was lost."""
    set_in(stack, cleanup, "STOP_AGAIN", float("inf"))
