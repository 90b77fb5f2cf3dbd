"""Scenarios whose figures are times and rates: one at a time, so that nothing else runs on the machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.bench.judge import RATE, examine, limit, spread
from tests.bench.stand import OURS, PATIENCE, Stand

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.database import Databases
    from tests.bench.judge import Facts
    from tests.bench.sizes import Sizes

QUIET = 10.0
"""Who watches an idle daemon for less wants no exact figure."""
CALM = 3.0
"""Seconds for answers that are under way to arrive, before anything is judged."""
SETTLED = 5.0
"""Seconds after the first end in which schedulers learn that tasks end, and queue some that wait for the next."""
WHOLE_RATE = 512
"""[scheduler] max_tis_per_query of a site that runs hundreds of tasks at once; Airflow's default is 16."""


@dataclass(frozen=True)
class Run:
    """One scenario with one system."""

    system: str
    databases: Databases
    folder: Path
    sizes: Sizes
    events: bool = False
    """Whether ends are heard of through a queue."""

    def stand(self, **settings: Any) -> Stand:
        return Stand(self.system, self.databases, self.folder, events=self.events, **settings)


def afterwards(stand: Stand, seconds: float) -> Facts:
    """Everything that was noted, once what was under way has arrived."""
    time.sleep(seconds)  # what should not happen can not be waited for: a second launch, say
    return examine(stand)


def result(facts: Facts, *, cut: bool = False, **figures: Any) -> dict[str, Any]:
    """What every scenario tells: its figures, what went wrong, and how quiet it was. `cut`: it was cut off."""
    return {
        "figures": figures,
        "wrong": facts.wrong(),
        "refusals": facts.refusals(),
        "cut": cut,
        "noise": facts.noise(),
    }


def fill(run: Run) -> dict[str, Any]:
    """So many tasks are pending at once and the quota is empty: how fast does it fill?"""
    n = run.sizes.first
    with run.stand(slots=2 * n) as stand:
        stand.database.schedule(n)
        done = stand.reached("all to be launched", lambda: stand.counts()["made"] >= n, run.sizes.fill_cut)
        facts = afterwards(stand, CALM)
    marks = {str(number): facts.seconds_to(number) for number in (run.sizes.mark, n)}
    return result(
        facts,
        cut=not done,
        seconds_to=marks,
        limit={str(number): limit(number) for number in (run.sizes.mark, n)},
        launched=len(facts.made()),
        heartbeats=facts.heartbeats(facts.began()),
        sending_rate=facts.rate("RunTask", facts.began(), facts.made()[-1]),
        curve=facts.curve(run.sizes.fill_cut),
    )


def live(run: Run) -> dict[str, Any]:
    """Many tasks run, the last of them begun one at a time. Nothing happens; then a few end; then many begin at once,
    16 in each loop of the scheduler, while others end."""
    sizes, figures = run.sizes, dict[str, Any]()
    ours = run.system == OURS
    with run.stand(slots=2 * (sizes.live + sizes.second)) as stand:
        stand.ecs.do("hurry", wanted=True)
        most = sizes.live - sizes.trickle
        stand.database.schedule(most)
        stand.until("most of what is live", lambda: stand.counts()["running"] >= most, PATIENCE)
        stand.ecs.do("hurry", wanted=False)
        trickled = time.monotonic()
        for _ in range(sizes.trickle):
            stand.database.schedule(1)
            time.sleep(0.25)  # one at a time
        stand.until("what is live", lambda: stand.counts()["running"] >= sizes.live, PATIENCE)
        # A daemon that hears of events looks rarely once they have proven themselves for half a minute.
        time.sleep(35 if run.events and sizes.idle >= QUIET else 3)
        quiet = time.monotonic()
        if ours:
            figures |= _watch(stand, sizes.idle)
        else:
            time.sleep(sizes.idle)  # as ours, which is watched
        ended = time.monotonic()
        stand.ecs.do("end", number=sizes.ends, over=sizes.ends / 2)
        time.sleep(sizes.ends / 2 + 4)  # they end meanwhile, and the last is heard of
        busy = time.monotonic()
        stand.set_max_tis_per_query(16)
        stand.database.schedule(sizes.second)
        seconds = min(limit(sizes.second), sizes.fill_cut / 3)
        stand.ecs.do("end", number=min(sizes.live - sizes.ends, int(4 * seconds)), over=seconds)
        wanted = sizes.live + sizes.second
        cut = 1.5 * limit(sizes.second) + 10 if ours else sizes.fill_cut / 3
        done = stand.reached("the second wave", lambda: stand.counts()["made"] >= wanted, cut)
        over = time.monotonic()
        time.sleep(4)  # for the last of the ends to be heard of
        facts = examine(stand)
    return result(
        facts,
        cut=not done,
        describes_per_second=facts.rate("DescribeTasks", quiet, ended),
        sending=facts.sending(trickled, quiet),
        detection_idle=facts.detection(ended, busy - 3),
        detection_busy=facts.detection(busy, over),
        not_detected=facts.not_detected(ended),
        heartbeats_idle=facts.heartbeats(quiet, busy),
        heartbeats_busy=facts.heartbeats(busy, over),
        launched_busy=sum(made >= busy for made in facts.made()),
        seconds_busy=round(over - busy, 1),
        **figures,
    )


