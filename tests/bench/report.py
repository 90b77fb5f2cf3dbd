"""The report: what was measured, beside the other executor, the limit and the budget. Everything comes from the run."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.bench.budgets import BUDGETS, Look
from tests.bench.figure import draw
from tests.bench.stand import OURS, PEER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.bench.sizes import Sizes

Results = dict[str, dict[str, Any]]
PACKAGES: Final = ("apache-airflow-core", "apache-airflow-providers-amazon", "boto3", "SQLAlchemy")
WRONG: Final = ("launched_twice", "orphans", "lost", "failed")
STORIES: Final = {
    "fill": "{first} task instances become SCHEDULED at once; `max_tis_per_query` 512.",
    "live": "{live} tasks run, the last {trickle} of them queued one at a time. Nothing happens for {idle:g} s; "
    "{ends} end one at a time; {second} are queued at once with `max_tis_per_query` 16 while others end, four a "
    "second.",
    "live_events": "The same, with a queue of events.",
    "churn": "{churn} tasks of {churn_seconds:g} s, {churn_slots} slots: ECS's launch rate, and not the slots, is the "
    "limit.",
    "slots": "{slots_tasks} tasks that take {slots_seconds:g} s on average, from half to one and a half times as long, "
    "in {slots} slots: here the slots are the limit.",
    "slots_events": "The same, with a queue of events.",
    "noisy": "{noisy} tasks, while a neighbour uses half of the account's rate, and for {noisy_greedy:g} s all of it.",
    "heartbeat": "{queued} workloads are queued and {live} run, five of them end every half second; the shim makes no "
    "call to AWS, so rows are moved by the benchmark.",
    "passes": "{live} tasks run; the far end has no latency, so that the table is what differs.",
    "quota": "{quota_tasks} tasks of 15 minutes, and the account has room for {quota}; both executors are told that "
    "they may run twice as many. Durations and `task_queued_timeout` are scaled 1:{scale}; the launch rate can not be, "
    "so there are fewer tasks than 1,000 against 500.",
    "quota_long": "A fifth more tasks of two hours than the account has room for ({quota}), the same scale; cut off "
    "after {long_cut:g} s (the official executor after {peer_cut:g} s).",
    "outage": "ECS answers 503 to everything for {outage_for:g} s in the middle of {outage} launches, while tasks end.",
    "down": "Our daemon is away for 45 minutes, scaled at twice 1:{scale}, with launches under way, tasks waiting and "
    "others ending. The 20 minutes for which a launch is sent again are not scaled: it is sent again, although Airflow "
    "has queued its task anew.",
    "lost": "For {lost_for:g} s ECS launches what is asked for, and no answer of RunTask arrives; {lost} tasks.",
    "killed": "SIGKILL to the scheduler in the middle of {killed} launches; to our daemon too. Another starts.",
    "eventual": "DescribeTasks answers MISSING for 3 s after a launch; {eventual} tasks of 8 s.",
    "whole_16": "Airflow's whole scheduler on a DAG with a task that is mapped {mapped} times, `max_tis_per_query` 16; "
    "it goes on for a minute when all are launched.",
    "whole_512": "The same with `max_tis_per_query` 512.",
    "mapped": "The same DAG with nothing played but ECS: Airflow's API server answers, and each of {mapped} containers "
    "is a process, forked from one that has imported Airflow, which runs the command that ECS was given; 32 at once. "
    "Ours only: what is shown is that all of it works, and with the official executor the same processes would run.",
}


@dataclass(frozen=True)
class About:
    """What the figures depend on."""

    sizes: Sizes
    machine: str
    versions: str


def about(sizes: Sizes) -> About:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return About(
        sizes,
        f"{len(os.sched_getaffinity(0))} cores of {cpu}, {memory:.0f} GiB",
        f"Python {platform.python_version()}, {versions}",
    )


def write_report(results: Results, what: About, page: Path, picture: Path) -> None:
    """Write the page and its figure."""
    draw(results, picture)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(results, what, os.path.relpath(picture, page.parent)))


def render(results: Results, what: About, picture: str) -> str:
    """The page."""
    sizes = what.sizes
    minutes = sum(result["seconds"] for result in results.values()) / 60
    postgres = next((result["postgres"] for result in results.values()), "-")
    ended = sorted(result["ended"] for result in results.values())
    commits = sorted({result["commit"] for result in results.values()})
    form = (
        "This is the whole benchmark: figures that are times were measured one at a time."
        if sizes.name == "full"
        else "**This is the short form** (`make bench QUICK=1`): small numbers, and several scenarios at a time on the "
        "same cores. It shows what happens, not how fast it can be; `make bench` measures that."
    )
    parts = [
        "# Benchmark",
        f"{_INTRODUCTION} {form} The page is written by the run.",
        f"![Running tasks over time]({picture})",
        "## Budgets",
        "What this project promises itself, and whether this run kept it.",
        _table(
            ("what", "the limit, or the official executor", "budget", "measured", "met"),
            (budget.row(Look(results), sizes) for budget in BUDGETS),
        ),
        "## Wrong outcomes",
        _WRONG,
        _table(
            ("scenario", "executor", "launched twice", "orphans", "lost", "failed", "refused", "launched", "end"),
            _outcomes(results),
        ),
        "## Scenarios",
        _table(("scenario", "what happens"), _stories(results, sizes)),
        _FAR_END,
        "## The run",
        _table(
            ("", ""),
            (
                ("commit", ", ".join(f"`{commit}`" for commit in commits)),
                ("when", f"{ended[0]} to {ended[-1]}" if ended else "-"),
                ("machine", what.machine),
                ("versions", f"{what.versions}, PostgreSQL {postgres} with fsync"),
                ("sum of all scenarios", f"{minutes:.1f} minutes"),
            ),
        ),
        _QUIET,
        _table(
            ("scenario", "executor", "late, p99", "late, max", "own time in a call, p99", "load", "seconds"),
            _noise(results),
        ),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


_INTRODUCTION: Final = (
    "This project and Airflow's official `AwsEcsExecutor`, one after the other, against the same far end, in one run."
)
_WRONG: Final = """\
No task of the benchmark fails by itself, so all of these should be 0. *Launched twice*: ECS tasks beyond a task
instance's first, made although that one lived or had run its code. *Orphans*: ECS tasks that lived and that the
executor never knew. *Lost*: task instances that nobody does anything about any more. *Failed*: what Airflow shows as
failed. *Refused*: calls that ECS throttled. *Cut off*: the end was not waited for."""
_QUIET: Final = """\
How quiet it was: how much later than it should the far end's process woke up, its own time in a call (without the
latency that it plays), and the load of the machine at the end of each scenario (1, 5, 15 minutes)."""
_FAR_END: Final = """\
The far end is [the local ECS](local-ecs.md) in a process of its own, with AWS's published rates (RunTask on Fargate: 20
at once and 20 a second), quotas where a scenario says so, and a network's latency: RunTask's answers take 150 ms in the
median and 600 ms in the 99th percentile, those of the other calls 60 ms; an event is on its way for 30 to 130 ms, which
is [what AWS says of
EventBridge](https://aws.amazon.com/about-aws/whats-new/2024/11/amazon-eventbridge-improvement-latency-event-buses/) in
the 99th percentile. A task is RUNNING after a quarter of a second, because a start in Fargate takes equally long for
everybody. Containers are played: their supervisors ask Airflow for leave, beat every five seconds and tell the outcome
by the statements that Airflow's Execution API makes of that.

Both executors run in Airflow's own scheduler process, with its own loop, critical section, timers, event handling and
adoption; only the part that turns DAG runs into SCHEDULED task instances is left out, except in the scenarios that say
"whole scheduler". The time of a heartbeat is Airflow's own timer, `scheduler.executor_heartbeat_duration`. Our daemon
is `ecs-reconciler run`. Settings are defaults unless a scenario names them; `[core] parallelism` is the number of
slots, and for ours `[ecs_reconciler] backlog` (50) more, as [tuning](tuning.md) says.

`make bench` runs all of it, resumes when interrupted, and writes this page; `make bench QUICK=1` is the short form,
which writes to `.bench/quick`. The raw results are in `.bench`. [Performance](performance.md) tells where the time
goes."""


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    def line(cells: Iterable[object]) -> str:
        return f"| {' | '.join(str(cell) for cell in cells)} |"

    names = list(head)
    return "\n".join([line(names), line("---" for _ in names), *(line(row) for row in rows)])


def _stories(results: Results, sizes: Sizes) -> Iterable[tuple[str, str]]:
    ran = {key.rpartition("-")[0] for key in results}
    for name, story in STORIES.items():
        if name in ran:
            yield name, story.format(**{field: getattr(sizes, field) for field in sizes.__dataclass_fields__})


def _outcomes(results: Results) -> Iterable[tuple[object, ...]]:
    for name in STORIES:
        for system in (OURS, PEER):
            if (found := results.get(f"{name}-{system}")) and not name.startswith(("heartbeat", "whole", "passes")):
                wrong = [found["wrong"][what] for what in WRONG]
                shown = [f"**{number}**" if number else 0 for number in wrong]
                launched = found["figures"].get("launched", "-")
                yield name, system, *shown, found["refusals"], launched, "cut off" if found["cut"] else "complete"


def _noise(results: Results) -> Iterable[tuple[object, ...]]:
    for name in STORIES:
        for system in (OURS, PEER):
            if found := results.get(f"{name}-{system}"):
                noise = found["noise"]
                late, own = noise["far_end_late"], noise["far_end_own_seconds_per_call"]
                load = " ".join(f"{load:g}" for load in noise["load"])
                yield (
                    name,
                    system,
                    *(f"{1000 * of.get(at, 0):.0f} ms" for of, at in ((late, "p99"), (late, "max"), (own, "p99"))),
                    load,
                    f"{found['seconds']:.0f}",
                )
