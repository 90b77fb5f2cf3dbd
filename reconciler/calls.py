"""RunTask calls under way: a bounded pool of threads beside the launch controller."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from reconciler.core.answer import Throttled, Unknown
from reconciler.core.errors import StoreUnavailable

if TYPE_CHECKING:
    from reconciler.core.answer import Answer
    from reconciler.core.identity import Launched
    from reconciler.core.task import Workload
    from reconciler.seams import Delivery, Ecs

__all__ = ["CallPool"]


class CallPool:
    """Implements `seams.Calls`. The gateway's rate limiter decides when each call leaves."""

    def __init__(self, ecs: Ecs, delivery: Delivery, size: int) -> None:
        self._ecs, self._delivery, self._size = ecs, delivery, size
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="run-task")
        self._lock = threading.Condition()
        self._under_way: set[Launched] = set()
        self._answers: list[tuple[Workload, Answer]] = []

    def submit(self, workload: Workload) -> None:
        with self._lock:
            self._under_way.add((workload.exec_id, workload.attempt))
        self._pool.submit(self._call, workload)

    def _call(self, workload: Workload) -> None:
        answer: Answer
        try:
            answer = self._ecs.run(workload, self._delivery.command(workload))
        except StoreUnavailable as error:
            # The gateway asks the database for the intent's age before it sends: nothing was sent.
            answer = Throttled(f"not sent: {error}")
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the row must not wait for an answer for ever
            answer = Unknown(f"{type(error).__name__}: {error}")
        with self._lock:
            self._answers.append((workload, answer))
            self._lock.notify_all()

    def collect(self) -> list[tuple[Workload, Answer]]:
        with self._lock:
            answers, self._answers = self._answers, []
            self._under_way -= {(workload.exec_id, workload.attempt) for workload, _ in answers}
        return answers

    def under_way(self) -> set[Launched]:
        with self._lock:
            return set(self._under_way)

    def room(self) -> int:
        with self._lock:
            return self._size - len(self._under_way)

    def drain(self, seconds: float) -> None:
        """Wait until every call under way has its answer, but no longer than this."""
        with self._lock:
            self._lock.wait_for(lambda: len(self._answers) == len(self._under_way), timeout=seconds)

    def close(self) -> None:
        """Begin nothing more. Calls under way end by themselves; their launches are taken up again by their token."""
        self._pool.shutdown(wait=False, cancel_futures=True)
