"""Run worlds: `python -m tests.chaos N SEED`. Ends with 1 if a rule was broken."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.plan import play
from tests.chaos.world import World
from tests.sim.story import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sim.check import Violation


def run(seed: int, steps: int, folder: Path) -> tuple[list[Violation], int]:
    """One world. What was broken, and how many containers ran."""
    with World(folder, seed=seed) as world:
        try:
            play(world, seed, steps, lambda text: say(f"  {text}"))
        finally:
            violations = world.judge()
        for violation in violations:
            say(f"!! {violation}")
        if violations:
            for line in tell(world.history.trace(world.engine), violations[0].ids):
                say(line)
            say(world.told())
        return violations, sum(line["kind"] == "container" for line in world.history.containers())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=10, help="how many worlds")
    parser.add_argument("first", nargs="?", type=int, default=1, help="the first one's seed")
    parser.add_argument("--steps", type=int, default=15, help="faults in each (default: %(default)s)")
    options = parser.parse_args(arguments)
    began, failed, containers = time.monotonic(), [], 0
    for seed in range(options.first, options.first + options.count):
        say(f"seed {seed}, after {time.monotonic() - began:.0f} s and {containers} containers")
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        violations, ran = run(seed, options.steps, folder)
        containers += ran
        if violations:
            failed.append(seed)
            say(f"seed {seed} broke {violations[0].rule}; its files are in {folder}")
        else:
            shutil.rmtree(folder)
    say(
        f"{options.count} worlds, {containers} containers, {time.monotonic() - began:.0f} s; failed: {failed or 'none'}"
    )
    return 1 if failed else 0


def say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
