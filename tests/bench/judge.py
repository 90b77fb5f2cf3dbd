"""What went wrong in a run, and how long things took: from what far end, scheduler and tables have noted."""

from __future__ import annotations

import os
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.bench.stand import OURS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.bench.stand import Stand

BURST, RATE = 20.0, 20.0
"""What ECS accepts of RunTask on Fargate: calls at once, and calls per second."""
STEP: Final = 0.5
"""Seconds between two points of a curve."""


def limit(number: int) -> float:
    """Seconds in which ECS can accept so many RunTask calls at best."""
    return max(0.0, number - BURST) / RATE


def spread(values: Iterable[float]) -> dict[str, float]:
    """Number, median, 99th percentile (the largest, of fewer than a hundred) and maximum."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    return {"n": len(ordered)} | {
        name: round(ordered[min(last, -int(-share * len(ordered) // 1) - 1)], 4) for name, share in at.items()
    }


@dataclass(frozen=True)
class Facts:
    """Everything that was noted about one run."""

    system: str
    tasks: list[dict[str, Any]]
    calls: list[list[Any]]
    admitted: list[list[Any]]
    late: list[float]
    beats: list[dict[str, Any]]
    queued: list[dict[str, Any]]
    instances: list[dict[str, Any]]
    workloads: list[dict[str, Any]]
    known: dict[str, Any]

    # -- wrong outcomes ----------------------------------------------------------------------------------------------

    def wrong(self, killed_at: float | None = None) -> dict[str, int]:
        """Counts of what must never happen. No task of the benchmark fails by itself."""
        states = [ti["state"] for ti in self.instances]
        return {
            "launched_twice": self._twice(),
            "orphans": self._orphans(killed_at),
            "lost": self._lost(),
            "failed": sum(state in ("failed", "up_for_retry", "upstream_failed") for state in states),
        }

    def _twice(self) -> int:
        """ECS tasks beyond the first of a task instance that were made although an earlier one lived, or had run its
        code."""
        ran = {arn for _, _, arn in self.admitted}
        by_index: dict[int, list[dict[str, Any]]] = {}
        # What carries no task instance has no code to run: a launch that was only asked for.
        carrying = [task for task in self.tasks if task["ti"]]
        for task in sorted(carrying, key=lambda task: float(task["made"])):
            by_index.setdefault(task["index"], []).append(task)
        return sum(
            any(before["arn"] in ran or before["live"] or before["stopped"] > task["made"] for before in tasks[:number])
            for tasks in by_index.values()
            for number, task in enumerate(tasks)
        )

    def _orphans(self, killed_at: float | None) -> int:
        """ECS tasks that the executor which runs at the end never knew, though they lived in its time."""
        if self.system == OURS:
            known = {w["task_arn"] for w in self.workloads}
            # A launch that is open and has no ARN yet knows its task by the token.
            known |= {task["arn"] for task in self.tasks if task["index"] in self._launching()}
            until = float("inf")
        else:
            known, until = set(self.known["arns"]), self.known["t"]
        return sum(
            task["arn"] not in known
            and task["made"] < until
            and (killed_at is None or task["live"] or task["stopped"] > killed_at)
            for task in self.tasks
        )

    def _launching(self) -> set[int]:
        return {w["index"] for w in self.workloads if w["open"] and w["task_arn"] is None}

    def _lost(self) -> int:
        """Task instances that Airflow takes for queued or running, and that nobody does anything about any more."""
        live = {task["ti"] for task in self.tasks if task["live"]}
        if self.system == OURS:
            tended = {w["index"] for w in self.workloads if w["open"]}
        else:
            tended = set(self.known["indexes"])
            # A heartbeat that has not ended yet may know more than the last that has.
            tended |= {index for note in self.queued if note["t"] > self.known["t"] for index in note["indexes"]}
        return sum(
            ti["state"] in ("queued", "running") and ti["id"] not in live and ti["index"] not in tended
            for ti in self.instances
        )

    # -- times -------------------------------------------------------------------------------------------------------

    def began(self) -> float:
        """When the first task instance was committed as QUEUED."""
        return float(self.queued[0]["t"])

    def made(self) -> list[float]:
        """When ECS accepted each RunTask, in order."""
        return sorted(float(task["made"]) for task in self.tasks)

    def stops(self) -> list[float]:
        return sorted(float(task["stopped"]) for task in self.tasks if task["stopped"] is not None)

    def seconds_to(self, number: int) -> float | None:
        """From the commit of the first QUEUED to the acceptance of the launch of this number."""
        made = self.made()
        return round(made[number - 1] - self.began(), 2) if len(made) >= number else None

    def detection(self, since: float, until: float = float("inf")) -> dict[str, float]:
        """Seconds from STOPPED in ECS to the heartbeat after which the key is not in `running`, for stops in a window.

        The official executor sees an end before STOPPED, by the container's exit code: that counts as 0.
        """
        left: dict[int, list[float]] = {}
        for beat in self.beats:
            for index in beat["left"]:
                insort(left.setdefault(index, []), beat["t"])
        found = []
        for task in self.tasks:
            if task["stopped"] is not None and since <= task["stopped"] <= until:
                when = left.get(task["index"], [])
                place = bisect_left(when, task["made"])
                if place < len(when):
                    found.append(max(0.0, when[place] - task["stopped"]))
        return spread(found)

    def not_detected(self, since: float) -> int:
        """Stops of which nobody had heard when the run ended."""
        return sum(stop >= since for stop in self.stops()) - int(self.detection(since)["n"])

    def sending(self, since: float, until: float = float("inf")) -> dict[str, float]:
        """Seconds from the commit of QUEUED to the arrival of RunTask."""
        sent: dict[int, float] = {}
        for at, operation, _, index, _ in self.calls:
            if operation == "RunTask":
                sent.setdefault(index, at)
        return spread(
            sent[index] - note["t"]
            for note in self.queued
            if since <= note["t"] <= until
            for index in note["indexes"]
            if index in sent
        )

    def heartbeats(self, since: float = 0.0, until: float = float("inf")) -> dict[str, float]:
        """Airflow's own timer around the executor's heartbeat."""
        return spread(beat["seconds"] for beat in self.beats if since <= beat["t"] <= until)

    def rate(self, operation: str, since: float, until: float) -> float:
        """Calls per second."""
        number: int = sum(name == operation and since <= at <= until for at, name, *_ in self.calls)
        return round(number / (until - since), 2)

    def refusals(self) -> int:
        """Calls that ECS throttled."""
        return sum(result == "ThrottlingException" for _, _, result, _, _ in self.calls)

    def running(self, at: float, what: str = "started") -> int:
        """Tasks that ran, or with `made` tasks that existed, at a moment."""
        return sum(
            task[what] is not None and task[what] <= at and (task["stopped"] is None or task["stopped"] > at)
            for task in self.tasks
        )

    def mean_live(self, since: float, until: float) -> float:
        """Tasks that existed, on the average of a window: the integral, not samples."""
        total = 0.0
        for task in self.tasks:
            end = until if task["stopped"] is None else min(until, task["stopped"])
            total += float(max(0.0, end - max(since, task["made"])))
        return total / (until - since)

    def seconds_in_slot(self) -> float:
        """How long an ECS task exists, on average."""
        ended: list[float] = [task["stopped"] - task["made"] for task in self.tasks if task["stopped"] is not None]
        return sum(ended) / len(ended) if ended else 0.0

    def curve(self, seconds: float) -> list[tuple[float, int]]:
        """Running tasks over time, from the first commit of QUEUED."""
        began = self.began()
        return [(step * STEP, self.running(began + step * STEP)) for step in range(int(seconds / STEP) + 1)]

    def noise(self) -> dict[str, Any]:
        """How late the far end was itself, and how much there was to do on this machine."""
        return {
            "far_end_late": spread(self.late),
            "far_end_own_seconds_per_call": spread(own for *_, own in self.calls),
            "load": [round(load, 1) for load in os.getloadavg()],
        }


def examine(stand: Stand) -> Facts:
    """Ask everybody."""
    report = stand.ecs.do("report")
    ours = stand.system == OURS
    return Facts(
        system=stand.system,
        tasks=report["tasks"],
        calls=report["calls"],
        admitted=report["admitted"],
        late=report["late"],
        beats=stand.notes("beat"),
        queued=stand.notes("queued"),
        instances=stand.database.task_instances(),
        workloads=_workloads(stand) if ours else [],
        known={} if ours else stand.known_in_memory(),
    )


def _workloads(stand: Stand) -> list[dict[str, Any]]:
    """All launches that the table knows, and whether anybody still tends them."""
    return stand.database.all(
        "SELECT w.map_index AS index, a.task_arn, (w.phase NOT IN ('EXITED', 'FAILED_START', 'CANCELLED', 'LOST') "
        "OR w.acked_version < w.version) AS open "
        "FROM ecs_workload w LEFT JOIN ecs_launch_attempt a ON a.exec_id = w.exec_id"
    )
