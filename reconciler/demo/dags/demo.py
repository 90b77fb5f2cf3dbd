"""What the demonstration runs: one task of each kind that an executor can get wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, Context, dag, task
from airflow.sdk.bases.sensor import PokeReturnValue

SECOND = timedelta(seconds=1)


class PausesTwice(BaseOperator):
    """Deferrable: it gives its container back while it waits, and is queued again two seconds later. Twice."""

    def execute(self, context: Context, event: Any = None, pauses: int = 0) -> None:  # noqa: ARG002 - Airflow's signature
        if pauses < 2:
            trigger = TimeDeltaTrigger(2 * SECOND)
            self.defer(trigger=trigger, method_name="execute", kwargs={"pauses": pauses + 1})


@dag(schedule=None, default_args={"retry_delay": SECOND}, tags=["demo"])
def demo() -> None:
    @task
    def fan_out() -> list[int]:
        return list(range(20))

    # Each of the twenty gets an ECS task of its own. `executor_config` holds RunTask parameters: here every one is
    # tagged, and our container (named as in [aws_ecs_executor] container_name) gets more memory and a variable.
    @task(
        executor_config={
            "tags": [{"key": "team", "value": "demo"}],
            "overrides": {
                "containerOverrides": [
                    {"name": "airflow", "memory": 512, "environment": [{"name": "GREETING", "value": "hello"}]}
                ]
            },
        }
    )
    def square(number: int) -> int:
        return number * number

    @task(retries=1)
    def fails_once(ti: Any = None) -> None:
        if ti.try_number == 1:
            raise RuntimeError("the first try always fails")

    @task(retries=0)
    def fails_for_good() -> None:
        raise RuntimeError("this task always fails")

    # Rescheduling: like deferring, but it asks again by itself, in a new container each time.
    @task.sensor(mode="reschedule", poke_interval=2, timeout=600)
    def asks_again(**context: Any) -> PokeReturnValue:
        return PokeReturnValue(is_done=context["task_reschedule_count"] >= 2)

    # Runs once all others have ended, whatever their end.
    @task(trigger_rule="all_done")
    def total() -> str:
        return "everything has ended"

    squares = square.expand(number=fan_out())
    [squares, fails_once(), fails_for_good(), PausesTwice(task_id="pauses"), asks_again()] >> total()


demo()
