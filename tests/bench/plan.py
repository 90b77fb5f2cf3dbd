"""What is run: every scenario with each system, in which order, and what may run at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tests.bench import outcomes, table, timing
from tests.bench.stand import OURS, PEER, can_hear_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.sizes import Sizes
    from tests.bench.timing import Run

BOTH: Final = (OURS, PEER)


@dataclass(frozen=True)
class Scenario:
    """`alone`: its figures are times, so nothing else may run meanwhile."""

    name: str
    play: Callable[[Run], dict[str, Any]]
    systems: tuple[str, ...] = BOTH
    alone: bool = True
    events: bool = False


def plan(sizes: Sizes) -> list[Scenario]:
    """In the order in which they are run."""
    scenarios = [
        Scenario("fill", timing.fill),
        Scenario("live", timing.live),
        Scenario("churn", timing.churn),
        Scenario("slots", timing.slots),
        Scenario("noisy", timing.noisy),
        Scenario("heartbeat", table.heartbeat, (OURS,)),
        Scenario("passes", table.passes, (OURS,)),
        # The longest first, so that none is left over at the end.
        Scenario("quota", outcomes.quota, alone=False),
        Scenario("quota_long", outcomes.quota_long, alone=False),
        Scenario("outage", outcomes.outage, alone=False),
        Scenario("down", outcomes.down, (OURS,), alone=False),
        Scenario("lost", outcomes.lost, alone=False),
        Scenario("killed", outcomes.killed, alone=False),
        Scenario("eventual", outcomes.eventual, alone=False),
    ]
    if can_hear_events():
        scenarios[2:2] = [
            Scenario("live_events", timing.live, (OURS,), events=True),
            Scenario("slots_events", timing.slots, (OURS,), events=True),
        ]
    scenarios.append(Scenario("mapped", table.mapped, (OURS,)))
    if sizes.whole_cut:
        scenarios += [
            Scenario(f"whole_{number}", partial(table.whole, max_tis_per_query=number))
            for number in (table.AIRFLOW_DEFAULT, timing.WHOLE_RATE)
        ]
    return scenarios
