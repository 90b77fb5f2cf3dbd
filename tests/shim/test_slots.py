"""How much room Airflow is told of."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from reconciler.airflow.slots import Slots, free_slots
from reconciler.store.shim import Demand

counts = st.integers(0, 2000)
demands = st.builds(
    Demand, in_flight=counts, pending=counts, finished_last_minute=counts, daemon_alive=st.just(value=True)
)


@given(demands, st.integers(1, 1000), st.integers(0, 200))
def test_there_is_room_for_the_free_slots_and_for_part_of_those_that_are_about_to_be(
    demand: Demand, quota: int, backlog: int
) -> None:
    free = free_slots(demand, quota, backlog)

    assert free >= quota - demand.in_flight - demand.pending
    assert free <= max(quota - demand.in_flight - demand.pending, 0) + max(backlog, 1)
    assert free <= max(quota - demand.in_flight - demand.pending + demand.finished_last_minute / 2, 1)


@given(demands, st.integers(1, 1000), st.integers(0, 200))
def test_a_quota_with_room_always_takes_one_more_but_not_without_end(demand: Demand, quota: int, backlog: int) -> None:
    if demand.in_flight < quota and demand.pending < quota:
        assert free_slots(demand, quota, backlog) >= 1
    if demand.pending >= quota and demand.finished_last_minute == 0:
        assert free_slots(demand, quota, backlog) <= 0


@given(counts, counts, counts)
def test_there_is_none_while_the_daemon_is_dead(in_flight: int, pending: int, finished: int) -> None:
    assert free_slots(Demand(in_flight, pending, finished, daemon_alive=False), 500, 50) == 0


def test_what_is_queued_is_taken_until_the_next_look() -> None:
    slots = Slots(max_running_tasks=2, backlog=0)
    assert slots.free == 0

    slots.refresh(Demand(in_flight=0, pending=0, finished_last_minute=0, daemon_alive=True))
    for left in (1, 0, 0):
        slots.take()
        assert slots.free == left

    slots.refresh(Demand(in_flight=1, pending=0, finished_last_minute=0, daemon_alive=True))
    assert slots.free == 1


def test_what_waits_for_a_full_queue_takes_nothing_from_the_others_but_is_not_let_in_without_end() -> None:
    full = Demand(in_flight=4, pending=6, finished_last_minute=0, daemon_alive=True, blocked=6)
    assert free_slots(full, 10, 50) == 6
    assert free_slots(replace(full, blocked=0), 10, 50) == 1
    assert free_slots(replace(full, pending=10, blocked=10), 10, 50) == 1


def test_what_waits_at_home_is_its_backlog() -> None:
    """All slots are used, those of another region too: no more wait at home than if there were no other region."""
    full = Demand(in_flight=500, pending=0, finished_last_minute=60, daemon_alive=True)
    assert free_slots(full, 500, 50) == 30
    assert free_slots(replace(full, pending=20, blocked=20, at_home=20), 500, 50) == 10
    assert free_slots(replace(full, pending=40, blocked=40, at_home=40), 500, 50) == 0
    # What waits for a queue that is full does not use what becomes free at home.
    assert free_slots(replace(full, pending=40, blocked=40, at_home=0), 500, 50) == 30


def test_there_is_none_while_an_operator_holds_all_queues() -> None:
    assert free_slots(Demand(0, 0, 0, daemon_alive=True, held=True), 500, 50) == 0
