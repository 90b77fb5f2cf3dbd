"""Scenarios whose figures are counts of wrong outcomes: several at a time, because they wait more than they work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.bench.judge import examine
from tests.bench.stand import OURS, PATIENCE
from tests.bench.timing import afterwards, result

if TYPE_CHECKING:
    from tests.bench.stand import Stand
    from tests.bench.timing import Run

SOON = {"SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "6", "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2"}
"""A scheduler that died is found out soon, for both."""
CALM = 6.0
"""Seconds for the last events to arrive, before anything is judged."""


def _settled(stand: Stand, number: int) -> bool:
    """Whether all of the tasks have come to some end."""
    states = stand.database.states()
    return sum(states.get(state, 0) for state in ("success", "failed", "up_for_retry")) >= number


def _patience(run: Run, ours: float) -> float:
    """The official executor is cut off; ours has to come to an end."""
    return ours if run.system == OURS else run.sizes.peer_cut


def killed(run: Run) -> dict[str, Any]:
    """SIGKILL to the scheduler when half of the launches are done; our daemon is killed with it, if it is ours."""
    n = run.sizes.killed
    with run.stand(slots=4 * n, **SOON) as stand:
        stand.database.schedule(n)
        stand.until("half of the launches", lambda: stand.counts()["made"] >= n // 2, PATIENCE)
        killed_at = time.monotonic()
        stand.kill_scheduler()
        stand.restart()
        done = stand.reached(
            "all to run", lambda: stand.database.states().get("running", 0) >= n, _patience(run, PATIENCE)
        )
        facts = afterwards(stand, CALM)
    return result(facts, cut=not done, launched=len(facts.made())) | {"wrong": facts.wrong(killed_at)}


def lost(run: Run) -> dict[str, Any]:
    """ECS does what RunTask asks for, and nobody hears of it."""
    n, seconds = run.sizes.lost, run.sizes.lost_for
    with run.stand(slots=4 * n) as stand:
        stand.ecs.do("lose_answers")
        stand.database.schedule(n)
        time.sleep(seconds)  # the fault lasts so long
        stand.ecs.do("heal")
        settled = stand.reached("all to be known", lambda: _all_known(stand, n), _patience(run, PATIENCE))
        facts = afterwards(stand, CALM)
    return result(facts, cut=not settled, launched=len(facts.made()))


def _all_known(stand: Stand, number: int) -> bool:
    """Whether the executor believes of each task that it runs, or has ended."""
    if stand.system == OURS:
        waiting = stand.database.one("SELECT count(*) FROM ecs_workload WHERE phase IN ('PENDING', 'LAUNCHING')")
        return not waiting and sum(stand.database.states().values()) >= number
    beats = stand.notes("beat")
    return bool(beats) and not beats[-1]["waiting"] and stand.database.states().get("scheduled", 0) == 0


def eventual(run: Run) -> dict[str, Any]:
    """DescribeTasks answers MISSING for three seconds after each launch."""
    n = run.sizes.eventual
    with run.stand(slots=4 * n, far_end={"visibility_lag": 3.0}) as stand:
        stand.ecs.do("last", seconds=8.0)
        stand.database.schedule(n)
        done = stand.reached("the end", lambda: _settled(stand, n), _patience(run, PATIENCE))
        facts = afterwards(stand, CALM)
    return result(facts, cut=not done, launched=len(facts.made()))


def outage(run: Run) -> dict[str, Any]:
    """ECS answers nothing but 503 in the middle of the launches, and tasks end meanwhile."""
    n, seconds = run.sizes.outage, run.sizes.outage_for
    with run.stand(slots=4 * n) as stand:
        stand.ecs.do("last", seconds=seconds / 4)
        stand.database.schedule(n)
        stand.until("half of the launches", lambda: stand.counts()["made"] >= n // 2, PATIENCE)
        stand.ecs.do("fail")
        time.sleep(seconds)  # the outage lasts so long
        stand.ecs.do("heal")
        done = stand.reached("the end", lambda: _settled(stand, n), _patience(run, PATIENCE + seconds))
        facts = afterwards(stand, CALM)
    return result(facts, cut=not done, launched=len(facts.made()))


def _scaled(scale: float) -> dict[str, str]:
    """Airflow's patience with what is QUEUED: 600 seconds, looked at every 120."""
    return {
        "SCHEDULER__TASK_QUEUED_TIMEOUT": str(600 / scale),
        "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": str(120 / scale),
    }


def quota(run: Run) -> dict[str, Any]:
    """Tasks of a quarter of an hour, and the account's quota has room for half of them; no executor knows the quota.

    The launch rate is not scaled, so the counts are: the quota must be full long before the first of them ends.
    """
    sizes = run.sizes
    seconds = 900 / sizes.scale
    with run.stand(slots=2 * sizes.quota, far_end={"max_running_tasks": sizes.quota}, **_scaled(sizes.scale)) as stand:
        stand.ecs.do("last", seconds=seconds)
        stand.database.schedule(sizes.quota_tasks)
        done = stand.reached(
            "the end", lambda: _settled(stand, sizes.quota_tasks), _patience(run, PATIENCE + 3 * seconds)
        )
        facts = examine(stand)
    return result(facts, cut=not done, launched=len(facts.made()), states=_states(facts.instances))


def quota_long(run: Run) -> dict[str, Any]:
    """Tasks of two hours, a fifth more than the quota has room for, for several times task_queued_timeout."""
    sizes = run.sizes
    n = sizes.quota * 6 // 5
    with run.stand(slots=2 * sizes.quota, far_end={"max_running_tasks": sizes.quota}, **_scaled(sizes.scale)) as stand:
        stand.ecs.do("last", seconds=7200 / sizes.scale)
        stand.database.schedule(n)
        done = stand.reached(
            "the end", lambda: _settled(stand, n), sizes.long_cut if run.system == OURS else sizes.peer_cut
        )
        facts = examine(stand)
    return result(facts, cut=not done, launched=len(facts.made()), states=_states(facts.instances))


def down(run: Run) -> dict[str, Any]:
    """Our daemon is away for three quarters of an hour, at twice the scale, with launches under way, tasks waiting and
    others ending.

    Every time for which there is a setting is scaled. The twenty minutes for which a launch is sent again are none, so
    here they are not over when the daemon comes back, as if it had been away for less: that is the harder case.
    """
    sizes = run.sizes
    scale = 2 * sizes.scale
    n = sizes.quota
    with run.stand(slots=n, **_scaled(scale), ECS_RECONCILER__START_TIMEOUT=str(600 / scale)) as stand:
        stand.ecs.do("last", seconds=900 / scale)
        stand.database.schedule(n)
        stand.until("a few launches", lambda: stand.counts()["made"] >= n // 4, PATIENCE)
        stand.kill_daemon()
        stand.database.schedule(n // 2)
        time.sleep(2700 / scale)  # so long is the daemon away
        stand.daemon = stand.start_daemon()
        done = stand.reached("the end", lambda: _settled(stand, n + n // 2), PATIENCE + 2 * 900 / scale)
        facts = examine(stand)
    return result(facts, cut=not done, launched=len(facts.made()), states=_states(facts.instances))


def _states(instances: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for ti in instances:
        state = ti["state"] or "none"
        found[state] = found.get(state, 0) + 1
    return found
