"""The simulation, as far as the suite has time for it, and the proof that it can fail."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.sim import __main__ as cli
from tests.sim import mutants, sometimes
from tests.sim.check import check
from tests.sim.plan import plan
from tests.sim.shrink import shrink
from tests.sim.story import tell
from tests.sim.universe import Universe

pytestmark = pytest.mark.timeout(600)

COVER: tuple[int, ...] = ()
"""Seeds that together take every path of `sometimes.PATHS`: `python -m tests.sim 300 1 --cover`."""

BUDGETS: dict[str, tuple[int, ...]] = {}
"""For each planted fault the seeds within which it must be found. Found in advance; one of them would do."""


def regressions() -> list[int]:
    lines = (Path(__file__).parent / "regressions.txt").read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


@cache
def told(seed: int) -> cli.Result:
    return cli.run(seed)


@pytest.mark.parametrize("seed", [*COVER, *regressions()])
def test_no_rule_is_broken(seed: int) -> None:
    assert told(seed).violations == []


def test_every_path_is_taken() -> None:
    paths: Counter[str] = Counter()
    for seed in COVER:
        paths += told(seed).paths
    assert [path for path in sometimes.PATHS if not paths[path]] == []


@pytest.mark.parametrize("name", sorted(mutants.MUTANTS))
def test_a_planted_fault_is_found(name: str) -> None:
    assert any(cli.run(seed, name).violations for seed in BUDGETS[name])


def digest(seed: int) -> str:
    lines = (json.dumps(event, default=str) for event in Universe(plan(seed)).run())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_a_seed_gives_the_same_trace_again_whatever_the_order_of_sets() -> None:
    seeds = COVER[:2]
    here = [digest(seed) for seed in seeds]
    assert here == [digest(seed) for seed in seeds]
    program = f"from tests.sim.test_sim import digest; print(*(digest(seed) for seed in {seeds}))"
    for hash_seed in ("1", "2"):
        elsewhere = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed, "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert elsewhere.stdout.split() == here


def test_a_failing_universe_is_shrunk_to_a_short_story() -> None:
    with mutants.planted("random_token"):
        (seed,) = BUDGETS["random_token"][:1]
        (first, *_) = check(Universe(plan(seed)).run())
        short = shrink(plan(seed), first.rule, runs=40)
        trace = Universe(short).run()
        (found, *_) = [violation for violation in check(trace) if violation.rule == first.rule]
    assert len(short.tasks) + len(short.troubles) <= 5
    story = list(tell(trace, found.ids))
    assert any("run_task" in line for line in story)
    assert len(story) < 100
