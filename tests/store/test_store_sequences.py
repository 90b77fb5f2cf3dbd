"""Whatever daemon and shim do to a row, in whatever order and after however old a look: rules that always hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.phase import EDGES, TERMINAL, Desired, Phase
from reconciler.store import shim
from reconciler.store.engine import writing

if TYPE_CHECKING:
    from uuid import UUID

    from reconciler.core.task import Workload
    from tests.conftest import Deployment

SHIM = ("acknowledge", "refuse", "want_stop", "own", "shed")

steps = st.tuples(
    st.one_of(st.integers(0, 6), st.sampled_from(SHIM)),  # the daemon along one of the edges, or the shim
    st.sampled_from([0, 0, 0, 1, 2]),  # how many looks ago the actor read the row
)


def step(prod: Deployment, action: int | str, read: Workload) -> None:
    """One write, decided on what was read."""
    if isinstance(action, int):
        edges = sorted({read.phase, *EDGES[read.phase]})
        phase = edges[action % len(edges)]
        at = prod.store.now()
        facts: dict[str, Any] = {"reason": phase.value}
        if phase is Phase.LAUNCHING and read.phase is Phase.PENDING:
            facts = {"attempt": read.attempt + 1, "intent_at": at, "task_arn": None}
        if phase is Phase.STARTED:
            facts = {"task_arn": f"arn/{read.attempt}"}
        change = (read, read.moved(phase, at, **facts))
        won = prod.store.save([change], prod.lease)
        assert prod.store.save([change], prod.lease) == [], "a repeat is never a second write"
        if won:
            assert prod.get(read.exec_id).version == won[0].version
        return
    with writing(prod.engine).begin() as conn:
        match action:
            case "acknowledge":
                shim.acknowledge(conn, [read])
            case "refuse":
                shim.refuse(conn, [read])
            case "want_stop":
                shim.want_stop(conn, [read.exec_id], "why")
            case "own":
                shim.own(conn, [read.exec_id], read.version)
            case _:
                shim.shed(conn, [read])


def check(prod: Deployment, old: Workload, new: Workload) -> None:
    """What may lie between two looks at a row with one write between them."""
    unversioned = replace(old, acked_version=new.acked_version, owner_job_id=new.owner_job_id)
    assert new.version > old.version or new == unversioned, "every change but two has a version"
    assert new.version - old.version <= 1
    assert new.phase is old.phase or new.phase in EDGES[old.phase]
    assert new.desired is old.desired or (old.desired, new.desired) == (Desired.RUN, Desired.STOP)
    assert new.attempt >= old.attempt
    assert old.acked_version <= new.acked_version <= new.version
    assert new.acked_version == old.acked_version or new.phase in TERMINAL
    assert not new.refused or new.phase is Phase.EXITED
    assert new.created_at == old.created_at
    attempts = prod.attempts(new.exec_id)
    assert [attempt["attempt"] for attempt in attempts] == list(range(1, new.attempt + 1))
    still_open = [attempt["attempt"] for attempt in attempts if attempt["closed_at"] is None]
    assert still_open == ([new.attempt] if new.in_flight else [])


@settings(
    max_examples=30,
    deadline=None,
    # The database is the same for all examples, and each has a row of its own in it.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=st.uuids(version=4), actions=st.lists(steps, min_size=5, max_size=25))
def test_versions_rise_phases_follow_the_edges_and_columns_keep_to_their_writer(
    prod: Deployment, name: UUID, actions: list[tuple[int | str, int]]
) -> None:
    looks = [prod.queue(str(name), ti_id=str(name))]
    for action, ago in actions:
        step(prod, action, looks[max(0, len(looks) - 1 - ago)])
        looks.append(prod.get(str(name)))
        check(prod, looks[-2], looks[-1])
