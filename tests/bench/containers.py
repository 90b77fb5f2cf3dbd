"""Containers that are played: a supervisor's words to Airflow at the beginning and at the end, and nothing in between.

Each task's supervisor asks Airflow whether it may run (`/run`: only a QUEUED task instance may, and only once), beats,
and tells the outcome. Here one thread does that for all, with the very statements that the Execution API would make of
it, so that a thousand containers cost two cores nothing.
"""

from __future__ import annotations

import heapq
import json
import math
import queue
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, text

from reconciler.localecs import SignalContainer, StartContainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reconciler.localecs import Effect

HEARTBEAT: Final = 5.0
"""Seconds between two heartbeats of a task ([workers] min_heartbeat_interval)."""
REFUSED, DONE = 1, 0

# `/run`, the heartbeat and the outcome, as airflow/api_fastapi/execution_api/routes/task_instances.py does them.
_ADMIT: Final = text(
    "UPDATE task_instance SET state = 'running', start_date = now(), last_heartbeat_at = now(), updated_at = now() "
    "WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'queued' RETURNING id"
)
_BEAT: Final = text(
    "UPDATE task_instance SET last_heartbeat_at = now() WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'running' "
    "RETURNING id"
)
_DONE: Final = text(
    "UPDATE task_instance SET state = 'success', end_date = now(), updated_at = now() "
    "WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'running'"
)


GOLDEN = (math.sqrt(5) - 1) / 2


def task_instance_of(command: Sequence[str]) -> dict[str, Any]:
    """The task instance in a container's command, or nothing for a command of another kind."""
    try:
        return dict(json.loads(command[command.index("--json-string") + 1])["ti"])
    except (ValueError, KeyError, IndexError):
        return {}


class Containers(threading.Thread):
    """`exited` reports a container's end to ECS. `seconds`: how long containers that start from now on will last, all
    of them or (not `evenly`) on average; None: until they are told to end."""

    def __init__(self, database: str | None, exited: Callable[[str, str, int], None]) -> None:
        super().__init__(name="containers", daemon=True)
        self._engine = create_engine(database) if database else None
        self._exited = exited
        self._effects: queue.SimpleQueue[Effect | None] = queue.SimpleQueue()
        self._alive: dict[str, tuple[str, str]] = {}
        """By ARN: the container's name and the task instance's id."""
        self._order = count()
        self._due: list[tuple[float, int, str]] = []
        self._beat_at = time.monotonic() + HEARTBEAT
        self.seconds: float | None = None
        self.evenly = True
        self.admitted: list[tuple[float, str, str]] = []
        """When user code began: at what time, for which task instance, in which ECS task."""
        self.refused = 0
        """Containers that Airflow did not let run."""

    def execute(self, effect: Effect) -> None:
        """Called by the model's driver for all that is to happen."""
        self._effects.put(effect)

    def end(self, number: int, over: float) -> int:
        """Let the `number` oldest containers end, evenly over so many seconds. Says how many there were."""
        chosen = list(self._alive)[:number]
        began = time.monotonic()
        for index, arn in enumerate(chosen):
            self._at(began + over * index / len(chosen), arn)
        self._effects.put(None)  # to look at the time
        return len(chosen)

    def run(self) -> None:
        while True:
            started, signalled = self._wait()
            self._start(started)
            for effect in signalled:
                self._leave([effect.task_arn], 143 if effect.signal == "SIGTERM" else 137)
            self._finish()
            if time.monotonic() >= self._beat_at:
                self._beat_at = time.monotonic() + HEARTBEAT
                self._beat()

    def _wait(self) -> tuple[list[StartContainer], list[SignalContainer]]:
        """All that has come in, once something has or is due."""
        due = min(self._beat_at, self._due[0][0] if self._due else self._beat_at)
        found: list[Effect | None] = []
        try:
            found.append(self._effects.get(timeout=max(0.0, due - time.monotonic())))
            while True:
                found.append(self._effects.get_nowait())
        except queue.Empty:
            pass
        return (
            [effect for effect in found if isinstance(effect, StartContainer)],
            [effect for effect in found if isinstance(effect, SignalContainer)],
        )

    def _start(self, started: list[StartContainer]) -> None:
        ids = {effect.task_arn: str(task_instance_of(effect.command).get("id", "")) for effect in started}
        may_run = self._ask(_ADMIT, [ti_id for ti_id in ids.values() if ti_id])
        now = time.monotonic()
        for effect in started:
            arn, ti_id = effect.task_arn, ids[effect.task_arn]
            self._alive[arn] = (effect.container, ti_id)
            # One of two containers of the same task instance is let in, and no more. What asks for none ends as well.
            if ti_id not in may_run:
                self.refused += bool(ti_id)
                self._leave([arn], REFUSED)
                continue
            may_run.discard(ti_id)
            self.admitted.append((now, ti_id, arn))
            if self.seconds is not None:
                # Multiples of the golden ratio fill the range without clusters, and are the same for both systems.
                part = 1.0 if self.evenly else 0.5 + len(self.admitted) * GOLDEN % 1.0
                self._at(now + part * self.seconds, arn)

    def _finish(self) -> None:
        """Those whose time has come: they tell Airflow first, and end then."""
        arns = []
        while self._due and self._due[0][0] <= time.monotonic():
            arn = heapq.heappop(self._due)[2]
            if arn in self._alive:
                arns.append(arn)
        if arns:
            self._ask(_DONE, [self._alive[arn][1] for arn in arns if self._alive[arn][1]])
            self._leave(arns, DONE)

    def _beat(self) -> None:
        """Whose task instance is not RUNNING any more ends itself, as its supervisor would."""
        ids = [ti_id for _, ti_id in self._alive.values() if ti_id]
        wanted = self._ask(_BEAT, ids)
        self._leave([arn for arn, (_, ti_id) in self._alive.items() if ti_id and ti_id not in wanted], REFUSED)

    def _leave(self, arns: Sequence[str], code: int) -> None:
        for arn in arns:
            if gone := self._alive.pop(arn, None):
                self._exited(arn, gone[0], code)

    def _at(self, when: float, arn: str) -> None:
        heapq.heappush(self._due, (when, next(self._order), arn))

    def _ask(self, statement: Any, ids: list[str]) -> set[str]:
        """What Airflow says yes to."""
        if self._engine is None or not ids:
            return set(ids)
        with self._engine.begin() as connection:
            answered = connection.execute(statement, {"ids": ids})
            return {str(ti_id) for ti_id in answered.scalars()} if answered.returns_rows else set()
