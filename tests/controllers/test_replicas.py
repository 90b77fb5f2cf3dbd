"""Two replicas: a leader that was paused can do no harm."""

from __future__ import annotations

from collections import Counter

from tests.world import Replica, World


def test_only_the_leader_acts(world: World) -> None:
    other = Replica(world, "other")
    world.queue(*"abc")
    for _ in range(60):
        world.run(1)
        other.step()
    assert Counter(exec_id for exec_id, _, _ in world.started) == Counter("abc")
    assert not other.answers
    other.close()
