"""Holding launches behind one probe."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.gate import Gate


def test_an_open_gate_holds_nobody() -> None:
    assert Gate().room(0, 100) == 100


def test_a_closed_gate_lets_one_probe_through_after_each_pause() -> None:
    gate = Gate()
    gate.close(0, "expired")
    assert gate.room(0.5, 100) == 0
    assert gate.room(1.0, 100) == 1
    gate.probing(1.0)
    assert gate.room(1.5, 100) == 0
    assert gate.room(2.0, 100) == 1


def test_probes_that_fail_grow_rarer_up_to_a_minute() -> None:
    gate, now, pauses = Gate(), 0.0, []
    gate.close(now, "expired")
    for _ in range(10):
        began = now
        while not gate.room(now, 1):
            now += 0.5
        pauses.append(now - began)
        gate.probing(now)
        gate.close(now, "expired")
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_answers_to_launches_from_before_it_closed_do_not_prolong_it() -> None:
    gate = Gate()
    for late in range(100):
        gate.close(late / 1000, "expired")
    assert gate.room(1.0, 5) == 1


def test_one_accepted_launch_opens_it() -> None:
    gate = Gate()
    gate.close(0, "expired")
    gate.open()
    assert (gate.reason, gate.room(0, 7)) == (None, 7)


@given(st.lists(st.sampled_from(["close", "probe", "wait"])))
def test_there_is_always_a_next_probe_within_a_minute(steps: list[str]) -> None:
    gate, now = Gate(), 0.0
    for step in steps:
        now += 1.0
        if step == "close":
            gate.close(now, "why")
        elif step == "probe" and gate.room(now, 1):
            gate.probing(now)
    assert gate.room(now + 60, 1) == 1
