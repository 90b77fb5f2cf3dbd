"""Where the time goes: py-spy on our daemon and on a scheduler with our shim. `python -m tests.bench.profile`.

Prints tables for `docs/performance.md`; the stacks, for `speedscope` or a flame graph, are left in `.bench/profile`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench.database import databases
from tests.bench.stand import OURS, PATIENCE, ROOT, Stand

if TYPE_CHECKING:
    from tests.bench.stand import Process

FOLDER: Final = ROOT / ".bench" / "profile"
RATE: Final = 200
"""Samples per second."""
SHOWN: Final = 18


def record(process: Process, seconds: float, name: str) -> str:
    """Look at a process for a while. Returns a table: which share of the samples had a function of ours, or any of a
    library, on its stack. Not how much CPU it used: py-spy stops it for each sample."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.folded"
    # Only what holds the interpreter's lock: a thread that waits for a socket or a queue costs nothing.
    options = ["--gil", "--format", "raw", "--rate", str(RATE), "--duration", str(int(seconds)), "--output", str(path)]
    command = [str(Path(sys.executable).parent / "py-spy"), "record", *options, "--pid", str(process.pid)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return f"{name}: {_table(path)}\n"


def _table(path: Path) -> str:
    """Inclusive shares: of a sample's stack, each function of ours counts once, and so does each library."""
    shares: Counter[str] = Counter()
    total = 0
    for line in path.read_text().splitlines():
        stack, _, number = line.rpartition(" ")
        total += int(number)
        frames = [_named(frame) for frame in stack.split(";")]
        shares.update(dict.fromkeys(filter(None, frames), int(number)))
    rows = [f"| `{name}` | {100 * count / total:.0f} % |" for name, count in shares.most_common(SHOWN)]
    return "\n".join([f"{total} samples", "", "| in | share of samples |", "| --- | --- |", *rows])


def _named(frame: str) -> str | None:
    """A function of ours by its module, a library by its name; None for what every thread begins with."""
    function, _, place = frame.partition(" (")
    place = place.rstrip(")").rpartition(":")[0]
    if place.startswith("reconciler/"):
        return f"{place} {function}"
    return place.partition("/")[0] if "/" in place and not place.startswith("concurrent/") else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--live", type=int, default=500, help="tasks that run")
    parser.add_argument("--seconds", type=float, default=20, help="for how long each profile looks")
    given = parser.parse_args()
    live, seconds = given.live, given.seconds
    shutil.rmtree(FOLDER, ignore_errors=True)
    tables = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as home,
        databases(Path(home), 1) as made,
    ):
        folder = Path(home) / "stand"
        folder.mkdir()
        with Stand(OURS, made, folder, slots=4 * live, max_tis_per_query=16) as stand:
            stand.ecs.do("hurry", wanted=True)
            stand.database.schedule(live)
            stand.until("what is live", lambda: stand.counts()["running"] >= live, PATIENCE)
            stand.ecs.do("hurry", wanted=False)
            time.sleep(3)  # until nothing is left of the launches but their tasks
            tables.append(record(stand.its_daemon, seconds, "daemon-idle"))
            tables.append(record(stand.scheduler, seconds, "scheduler-idle"))
            for process, name in ((stand.its_daemon, "daemon-launching"), (stand.scheduler, "scheduler-launching")):
                stand.database.schedule(live)
                time.sleep(1)  # until launching is in full swing
                tables.append(record(process, min(seconds, live / 25), name))
                wanted = stand.counts()["made"]
                stand.reached("the rest", lambda wanted=wanted: stand.counts()["made"] > wanted + live, live / 20)  # type: ignore[misc] # mypy can not infer this lambda
    sys.stdout.write("\n".join(tables))


if __name__ == "__main__":
    main()
