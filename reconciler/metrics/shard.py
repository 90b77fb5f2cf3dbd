"""The hooks of one shard: what happens is told here and becomes counters, gauges and histograms."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, defaultdict, deque
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from reconciler.core.answer import Accepted, Existing, Unknown
from reconciler.core.phase import IN_FLIGHT, TERMINAL, Phase
from reconciler.core.profiles import DEFAULT
from reconciler.core.quota import CpuQuota
from reconciler.core.size import VCPU
from reconciler.metrics import catalogue
from reconciler.metrics.catalogue import CONTROLLERS
from reconciler.metrics.invariants import Invariants
from reconciler.metrics.reasons import outcome, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reconciler.core.answer import Answer
    from reconciler.core.identity import Launched
    from reconciler.core.profiles import Profiles
    from reconciler.core.runtask import Profile
    from reconciler.core.task import EcsTask, Workload
    from reconciler.ecs.ratelimit import Level
    from reconciler.metrics.board import Board
    from reconciler.metrics.catalogue import Metric
    from reconciler.store.census import Census

__all__ = ["Shard"]

log = structlog.get_logger()

RATE_WINDOW: Final = timedelta(seconds=60)
"""Over which launches per second and the time to a full quota are judged."""
QUEUES: Final = 50
"""So many queues have series of their own. DAG authors name queues, and must not make series without end."""
OTHERS: Final = "others"
ALL: Final = "all"
_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")


def _wall() -> datetime:
    """This machine's clock, which is only compared with others and shown to Prometheus."""
    return datetime.now(UTC)  # noqa: TID251 - the one place where the difference of the clocks is measured


