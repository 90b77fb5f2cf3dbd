"""Queues in the simulation: one that is full starves no other, and several shards keep all the rules."""

from __future__ import annotations

import pytest

from tests.sim import __main__ as cli
from tests.sim.check import check
from tests.sim.plan import Plan, Task
from tests.sim.trouble import HOUR, Trouble
from tests.sim.universe import Universe

pytestmark = pytest.mark.timeout(600)

LONG = tuple(Task(f"long{n}", 0.0, ((2 * HOUR, "success"),), 0, 5, 0, queue="full") for n in range(20))
SHORT = tuple(Task(f"short{n}", 300.0 + 20 * n, ((30.0, "success"),), 0, 1, 0, queue="other") for n in range(15))
FAR = tuple(Task(f"far{n}", 300.0 + 20 * n, ((30.0, "success"),), 0, 1, 0, queue="far") for n in range(15))


def ended(plan: Plan) -> dict[str, float]:
    """When each task instance succeeded, in seconds. Fails if a rule was broken on the way."""
    trace = Universe(plan).run()
    assert check(trace) == []
    return {event["name"]: event["t"] for event in trace if event["kind"] == "ti" and event["state"] == "success"}


def test_a_queue_full_of_two_hour_tasks_keeps_no_other_waiting() -> None:
    """Twenty tasks of two hours, more urgent than all others, have a share of four of the twelve slots at home."""
    queues = (("full", 4, ""), ("other", 8, ""), ("far", 8, "far"))
    at = ended(Plan(seed=1, chaos=1.5 * HOUR, tasks=LONG + SHORT + FAR, queues=queues, max_running_tasks=20))
    assert all(at[task.name] < task.born + 15 * 60 for task in SHORT + FAR)
    assert min(at[task.name] for task in LONG) > 1.5 * HOUR


def test_without_shares_it_would() -> None:
    at = ended(Plan(seed=1, chaos=1.5 * HOUR, tasks=LONG + SHORT, max_running_tasks=12))
    assert all(at[task.name] > 1.5 * HOUR for task in SHORT)


@pytest.mark.parametrize("seed", [73001, 73005, 73009, 73013])
def test_no_rule_is_broken_where_there_are_queues_and_accounts(seed: int) -> None:
    assert cli.run(seed, queues=True).violations == []


def test_the_shards_of_a_lost_replica_go_on_with_the_others_within_a_leases_life() -> None:
    """Twenty accounts and regions on three replicas. One of them dies and stays away, and more is queued for each."""
    names = [f"r{n:02}" for n in range(20)]
    lease, dies = 150.0, 900.0
    first = [Task(f"a{name}", 0.0, ((60.0, "success"),), 0, 1, 0, queue=name) for name in names]
    later = [Task(f"b{name}", dies, ((60.0, "success"),), 0, 1, 0, queue=name) for name in names]
    lost = Trouble(
        dies, "a process dies",
        {"kind": "daemon", "which": 1, "seams": 0, "where": "", "seconds": 3600.0, "orderly": False},
    )  # fmt: skip
    at = ended(
        Plan(
            seed=1,
            chaos=1.0 * HOUR,
            tasks=(*first, *later),
            troubles=(lost,),
            replicas=3,
            lease_seconds=lease,
            max_running_tasks=60,
            queues=tuple((name, 2, name) for name in names),
        )
    )
    # It runs out, is tried for three times in its life, and then the loops of the new leader come round.
    assert all(at[task.name] < dies + lease * 4 / 3 + 300 for task in later)
    assert any(at[task.name] > dies + lease for task in later)
