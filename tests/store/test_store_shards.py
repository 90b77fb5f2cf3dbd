"""A shard's daemon sees what is in its own account and region, and all that waits."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.core.phase import Desired, Phase
from reconciler.seams import replica_lease
from reconciler.store.daemon import SqlStore

if TYPE_CHECKING:
    from tests.conftest import Deployment


@pytest.fixture
def west(prod: Deployment) -> SqlStore:
    """The store of the shard `west`, in which `prod` has one workload for each phase; the same again in `east`."""
    for shard in ("west", "east"):
        for phase in Phase:
            exec_id = f"{shard}-{phase.lower()}"
            prod.queue(exec_id, queue=shard)
            prod.set(exec_id, phase=phase.value, shard=shard, profile=shard, attempt=1)
    return SqlStore(prod.engine, "prod", "west")


def ids(snapshot: object) -> list[str]:
    return sorted(w.exec_id for w in snapshot.workloads)  # type: ignore[attr-defined] # a snapshot


def test_what_has_been_launched_belongs_to_its_shard(prod: Deployment, west: SqlStore) -> None:
    assert ids(west.in_phase(Phase.RUNNING, Phase.STARTED)) == ["west-running", "west-started"]
    lease = west.hold("prod/west", "here", timedelta(seconds=15))
    assert lease is not None
    assert ids(west.launching(lease)) == ["west-launching"]
    prod.set("west-started", last_status="STOPPED")
    prod.set("east-started", last_status="STOPPED")
    prod.set("west-exited", refused=True)
    prod.set("east-exited", refused=True)
    assert ids(west.failed_starts()) == ["west-exited", "west-started"]


def test_what_waits_belongs_to_nobody_yet(prod: Deployment, west: SqlStore) -> None:
    assert ids(west.launchable(9)) == ["east-pending", "west-pending"]
    assert ids(west.launchable(9, ["east"])) == ["east-pending"]
    for shard in ("west", "east"):
        for phase in ("pending", "running"):
            prod.set(f"{shard}-{phase}", desired=Desired.STOP.value)
    assert ids(west.unwanted()) == ["east-pending", "west-pending", "west-running"]


def test_an_admission_elsewhere_proves_nothing_about_this_network(prod: Deployment, west: SqlStore) -> None:
    since = prod.store.now() - timedelta(hours=1)
    done = {"exit_code": 0, "stopped_at": prod.store.now(), "acked_version": 99}
    prod.set("east-exited", **done)
    assert not west.admitted(since, timedelta(minutes=5))
    prod.set("west-exited", **done)
    assert west.admitted(since, timedelta(minutes=5))


def test_counts_are_of_all_and_those_for_launching_of_this_shard_and_what_waits(west: SqlStore) -> None:
    everything, here = west.counts(), west.counts_here()
    assert everything.in_flight == 8
    assert dict(everything.by_shard) == {"west": 4, "east": 4}
    assert dict(here.by_shard) == {"west": 4}
    assert dict(here.by_profile) == {"west": 4}
    assert {queue: phases[Phase.PENDING] for queue, phases in here.by_queue.items()} == {"west": 1, "east": 1}


def test_what_runs_is_counted_for_launching_only_if_anything_waits(prod: Deployment, west: SqlStore) -> None:
    for shard in ("west", "east"):
        prod.move(f"{shard}-pending", Phase.LAUNCHING)
    assert dict(west.counts_here().by_shard) == {}


def test_what_leaves_its_flight_is_told_to_whoever_waits_for_a_slot(prod: Deployment) -> None:
    prod.queue("a")
    before = prod.store.freed()
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING)
    assert prod.store.freed() == before
    prod.move("a", Phase.EXITED)
    assert prod.store.freed() == before + 1


def test_leases_that_are_held_are_those_of_shards_and_replicas_of_this_deployment(prod: Deployment) -> None:
    ttl = timedelta(minutes=5)
    for name in ("prod/west", replica_lease("prod", "me"), replica_lease("copy", "me"), "copy/west"):
        assert prod.store.hold(name, "me", ttl)
    gone = prod.store.hold("prod/gone", "me", ttl)
    assert gone
    prod.store.release(gone)
    assert set(prod.store.leases()) == {"prod/shard", "prod/west", "@prod/me"}
