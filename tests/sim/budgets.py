"""For each planted fault a few universes that find it, and the search for them.

The universe `n` of a fault is that of seed `n`; but where few seeds would find it, a plan made for it is kept in
`directed`, and its universe `n` is that plan with the salt `n`. What a universe finds changes with every change of the
protocol, so `python -m tests.sim --budget` writes the table anew.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import time
from collections import deque
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.sim.check import check
from tests.sim.mutants import MUTANTS, planted
from tests.sim.plan import from_json, plan
from tests.sim.universe import Universe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from tests.sim.plan import Plan

TABLE: Final = Path(__file__).parent / "budgets.json"
DIRECTED: Final = Path(__file__).parent / "directed"
WANTED: Final = 3
"""So many universes are named for each fault."""
BUDGET: Final = 60
"""Within so many universes each fault must be found."""
SEARCHED: Final = 400
"""So many universes are looked at for each fault before the search gives up."""


def budgets() -> dict[str, list[int]]:
    """The table: those that found it when the table was written."""
    table: dict[str, list[int]] = json.loads(TABLE.read_text())
    return table


@cache
def _directed(name: str) -> Plan | None:
    path = DIRECTED / f"{name}.json"
    return from_json(path.read_text()) if path.exists() else None


def universe_of(name: str, number: int) -> Plan:
    """The plan of a fault's universe."""
    directed = _directed(name)
    return plan(number) if directed is None else replace(directed, salt=number)


def numbers(name: str, table: Mapping[str, Collection[int]]) -> Iterator[int]:
    """The universes of a fault, those of the table first."""
    known = table.get(name, ())
    yield from known
    yield from (number for number in itertools.count(1) if number not in known)


def finds(name: str, number: int) -> set[str]:
    """The rules that a fault breaks in one of its universes, and that hold there without it."""
    told = universe_of(name, number)
    with planted(name):
        broken = {violation.rule for violation in check(Universe(told).run())}
    return broken - {violation.rule for violation in check(Universe(told).run())} if broken else broken


def _look(task: tuple[str, int]) -> tuple[str, int, set[str]]:
    return (*task, finds(*task))


def search(names: Collection[str], jobs: int, say: Callable[[str], None]) -> list[str]:
    """Write the table anew for these faults, all at once; tell of each as it is done. Returns what was not found."""
    table = budgets()
    left = {name: itertools.islice(numbers(name, table), SEARCHED) for name in names}
    found: dict[str, dict[int, set[str]]] = {name: {} for name in names}
    looked = dict.fromkeys(names, 0)
    under_way = dict.fromkeys(names, 0)
    began, turns = time.monotonic(), deque(names)

    def tasks() -> Iterator[tuple[str, int]]:
        """In turn, as long as a fault needs more; no more under way than it may need."""
        while turns:
            name = turns.popleft()
            number = next(left[name], None) if len(found[name]) < WANTED else None
            if number is not None:
                turns.append(name)
                under_way[name] += 1
                yield name, number

    with multiprocessing.Pool(jobs) as pool:
        running: deque[multiprocessing.pool.AsyncResult[tuple[str, int, set[str]]]] = deque()
        coming = tasks()
        while True:
            running.extend(
                pool.apply_async(_look, (task,)) for task in itertools.islice(coming, 3 * jobs - len(running))
            )
            if not running:
                break
            name, number, rules = running.popleft().get()
            looked[name] += 1
            under_way[name] -= 1
            if rules:
                found[name][number] = rules
            done = len(found[name]) >= WANTED or looked[name] == SEARCHED
            if done and not under_way[name]:
                told = ", ".join(sorted({rule.partition(" ")[0] for rules in found[name].values() for rule in rules}))
                ready = sum(not under_way[one] and one not in turns for one in names)
                say(f"{time.monotonic() - began:5.0f} s  {ready} of {len(names)}  {name}: {len(found[name])} of "
                    f"{looked[name]} universes, by {told or 'none'}")  # fmt: skip
    table |= {name: sorted(found[name])[:WANTED] for name in names if found[name]}
    lines = (f'  "{name}": {json.dumps(table[name])}' for name in sorted(table) if name in MUTANTS)
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return [name for name in names if not found[name]]
