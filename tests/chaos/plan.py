"""What one seed makes of a world: work, and one fault after the other."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from tests.chaos.airflow import Program
from tests.chaos.ecs import DEPLOYMENT
from tests.chaos.replica import LEASE_SECONDS, POINTS, trap

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.proxy import Trap
    from tests.chaos.replica import Replica
    from tests.chaos.world import World

    Chance = random.Random
    Fault = Callable[[World, Chance], str]

FAULTS: Final[dict[str, Fault]] = {}
BROKEN: Final = 3
"""So many starts of a world fail by themselves."""


def _fault(do: Fault) -> Fault:
    FAULTS[do.__name__.strip("_").replace("_", " ")] = do
    return do


def _leader(world: World, chance: Chance) -> Replica:
    """Who leads, or anybody while nobody does."""
    return world.leader() or chance.choice(world.replicas)


@_fault
def _kill_the_leader(world: World, chance: Chance) -> str:
    leader = _leader(world, chance)
    time.sleep(chance.random())
    leader.kill()
    return leader.name


@_fault
def _kill_all(world: World, chance: Chance) -> str:
    for replica in world.replicas:
        replica.kill()
    return ""


@_fault
def _kill_at_a_point(world: World, chance: Chance) -> str:
    return at_a_point(world, chance.choice(list(POINTS)), kill=True)


@_fault
def _cut_at_a_point(world: World, chance: Chance) -> str:
    return at_a_point(world, chance.choice(list(POINTS)), kill=False)


@_fault
def _pause_the_leader(world: World, chance: Chance) -> str:
    leader = _leader(world, chance)
    leader.pause()
    time.sleep(LEASE_SECONDS * (1 + chance.random()))
    leader.wake()
    return leader.name


@_fault
def _restart_the_database(world: World, chance: Chance) -> str:
    world.server.stop()
    time.sleep(chance.random() * 2)
    world.server.start()
    return ""


@_fault
def _kill_the_database(world: World, chance: Chance) -> str:
    world.server.kill()
    time.sleep(chance.random() * 2)
    world.server.start()
    return ""


@_fault
def _cut_an_edge(world: World, chance: Chance) -> str:
    leader, edge, reset = _leader(world, chance), chance.choice(["db", "ecs"]), chance.random() < 0.5
    getattr(leader, edge).cut(reset=reset)
    return f"{leader.name} {edge} {'RST' if reset else 'FIN'}"


@_fault
def _silence(world: World, chance: Chance) -> str:
    return _edge_for_a_while(world, chance, "silence")


@_fault
def _refusal(world: World, chance: Chance) -> str:
    return _edge_for_a_while(world, chance, "refuse")


@_fault
def _slowness(world: World, chance: Chance) -> str:
    leader, edge = _leader(world, chance), chance.choice(["db", "ecs"])
    proxy = getattr(leader, edge)
    proxy.delay = 0.05 + 0.3 * chance.random()
    time.sleep(2 + 3 * chance.random())
    proxy.heal()
    return f"{leader.name} {edge}"


def _edge_for_a_while(world: World, chance: Chance, what: str) -> str:
    leader, edge = _leader(world, chance), chance.choice(["db", "ecs"])
    proxy = getattr(leader, edge)
    getattr(proxy, what)()
    time.sleep(1 + LEASE_SECONDS * 2 * chance.random())
    proxy.heal()
    return f"{leader.name} {edge}"


def at_a_point(world: World, point: str, *, kill: bool, seconds: float = 20.0) -> str:
    """Give the leader work that leads it to this point, and let it happen there."""
    leader, laid = _lead_to(world, world.wait_for_leader(), point, kill=kill)
    until = time.monotonic() + seconds
    while not (sprung := laid.sprung.wait(1.0)) and time.monotonic() < until:
        # A busy machine may be late with a heartbeat, and the lease moves: then the other one must come to this point.
        other = world.leader()
        if other not in (None, leader):
            leader, laid = _lead_to(world, other, point, kill=kill)
    return f"{leader.name}: {point}{'' if sprung else ' (not reached)'}"


def _lead_to(world: World, leader: Replica, point: str, *, kill: bool) -> tuple[Replica, Trap]:
    laid = trap(leader, point, kill=kill)
    if "StopTask" in point:
        _stop_a_start(world)
    else:
        for _ in range(2):
            world.scheduler.add(Program(seconds=0.2))
    return leader, laid


def _stop_a_start(world: World) -> None:
    """A task whose start hangs, which Airflow queues again: what hangs must be stopped before it is launched anew."""
    with world.ecs.lock:
        name = world.scheduler.add(Program())
        prefix = f"{DEPLOYMENT}/{name}-1/"
        world.ecs.model.faults.on_start(None, status="PENDING", where=lambda r: r["startedBy"].startswith(prefix))
    world.until(lambda: any(w.exec_id == f"{name}-1" and w.attempt for w in world.rows()), "its launch")
    world.until(lambda: world.scheduler.requeue(name), "Airflow to queue it again")


def work(world: World, chance: Chance) -> list[str]:
    """A few tasks of all kinds, and what users do to those that are there."""
    names = [
        world.scheduler.add(
            Program(
                seconds=chance.random() * 2,
                uploads=chance.random() * 0.5,
                deferrals=chance.choice([0, 0, 0, 1, 2]),
                broken=_broken(world, chance),
            )
        )
        for _ in range(chance.randint(1, 4))
    ]
    if chance.random() < 0.4:
        world.scheduler.requeue(chance.choice(sorted(world.scheduler.tis)))
    if chance.random() < 0.3:
        world.scheduler.mark_failed(chance.choice(sorted(world.scheduler.tis)))
    return names


def _broken(world: World, chance: Chance) -> int:
    """Five of them within a minute would mean that Airflow's API server is down, and hold all launches."""
    so_far = sum(ti.program.broken for ti in world.scheduler.tis.values())
    return int(so_far < BROKEN and chance.random() < 0.2)


def play(world: World, seed: int, steps: int, say: Callable[[str], None]) -> None:
    """So many faults. A replica that was killed stays dead for a step now and then, but never both."""
    chance = random.Random(seed)
    world.wait_for_leader()
    for step in range(steps):
        work(world, chance)
        time.sleep(chance.random())
        name = chance.choice(sorted(FAULTS))
        say(f"{step + 1}/{steps} {name}: {FAULTS[name](world, chance)}")
        for replica in world.replicas:
            if chance.random() < 0.7:
                replica.heal()
        if not any(replica.alive for replica in world.replicas):
            chance.choice(world.replicas).heal()
