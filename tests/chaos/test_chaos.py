"""The short form of `make chaos`: every named point once, one seed of everything, and a fault that must be found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.airflow import Program
from tests.chaos.plan import at_a_point, play
from tests.chaos.replica import POINTS
from tests.chaos.world import PATIENCE, World

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(900)]

KILLED = (
    "the intent is committed, which the daemon never hears",
    "RunTask has made a task, which the daemon never hears",
)
"""Points at which the whole process dies. At the others its connection does, and the process has to live with that."""
SEED = 1
STEPS = 6


def test_whatever_happens_at_a_named_point_happens_once(tmp_path: Path) -> None:
    """The crash points of the protocol that can be told from outside, one after the other."""
    with World(tmp_path) as world:
        world.wait_for_leader()
        world.scheduler.add(Program(broken=3))
        for point in POINTS:
            told = at_a_point(world, point, kill=point in KILLED, seconds=PATIENCE)
            assert "not reached" not in told
            world.heal()

        assert world.judge() == [], world.told()

        # But for the one whose containers break before Airflow admits them, if that was not taken for an API server
        # that is down, which counts against nobody.
        assert {name for name, ti in world.scheduler.tis.items() if ti.state != "success"} <= {"t1"}
        assert len(world.scheduler.tis) >= 1 + 2 * 8 + 2


def test_one_seed_of_everything(tmp_path: Path) -> None:
    with World(tmp_path, seed=SEED) as world:
        play(world, SEED, STEPS, print)
        assert world.judge() == [], f"seed {SEED}: {world.told()}"


def test_a_daemon_with_a_random_client_token_is_found_out(tmp_path: Path) -> None:
    """Without this, the silence of the checker would prove nothing."""
    faulty = (sys.executable, "-P", str(Path(__file__).with_name("random_token.py")))
    # A listing would find the task before the launch is sent again.
    with World(tmp_path, replicas=1, command=faulty, LISTING_INTERVAL=60) as world:
        at_a_point(world, "RunTask has made a task, which the daemon never hears", kill=False, seconds=PATIENCE)

        broken = {violation.rule for violation in world.judge()}

    assert "I1 one task per launch" in broken
