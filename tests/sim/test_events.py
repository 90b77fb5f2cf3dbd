"""Events in the simulation: they are lost, come twice, hours late and in any order, and no rule is broken."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim import __main__ as cli
from tests.sim import sometimes
from tests.sim.check import check
from tests.sim.plan import Mail, Plan, Task, from_json, listening, plan, to_json
from tests.sim.universe import Universe

pytestmark = pytest.mark.timeout(600)

SEEDS = range(1, 25)


def test_no_rule_is_broken_and_every_path_of_events_is_taken() -> None:
    results = [cli.run(seed, events=True) for seed in SEEDS]
    assert [str(violation) for result in results for violation in result.violations] == []
    paths = sum((result.paths for result in results), Counter[str]())
    assert [path for path in sometimes.EVENT_PATHS if not paths[path]] == []


def test_the_same_seed_gives_the_same_trace() -> None:
    one, other = (Universe(listening(plan(2))).run() for _ in range(2))
    assert one == other


def test_a_plan_with_a_queue_can_be_kept() -> None:
    made = listening(plan(2))
    assert from_json(to_json(made)) == made


@pytest.mark.parametrize("mail", [Mail(), Mail(lost=1.0), Mail(outage=(0.0, 7200.0)), Mail(late=1.0)])
def test_ends_are_seen_whatever_becomes_of_events(mail: Mail) -> None:
    """In a world where nothing else goes wrong."""
    tasks = tuple(Task(f"t{n}", 60.0 * n, ((30.0, "success"),), 0, 1, 0) for n in range(10))
    trace = Universe(Plan(seed=1, chaos=3600.0, tasks=tasks, mail=mail)).run()
    assert check(trace) == []
    at = {event["name"]: event["t"] for event in trace if event["kind"] == "ti" and event["state"] == "success"}
    assert all(at[task.name] < task.born + 600 for task in tasks)
    applied = sum(event["kind"] == "heard" and event["result"] == "applied" for event in trace)
    assert (applied > 0) is (mail == Mail())
