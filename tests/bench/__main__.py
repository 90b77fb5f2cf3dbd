"""`make bench`: run every scenario, one result file each, and write the report. What is there already is not run again,
if it was made from the same commit: an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.bench.database import databases
from tests.bench.plan import plan
from tests.bench.report import about, write_report
from tests.bench.sizes import FULL, QUICK, SIZES
from tests.bench.stand import ROOT
from tests.bench.timing import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.database import Databases
    from tests.bench.plan import Scenario
    from tests.bench.sizes import Sizes

RESULTS: Final = ROOT / ".bench"
DOCS: Final = ROOT / "docs"
LANES: Final = 6
"""Scenarios at a time, of those that wait more than they work. The short form runs all of them so."""


class Bench:
    """One benchmark: results go to `folder`."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.sizes, self.folder = sizes, folder
        self.commit = _commit()
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._done = 0
        self.failed: list[str] = []

    def run(self, only: Sequence[str]) -> None:
        """All scenarios that have no result yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            (scenario, system)
            for scenario in plan(self.sizes)
            if not only or scenario.name in only
            for system in scenario.systems
        ]
        waiting = [job for job in jobs if not self._is_there(*job)]
        self._total = len(waiting)
        self.say(f"{self._total} of {len(jobs)} to run, at {self.commit}, results in {self.folder}")
        if not waiting:
            return
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as home:
            self.say("preparing a PostgreSQL with Airflow's tables")
            with databases(Path(home), self.sizes.mapped) as made:
                self._postgres = made.version
                quiet = [job for job in waiting if job[0].alone and self.sizes is FULL]
                for scenario, system in quiet:
                    self._play(scenario, system, made, Path(home))
                with ThreadPoolExecutor(LANES) as lanes:
                    others = [job for job in waiting if job not in quiet]
                    list(lanes.map(lambda job: self._play(job[0], job[1], made, Path(home)), others))

    def _play(self, scenario: Scenario, system: str, made: Databases, home: Path) -> None:
        name, began = f"{scenario.name}-{system}", time.monotonic()
        folder = home / name
        folder.mkdir()
        try:
            found = scenario.play(Run(system, made, folder, self.sizes, events=scenario.events))
        except Exception:  # noqa: BLE001 - the others are run all the same, and this one is told at the end
            self.failed.append(name)
            kept = self.folder / "failed" / name
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            (kept / "traceback").write_text(traceback.format_exc())
            how = f"FAILED, see {kept}"
        else:
            facts = {
                "commit": self.commit,
                "postgres": self._postgres,
                "seconds": time.monotonic() - began,
                "ended": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            }
            aside = self.folder / f"{name}.new"
            aside.write_text(json.dumps({**facts, **found}))
            aside.replace(self._path(scenario, system))
            how = "cut off" if found["cut"] else "done"
        with self._lock:
            self._done += 1
            self.say(f"{self._done}/{self._total} {name}: {how} after {time.monotonic() - began:.0f} s")

    def results(self) -> dict[str, dict[str, Any]]:
        """All there are, by scenario and system."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.folder.glob("*-*.json"))}

    def say(self, what: str) -> None:
        seconds = time.monotonic() - self._began
        sys.stdout.write(f"{int(seconds // 60):3}:{int(seconds % 60):02} {what}\n")
        sys.stdout.flush()

    def _path(self, scenario: Scenario, system: str) -> Path:
        return self.folder / f"{scenario.name}-{system}.json"

    def _is_there(self, scenario: Scenario, system: str) -> bool:
        path = self._path(scenario, system)
        return path.exists() and json.loads(path.read_text())["commit"] == self.commit


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    commit = described.stdout.strip() or "no commit"
    if commit.endswith("-dirty"):
        changes = subprocess.run(["git", "diff", "HEAD"], cwd=ROOT, capture_output=True, check=False).stdout
        commit += f"-{hashlib.sha256(changes).hexdigest()[:8]}"
    return commit


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, and several at a time: a few minutes")
    parser.add_argument("--size", choices=SIZES, help="one of the sizes by its name")
    parser.add_argument("--fresh", action="store_true", help="run again what has a result")
    parser.add_argument("--only", nargs="*", default=[], metavar="SCENARIO", help="run these only, report on all")
    parser.add_argument("--report", action="store_true", help="run nothing: write the report from what is there")
    parser.add_argument("--publish", action="store_true", help="write into docs/ (the full benchmark always does)")
    parser.add_argument("--folder", type=Path, help="where results go (default: .bench/SIZE)")
    given = parser.parse_args()
    sizes = SIZES[given.size] if given.size else QUICK if given.quick else FULL
    folder = given.folder or RESULTS / sizes.name
    if given.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(sizes, folder)
    # As Ctrl-C: what has been started is ended, or a database and a daemon would run on and disturb the next one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not given.report:
        try:
            bench.run(given.only)
        except pytest.skip.Exception as missing:
            sys.stderr.write(f"{missing}\n")
            return 2
    published = given.publish or (sizes is FULL and not given.folder)
    page = DOCS / "benchmark.md" if published else folder / "benchmark.md"
    picture = DOCS / "images" / "benchmark.png" if published else folder / "benchmark.png"
    write_report(bench.results(), about(sizes), page, picture)
    bench.say(f"{page} is written" + (f"; FAILED: {', '.join(sorted(bench.failed))}" if bench.failed else ""))
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
