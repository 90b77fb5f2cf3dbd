"""The benchmark runs, in its smallest form, and its judge sees what it should. Nothing here passes or fails on time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.localecs import SignalContainer, StartContainer
from tests.bench.forks import Forks
from tests.bench.judge import Facts, limit, spread
from tests.bench.report import WRONG, about, write_report
from tests.bench.sizes import SUITE
from tests.bench.stand import OURS, PEER, ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.airflow
@pytest.mark.postgres
@pytest.mark.timeout(1800)
def test_the_benchmark_runs_both_executors_and_writes_its_report(tmp_path: Path) -> None:
    pytest.importorskip("airflow.providers.amazon", reason="the official executor is what ours is compared with")
    command = [sys.executable, "-m", "tests.bench", "--size", "suite", "--folder", str(tmp_path)]

    ran = subprocess.run(
        [*command, "--only", "fill", "eventual", "mapped"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*-*.json")}
    both = {f"{name}-{system}" for name in ("fill", "eventual") for system in (OURS, PEER)}
    assert set(found) == {*both, "mapped-ours"}
    for name in ("fill-ours", "eventual-ours", "mapped-ours"):
        assert found[name]["wrong"] == dict.fromkeys(WRONG, 0)
        assert found[name]["refusals"] == 0
        assert not found[name]["cut"]
    assert found["fill-ours"]["figures"]["launched"] == SUITE.first
    real = found["mapped-ours"]["figures"]
    assert (real["launched"], real["succeeded"], real["not_once"]) == (SUITE.mapped, SUITE.mapped, 0)
    # The judge is not blind: the official executor takes MISSING for the end of a task.
    assert found["eventual-peer"]["wrong"]["launched_twice"] > 0
    page = (tmp_path / "benchmark.md").read_text()
    assert f"| eventual | {PEER} | **{found['eventual-peer']['wrong']['launched_twice']}** |" in page
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000


def task(index: int, arn: str, made: float, stopped: float | None = None, ti: str = "") -> dict[str, Any]:
    return {
        "index": index,
        "arn": arn,
        "made": made,
        "started": made + 1,
        "stopped": stopped,
        "live": stopped is None,
        "ti": ti or f"ti-{index}",
    }


QUIET = Facts(
    system=PEER,
    tasks=[task(0, "a", 10.0), task(1, "b", 11.0, stopped=20.0)],
    calls=[[10.0, "RunTask", "ok", 0, 0.001], [11.0, "RunTask", "ok", 1, 0.001]],
    admitted=[[11.0, "ti-0", "a"], [12.0, "ti-1", "b"]],
    late=[0.0],
    beats=[{"t": 20.5, "seconds": 0.1, "left": []}, {"t": 21.5, "seconds": 0.2, "left": [1]}],
    queued=[{"t": 9.5, "indexes": [0, 1]}],
    instances=[{"index": 0, "id": "ti-0", "state": "running"}, {"index": 1, "id": "ti-1", "state": "success"}],
    workloads=[],
    known={"t": 22.0, "arns": ["a", "b"], "indexes": [0]},
)


def test_nothing_is_wrong_where_all_went_well() -> None:
    assert QUIET.wrong() == dict.fromkeys(WRONG, 0)
    ours = replace(
        QUIET,
        system=OURS,
        workloads=[
            {"index": 0, "task_arn": "a", "open": True},
            {"index": 1, "task_arn": "b", "open": False},
        ],
    )
    assert ours.wrong() == dict.fromkeys(WRONG, 0)


def test_a_second_task_is_one_too_many_if_the_first_lives_or_has_run() -> None:
    for first in (task(0, "a", 10.0), task(0, "a", 10.0, stopped=10.5)):
        tasks = [first, QUIET.tasks[1], task(0, "c", 12.0)]
        known = {**QUIET.known, "arns": ["a", "b", "c"]}
        assert replace(QUIET, tasks=tasks, known=known).wrong()["launched_twice"] == 1
    never_ran = replace(QUIET, tasks=[task(0, "a", 10.0, stopped=10.5), task(0, "c", 12.0)], admitted=[])
    assert never_ran.wrong()["launched_twice"] == 0


def test_a_launch_that_was_only_asked_for_is_no_second_one() -> None:
    empty = {**task(-1, "c", 12.0), "ti": None}
    twice = replace(
        QUIET, tasks=[*QUIET.tasks, empty, {**empty, "arn": "d"}], known={**QUIET.known, "arns": ["a", "b", "c", "d"]}
    )
    assert twice.wrong()["launched_twice"] == 0


def test_a_child_runs_what_its_container_should(tmp_path: Path) -> None:
    ended: dict[str, int] = {}
    done = threading.Event()

    def exited(arn: str, container: str, code: int) -> None:
        assert container == "airflow"
        ended[arn] = code
        if len(ended) == 4:
            done.set()

    forks = Forks(os.environ, str(tmp_path), exited)
    forks.start()
    code = "import os, sys; print(sys.argv, os.environ['WHO']); sys.exit(int(os.environ['CODE']))"
    for arn, how in (("x/zero", 0), ("x/three", 3)):
        environment = {"WHO": arn, "CODE": str(how)}
        forks.execute(StartContainer(arn, "airflow", ("python", "-c", code, "more"), environment))
    forks.execute(StartContainer("x/module", "airflow", ("python", "-m", "json.tool", "--no-such-option"), {}))
    forks.execute(StartContainer("x/killed", "airflow", ("python", "-c", "import time; time.sleep(600)"), {}))
    forks.execute(SignalContainer("x/killed", "airflow", "SIGKILL"))

    assert done.wait(60)
    forks.close()
    assert ended == {"x/zero": 0, "x/three": 3, "x/module": 2, "x/killed": 137}
    assert (tmp_path / "three.log").read_text() == "['-c', 'more'] x/three\n"
    assert (forks.refused, forks.admitted) == (3, [])


def test_a_task_that_nobody_knows_is_an_orphan() -> None:
    assert replace(QUIET, known={**QUIET.known, "arns": ["b"]}).wrong()["orphans"] == 1
    ours = replace(QUIET, system=OURS, workloads=[{"index": 1, "task_arn": "b", "open": False}])
    assert ours.wrong()["orphans"] == 1
    under_way = replace(ours, workloads=[*ours.workloads, {"index": 0, "task_arn": None, "open": True}])
    assert under_way.wrong()["orphans"] == 0


def test_what_a_killed_scheduler_knew_is_no_excuse_for_its_successor() -> None:
    successor = replace(QUIET, known={"t": 30.0, "arns": [], "indexes": [0]})
    assert successor.wrong(killed_at=15.0)["orphans"] == 2
    assert successor.wrong(killed_at=25.0)["orphans"] == 1


def test_a_task_instance_that_nobody_tends_is_lost() -> None:
    gone = replace(QUIET, tasks=[task(0, "a", 10.0, stopped=12.0)], known={"t": 22.0, "arns": ["a"], "indexes": []})
    assert gone.wrong()["lost"] == 1
    assert replace(gone, known={**gone.known, "indexes": [0]}).wrong()["lost"] == 0
    assert replace(gone, queued=[{"t": 23.0, "indexes": [0]}]).wrong()["lost"] == 0


def test_failed_task_instances_are_counted() -> None:
    failed = replace(QUIET, instances=[{"index": 0, "id": "ti-0", "state": "failed"}])
    assert failed.wrong()["failed"] == 1


def test_times_are_read_off_the_notes() -> None:
    assert QUIET.seconds_to(2) == 1.5
    assert QUIET.seconds_to(3) is None
    assert QUIET.sending(0.0) == {"n": 2, "p50": 0.5, "p99": 1.5, "max": 1.5}
    assert QUIET.detection(0.0) == {"n": 1, "p50": 1.5, "p99": 1.5, "max": 1.5}
    assert QUIET.not_detected(0.0) == 0
    assert replace(QUIET, beats=[]).not_detected(0.0) == 1
    assert QUIET.mean_live(10.0, 20.0) == pytest.approx(1.9)
    assert QUIET.running(12.5) == 2


def test_the_limit_is_what_the_published_rates_allow() -> None:
    assert limit(500) == 24.0
    assert limit(1000) == 49.0
    assert limit(10) == 0.0


def test_quantiles() -> None:
    assert spread(range(1, 101)) == {"n": 100, "p50": 50, "p99": 99, "max": 100}
    assert spread([3.0]) == {"n": 1, "p50": 3.0, "p99": 3.0, "max": 3.0}
    assert spread([]) == {"n": 0}


def test_a_report_says_what_was_not_run_and_what_was_not_met(tmp_path: Path) -> None:
    slow = {
        "figures": {"seconds_to": {"500": 30.0, "1000": None}, "limit": {"500": 24.0}, "launched": 600, "curve": []},
        "wrong": {**dict.fromkeys(WRONG, 0), "lost": 3},
        "refusals": 1,
        "cut": True,
        "noise": {"far_end_late": {}, "far_end_own_seconds_per_call": {}, "load": [1.0]},
        "seconds": 60.0,
        "commit": "abc",
        "ended": "today",
        "postgres": "15",
    }
    sizes = replace(SUITE, first=1000, mark=500)
    write_report({"fill-ours": slow}, about(sizes), tmp_path / "page.md", tmp_path / "p.png")
    page = (tmp_path / "page.md").read_text()
    assert "| RunTask accepted for 500 of 1000 pending | limit 24.0 s, ours 30.0 s, official not run |" in page
    assert "| ≤ 1.050 x | 1.250 x | **no** |" in page
    assert "| calls that ECS refused, undisturbed |  | ≤ 0 | 1 | **no** |" in page
    assert "| fill | ours | 0 | 0 | **3** | 0 | 1 | 600 | cut off |" in page
    assert "not run | - |" in page
