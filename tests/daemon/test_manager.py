"""The loop around the controllers, and the lease that says who acts."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler import manager as manager_module
from reconciler.clock import SystemClock
from reconciler.controllers import Result
from reconciler.core.errors import EcsThrottled, LeaseLost, StoreUnavailable
from reconciler.lease import Elector
from reconciler.manager import STANDBY_POLL, Manager, Pace
from reconciler.store.daemon import SqlStore
from tests.virtual import VirtualClock, make_store_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from reconciler.seams import Lease


class Scripted:
    """A controller that does what it is told, pass after pass."""

    name = "scripted"

    def __init__(self, *steps: Result | Exception) -> None:
        self._steps = list(steps)
        self.passes = 0

    def reconcile(self, lease: Lease) -> Result:
        self.passes += 1
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        if isinstance(step, Exception):
            raise step
        return step


class Diary:
    """Implements `manager.Observer`."""

    def __init__(self) -> None:
        self.passes: list[str] = []
        self.terms: list[int | None] = []

    def passed(self, controller: str, result: str, seconds: float) -> None:
        self.passes.append(result)

    def leading(self, epoch: int | None) -> None:
        self.terms.append(epoch)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def engine(clock: VirtualClock) -> Iterator[Engine]:
    made = make_store_engine(clock)
    yield made
    made.dispose()


def elector(engine: Engine, clock: VirtualClock, holder: str, ttl: float = 15.0) -> Elector:
    return Elector(SqlStore(engine, "test"), clock, name="test/region", holder=holder, ttl=ttl)


class TestLease:
    """Who acts."""

    def test_one_holds_it_and_the_other_waits_until_it_runs_out(self, engine: Engine, clock: VirtualClock) -> None:
        one, other = elector(engine, clock, "one"), elector(engine, clock, "other")
        assert one.renew() is not None
        assert other.renew() is None
        clock.now += 16
        taken = other.renew()
        assert taken is not None
        assert taken.epoch == 2
        assert one.renew() is None

    def test_trust_ends_before_the_database_gives_the_lease_away(self, engine: Engine, clock: VirtualClock) -> None:
        one, other = elector(engine, clock, "one"), elector(engine, clock, "other")
        one.renew()
        trusted = 0.0
        while other.renew() is None:
            trusted = clock.now if one.lease() else trusted
            clock.now += 0.5
        assert clock.now - trusted > 2

    def test_a_released_lease_is_free_at_once(self, engine: Engine, clock: VirtualClock) -> None:
        one, other = elector(engine, clock, "one"), elector(engine, clock, "other")
        one.renew()
        one.release()
        assert one.lease() is None
        assert other.renew() is not None

    def test_a_renewal_keeps_the_epoch(self, engine: Engine, clock: VirtualClock) -> None:
        one = elector(engine, clock, "one")
        epochs = set()
        for _ in range(20):
            lease = one.renew()
            assert lease is not None
            epochs.add(lease.epoch)
            clock.now += 5
        assert epochs == {1}

    def test_without_the_database_trust_runs_out_by_itself(self, engine: Engine, clock: VirtualClock) -> None:
        one = elector(engine, clock, "one")
        one.renew()
        assert one.reachable
        clock.now += 15
        assert one.lease() is None
        assert not one.reachable


class TestPace:
    """When a controller is due next."""

    def pace(self, controller: Scripted, clock: VirtualClock) -> tuple[Pace, Diary]:
        diary = Diary()
        return Pace(controller, clock, diary), diary

    def test_nothing_is_reconciled_without_the_lease(self, engine: Engine, clock: VirtualClock) -> None:
        controller = Scripted(Result(1))
        pace, diary = self.pace(controller, clock)
        assert pace.run_once(elector(engine, clock, "one")) == STANDBY_POLL
        assert (controller.passes, diary.passes) == (0, [])

    def test_waiting_comes_from_the_result(self, engine: Engine, clock: VirtualClock) -> None:
        leader = elector(engine, clock, "one")
        leader.renew()
        pace, diary = self.pace(Scripted(Result(7.5), Result(0.25, changed=3)), clock)
        assert [pace.run_once(leader), pace.run_once(leader)] == [7.5, 0.25]
        assert diary.passes == ["requeue", "success"]

    @pytest.mark.parametrize("error", [EcsThrottled("x"), StoreUnavailable("x"), KeyError("a bug of ours")])
    def test_errors_back_off_and_never_end_the_loop(
        self, engine: Engine, clock: VirtualClock, error: Exception
    ) -> None:
        leader = elector(engine, clock, "one", ttl=10_000)
        leader.renew()
        pace, diary = self.pace(Scripted(*[error] * 9, Result(1), error), clock)
        waits = [pace.run_once(leader) for _ in range(11)]
        assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 1, 0.5]
        assert diary.passes == ["error"] * 9 + ["requeue", "error"]

    def test_whoever_lost_the_lease_stops_at_once(self, engine: Engine, clock: VirtualClock) -> None:
        leader = elector(engine, clock, "one")
        leader.renew()
        controller = Scripted(LeaseLost("another leads"))
        pace, diary = self.pace(controller, clock)
        pace.run_once(leader)
        pace.run_once(leader)
        assert (controller.passes, diary.passes) == (1, ["lease_lost"])


class TestManager:
    """All of it together, in real threads."""

    def test_it_works_until_told_to_stop_then_finishes_and_lets_the_lease_go(self, engine: Engine) -> None:
        clock, diary = SystemClock(), Diary()
        finished: list[Lease] = []
        worked = threading.Event()

        class Working(Scripted):
            def reconcile(self, lease: Lease) -> Result:
                worked.set()
                return super().reconcile(lease)

        store = SqlStore(engine, "test")
        leader = Elector(store, clock, name="test/region", holder="one", ttl=15)
        manager = Manager([Working(Result(0.01))], leader, clock, diary, finish=finished.append)
        running = threading.Thread(target=manager.run)
        running.start()
        assert worked.wait(30)
        assert manager.stuck() == []
        clock.stop()
        running.join(30)
        assert not running.is_alive()
        assert [lease.epoch for lease in finished] == [1]
        assert diary.terms == [1, None]
        assert store.hold("test/region", "other", timedelta(seconds=1)) is not None

    def test_a_pass_that_hangs_holds_up_neither_the_end_nor_the_lease(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(manager_module, "PASSES_SECONDS", 0.1)
        clock, hangs, released = SystemClock(), threading.Event(), threading.Event()
        finished: list[Lease] = []

        class Hanging(Scripted):
            def reconcile(self, lease: Lease) -> Result:
                hangs.set()
                released.wait()
                return super().reconcile(lease)

        store = SqlStore(engine, "test")
        leader = Elector(store, clock, name="test/region", holder="one", ttl=15)
        manager = Manager([Hanging(Result(1))], leader, clock, Diary(), finish=finished.append)
        running = threading.Thread(target=manager.run)
        running.start()
        assert hangs.wait(30)
        clock.stop()
        running.join(30)
        alive = running.is_alive()
        released.set()
        assert not alive
        # What has not ended may still be at work on the same answers.
        assert finished == []
        assert store.hold("test/region", "other", timedelta(seconds=1)) is not None

    def test_a_loop_that_hangs_is_named(self, engine: Engine) -> None:
        class Stoppable(VirtualClock):
            stopped = False

        stoppable = Stoppable()
        leader = elector(engine, stoppable, "one")
        manager = Manager([Scripted(Result(1))], leader, stoppable, Diary(), finish=lambda _: None)
        assert manager.stuck() == []
        stoppable.now += 301
        assert manager.stuck() == ["scripted"]
