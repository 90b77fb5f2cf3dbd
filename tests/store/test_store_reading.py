"""What the daemon reads of its rows, how often, and as of when, on each supported database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete

from reconciler.core.phase import LIVE, Desired, Phase
from reconciler.core.task import Workload
from reconciler.store import daemon, rows, shim
from reconciler.store.engine import writing
from reconciler.store.schema import workloads
from tests.conftest import ids

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import Connection, Select

    from tests.conftest import Deployment


def test_each_read_shows_its_own_rows(prod: Deployment) -> None:
    for exec_id in (
        "pending",
        "launching",
        "started",
        "failed",
        "running",
        "exited",
        "stopped-pending",
        "refused-stop",
    ):
        prod.queue(exec_id)
    prod.move("launching", Phase.LAUNCHING)
    prod.move("started", Phase.LAUNCHING, Phase.STARTED, last_status="PENDING")
    prod.move("failed", Phase.LAUNCHING, Phase.STARTED, last_status="STOPPED")
    prod.move("running", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING, last_status="STOPPED")
    prod.move("exited", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED)
    prod.move("refused-stop", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED)
    prod.set("refused-stop", refused=True, desired="STOP")
    prod.set("stopped-pending", desired="STOP")
    prod.set("running", desired="STOP")
    store = prod.store

    assert ids(store.launchable(9)) == ["pending"]
    assert ids(store.launching(prod.lease)) == ["launching"]
    assert ids(store.in_phase(Phase.STARTED, Phase.RUNNING)) == ["started", "failed", "running"]
    assert ids(store.in_phase(Phase.EXITED, Phase.PENDING)) == ["pending", "exited", "stopped-pending", "refused-stop"]
    assert sorted(ids(store.unwanted())) == ["running", "stopped-pending"]
    assert ids(store.failed_starts()) == ["failed"]
    assert ids(store.find(["exited", "running", "none"])) == ["running", "exited"]
    assert store.find([]).workloads == ()


def test_what_was_not_written_to_is_not_read_again(prod: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def noted(conn: Connection, statement: Select[Any], **parameters: Any) -> list[Workload]:
        asked.append(parameters["ids"])
        return rows.read(conn, statement, **parameters)

    monkeypatch.setattr(daemon, "read", noted)
    for exec_id in ("a", "b", "c"):
        prod.queue(exec_id)
        prod.move(exec_id, Phase.LAUNCHING, Phase.STARTED)
    prod.move("c", Phase.RUNNING)
    first = prod.store.in_phase(*LIVE)
    assert ids(first) == ["a", "b", "c"]
    assert prod.store.in_phase(*LIVE).workloads == first.workloads
    assert ids(prod.store.in_phase(Phase.STARTED)) == ["a", "b"]
    assert asked == [["a", "b", "c"]]

    prod.move("b", Phase.RUNNING)
    with prod.engine.begin() as conn:
        shim.want_stop(conn, ["c"], "cleared")
    prod.move("a", Phase.EXITED)
    again = prod.store.in_phase(*LIVE)
    assert asked[1:] == [["b", "c"]]
    assert again.workloads == prod.store.find(["b", "c"]).workloads
    assert [w.desired for w in again.workloads] == [Desired.RUN, Desired.STOP]
    assert sorted(w.exec_id for w in prod.store._known.values()) == ["b", "c"], "what has ended or changed is not kept"


def test_a_row_that_begins_anew_is_not_taken_for_the_one_that_was(prod: Deployment) -> None:
    prod.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, task_arn="first")
    assert [w.task_arn for w in prod.store.in_phase(*LIVE).workloads] == ["first"]
    with prod.engine.begin() as conn:
        conn.execute(delete(workloads))
    prod.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, task_arn="second")
    (anew,) = prod.store.in_phase(*LIVE).workloads
    assert (anew.version, anew.task_arn) == (3, "second")


def test_a_row_that_moves_on_while_it_is_read_is_not_shown(prod: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    prod.queue("a")
    prod.move("a", Phase.LAUNCHING, Phase.STARTED)

    def late(conn: Connection, statement: Select[Any], **parameters: Any) -> list[Workload]:
        return [replace(w, phase=Phase.EXITED) for w in rows.read(conn, statement, **parameters)]

    monkeypatch.setattr(daemon, "read", late)
    assert prod.store.in_phase(*LIVE).workloads == ()


def test_what_is_launching_is_shown_to_the_leader_only(prod: Deployment) -> None:
    """Or one that was stalled would send the call that a later leader's refusal has settled."""
    prod.queue("a")
    prod.move("a", Phase.LAUNCHING)
    assert ids(prod.store.launching(prod.lease)) == ["a"]
    assert ids(prod.store.launching(replace(prod.lease, epoch=prod.lease.epoch - 1))) == []


def test_only_reads_that_may_lead_to_a_launch_carry_the_spec(prod: Deployment) -> None:
    prod.queue("a")
    prod.queue("b")
    prod.move("b", Phase.LAUNCHING)
    assert all(w.spec for w in (*prod.store.launchable(1).workloads, *prod.store.launching(prod.lease).workloads))
    assert not any(w.spec for w in (*prod.store.in_phase(*Phase).workloads, *prod.store.find(["a"]).workloads))


def test_any_number_of_ids_can_be_looked_up(prod: Deployment) -> None:
    with writing(prod.engine).begin() as conn:
        shim.insert(conn, [Workload(exec_id=f"{n:05}", deployment="prod") for n in range(2500)])
    assert len(prod.store.find([f"{n:05}" for n in range(2500)]).workloads) == 2500


def test_a_snapshot_carries_the_clock_of_the_database(prod: Deployment) -> None:
    before = prod.store.now()
    w = prod.queue("x")
    after = prod.store.launchable(1).now
    assert before.tzinfo is UTC
    assert w.created_at is not None
    assert before <= w.created_at <= after <= prod.store.now()
    assert after - before < timedelta(minutes=1)


def test_counts_show_what_is_open_and_what_waits_for_its_owner(prod: Deployment) -> None:
    assert prod.store.counts().oldest_pending == 0
    for exec_id in "abcde":
        prod.queue(exec_id)
    prod.move("c", Phase.LAUNCHING, Phase.STARTED)
    prod.move("d", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED)
    prod.move("e", Phase.CANCELLED)
    prod.set("e", acked_version=2)
    prod.set("b", created_at=prod.store.now() - timedelta(seconds=90))

    counts = prod.store.counts()

    assert {phase: n for phase, n in counts.by_phase.items() if n} == {
        Phase.PENDING: 2,
        Phase.STARTED: 1,
        Phase.EXITED: 1,
    }
    assert set(counts.by_phase) == set(Phase)
    assert counts.in_flight == 1
    assert 90 <= counts.oldest_pending < 150
