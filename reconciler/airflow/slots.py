"""How many more task instances Airflow may queue here.

A task that waits in QUEUED runs against Airflow's `task_queued_timeout` and past Airflow's priorities. So it had better
wait in SCHEDULED until the quota has room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.store.shim import Demand

__all__ = ["Slots", "free_slots"]


def free_slots(demand: Demand, max_running_tasks: int, backlog: int) -> int:
    """Free slots of the quota, and a few more so that a slot that becomes free is used at once.

    None while no daemon is alive. At least one while the quota has room, so that workloads which can not be launched at
    the moment never keep all others out; but not without end.

    Airflow has one number for all queues. So what waits for a queue of its own that is full, or held, does not count
    against the others, nor does what waits at home while other accounts or regions have room; but if there is too much
    of that Airflow is given one slot at a time, until some is given back.
    """
    if not demand.daemon_alive or demand.held:
        return 0
    waiting = demand.pending - demand.blocked
    free = max_running_tasks - demand.in_flight - waiting
    free += max(0, int(min(backlog, 0.5 * demand.finished_last_minute)) - demand.at_home)
    room = demand.in_flight < max_running_tasks and waiting < max_running_tasks
    free = max(free, 1 if room else 0)
    return min(free, 1) if demand.blocked >= max_running_tasks else free


class Slots:
    """The last answer of `free_slots`, less what has been queued since. Reading it costs nothing."""

    def __init__(self, max_running_tasks: int, backlog: int) -> None:
        self._max_running_tasks = max_running_tasks
        self._backlog = backlog
        self._free = 0

    @property
    def free(self) -> int:
        return max(self._free, 0)

    def refresh(self, demand: Demand) -> None:
        self._free = free_slots(demand, self._max_running_tasks, self._backlog)

    def take(self) -> None:
        self._free -= 1
