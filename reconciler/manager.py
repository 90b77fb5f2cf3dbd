"""The loop around the controllers: elects, paces, backs off, counts, and stops in time.

It owns what reconcilers must not: each of them only reads, decides, writes and acts.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from reconciler.core.errors import EcsThrottled, EcsUnavailable, EventsUnavailable, LeaseLost, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reconciler.controllers import Controller
    from reconciler.lease import Elector
    from reconciler.seams import Clock, Lease

__all__ = ["Manager", "Observer"]

log = structlog.get_logger()

STANDBY_POLL: Final = 0.5
"""Seconds between two looks of a controller whether this replica leads."""
STUCK_AFTER: Final = 300.0
"""Seconds. No pass may take so long: every edge has a timeout far below."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
PASSES_SECONDS: Final = 3.0
END_SECONDS: Final = 5.0
"""When told to stop: how long the passes under way are waited for, and then what is to be done at the end. A pass that
is left behind does no harm: it ends with the process, which is what a crash is."""


class Observer(Protocol):
    """Hears what the manager does. Metrics implement it."""

    def passed(self, controller: str, result: str, seconds: float) -> None:
        """One pass of a controller: success, requeue, error or lease_lost."""

    def leading(self, epoch: int | None) -> None:
        """This replica leads with this epoch, or does not."""


class StoppableClock(Protocol):
    """A clock that knows whether the process is to stop."""

    def monotonic(self) -> float: ...

    def wait(self, seconds: float) -> None: ...

    @property
    def stopped(self) -> bool: ...


class Pace:
    """When one controller is due next. Waiting comes from its result, backoff from its errors."""

    def __init__(self, controller: Controller, clock: Clock, observer: Observer) -> None:
        self._controller, self._clock, self._observer = controller, clock, observer
        self._failures = 0
        self._passes = itertools.count(1)
        self.seen_at = clock.monotonic()
        """When the loop last came round, in monotonic seconds."""

    def run_once(self, elector: Elector) -> float:
        """One pass, if this replica leads. Returns the seconds until the next."""
        self.seen_at = self._clock.monotonic()
        lease = elector.lease()
        if lease is None:
            return STANDBY_POLL
        name, began = self._controller.name, self._clock.monotonic()
        reconcile_id = f"{name}-{lease.epoch}-{next(self._passes)}"
        with structlog.contextvars.bound_contextvars(controller=name, reconcile_id=reconcile_id):
            try:
                result = self._controller.reconcile(lease)
            except LeaseLost:
                elector.lost()
                outcome, wait = "lease_lost", STANDBY_POLL
                log.warning("another replica leads now; nothing was written")
            except (EcsThrottled, EcsUnavailable, EventsUnavailable, StoreUnavailable) as error:
                outcome, wait = "error", self._backoff()
                log.warning("pass failed, will be repeated", error=str(error), kind=type(error).__name__, after=wait)
            except Exception:  # a fault of ours in one controller must not end the other three
                outcome, wait = "error", self._backoff()
                log.exception("pass failed for a reason that was not foreseen", after=wait)
            else:
                self._failures = 0
                outcome, wait = ("success" if result.changed else "requeue"), result.requeue_after
                if result.changed:
                    log.debug("pass", changed=result.changed)
        self._observer.passed(name, outcome, self._clock.monotonic() - began)
        return wait

    def _backoff(self) -> float:
        self._failures += 1
        return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self._failures - 1, 10))


class Manager:
    """One thread for each controller and one for the lease. `run` returns once the clock is stopped.

    `finish` is called at the end, while the lease is still held: the answers of calls under way must be recorded.
    """

    def __init__(
        self,
        controllers: Sequence[Controller],
        elector: Elector,
        clock: StoppableClock,
        observer: Observer,
        *,
        finish: Callable[[Lease], None],
    ) -> None:
        self._finish = finish
        self._paces = {controller.name: Pace(controller, clock, observer) for controller in controllers}
        self._elector, self._clock, self._observer = elector, clock, observer

    def run(self) -> None:
        """Work until told to stop; then finish the passes under way and let the lease go, but no later than in time."""
        threads = [
            threading.Thread(target=self._loop, args=(pace,), name=name, daemon=True)
            for name, pace in self._paces.items()
        ]
        keeper = threading.Thread(target=self._keep_lease, name="lease", daemon=True)
        for thread in (keeper, *threads):
            thread.start()
        while not self._clock.stopped:
            self._clock.wait(60.0)
        late = _join((*threads, keeper), self._clock.monotonic() + PASSES_SECONDS, self._clock)
        if late:
            log.warning("not all passes ended in time, something does not answer", late=late)
        if lease := self._elector.lease():
            # In a thread of its own, because the database may be what does not answer.
            last = threading.Thread(target=self._end, args=(lease, not late), name="finish", daemon=True)
            last.start()
            if _join((last,), self._clock.monotonic() + END_SECONDS, self._clock):
                log.warning("the lease was not released in time, it will run out")
        self._observer.leading(None)

    def _end(self, lease: Lease, in_order: bool) -> None:
        try:
            if in_order:  # else a pass is still at work on the same things
                self._finish(lease)
            self._elector.release()
        except (LeaseLost, StoreUnavailable) as error:
            # Nothing is lost: the lease runs out, and the next leader takes up what is unfinished.
            log.warning("could not finish in order", error=str(error))

    def stuck(self) -> list[str]:
        """The controllers whose loop has not come round for too long: their thread is dead or hangs."""
        now = self._clock.monotonic()
        return [name for name, pace in self._paces.items() if now - pace.seen_at > STUCK_AFTER]

    def _loop(self, pace: Pace) -> None:
        while not self._clock.stopped:
            self._clock.wait(pace.run_once(self._elector))

    def _keep_lease(self) -> None:
        epoch: int | None = None
        while not self._clock.stopped:
            try:
                lease = self._elector.renew()
            except StoreUnavailable as error:
                lease = self._elector.lease()
                log.warning("could not renew the lease", error=str(error))
            except Exception:
                # The tables may be gone for a while, in a restore for instance: without this thread all stands still.
                lease = self._elector.lease()
                log.exception("could not renew the lease for a reason that was not foreseen")
            if (lease.epoch if lease else None) != epoch:
                epoch = lease.epoch if lease else None
                self._observer.leading(epoch)
                log.info("this replica leads" if lease else "this replica stands by", epoch=epoch)
            self._clock.wait(self._elector.interval)


def _join(threads: Sequence[threading.Thread], deadline: float, clock: StoppableClock) -> list[str]:
    """Wait for these threads; the names of those that have not ended by then."""
    for thread in threads:
        thread.join(max(0.0, deadline - clock.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]
