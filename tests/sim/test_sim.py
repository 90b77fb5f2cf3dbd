"""The simulation, as far as the suite has time for it, and the proof that it can fail."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from tests.sim import __main__ as cli
from tests.sim import budgets, database, mutants, sometimes
from tests.sim.check import check
from tests.sim.plan import from_json, plan, to_json
from tests.sim.shrink import shrink
from tests.sim.story import tell
from tests.sim.universe import Universe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

pytestmark = pytest.mark.timeout(1800)

SEEDS = range(1, 1601)
REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.json"))


def test_no_rule_is_broken_and_every_path_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    violations: list[str] = []
    paths: Counter[str] = Counter()
    hours, began = 0.0, time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for result in pool.imap_unordered(cli.run, SEEDS, chunksize=10):
            violations += [f"seed {result.seed}: {violation}" for violation in result.violations]
            paths += result.paths
            hours += result.hours
    rate = len(SEEDS) / (time.perf_counter() - began)
    with capsys.disabled():
        sys.stdout.write(f"\n{len(SEEDS)} universes, {hours:.0f} hours lived, {rate:.1f} universes per second\n")
    assert violations == []
    assert [path for path in sometimes.PATHS if not paths[path]] == []


@pytest.mark.parametrize("kept", REGRESSIONS, ids=lambda path: path.stem)
def test_what_broke_a_rule_once_stays_mended(kept: Path) -> None:
    assert check(Universe(from_json(kept.read_text())).run()) == []


def test_a_plan_can_be_kept() -> None:
    for seed in range(1, 50):
        assert from_json(to_json(plan(seed))) == plan(seed)


@pytest.mark.parametrize("name", sorted(mutants.MUTANTS))
def test_a_planted_fault_is_found(name: str) -> None:
    """Those that found it last are looked at first; after a change of the protocol it may be others."""
    numbers = itertools.islice(budgets.numbers(name, budgets.budgets()), budgets.BUDGET)
    assert any(budgets.finds(name, number) for number in numbers)


def test_each_planted_fault_is_in_the_table_and_no_other() -> None:
    assert budgets.budgets().keys() == mutants.MUTANTS.keys()
    assert {path.stem for path in budgets.DIRECTED.glob("*.json")} <= mutants.MUTANTS.keys()


def digest(seed: int) -> str:
    lines = (json.dumps(event, default=str) for event in Universe(plan(seed)).run())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


SOME = (1, 2, 3, 4, 5, 6)


def test_a_seed_gives_the_same_trace_again_whatever_the_order_of_sets() -> None:
    here = [digest(seed) for seed in SOME]
    assert len(set(here)) == len(SOME)
    assert here == [digest(seed) for seed in SOME]
    program = f"from tests.sim.test_sim import digest; print(*(digest(seed) for seed in {SOME}))"
    for hash_seed in ("1", "2"):
        elsewhere = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed, "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert elsewhere.stdout.split() == here


def test_a_log_spares_what_it_has_of_the_same_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.jsonl"
    monkeypatch.setattr(cli, "BLOCK", 2)
    assert cli.main(["3", "1", "--jobs", "1", "--log", str(log)]) == 0
    lines = log.read_text().splitlines()
    assert [(json.loads(line)["first"], json.loads(line)["count"]) for line in lines] == [(1, 2), (3, 1)]
    told = capsys.readouterr().out
    log.write_text(lines[0] + "\n")
    assert cli.main(["3", "1", "--jobs", "1", "--log", str(log)]) == 0
    assert log.read_text().splitlines() == lines
    assert capsys.readouterr().out == told
    monkeypatch.setattr(cli, "_code", lambda: "changed")
    assert cli.main(["3", "1", "--jobs", "1", "--log", str(log)]) == 0
    assert len(log.read_text().splitlines()) == 4


class Ordinary:
    """The connection as SQLAlchemy makes it, without the short cuts of `tests.sim.sql`."""

    def __init__(self, connection: Connection, raw: Any) -> None:
        self._connection, self.raw = connection, raw

    def execution_options(self, **_: Any) -> Ordinary:
        return self

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self._connection.begin():
            yield self._connection

    connect = begin

    def forget(self) -> None: ...


def test_sqlalchemy_itself_gives_the_same_trace() -> None:
    fast = [digest(seed) for seed in SOME]
    shared = database._shared
    assert shared is not None
    ordinary = Ordinary(shared.connection.slow, shared.connection.raw)
    # Nor is anything remembered that was read.
    with patch.object(shared, "connection", ordinary), patch.object(database, "_SHOWS", {}):
        assert [digest(seed) for seed in SOME] == fast


def test_a_failing_universe_is_shrunk_to_a_short_story() -> None:
    with mutants.planted("random_token"):
        (seed, *_) = budgets.budgets()["random_token"]
        (first, *_) = check(Universe(plan(seed)).run())
        short = shrink(plan(seed), first.rule, runs=40)
        trace = Universe(short).run()
        (found, *_) = [violation for violation in check(trace) if violation.rule == first.rule]
    assert len(short.tasks) + len(short.troubles) <= 5
    story = list(tell(trace, found.ids))
    assert any("run_task" in line for line in story)
    assert len(story) < 100