class Shard:
    """Implements `manager.Observer` and the hooks of store, controllers and gateway. Used by several threads."""

    def __init__(
        self,
        board: Board,
        name: str,
        lead_changed: Callable[[], None],
        wall: Callable[[], datetime] = _wall,
        monotonic: Callable[[], float] = time.monotonic,  # noqa: TID251 - how much time has passed on this machine
    ) -> None:
        self._board, self._name, self._lead_changed = board, name, lead_changed
        self._wall, self._monotonic = wall, monotonic
        self._profile_of: Callable[[str], str] = lambda _: DEFAULT
        self._shard_of: Callable[[str], str] = lambda _: name
        self._limit: int | None = None
        self._shares: dict[str, int] = {}
        self._profiles: list[Profile] = []
        self._cpu = CpuQuota(None, {})
        self._orphans = 0
        self.leads = False
        self._lock = threading.RLock()
        """Held while the lead changes, and from a look at it to what is shown for it: no gauge outlives the lead."""
        self._leading_since = wall()
        self._highest_epoch = 0
        self._invariants = Invariants()
        self._queues: set[str] = set()
        self._operations: set[str] = set()
        self._unread: set[str] = set()
        self._unknown: dict[Launched, datetime] = {}
        """When a call of this launch was left without an answer."""
        self._accepted_at: dict[Launched, datetime] = {}
        self._accepted: deque[float] = deque()
        self._used: deque[tuple[float, Mapping[str, int]]] = deque()
        """Both in monotonic seconds: a clock that is set must not change what the last minute was."""
        board.set(catalogue.LEADER, 0, name)
        board.set(catalogue.LEADER_EPOCH, 0, name)
        board.touch(catalogue.LEADER_TRANSITIONS, name)
        board.initialise(name)

    def quota(self, max_running_tasks: int, profiles: Profiles, max_cpu: int | None = None) -> None:
        """How many ECS tasks may exist at once in this shard, and what part of it each of its profiles may have; the
        same in CPU units on Fargate. `profiles` are those that it launches with."""
        self._limit = max_running_tasks
        self._profiles = profiles.of_shard(self._name)
        self._cpu = CpuQuota(max_cpu, {profile.name: profile.max_cpu for profile in self._profiles})
        self._shares = {
            profile.name: max_running_tasks if profile.max_running_tasks is None else profile.max_running_tasks
            for profile in self._profiles
        }
        self._profile_of = lambda queue: profiles.of_queue(queue).name
        self._shard_of = lambda queue: profiles.of_queue(queue).shard

    # -- manager.Observer ----------------------------------------------------------------------------------------------

    def passed(self, controller: str, result: str, seconds: float) -> None:
        """One pass of a controller: success, requeue, error or lease_lost."""
        self._board.inc(catalogue.RECONCILE, self._name, controller, result)
        self._board.observe(catalogue.RECONCILE_SECONDS, seconds, self._name, controller)
        if result in ("success", "requeue"):
            self._show(catalogue.LAST_SUCCESS, self._wall().timestamp(), controller)
        if result == "lease_lost" and controller == "launch":
            self._board.inc(catalogue.PREVENTED, self._name, "lease")

    def leading(self, epoch: int | None) -> None:
        """This replica leads with this epoch, or does not."""
        with self._lock:
            self.leads = epoch is not None
            self._accepted.clear()
            self._used.clear()
            if epoch is None:
                self._board.forget(self._name)
        self._board.set(catalogue.LEADER, epoch is not None, self._name)
        self._invariants.forget()
        self._unknown.clear()
        self._accepted_at.clear()
        if epoch is not None:
            self._leading_since = self._wall()
            self._board.inc(catalogue.LEADER_TRANSITIONS, self._name)
            self._board.set(catalogue.LEADER_EPOCH, epoch, self._name)
            for controller in CONTROLLERS:
                self._show(catalogue.LAST_SUCCESS, self._leading_since.timestamp(), controller)
            self.credentials(valid=True)
            if epoch < self._highest_epoch:
                self.violated("epoch_rises", epoch=epoch, highest=self._highest_epoch)
            self._highest_epoch = max(self._highest_epoch, epoch)
        self._lead_changed()

    # -- store and controllers -----------------------------------------------------------------------------------------

    def moved(self, old: Workload, new: Workload) -> None:
        """A change that was committed."""
        for name in self._invariants.broken(old, new):
            self.violated(name, exec_id=new.exec_id, attempt=new.attempt, phase=new.phase, task_arn=new.task_arn)
        self._stages(old, new)
        self._lag(old, new)
        if new.phase in (Phase.PENDING, Phase.FAILED_START) and old.phase is not new.phase:
            action = "again" if new.phase is Phase.PENDING else "given_up"
            reason = reason_of(f"{old.stop_code or ''} {new.reason or ''}".strip())
            exemplar = _exemplar(new)
            self._board.inc(
                catalogue.LAUNCH_FAILURES, self._name, self._bounded(new.queue), reason, action, exemplar=exemplar
            )
        if new.terminal and not old.terminal:
            self._board.inc(catalogue.ENDED, self._name, self._bounded(new.queue), outcome(old, new))

    def lost_race(self, old: Workload, new: Workload) -> None:
        """A change that could not be made any more."""
        if _is_intent(old, new):
            self._board.inc(catalogue.PREVENTED, self._name, "compare_and_swap")

    def answered(self, workload: Workload, answer: Answer) -> None:
        """What a RunTask call came to."""
        launched, now = (workload.exec_id, workload.attempt), self._wall()
        result = _CAPITAL.sub("_", type(answer).__name__).lower()
        queue, exemplar = self._bounded(workload.queue), _exemplar(workload)
        self._board.inc(catalogue.LAUNCHES, self._name, queue, result, exemplar=exemplar)
        if isinstance(answer, Accepted):
            # Older than our first call without an answer, or than this replica's time as leader: it is not a new one.
            before, made = self._unknown.pop(launched, self._leading_since), answer.task.created_at
            if made is not None and made < before:
                self._board.inc(catalogue.PREVENTED, self._name, "client_token")
            self._accepted.append(self._monotonic())
        elif isinstance(answer, Existing) and answer.arns:
            self._board.inc(catalogue.PREVENTED, self._name, "conflict")
        elif isinstance(answer, Unknown):
            self._unknown.setdefault(launched, now)

    def orphan(self, action: str) -> None:
        """An ECS task without a workload was dealt with: adopted or stopped."""
        self._board.inc(catalogue.ORPHANS_HANDLED, self._name, action)
        if action == "adopted":
            self._board.inc(catalogue.PREVENTED, self._name, "listing")

    def violated(self, invariant: str, **facts: object) -> None:
        """What must never be was seen."""
        self._board.inc(catalogue.VIOLATIONS, self._name, invariant)
        log.error("an invariant is broken, please report it", invariant=invariant, shard=self._name, **facts)

    def twins(self, one: EcsTask, other: EcsTask) -> None:
        """Two live tasks carry the name of one launch."""
        self.violated("one_task_per_launch", started_by=one.started_by, task_arns=[one.arn, other.arn])

    def unreadable(self, exec_id: str, _why: str) -> None:
        """A row was left alone because this release can not read it. Each is counted once."""
        if exec_id not in self._unread:
            self._unread.add(exec_id)
            self._board.inc(catalogue.UNREADABLE, self._name)

    # -- AWS -----------------------------------------------------------------------------------------------------------

    def called(self, operation: str, result: str, seconds: float) -> None:
        """One call to ECS ended."""
        self.called_beside(operation, result, seconds)
        if result in ("ok", "credentials"):
            self.credentials(valid=result == "ok")

    def called_beside(self, operation: str, result: str, seconds: float) -> None:
        """One call to another service of AWS ended. That it is denied says nothing of the others."""
        if operation not in self._operations:
            self._operations.add(operation)
            for possible in catalogue.AWS_RESULTS:
                self._board.touch(catalogue.AWS_CALLS, self._name, operation, possible)
        self._board.inc(catalogue.AWS_CALLS, self._name, operation, result)
        self._board.observe(catalogue.AWS_SECONDS, seconds, self._name, operation)

    def heard(self, parsed: Any = None, **_: Any) -> None:
        """botocore's event `after-call`: the answer's Date tells ECS's clock. Never raises: the call must go on."""
        headers = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {}) if isinstance(parsed, dict) else {}
        try:
            theirs = parsedate_to_datetime(headers["date"])
            # The header is cut to whole seconds: on average half a second is missing.
            self._skew("ecs", (theirs - self._wall()).total_seconds() + 0.5)
        except (KeyError, TypeError, ValueError):
            return

    def event(self, source: str, result: str, lag: float | None = None) -> None:
        """A state change event: applied, stale, foreign or poison; `lag` is its age in seconds."""
        self._board.inc(catalogue.EVENTS, self._name, source, result)
        if lag is not None:
            self._board.observe(catalogue.EVENT_LAG, lag, self._name, source)

    def event_backlog(self, source: str, messages: int) -> None:
        """How many messages wait in the queue of events."""
        self._show(catalogue.EVENT_BACKLOG, messages, source)

    def events_fresh(self, source: str, *, fresh: bool) -> None:
        """Whether events are relied on."""
        self._show(catalogue.EVENTS_FRESH, fresh, source)

    def credentials(self, *, valid: bool, expires_at: datetime | None = None) -> None:
        """Whether AWS accepts the credentials, and until when they last if they end."""
        self._show(catalogue.CREDENTIALS, valid)
        if expires_at is not None:
            self._show(catalogue.CREDENTIALS_EXPIRY, expires_at.timestamp())

    # -- what the leader sees now --------------------------------------------------------------------------------------

    def count(self, take: Callable[[], Census]) -> None:
        """Take a census and show it. Called by the leader's own loop: a scrape never waits on the database."""
        before = self._wall()
        census = take()
        after = self._wall()
        self._skew("database", (census.now - before - (after - before) / 2).total_seconds())
        with self._lock:
            if self.leads:  # the statements take their time, and the lease may be lost meanwhile
                self._counted(census)

    def _counted(self, census: Census) -> None:
        by_phase: dict[tuple[str, ...], float] = defaultdict(float)
        oldest: dict[tuple[str, ...], float] = {}
        used: dict[str, int] = dict.fromkeys(self._shares, 0)
        cpu: Counter[str] = Counter()
        unacknowledged, longest = 0, 0.0
        for group in census.groups:
            # What has not been launched, or is to be launched again, is counted where its queue will have it.
            if (group.shard or self._shard_of(group.queue)) != self._name:
                continue
            queue, age = self._bounded(group.queue), max(0.0, (census.now - group.oldest).total_seconds())
            for phase in Phase:
                by_phase[queue, phase.value] += group.count if phase is group.phase else 0
            profile = self._profile_of(group.queue) if group.phase is Phase.PENDING else group.profile
            waited = age if group.phase is Phase.PENDING else 0.0
            oldest[queue, profile] = max(oldest.get((queue, profile), 0.0), waited)
            if group.phase in IN_FLIGHT:
                used[profile] = used.get(profile, 0) + group.count
                cpu[profile] += group.cpu
            if group.phase in TERMINAL:
                unacknowledged += group.count
                longest = max(longest, age)
        self._board.replace(catalogue.WORKLOADS, self._name, by_phase or _empty())
        self._board.replace(catalogue.OLDEST_PENDING, self._name, oldest or {(DEFAULT, DEFAULT): 0.0})
        holds: dict[tuple[str, ...], float] = {
            (self._bounded(hold.queue or ALL), hold.mode.value): 1.0 for hold in census.holds.all()
        }
        self._board.replace(catalogue.QUEUE_HELD, self._name, holds)
        self._show(catalogue.UNACKNOWLEDGED, unacknowledged)
        self._show(catalogue.OLDEST_UNACKNOWLEDGED, longest)
        self._quota(used, cpu, self._monotonic())
        self._exceeded(sum(used.values()))

    def seen(self, orphans: int, breakers: Mapping[str, bool], levels: Mapping[str, Level]) -> None:
        """What sweep, adopt and the rate limits know."""
        self._orphans = orphans
        self._show(catalogue.ORPHANS, orphans)
        for breaker, tripped in breakers.items():
            self._show(catalogue.BREAKER, tripped, breaker)
        for bucket, level in levels.items():
            self._show(catalogue.TOKENS, level.tokens, bucket)
            self._show(catalogue.CALL_RATE, level.allowed, bucket)
            self._show(catalogue.CALL_RATE_LIMIT, level.rate, bucket)
            self._show(catalogue.CALLS_WAITING, level.waiting, bucket)

    def held(self, reasons: Mapping[str, str]) -> None:
        """Why launches are held: by a profile's name, or for all profiles by `api_server` or `credentials`."""
        for profile in self._shares:
            self._show(catalogue.HELD, profile in reasons, profile, "ecs")
        for cause in ("api_server", "credentials"):
            self._show(catalogue.HELD, cause in reasons, ALL, cause)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _stages(self, old: Workload, new: Workload) -> None:
        launched = (new.exec_id, new.attempt)
        if _is_intent(old, new) and new.attempt == 1:
            self._stage("queued_to_claimed", new, new.created_at, new.intent_at)
        if old.phase is Phase.LAUNCHING and new.phase is Phase.STARTED and new.updated_at:
            self._stage("claimed_to_accepted", new, new.intent_at, new.updated_at)
            self._accepted_at[launched] = new.updated_at
        if old.phase is Phase.LAUNCHING and new.phase is not Phase.LAUNCHING:
            self._unknown.pop(launched, None)
        if old.phase is Phase.STARTED and new.phase is not Phase.STARTED:
            # A start may be seen when it is over. What another leader accepted is not known here.
            self._stage("accepted_to_running", new, self._accepted_at.pop(launched, None), new.started_at)
            self._stage("queued_to_running", new, new.created_at, new.started_at)

    def _stage(self, stage: str, w: Workload, began: datetime | None, ended: datetime | None) -> None:
        if began is not None and ended is not None:
            seconds = (ended - began).total_seconds()
            self._board.observe(
                catalogue.LAUNCH_SECONDS, seconds, self._name, self._bounded(w.queue), stage, exemplar=_exemplar(w)
            )

    def _lag(self, old: Workload, new: Workload) -> None:
        for moment in ("started", "stopped"):
            happened: datetime | None = getattr(new, f"{moment}_at")
            if happened and new.updated_at and new.last_status and getattr(old, f"{moment}_at") is None:
                lag = (new.updated_at - happened).total_seconds()
                self._board.observe(
                    catalogue.OBSERVATION_LAG, lag, self._name, moment, exemplar={"exec_id": new.exec_id}
                )

    def _quota(self, used: Mapping[str, int], cpu: Counter[str], now: float) -> None:
        """How full each profile is, and how fast it fills."""
        self._used.append((now, used))
        window = now - RATE_WINDOW.total_seconds()
        while self._accepted and self._accepted[0] < window:
            self._accepted.popleft()
        while self._used[0][0] < window:
            self._used.popleft()
        then, before = self._used[0]
        passed = now - then
        left = max(0, (self._limit or 0) - sum(used.values()))
        for profile in self._profiles:
            name, share, cpu_limit = profile.name, self._shares[profile.name], self._cpu.limit(profile.name)
            headroom = 0 if self._cpu.full(profile, cpu.total(), cpu) else max(0, min(left, share - used[name]))
            grown = used[name] - before.get(name, 0)
            full_in = headroom * passed / grown if grown > 0 else float("inf")
            self._show(catalogue.QUOTA_LIMIT, share, name)
            self._show(catalogue.QUOTA_USED, used[name], name)
            self._show(catalogue.QUOTA_HEADROOM, headroom, name)
            self._show(catalogue.QUOTA_FULL_IN, full_in if headroom else 0.0, name)
            self._show(catalogue.QUOTA_VCPUS_USED, cpu[name] / VCPU, name)
            self._show(catalogue.QUOTA_VCPUS_LIMIT, float("inf") if cpu_limit is None else cpu_limit / VCPU, name)
        self._show(catalogue.QUOTA_DEPLOYMENT, self._limit or 0)
        self._show(catalogue.LAUNCH_RATE, len(self._accepted) / RATE_WINDOW.total_seconds())

    def _exceeded(self, used: int) -> None:
        """How far ECS's tasks are above the limit, and by which of our own shortcomings.

        Each intent is committed under a limit that counts all others, so the table alone exceeds only a limit that was
        lowered. More than the table counts is what a listing shows and no row claims: rows of a restored backup, or
        workloads that were given up as LOST and whose containers went on.
        """
        above = max(0, used - (self._limit or 0))
        self._show(catalogue.QUOTA_EXCEEDED, above, "limit_lowered")
        free = max(0, (self._limit or 0) - used)
        self._show(catalogue.QUOTA_EXCEEDED, max(0, self._orphans - free), "unclaimed")

    def _show(self, metric: Metric, value: float, *values: str) -> None:
        """Set a gauge of the shared state, unless another replica has become the one that knows it."""
        with self._lock:
            if self.leads:
                self._board.set(metric, value, self._name, *values)

    def _skew(self, against: str, seconds: float) -> None:
        self._board.set(catalogue.SKEW, seconds, against)

    def _bounded(self, queue: str) -> str:
        if queue not in self._queues:
            if len(self._queues) >= QUEUES:
                return OTHERS
            self._queues.add(queue)
        return queue


def _is_intent(old: Workload, new: Workload) -> bool:
    return old.phase is Phase.PENDING and new.phase is Phase.LAUNCHING


def _exemplar(w: Workload) -> dict[str, str]:
    """What leads from a point in a graph to the log and to `describe`. At most 128 characters in all."""
    return {"exec_id": w.exec_id, "attempt": str(w.attempt)}


def _empty() -> dict[tuple[str, ...], float]:
    return {(DEFAULT, phase.value): 0.0 for phase in Phase}
