"""What a pass of the daemon costs, in statements and rows: workloads come by the shim's INSERT, and are launched.

Real controllers and the real store on PostgreSQL, against the model of ECS in this process.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from reconciler.core.phase import Phase
from reconciler.localecs import Settings
from reconciler.store.census import take_census
from reconciler.store.engine import make_engine
from reconciler.store.migrate import migrate
from tests.scale.counted import Cost, counted
from tests.scale.crowd import Crowd, fill
from tests.virtual import EPOCH
from tests.world import DEPLOYMENT, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Postgres

pytestmark = pytest.mark.postgres

LIVE, WAITING = 200, 300
FINISHED = 4_000
"""So many that no planner reads them all."""


class Scale:
    """A world with so many tasks that run, and so many that wait for a slot."""

    def __init__(self, url: str, live: int, waiting: int, finished: int) -> None:
        self.engine = make_engine(url)
        migrate(self.engine)
        self._finished = 0
        self.fill(finished)
        self.world = World(Settings.unthrottled(), max_running_tasks=live, engine=self.engine)
        # The one clock that is not virtual is the database's: begin where it is.
        self.world.clock.now = time.time() - EPOCH.timestamp()
        self.world.behaviour.seconds = 1e9
        self.world.queue(*[f"w{n:06}" for n in range(live + waiting)])
        self.world.run_until(lambda: len(self.world.started) == live, within=600)
        self.settle()

    def fill(self, finished: int) -> None:
        """So many rows that are finished and acknowledged."""
        fill(self.engine, Crowd(finished, live=0, pending=0, deployment=DEPLOYMENT, first=self._finished))
        self._finished += finished

    def settle(self) -> None:
        """Until a pass has nothing to write, and the planner knows the table, as autovacuum tells it in time."""
        self.world.run(5)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("VACUUM ANALYZE ecs_workload")

    def turn(self) -> Cost:
        """One pass of each controller, and one report."""
        replica = self.world.replica
        replica.adopt._round_at = float("inf")  # a listing once a minute is looked at by itself
        with counted(self.engine) as cost:
            replica.step()
            take_census(self.engine, DEPLOYMENT, self.world.shard)
        assert replica.errors == []
        return cost

    def end(self, count: int) -> None:
        """So many containers end."""
        running = [(at, arn, name, code) for at, arn, name, code in self.world._exits if at > self.world.clock.now]
        now = self.world.clock.now
        self.world._exits = [(now, arn, name, code) for _, arn, name, code in running[:count]] + running[count:]
        self.world._containers()
        self.world.clock.now += 5
        self.world._containers()

    def close(self) -> None:
        self.world.close()


@pytest.fixture
def scales(postgres: Postgres) -> Iterator[Callable[..., Scale]]:
    made: list[Scale] = []
    names: list[str] = []

    def make(live: int = LIVE, waiting: int = WAITING, finished: int = FINISHED) -> Scale:
        names.append(postgres.new_database())
        made.append(Scale(postgres.url(names[-1]), live, waiting, finished))
        return made[-1]

    yield make
    for scale in made:
        scale.close()
    for name in names:
        postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_pass_costs_what_changes_and_not_what_exists(scales: Callable[..., Scale]) -> None:
    scale = scales()
    idle = scale.turn()
    assert idle.writes == 1, "the lease is renewed, and nothing else is written"
    # Each row that is open is looked at so many times, by the sweep, retry and the report.
    assert idle.read <= 4 * LIVE + 2 * WAITING + 100

    scale.fill(4 * FINISHED)
    crowded = scale.turn()
    assert crowded.statements == idle.statements
    assert crowded.read <= idle.read + 50
    assert crowded.returned <= idle.returned + 10

    # A few that end, and as many that take their places.
    scale.end(10)
    few = [scale.turn() for _ in range(3)]
    assert sum(phase is Phase.EXITED for phase in phases(scale)) == 10
    scale.settle()
    scale.end(100)
    many = [scale.turn() for _ in range(6)]
    assert sum(phase is Phase.EXITED for phase in phases(scale)) == 110
    assert max(cost.writes for cost in (*few, *many)) <= 10, "rows are written in batches, a hundred like ten"
    # While slots become free, what runs and what waits is counted once more.
    busy = idle.read + LIVE + WAITING
    assert sum(cost.read for cost in few) <= 3 * busy + 60 * 10
    assert sum(cost.read for cost in many) <= 6 * busy + 60 * 100


def test_a_full_quota_is_not_counted_again_until_a_slot_is_free(scales: Callable[..., Scale]) -> None:
    scale = scales(live=100, waiting=100)
    launch, lease = scale.world.replica.launch, scale.world.lease()
    launch.reconcile(lease)
    with counted(scale.engine) as cost:
        launch.reconcile(lease)
    assert cost.read == 0
    scale.end(1)
    scale.world.run(3)
    assert len(scale.world.started) == 101


def phases(scale: Scale) -> list[Phase]:
    found = scale.world.store.find([f"w{n:06}" for n in range(LIVE + WAITING)])
    return [w.phase for w in found.workloads]


def test_statements_do_not_grow_with_what_runs(scales: Callable[..., Scale]) -> None:
    one, other = scales(live=100, waiting=100), scales(live=400, waiting=100)
    assert one.turn().statements == other.turn().statements