def _watch(stand: Stand, seconds: float) -> dict[str, Any]:
    """What the daemon uses while nothing happens."""
    daemon = stand.its_daemon
    before, began = daemon.cpu_seconds(), time.monotonic()
    time.sleep(seconds)  # what it uses in this time is the figure
    used = (daemon.cpu_seconds() - before) / (time.monotonic() - began)
    return {"daemon_cpu": round(used, 4), "daemon_mb": round(daemon.resident_bytes() / 1e6, 1)}


def churn(run: Run) -> dict[str, Any]:
    """Short tasks and more slots than the launch rate can keep busy: it is the limit, for anybody."""
    sizes = run.sizes
    with run.stand(slots=sizes.churn_slots) as stand:
        stand.ecs.do("last", seconds=sizes.churn_seconds)
        stand.database.schedule(sizes.churn)
        done = stand.reached("the end", lambda: stand.counts()["stopped"] >= sizes.churn, sizes.churn_cut)
        facts = afterwards(stand, CALM)
    made = facts.made()
    in_slot = facts.seconds_in_slot()
    # After the ramp, and while there is something left to launch.
    since, until = facts.began() + sizes.churn_seconds + 1, made[-1] if done else made[-1] - CALM
    ceiling = min(float(sizes.churn_slots), RATE * in_slot)
    in_use = facts.mean_live(since, until) if until > since else None
    return result(
        facts,
        cut=not done,
        ceiling=round(ceiling, 1),
        in_use=None if in_use is None else round(in_use, 1),
        share=None if in_use is None else round(in_use / ceiling, 4),
        seconds_in_slot=round(in_slot, 2),
        launched=len(made),
        describes_per_second=facts.rate("DescribeTasks", facts.began(), made[-1]),
        curve=facts.curve(sizes.churn_cut),
    )


def slots(run: Run) -> dict[str, Any]:
    """Short tasks and few slots: how soon is one that becomes free used again?"""
    sizes = run.sizes
    rounds = sizes.slots_tasks / sizes.slots
    with run.stand(slots=sizes.slots) as stand:
        stand.ecs.do("last", seconds=sizes.slots_seconds, evenly=False)
        stand.database.schedule(sizes.slots_tasks)
        cut = 2 * rounds * (sizes.slots_seconds + limit(sizes.slots)) + 10
        done = stand.reached("the end", lambda: stand.counts()["stopped"] >= sizes.slots_tasks, cut)
        facts = afterwards(stand, CALM)
    made, stops = facts.made(), facts.stops()
    # The first to stop makes room for the first that did not fit, and so on.
    pairs = list(zip(stops, made[sizes.slots :], strict=False))
    settled = stops[0] + SETTLED
    reused = [later - stop for stop, later in pairs if stop >= settled]
    at_first = [later - stop for stop, later in pairs if stop < settled]
    until = made[-1]
    return result(
        facts,
        cut=not done,
        reuse=spread(reused),
        reuse_at_first=spread(at_first),
        share=round(facts.mean_live(facts.began() + limit(sizes.slots) + 1, until) / sizes.slots, 4),
        seconds=round(until - facts.began(), 1),
    )


def noisy(run: Run) -> dict[str, Any]:
    """A neighbour uses half of the account's rate, and all of it for a while."""
    sizes = run.sizes
    with run.stand(slots=2 * sizes.noisy) as stand:
        stand.ecs.do("neighbour", per_second=RATE / 2, greedy_at=3.0, greedy_for=sizes.noisy_greedy)
        stand.database.schedule(sizes.noisy)
        done = stand.reached("all to be launched", lambda: stand.counts()["made"] >= sizes.noisy, sizes.noisy_cut)
        facts = afterwards(stand, CALM)
    least = limit(sizes.noisy) * 2 + sizes.noisy_greedy
    return result(
        facts,
        cut=not done,
        seconds=facts.seconds_to(sizes.noisy),
        limit=round(least, 1),
        launched=len(facts.made()),
        throttled_share=round(facts.refusals() / max(1, sum(name == "RunTask" for _, name, *_ in facts.calls)), 3),
    )
