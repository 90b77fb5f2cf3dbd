"""The demo's last words: a table of every try, the totals, and the checks that decide the exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.table import Table

from reconciler.core.phase import Phase
from reconciler.demo.world import started_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rich.console import Console

    from reconciler.core.task import Workload
    from reconciler.demo.world import World

__all__ = ["EXPECTED", "Check", "Expected", "checks", "show_checks", "show_totals", "show_tries"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What must become of each task instance of a task, and how often Airflow queues each of its tries."""

    state: str = "success"
    instances: int = 1
    tries: int = 1
    queued_per_try: int = 1


EXPECTED: Final[Mapping[str, Expected]] = {
    "fan_out": Expected(),
    "square": Expected(instances=20),
    "fails_once": Expected(tries=2),
    "fails_for_good": Expected(state="failed"),
    "pauses": Expected(queued_per_try=3),
    "asks_again": Expected(queued_per_try=3),
    "total": Expected(),
}
"""By the task ids of `dags/demo.py`."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold. `wrong` says where it does not."""

    name: str
    wrong: Sequence[str]

    @property
    def holds(self) -> bool:
        return not self.wrong


def checks(world: World) -> list[Check]:
    """Everything that must hold at the end, whatever was killed on the way."""
    return [
        Check("every task instance is in the expected state", _states(world)),
        Check("every try was queued as often as it has to be", _queueings(world)),
        Check("exactly one ECS task ran for each queueing", _ecs_tasks(world)),
        Check("nothing is left running", _running(world)),
        Check("Airflow has been told every outcome", _untold(world)),
    ]


def _states(world: World) -> list[str]:
    wrong = []
    found = Counter(instance["task_id"] for instance in world.instances)
    for task_id, expected in EXPECTED.items():
        if found[task_id] != expected.instances:
            wrong.append(f"{task_id} has {found[task_id]} task instances instead of {expected.instances}")
    for instance in world.instances:
        expected = EXPECTED[instance["task_id"]]
        name = f"{instance['task_id']}[{instance['map_index']}]"
        if instance["state"] != expected.state:
            wrong.append(f"{name} is {instance['state']} instead of {expected.state}")
        if instance["try_number"] != expected.tries:
            wrong.append(f"{name} ended with try {instance['try_number']} instead of {expected.tries}")
    return wrong


def _queueings(world: World) -> list[str]:
    found = Counter((w.key.task_id, w.key.map_index, w.key.try_number) for w in world.rows)
    wrong = []
    for task_id, expected in EXPECTED.items():
        for index in range(expected.instances) if expected.instances > 1 else (-1,):
            for number in range(1, expected.tries + 1):
                times = found.pop((task_id, index, number), 0)
                if times != expected.queued_per_try:
                    wrong.append(f"{task_id}[{index}] try {number}: {times} times instead of {expected.queued_per_try}")
    return wrong + [f"{task_id}[{index}] try {number} was queued as well" for task_id, index, number in found]


def _ecs_tasks(world: World) -> list[str]:
    wrong = [
        f"{w.key}, queued as {w.exec_id}: {len(tasks)} ECS tasks"
        for w in world.rows
        if len(tasks := world.tasks_of(w)) != 1
    ]
    known = {w.exec_id for w in world.rows}
    return wrong + [
        f"{task['taskArn']} belongs to no queueing" for task in world.tasks if started_for(task) not in known
    ]


def _running(world: World) -> list[str]:
    wrong = [f"{task['taskArn']} is {task['lastStatus']}" for task in world.tasks if task["lastStatus"] != "STOPPED"]
    return wrong + [f"{w.key} is {w.phase}" for w in world.rows if not w.terminal]


def _untold(world: World) -> list[str]:
    return [f"{w.key}, queued as {w.exec_id}" for w in world.rows if w.acked_version < w.version]


def show_tries(console: Console, world: World) -> None:
    """Every queueing of every try: its ECS task, exit code, and the seconds that it spent in each stage.

    The stages: waiting for its launch, starting in ECS, running, and ended but not yet seen by the daemon.
    It fits into 80 columns.
    """
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("task", "try", "state", "ECS task", "exit"):
        table.add_column(name, no_wrap=True)
    for name in ("waited", "start", "ran", "seen"):
        table.add_column(name, no_wrap=True, justify="right")
    states = {(i["task_id"], i["map_index"], i["try_number"]): i["state"] for i in world.instances}
    numbered: Counter[tuple[str, int, int]] = Counter()
    for w in sorted(world.rows, key=lambda w: (w.key.task_id, w.key.map_index, w.key.try_number, w.created_at)):
        key = (w.key.task_id, w.key.map_index, w.key.try_number)
        numbered[key] += 1
        again = f", {numbered[key]}x" if numbered[key] > 1 else ""
        index = f"[{w.key.map_index}]" if w.key.map_index >= 0 else ""
        table.add_row(
            f"{w.key.task_id}{index}".replace("[", r"\["),
            f"{w.key.try_number}{again}",
            _state(w, states.get(key)),
            " ".join(task["taskArn"].rpartition("/")[2][:8] for task in world.tasks_of(w)) or "none",
            "-" if w.exit_code is None else str(w.exit_code),
            _seconds(w.created_at, w.intent_at),
            _seconds(w.intent_at, w.started_at),
            _seconds(w.started_at, w.stopped_at),
            _seconds(w.stopped_at, w.updated_at),
        )
    console.print("\nEvery queueing, and the seconds from one stage to the next\n", highlight=False)
    console.print(table)


def _state(w: Workload, state: str | None) -> str:
    """Airflow shows the state of the last try only; of an earlier one we know how its container ended."""
    return state or ("ended" if w.phase is Phase.EXITED else w.phase.lower())


def _seconds(begin: datetime | None, end: datetime | None) -> str:
    """Never less than none: one of the two may be by ECS's clock, the other by the database's."""
    return "-" if begin is None or end is None else f"{max(0.0, (end - begin).total_seconds()):.1f}"


def show_totals(console: Console, world: World, seconds: float) -> None:
    """The same in a sentence."""
    tries = len({(w.key.task_id, w.key.map_index, w.key.try_number) for w in world.rows})
    attempts = sum(w.attempt for w in world.rows)
    console.print(
        f"\n{len(world.instances)} task instances, {tries} tries, queued {len(world.rows)} times, {attempts} launches, "
        f"{len(world.tasks)} ECS tasks; the DAG run took {seconds:.0f} s.",
        highlight=False,
        soft_wrap=True,
    )


def show_checks(console: Console, found: Sequence[Check]) -> None:
    """Each check, and where it does not hold."""
    for check in found:
        console.print(
            f"  {'[green]ok    [/]' if check.holds else '[bold red]FAILED[/]'}  {check.name}", highlight=False
        )
        for line in check.wrong:
            console.print(f"            {line}", markup=False, highlight=False, soft_wrap=True)
