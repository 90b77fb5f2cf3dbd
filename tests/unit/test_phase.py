"""The phases and their edges."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from reconciler.core.phase import EDGES, IN_FLIGHT, LIVE, TERMINAL, Phase, check_edge
from reconciler.core.task import Workload

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_every_phase_has_its_edges() -> None:
    assert set(EDGES) == set(Phase)


def test_terminal_phases_are_absorbing_but_for_a_refused_start() -> None:
    assert {phase: EDGES[phase] for phase in TERMINAL if EDGES[phase]} == {Phase.EXITED: {Phase.PENDING}}


def test_every_phase_can_be_reached_and_left_toward_an_end() -> None:
    reached = {Phase.PENDING}
    while more := {to for phase in reached for to in EDGES[phase]} - reached:
        reached |= more
    assert reached == set(Phase)
    ends = set(TERMINAL)
    while more := {phase for phase in Phase if EDGES[phase] & ends} - ends:
        ends |= more
    assert ends == set(Phase)


def test_a_launched_workload_comes_back_to_pending_only_from_phases_that_can_prove_it_never_ran() -> None:
    assert {phase for phase in Phase if Phase.PENDING in EDGES[phase]} == {
        Phase.LAUNCHING,
        Phase.STARTED,
        Phase.EXITED,
    }


def test_in_flight_and_terminal_exclude_one_another() -> None:
    assert LIVE < IN_FLIGHT
    assert not IN_FLIGHT & TERMINAL
    assert IN_FLIGHT | TERMINAL | {Phase.PENDING} == set(Phase)


@pytest.mark.parametrize(
    ("old", "new"), [(a, b) for a in Phase for b in Phase if a is not b and b not in EDGES[a]], ids=lambda p: p.value
)
def test_a_forbidden_edge_is_refused(old: Phase, new: Phase) -> None:
    with pytest.raises(ValueError, match=f"from {old} to {new}"):
        check_edge(old, new)
    with pytest.raises(ValueError, match="can not go"):
        Workload(exec_id="x", deployment="d", phase=old).moved(new, NOW)


def test_a_move_is_one_version_on() -> None:
    moved = Workload(exec_id="x", deployment="d", version=7).moved(Phase.CANCELLED, NOW, reason="why")
    assert (moved.version, moved.phase, moved.reason, moved.updated_at) == (8, Phase.CANCELLED, "why", NOW)
