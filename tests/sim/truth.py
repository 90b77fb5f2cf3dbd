"""What the checker knows of a universe: the ground truth, as the trace tells it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

TERMINAL: Final = frozenset({"EXITED", "FAILED_START", "CANCELLED", "LOST"})
MAX_ATTEMPTS: Final = 3
SECRET: Final = "eyJ"
WITHOUT_ROW: Final = 900.0
"""Seconds in a healed world within which a QUEUED task instance has a row, or is taken back as stuck in QUEUED."""
LONGEST_STALL: Final = 5000.0
ACTIVE: Final = frozenset({"queued", "running", "restarting"})


@dataclass(frozen=True)
class Violation:
    """`rule` was broken at `t`; `ids` are the task instances, workloads and tasks that the story is about."""

    rule: str
    t: float
    text: str
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule} at {self.t:.0f} s: {self.text}"


@dataclass
class EcsTask:
    """Ground truth of one ECS task."""

    arn: str
    id: str
    attempt: int
    ti: str | None
    ran: bool = False
    ended: bool = False
    """Our container has exited, or the task is STOPPED."""
    stopped: float | None = None
    forgotten: bool = False
    code: int | None = None
    why: str = ""
    stop_code: str | None = None
    works: bool = False
    admitted: bool = False
    admitted_at: float = 0.0
    withdrawn: bool = False
    """Whoever called for it knew that it was not wanted any more."""


@dataclass
class Instance:
    """Ground truth of one task instance."""

    state: str | None = None
    id: str = ""
    ext: str | None = None
    succeeded: bool = False
    restarted_at: float = float("-inf")
    """When it was last seen RESTARTING."""
    queued_at: float = 0.0
    adopted: str | None = None
    """The queueing that a scheduler adopted: nobody delivered meanwhile, and Airflow counts that time too."""
    hampered: bool = False
    """Since it ran, it was stuck in QUEUED at least once while the database failed its scheduler now and then, there
    was none, or both ECS and Airflow's API server were in trouble."""


@dataclass
class Known:
    """What the trace has told so far, and what was found wrong in it."""

    violations: list[Violation] = field(default_factory=list)
    t: float = 0.0
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    ti_of: dict[str, str | None] = field(default_factory=dict)
    of_ti: dict[str, list[str]] = field(default_factory=dict)
    tasks: dict[str, EcsTask] = field(default_factory=dict)
    launches: dict[tuple[str, int], list[EcsTask]] = field(default_factory=dict)
    tokens: dict[tuple[str | None, int | None], str] = field(default_factory=dict)
    intents: dict[tuple[str, int], float] = field(default_factory=dict)
    left: dict[tuple[str, int], float] = field(default_factory=dict)
    tis: dict[str, Instance] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    believed_absent: set[tuple[str, int]] = field(default_factory=set)
    """Launches of which a listing showed nothing while ECS hid them, and too few others for the breaker."""
    asked_to_stop: set[str] = field(default_factory=set)
    """ARNs for which the daemon called StopTask."""
    excused: set[str] = field(default_factory=set)
    """Workloads whose row somebody deleted by hand, and their task instances."""
    own_faults: dict[str, int] = field(default_factory=dict)
    """How many starts of a workload failed for a reason of its own."""
    admissions: dict[str, int] = field(default_factory=dict)
    callbacks: dict[str, list[int]] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)
    desired_at: dict[str, float] = field(default_factory=dict)
    stop_version: dict[str, int] = field(default_factory=dict)
    """From which version on each row has said that its workload is not wanted any more."""
    submitted: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """By caller, workload and attempt: the version of the row for which RunTask was last called."""
    stopping_at: dict[str, float] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)
    owned_at: dict[str, float] = field(default_factory=dict)
    synced: dict[int, float] = field(default_factory=dict)
    """When each scheduler last delivered with nothing in its way."""
    upkept: dict[int, list[float]] = field(default_factory=dict)
    """When each scheduler compared all its open rows with what Airflow wants, with nothing in its way."""
    inactive_since: dict[str, float] = field(default_factory=dict)
    """When Airflow ceased to want a workload."""
    epochs: dict[str, int] = field(default_factory=dict)
    """The newest epoch under which each lease was used."""
    faulty: set[str] = field(default_factory=set)
    """Task instances whose starts were made to fail or to hang."""
    poisoned: set[str] = field(default_factory=set)
    """Task instances that no launch can be made of."""
    healed_at: float = float("inf")
    remembered: dict[str, str] = field(default_factory=dict)
    """Rows by which the database knows that containers can reach Airflow's API server at all, and from which shard."""
    restored: bool = False
    hidden: bool = False
    """ECS showed nothing, of so few tasks that the breaker cannot judge."""
    ever_hidden: bool = False
    api_until: float = float("-inf")
    """When Airflow's API server was last away. While it is, for ever."""
    ecs_until: float = float("-inf")
    echo_at: float = float("-inf")
    """When a task was last stopped that had told its outcome before Airflow's API server went away."""
    flaky_until: float = float("-inf")
    stale: bool = False
    """DescribeTasks showed for many minutes what had been true before."""
    calls: deque[float] = field(default_factory=deque)

    def has_admitted(self, exec_id: str | None) -> bool:
        """Whether the database knows that containers can reach the API server from where this workload runs."""
        return self.rows.get(exec_id or "", {}).get("shard") in self.remembered.values()

    def broken(self, rule: str, text: str, *ids: str | None) -> None:
        self.violations.append(Violation(rule, self.t, text, tuple(i for i in ids if i)))


def name_of(text: str) -> str:
    """The task instance or callback in `t1 queued` or `t1-2 EXITED`."""
    return text.partition(" ")[0].partition("-")[0]


def short(arn: str | None) -> str:
    return (arn or "").rsplit("/", 1)[-1][:8]
