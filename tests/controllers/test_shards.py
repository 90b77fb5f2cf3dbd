"""Shards: accounts and regions, each with a lease of its own, spread over the replicas of the daemon."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.core.phase import Desired, Phase
from reconciler.core.profiles import Profiles
from reconciler.lease import Crowd, Elector
from reconciler.localecs import Settings
from reconciler.seams import shard_lease
from reconciler.store.daemon import SqlStore
from tests.controllers.test_queues import PROFILE
from tests.virtual import VirtualClock, make_store_engine
from tests.world import DEPLOYMENT, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

TTL = 15.0
SHARDS = [f"region-{n:02}" for n in range(20)]


class Member:
    """One replica, as far as leases go."""

    def __init__(self, engine: Engine, clock: VirtualClock, holder: str, shards: list[str] = SHARDS) -> None:
        names = [shard_lease(DEPLOYMENT, shard) for shard in shards]
        store = SqlStore(engine, DEPLOYMENT)
        self.crowd = Crowd(store, clock, deployment=DEPLOYMENT, holder=holder, ttl=TTL, shards=lambda: names)
        self._electors = {
            shard: Elector(store, clock, name=name, holder=holder, ttl=TTL, crowd=self.crowd)
            for shard, name in zip(shards, names, strict=True)
        }

    def beat(self) -> None:
        self.crowd.look()
        for elector in self._electors.values():
            elector.renew()

    @property
    def held(self) -> set[str]:
        return {shard for shard, elector in self._electors.items() if elector.lease()}


class Replicas:
    """Several of them on one database and one clock."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.engine = make_store_engine(self.clock)
        self.alive: list[Member] = []

    def join(self, holder: str, shards: list[str] = SHARDS) -> Member:
        self.alive.append(Member(self.engine, self.clock, holder, shards))
        return self.alive[-1]

    def beats(self, seconds: float) -> None:
        for _ in range(int(seconds / (TTL / 3))):
            self.clock.now += TTL / 3
            for member in self.alive:
                member.beat()
            held = Counter(shard for member in self.alive for shard in member.held)
            assert max(held.values(), default=0) <= 1, f"held twice: {held}"

    def spread(self) -> list[int]:
        return sorted(len(member.held) for member in self.alive)


@pytest.fixture
def replicas() -> Iterator[Replicas]:
    made = Replicas()
    yield made
    made.engine.dispose()


def test_one_replica_holds_all_shards_and_gives_others_their_part(replicas: Replicas) -> None:
    replicas.join("one")
    replicas.beats(TTL)
    assert replicas.spread() == [20]

    replicas.join("two")
    replicas.beats(TTL)
    assert replicas.spread() == [10, 10]

    replicas.join("three")
    replicas.beats(TTL)
    assert replicas.spread() == [6, 7, 7]
    assert set().union(*(member.held for member in replicas.alive)) == set(SHARDS)


def test_the_shards_of_a_lost_replica_move_within_a_leases_life(replicas: Replicas) -> None:
    for holder in ("one", "two", "three"):
        replicas.join(holder)
    replicas.beats(2 * TTL)
    replicas.alive.pop()
    replicas.beats(TTL + TTL / 3)
    assert replicas.spread() == [10, 10]


def test_what_is_spread_stays_where_it_is(replicas: Replicas) -> None:
    for holder in ("one", "two"):
        replicas.join(holder)
    replicas.beats(2 * TTL)
    before = [member.held for member in replicas.alive]
    replicas.beats(20 * TTL)
    assert [member.held for member in replicas.alive] == before


def test_a_replica_that_leaves_in_order_is_not_counted_any_more(replicas: Replicas) -> None:
    one, two = replicas.join("one"), replicas.join("two")
    replicas.beats(2 * TTL)
    replicas.alive.remove(two)
    for elector in two._electors.values():
        elector.release()
    two.crowd.leave()
    replicas.beats(TTL / 3 * 2)
    assert len(one.held) == 20


def test_a_shard_that_the_others_are_not_configured_for_is_taken_and_kept(replicas: Replicas) -> None:
    one = replicas.join("new", [*SHARDS, "region-new"])
    for n in range(3):
        replicas.join(f"old{n}")
    replicas.beats(4 * TTL)
    assert "region-new" in one.held
    before = one.held
    replicas.beats(10 * TTL)
    assert one.held == before
    assert set().union(*(member.held for member in replicas.alive)) == {*SHARDS, "region-new"}


