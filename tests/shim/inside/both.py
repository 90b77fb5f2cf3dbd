"""Task instances put before both: Airflow itself, and the model of Airflow that the simulation leans on.

A `Case` is one task instance. Airflow gets all cases of a test at once, as the mapped task instances of one run; the
model gets them as task instances of their own. What both made of each is an `Outcome`, in words that mean the same.
"""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest
from airflow.utils.state import TaskInstanceState
from airflow.version import version

from reconciler.core.phase import TERMINAL, Desired, Phase
from reconciler.core.task import Spec, TaskKey, Workload
from reconciler.store.rows import row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


STATES: Final = (None, *(state.value for state in TaskInstanceState))
ACTIVE: Final = ("scheduled", "queued", "running", "restarting")

Job = Literal["mine", "another's", "nobody's"]
Owner = Literal["mine", "another's", "of the dead"]


@dataclass(frozen=True)
class Case:
    """One task instance as a test finds it, and what is asked of it."""

    number: int
    state: str | None = "queued"
    task: str = "once"
    tries: int = 1
    max_tries: int = 0
    job: Job = "mine"
    ext: str | None = "this"
    """Whose id it bears: of this case's queueing, of another, or none."""
    resumes: bool = False
    """It goes on after a deferral: `next_method` is set."""
    exists: bool = True
    beat: float | None = None
    """Seconds since its last heartbeat."""

    def __str__(self) -> str:
        plain = type(self)(self.number)
        told = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name != "number"]
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        return ", ".join(word for word in told if word.partition("=")[0] in changed) or "nothing special"

    @property
    def name(self) -> str:
        return f"t{self.number}"

    def exec_id(self, whose: str | None) -> str | None:
        return whose and f"{self.name}-{whose}"


@dataclass(frozen=True)
class Outcome:
    """A task instance afterwards. None where there is none."""

    state: str | None
    tries: int
    max_tries: int
    job: Job
    ext: str | None
    resumes: bool
    renewed: bool
    """It has a new id."""


@dataclass(frozen=True)
class Row:
    """A workload afterwards."""

    phase: str
    desired: str
    refused: bool
    acknowledged: bool
    owner: Owner
    version: int
    held: bool
    """Its key occupies the executor."""


def rows_of(
    case: Any, *, now: datetime, key: TaskKey, ti_id: str, owners: Mapping[int, Owner], deployment: str
) -> list[dict[str, Any]]:
    """The row of a case's workload, and that of a later queueing if there is one."""

    def ago(seconds: float) -> datetime:
        return now - timedelta(seconds=seconds)

    (owner,) = [job_id for job_id, whose in owners.items() if whose == case.owner]
    (mine,) = [job_id for job_id, whose in owners.items() if whose == "mine"]
    common: dict[str, Any] = {"deployment": deployment, "ti_id": ti_id, "key": key, "spec": Spec("{}"), "version": 5}
    this = Workload(
        exec_id=case.exec_id("this"),
        owner_job_id=owner,
        phase=Phase(case.phase),
        desired=Desired(case.desired),
        refused=case.refused and case.phase == "EXITED",
        attempt=1,
        exit_code=case.exit_code,
        start_failures=case.start_failures,
        stopped_at=ago(case.stopped),
        acked_version=5 if case.acknowledged and Phase(case.phase) in TERMINAL else 0,
        **common,
    )
    made = [row_of(this) | {"created_at": ago(case.waited + 10.0), "updated_at": ago(case.stopped)}]
    if case.later:
        later = Workload(exec_id=case.exec_id("another"), owner_job_id=mine, phase=Phase(case.later), **common)
        made.append(row_of(later) | {"created_at": ago(1.0), "updated_at": ago(1.0)})
    return made


def rows_in(
    table: Iterable[Mapping[str, Any]], cases: Sequence[Case], owners: Mapping[int, Owner], held: Callable[[Case], bool]
) -> dict[int, Row | None]:
    """What the table says of the cases' workloads, apart from those of later queueings."""
    found: dict[int, Row | None] = dict.fromkeys(case.number for case in cases)
    of = {case.exec_id("this"): case for case in cases}
    for row in table:
        if (case := of.get(row["exec_id"])) is None:
            continue
        found[case.number] = Row(
            row["phase"],
            row["desired"],
            bool(row["refused"]),
            row["acked_version"] == row["version"],
            owners[row["owner_job_id"]],
            row["version"],
            held(case),
        )
    return found


def differences(
    cases: Sequence[Case], airflow: Mapping[int, object], simulated: Mapping[int, object], limit: int = 10
) -> str:
    """Each case of which Airflow and the model made different things, for people. Empty if there is none."""
    lines = []
    for case in cases:
        real, ours = airflow[case.number], simulated[case.number]
        if real != ours:
            lines.append(f"{case.name}: {case}\n    Airflow: {real}\n    model:   {ours}")
    more = f"\nand {len(lines) - limit} more" if len(lines) > limit else ""
    return "\n".join(lines[:limit]) + more


def same(
    capsys: pytest.CaptureFixture[str], cases: Sequence[Case], airflow: Mapping[int, object], ours: Mapping[int, object]
) -> None:
    """Fail with what differs, and without the thousand lines that Airflow has logged."""
    capsys.readouterr()
    if differ := differences(cases, airflow, ours):
        pytest.fail(f"Airflow {version} and the model of it differ:\n{differ}", pytrace=False)


def sample(seed: str, count: int, **choices: Sequence[Any]) -> list[dict[str, Any]]:
    """So many different combinations of these choices, always the same ones for the same seed."""
    chance = random.Random(seed)
    seen: dict[tuple[Any, ...], None] = {}
    while len(seen) < count:
        seen[tuple(chance.choice(values) for values in choices.values())] = None
    return [dict(zip(choices, combination, strict=True)) for combination in seen]


def numbered(cases: Sequence[Case]) -> list[Any]:
    return [replace(case, number=number) for number, case in enumerate(cases)]
