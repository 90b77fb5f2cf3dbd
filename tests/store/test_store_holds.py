"""What an operator holds back: noted in the table, obeyed by the very write that would launch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.control import drain, resume
from reconciler.core.holds import Mode
from reconciler.core.phase import Phase
from reconciler.core.task import Kind
from reconciler.store.holds import Left, hold, left
from reconciler.store.holds import resume as end_hold
from tests.virtual import VirtualClock

if TYPE_CHECKING:
    from tests.conftest import Deployment


def test_a_hold_says_who_and_when_and_can_be_changed_and_ended(prod: Deployment) -> None:
    before = prod.store.now()
    hold(prod.engine, "prod", "gpu", Mode.PAUSED, "ann@here")
    hold(prod.engine, "prod", "gpu", Mode.DRAINING, "bob@there")
    hold(prod.engine, "copy", "", Mode.PAUSED, "of another deployment")

    holds = prod.store.counts().holds
    (gpu,) = holds.all()
    assert (gpu.queue, gpu.mode, gpu.held_by) == ("gpu", Mode.DRAINING, "bob@there")
    assert before <= gpu.since <= prod.store.now()
    assert holds.of("gpu") is gpu
    assert holds.of("other") is None

    hold(prod.engine, "prod", "", Mode.PAUSED, "eve")
    assert prod.store.counts().holds.of("other") is not None
    assert end_hold(prod.engine, "prod", "")
    assert not end_hold(prod.engine, "prod", "")
    assert 'Still held: the queue "gpu" is draining by bob@there' in resume(prod.engine, "prod", "")
    assert resume(prod.engine, "prod", "gpu") == 'Launches of the queue "gpu" go on.'


@pytest.mark.parametrize(("held", "goes"), [("gpu", ["b"]), ("", []), ("other", ["a", "b"])])
def test_no_intent_is_written_once_its_queue_is_held_whatever_was_read_before(
    prod: Deployment, held: str, goes: list[str]
) -> None:
    prod.queue("a", queue="gpu")
    prod.queue("b")
    at, waiting = prod.store.now(), prod.store.launchable(9).workloads
    hold(prod.engine, "prod", held, Mode.PAUSED, "me")

    intents = [(w, w.moved(Phase.LAUNCHING, at, attempt=1, intent_at=at)) for w in waiting]
    assert sorted(w.exec_id for w in prod.store.save(intents, prod.lease)) == goes
    assert [exec_id for exec_id in ("a", "b") if prod.get(exec_id).phase is Phase.LAUNCHING] == goes


def test_what_has_an_intent_goes_on_while_its_queue_is_held(prod: Deployment) -> None:
    prod.queue("a")
    prod.move("a", Phase.LAUNCHING)
    hold(prod.engine, "prod", "", Mode.PAUSED, "me")
    assert prod.move("a", Phase.STARTED, Phase.RUNNING, Phase.EXITED).phase is Phase.EXITED


def test_what_is_left_counts_tasks_that_run_and_tasks_that_wait(prod: Deployment) -> None:
    assert left(prod.engine, "prod", "") == Left(0, 0)
    prod.queue("a", queue="gpu")
    prod.queue("b")
    prod.queue("c", kind=Kind.CALLBACK)  # can not be given back
    prod.queue("d")
    prod.move("d", Phase.LAUNCHING, Phase.STARTED)
    assert left(prod.engine, "prod", "") == Left(in_flight=1, waiting=2)
    assert left(prod.engine, "prod", "gpu") == Left(in_flight=0, waiting=1)


class Ending(VirtualClock):
    """With each wait one more workload is done."""

    def __init__(self, prod: Deployment) -> None:
        super().__init__()
        self._prod = prod
        self._todo = [("run", Phase.EXITED), ("wait", Phase.CANCELLED)]

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        if self._todo:
            exec_id, phase = self._todo.pop(0)
            self._prod.move(exec_id, phase)


def test_a_drain_counts_down_and_ends_when_nothing_is_left(prod: Deployment) -> None:
    prod.queue("run")
    prod.queue("wait")
    prod.move("run", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING)
    assert list(drain(prod.engine, "prod", "", Ending(prod))) == [
        "1 ECS tasks are left, 1 are given back to Airflow.",
        "0 ECS tasks are left, 1 are given back to Airflow.",
        "0 ECS tasks are left.",
    ]


def test_a_drain_of_one_queue_does_not_wait_for_what_waits_in_it(prod: Deployment) -> None:
    prod.queue("wait", queue="gpu")
    assert list(drain(prod.engine, "prod", "gpu", VirtualClock())) == ["0 ECS tasks are left, 1 task instances wait."]
