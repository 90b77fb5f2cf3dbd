"""Run universes on all cores: `python -m tests.sim N SEED`. Ends with 1 if a rule was broken or a path never taken."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.sim import mutants, sometimes
from tests.sim.budgets import search
from tests.sim.check import Violation, check
from tests.sim.plan import Plan, from_json, listening, plan, queued, to_json
from tests.sim.shrink import shrink
from tests.sim.story import tell
from tests.sim.universe import Universe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ENOUGH = 1000
"""After so many universes every path must have been taken."""
BLOCK = 1000
"""So many universes are one line of the log."""


@dataclass
class Result:
    """What one universe came to."""

    seed: int
    hours: float
    violations: list[Violation]
    paths: Counter[str]


@dataclass
class Tally:
    """What many universes came to."""

    universes: int = 0
    hours: float = 0.0
    failed: dict[str, list[int]] = field(default_factory=dict)
    """By rule, the seeds that broke it."""
    paths: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        broken = {violation.rule: [result.seed] for violation in result.violations}
        self.join(Tally(1, result.hours, broken, result.paths))

    def join(self, other: Tally) -> None:
        self.universes += other.universes
        self.hours += other.hours
        self.paths += other.paths
        for rule, seeds in other.failed.items():
            self.failed.setdefault(rule, []).extend(seeds)


def run(seed: int, mutant: str | None = None, *, queues: bool = False, events: bool = False) -> Result:
    """One universe."""
    with mutants.planted(mutant):
        universe = Universe(_plan(seed, queues=queues, events=events))
        trace = universe.run()
    return Result(seed, universe.sim.now / 3600, check(trace), sometimes.count(trace))


def _plan(seed: int, *, queues: bool, events: bool) -> Plan:
    made = queued(plan(seed)) if queues else plan(seed)
    return listening(made) if events else made


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=100, help="how many universes")
    parser.add_argument("first", nargs="?", type=int, default=1, help="the first one's seed")
    parser.add_argument("--story", metavar="SEED", help="tell one universe instead, shrunk if it fails; or a kept plan")
    parser.add_argument("--keep", type=int, metavar="SEED", help="print the plan of a seed, to be kept as a regression")
    parser.add_argument("--queues", action="store_true", help="with several queues, one of them in another account")
    parser.add_argument(
        "--events", action="store_true", help="with a queue of events, which is not to be trusted either"
    )
    parser.add_argument("--whole", action="store_true", help="do not shrink")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="plant this fault")
    parser.add_argument("--cover", action="store_true", help="name few seeds that together take every path")
    parser.add_argument(
        "--budget", nargs="*", metavar="FAULT", help="write which universes find planted faults, or all"
    )
    parser.add_argument("--log", type=Path, help="note each thousand universes in this file, and go on where it ends")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.keep is not None:
        say(to_json(_plan(options.keep, queues=options.queues, events=options.events)), end="")
        return 0
    if options.story is not None:
        with mutants.planted(options.mutant):
            return _story(options)
    if options.budget is not None:
        return _budgets(options.budget, options.jobs)
    return _many(options)


def _budgets(names: Sequence[str], jobs: int) -> int:
    """Write the table of budgets anew, for these planted faults or for all."""
    if unknown := set(names) - mutants.MUTANTS.keys():
        say(f"no such fault: {', '.join(sorted(unknown))}")
        return 2
    missed = search(names or sorted(mutants.MUTANTS), jobs, say)
    say("not found: " + (", ".join(missed) or "none, the table is written"))
    return 1 if missed else 0


def _many(options: argparse.Namespace) -> int:
    """Run the seeds, block by block. With a log, those blocks that it has need not be run again."""
    what = {"code": _code(), "mutant": options.mutant, "queues": options.queues, "events": options.events}
    known = _logged(options.log, what) if options.log else {}
    whole, began, ran = Tally(), time.monotonic(), 0
    taken: list[tuple[int, set[str]]] = []
    end = options.first + options.count
    with multiprocessing.Pool(options.jobs, maxtasksperchild=500) as pool:
        for first in range(options.first, end, BLOCK):
            count = min(BLOCK, end - first)
            if (tally := known.get((first, count))) is None:
                tally = Tally()
                results: Iterable[Result] = pool.imap_unordered(
                    partial(run, mutant=options.mutant, queues=options.queues, events=options.events),
                    range(first, first + count),
                )
                for result in results:
                    ran += 1
                    tally.add(result)
                    taken.append((result.seed, {name for name, times in result.paths.items() if times}))
                    for violation in result.violations:
                        say(f"\nseed {result.seed}: {violation}")
                    if ran % 20 == 0:
                        rate, done = ran / (time.monotonic() - began), whole.universes + tally.universes
                        say(
                            f"\r{done} universes, {rate:.1f} per second, {whole.hours + tally.hours:.0f} hours lived",
                            end="",
                        )
                if options.log:
                    with options.log.open("a") as log:
                        log.write(json.dumps({"first": first, "count": count, **what, **vars(tally)}) + "\n")
            whole.join(tally)
    say(f"\n{whole.universes} universes, {whole.hours:.0f} hours lived")
    for rule, seeds in sorted(whole.failed.items()):
        say(f"{len(seeds):6} broke {rule}: seeds {', '.join(map(str, sorted(seeds)[:10]))}")
    wanted = (*sometimes.PATHS, *sometimes.EVENT_PATHS) if options.events else sometimes.PATHS
    # Spread over accounts they are too few for a breaker.
    rare = {"orphan breaker tripped"} if options.queues else set()
    never = [path for path in wanted if path not in rare and not whole.paths[path]]
    say("never: " + (", ".join(never) or "nothing, every path was taken"))
    if options.cover:
        say("cover:", " ".join(map(str, _cover(taken))))
    return 1 if whole.failed or (never and options.count >= ENOUGH and not options.mutant) else 0


def _logged(path: Path, what: Mapping[str, Any]) -> dict[tuple[int, int], Tally]:
    """The blocks of seeds that a log has of this code, by their first and how many."""
    blocks = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        told = json.loads(line)
        if all(told.pop(name) == value for name, value in what.items()):
            key = told.pop("first"), told.pop("count")
            blocks[key] = Tally(**{**told, "paths": Counter(told["paths"])})
    return blocks


def _code() -> str:
    """A digest of all that decides what a seed comes to."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted([*root.glob("reconciler/**/*.py"), *root.glob("tests/sim/*.py"), root / "tests/world.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def say(*text: object, end: str = "\n") -> None:
    sys.stdout.write(" ".join(map(str, text)) + end)
    sys.stdout.flush()


def _cover(taken: list[tuple[int, set[str]]]) -> list[int]:
    """Greedily, seeds that take every path at least twice as far as there are any."""
    wanted = Counter(dict.fromkeys(sometimes.PATHS, 2))
    chosen: list[int] = []
    left = sorted(taken)
    while left:
        seed, paths = max(left, key=lambda entry: (sum(1 for path in entry[1] if wanted[path] > 0), -entry[0]))
        if not any(wanted[path] > 0 for path in paths):
            break
        wanted.subtract(paths)
        chosen.append(seed)
        left.remove((seed, paths))
    return sorted(chosen)


def _story(options: argparse.Namespace) -> int:
    if options.story.isdecimal():
        told = _plan(int(options.story), queues=options.queues, events=options.events)
    else:
        told = from_json(Path(options.story).read_text())
    violations = check(Universe(told).run())
    if violations and not options.whole:
        told = shrink(told, violations[0].rule)
    trace = Universe(told).run()
    found = check(trace)
    say(told)
    for violation in found:
        say(f"!! {violation}")
    names = found[0].ids if found else [task.name for task in told.tasks]
    for line in tell(trace, names):
        say(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
