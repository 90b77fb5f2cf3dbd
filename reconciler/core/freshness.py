"""Whether the events of a queue can be relied on, so that looks at tasks may become rare.

Nothing is ever believed because events are fresh: looks stay the truth, and only their pace depends on this. Whatever
is not certain here counts against the events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reconciler.core.phase import Phase

if TYPE_CHECKING:
    from reconciler.core.task import Workload

__all__ = ["Freshness"]

TOLD_WITHIN: Final = 5.0
"""Seconds. What a look shows must be told by an event until then, or events are late."""
FIRST_WITHIN: Final = 10.0
"""Seconds. A task that RunTask has made must have had an event by then. ECS sends one at once."""
SILENT_AFTER: Final = 5.0
"""Seconds without an answer of the queue after which it is not heard any more."""
CALM: Final = 30.0
"""Seconds for which nothing may be missed until events are relied on again."""
REMEMBERED: Final = 60.0
"""Seconds for which it is kept which events have come: a look or RunTask's answer may be slower than they."""


class Freshness:
    """Compares what events tell with what is known from elsewhere: looks, and the answers of RunTask.

    Begins, and begins again with each term as leader, as not fresh: events must be seen to be timely first. Times are
    monotonic seconds of one machine, so that no clock of AWS's is compared with ours. Used by several threads, each of
    which does single steps on plain dictionaries.
    """

    def __init__(self) -> None:
        self.reason: str | None = "no event has been seen yet"
        """Why events are not relied on, for people. None: they are."""
        self._answered_at = self._broken_at = float("-inf")
        self._proven = False
        """Whether an event was timely since they were last missed."""
        self._expected: dict[str, tuple[int, float]] = {}
        """By ARN: the version that an event must tell, and until when."""
        self._told: dict[str, tuple[int, float]] = {}
        """By ARN: the newest version that an event told, and when."""
        self._doubtful: dict[str, None] = {}

    def forget(self, now: float) -> None:
        """A new term as leader: somebody else may have read the queue meanwhile."""
        self._expected.clear()
        self._told.clear()
        self._doubtful.clear()
        self._break(now, "this replica leads for a short time only")

    def answered(self, now: float) -> None:
        """The queue answered, with or without messages."""
        self._answered_at = now

    def failed(self, now: float, why: str) -> None:
        """The queue could not be read."""
        self._break(now, why)

    def told(self, arn: str, version: int, now: float, *, news: bool) -> None:
        """An event of one of our tasks came. `news`: nothing had shown it before."""
        self._told[arn] = max(version, self._told.get(arn, (0, 0.0))[0]), now
        wanted, until = self._expected.get(arn, (version + 1, 0.0))
        if version < wanted:
            self._proven = self._proven or news
            return
        self._expected.pop(arn, None)
        if now > until:
            self._late(arn, now)
        else:
            self._proven = True

    def moved(self, old: Workload, new: Workload, now: float) -> None:
        """A row was written. Of a task that was made just now there must be events soon."""
        if old.phase is not Phase.LAUNCHING or new.phase is not Phase.STARTED or new.task_arn is None:
            return
        if new.intent_at is None or new.updated_at is None or new.task_arn in self._told:
            return
        # Of one that is known late, they may have come and gone long ago.
        if (new.updated_at - new.intent_at).total_seconds() <= FIRST_WITHIN:
            self._expected.setdefault(new.task_arn, (0, now + FIRST_WITHIN))

    def shown(self, arn: str, version: int, now: float) -> None:
        """A look showed that a task began or ended, which no event had told before."""
        if self._told.get(arn, (0, 0.0))[0] < version:
            until = self._expected.get(arn, (0, float("inf")))[1]
            self._expected[arn] = version, min(until, now + TOLD_WITHIN)

    def doubt(self, arn: str) -> None:
        """An event says too little to be believed: the task must be looked at."""
        self._doubtful[arn] = None

    def doubtful(self) -> set[str]:
        """The tasks to look at now. Each is named once."""
        found, self._doubtful = self._doubtful, {}
        return set(found)

    def judge(self, now: float) -> bool:
        """Whether events can be relied on now."""
        for arn, (_, until) in self._expected.copy().items():
            if now > until:
                self._expected.pop(arn, None)
                self._late(arn, now)
        for arn, (_, at) in self._told.copy().items():
            if now - at > REMEMBERED:
                self._told.pop(arn, None)
        if now - self._answered_at > SILENT_AFTER:
            self._break(now, "the queue of events does not answer")
        elif self._proven and now - self._broken_at >= CALM:
            self.reason = None
        return self.reason is None

    def _late(self, arn: str, now: float) -> None:
        self._break(now, f"an event of {arn} did not come in time")

    def _break(self, now: float, why: str) -> None:
        self.reason, self._broken_at, self._proven = why, now, False