def universe(count: int) -> list[World]:
    """So many shards in one table. The first is at home; queue `q<n>` runs in the others, with 8 slots each."""
    named = {f"q{n}": replace(PROFILE, name=f"q{n}", region=SHARDS[n], max_running_tasks=8) for n in range(1, count)}
    profiles = Profiles(replace(PROFILE, name="default", region=SHARDS[0], max_running_tasks=8), named)
    worlds: list[World] = []
    for n in range(count):
        settings = replace(Settings.unthrottled(), region=SHARDS[n])
        worlds.append(World(settings, max_running_tasks=8, shard=SHARDS[n], among=profiles, beside=worlds[:1]))
    return worlds


def test_twenty_shards_run_side_by_side_and_none_touches_anothers_tasks() -> None:
    worlds = universe(20)
    first = worlds[0]
    for n in range(20):
        first.queue(*[f"w{n:02}-{i:02}" for i in range(12)], queue=f"q{n}" if n else "default")
        worlds[n].behaviour.seconds = 10.0
    end = first.clock.now + 60
    while first.clock.now < end:
        first.clock.now += 2.0
        for world in worlds:
            world.turn()
    rows = first._all()
    assert Counter(w.phase for w in rows) == {Phase.EXITED: 240}
    for n, world in enumerate(worlds):
        assert len(world.started) == 12, "each was launched once, and in its own shard"
        assert {exec_id[:3] for exec_id, _, _ in world.started} == {f"w{n:02}"}
        assert 0 < world.most_at_once <= 8
        assert not world.replica.errors
        assert "stopped" not in world.replica.orphans
    assert all(f":{w.shard}:" in (w.task_arn or "") for w in rows)
    for world in reversed(worlds):
        world.close()


def test_a_shard_whose_replica_is_gone_keeps_none_of_the_others_waiting() -> None:
    worlds = universe(3)
    first = worlds[0]
    for n in range(3):
        first.queue(*[f"w{n}-{i}" for i in range(5)], queue=f"q{n}" if n else "default")
    end = first.clock.now + 60
    while first.clock.now < end:
        first.clock.now += 1.0
        for world in worlds[:2]:
            world.turn()
    assert Counter((w.exec_id[:2], w.phase) for w in first._all()) == {
        ("w0", Phase.EXITED): 5,
        ("w1", Phase.EXITED): 5,
        ("w2", Phase.PENDING): 5,
    }
    for world in reversed(worlds):
        world.close()


def test_what_waits_for_a_shard_without_a_leader_can_be_cancelled_by_any() -> None:
    worlds = universe(2)
    first = worlds[0]
    first.queue("a", queue="q1", desired=Desired.STOP)
    first.clock.now += 1.0
    first.turn()
    assert first.row("a").phase is Phase.CANCELLED
    for world in reversed(worlds):
        world.close()


def test_a_shard_that_no_queue_names_any_more_is_tended_until_it_is_empty() -> None:
    worlds = universe(2)
    first, other = worlds
    first.queue("runs", "waits", queue="q1")
    other.behaviour.seconds = 60.0
    for _ in range(5):
        first.clock.now += 1.0
        for world in worlds:
            world.turn()
    assert first.row("runs").phase is Phase.RUNNING
    first.queue("late", queue="q1")
    # Configured anew: the queue runs at home by now, and nothing is launched in the other region.
    home = replace(other.profiles, named={})
    for world in worlds:
        world.replica.launch._profiles = home
        world.replica.adopt._profiles = home
        world.replica.cleanup._profiles = home
    for _ in range(90):
        first.clock.now += 1.0
        for world in worlds:
            world.turn()
    assert {w.exec_id: (w.phase, w.shard) for w in first._all()} == {
        "runs": (Phase.EXITED, SHARDS[1]),
        "waits": (Phase.EXITED, SHARDS[1]),
        "late": (Phase.EXITED, SHARDS[0]),
    }
    for world in reversed(worlds):
        world.close()


def test_the_note_of_a_replica_that_is_long_gone_is_forgotten(replicas: Replicas) -> None:
    replicas.join("one")
    replicas.beats(TTL)
    replicas.alive.clear()
    replicas.join("two")
    replicas.clock.now += timedelta(days=1, minutes=5).total_seconds()
    replicas.beats(TTL)
    with replicas.engine.connect() as conn:
        names = conn.exec_driver_sql("SELECT name FROM ecs_lease WHERE name LIKE '@%'").scalars().all()
    assert names == [f"@{DEPLOYMENT}/two"]
