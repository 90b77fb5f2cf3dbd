"""How often tasks are looked at, and in which order."""

from __future__ import annotations

import math

import pytest

from reconciler.core.sweep import ROUND_WITH_EVENTS, Pace, Staleness, polling, with_events


def calls_per_second(pace: Pace) -> float:
    return math.ceil(pace.tasks / 100) / pace.every


def round_of(pace: Pace, live: int) -> float:
    """Seconds until each of them has been looked at."""
    return math.ceil(live / pace.tasks) * pace.every


@pytest.mark.parametrize("live", [1, 99, 100, 101, 250, 499, 500])
def test_five_hundred_tasks_are_seen_in_time_with_three_calls_a_second(live: int) -> None:
    pace = polling(live, 1.0)
    assert calls_per_second(pace) <= 3.0
    # An end is seen a round later at the worst, and then it is to be written.
    assert round_of(pace, live) + pace.every <= 2.2


@pytest.mark.parametrize("live", [1, 50, 100])
def test_a_hundred_tasks_are_seen_several_times_a_second_with_no_more_calls(live: int) -> None:
    pace = polling(live, 0.4)
    assert round_of(pace, live) <= 0.4
    assert calls_per_second(pace) <= 3.0


@pytest.mark.parametrize("live", [501, 510, 600])
def test_a_few_more_than_five_hundred_take_a_few_more_calls(live: int) -> None:
    pace = polling(live, 1.0)
    assert calls_per_second(pace) <= 3.0
    assert round_of(pace, live) <= 2.0


@pytest.mark.parametrize("live", [1, 100, 400, 500, 600, 1000])
def test_while_tasks_are_launched_all_are_seen_sooner(live: int) -> None:
    pace = polling(live, 0.4, busy=True)
    assert round_of(pace, live) <= 1.4
    assert calls_per_second(pace) <= 8.0


@pytest.mark.parametrize("live", [501, 1000, 2000, 5000, 10000])
def test_many_are_seen_within_the_budget_for_reading(live: int) -> None:
    pace = polling(live, 1.0)
    assert calls_per_second(pace) <= 12.5
    assert round_of(pace, live) <= 10.0
    assert pace.every * live / pace.tasks <= max(2.0, live / 1200)


def test_nothing_is_looked_at_more_often_than_the_option_says() -> None:
    assert polling(50, 30.0) == Pace(30.0, 100)
    assert round_of(polling(500, 30.0), 500) == pytest.approx(30.0)


@pytest.mark.parametrize("live", [0, 1, 100, 500])
def test_with_events_looks_are_rare(live: int) -> None:
    pace = with_events(live)
    assert calls_per_second(pace) <= 0.2
    assert live == 0 or round_of(pace, live) <= ROUND_WITH_EVENTS


def test_at_once_is_the_same_round_in_one_step() -> None:
    assert polling(500, 1.0, at_once=True).tasks == 500
    assert polling(500, 1.0, at_once=True).every == pytest.approx(round_of(polling(500, 1.0), 500))


def test_the_longest_unseen_are_first_and_new_ones_wait_for_their_turn() -> None:
    staleness = Staleness()
    assert staleness.stalest("abcd", 2, 0.0) == ["a", "b"]
    staleness.looked("ab", 1.0)
    assert staleness.stalest("abcdx", 2, 2.0) == ["c", "d"]
    staleness.looked("cd", 3.0)
    assert staleness.stalest("bcdx", 2, 4.0) == ["b", "x"]


def test_all_have_their_turn_however_many_are_new() -> None:
    staleness, seen = Staleness(), set()
    for second in range(40):
        live = [f"old{n}" for n in range(20)] + [f"new{second}-{n}" for n in range(20)]
        chosen = staleness.stalest(live, 4, float(second))
        staleness.looked(chosen, float(second))
        seen |= set(chosen)
    assert {f"old{n}" for n in range(20)} <= seen
