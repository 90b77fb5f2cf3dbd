"""Start what is wanted, due and within the quota."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from reconciler.controllers import Result
from reconciler.core import decide, identity, logs, runtask
from reconciler.core.answer import Accepted, Answer, Blocked, Existing, Invalid, NotStarted, Throttled, Unknown
from reconciler.core.gate import Gate
from reconciler.core.phase import Phase
from reconciler.core.quota import CpuQuota, deal
from reconciler.core.size import LARGEST, VCPU, fargate_cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from reconciler.core.profiles import Profiles
    from reconciler.core.runtask import Profile
    from reconciler.core.spot import Fallbacks
    from reconciler.core.task import Workload
    from reconciler.seams import Calls, Change, Clock, Counts, Delivery, Lease, Store

__all__ = ["Launch"]

POLL: Final = 0.2
"""Seconds between two looks for new workloads. A launch waits half of this on average."""
BUSY: Final = 0.05
"""Seconds between two collections of answers while calls are under way."""
QUIET: Final = 1.0
"""Seconds for which nothing is LAUNCHING once nothing is, unless it is claimed here: but for a hand in the table."""
FULL_FOR: Final = 5.0
"""Seconds after which a full quota is counted again though no slot is known to be free: somebody else may have freed
one, such as a hand in the table."""
UNKNOWN_IN_A_ROW: Final = 3
"""So many calls without an answer, one after the other, mean that ECS is out of reach: do not make every waiting
workload's fate unknown."""
DONE_NOTHING: Final = (NotStarted, Throttled, Blocked, Invalid)
"""Answers that prove that their call started nothing."""
PROBE_CHOICE: Final = 100
"""Of so many workloads the one that has been tried least is the probe: a few that can never be placed must not be
the only ones that are ever tried."""
MOSTLY_BUSY: Final = 0.75
"""While more than this share of the calls are under way, no others are begun: those that wait for their turn among them
keep ECS's launch rate busy, and to count the quota anew for each one that ends would cost more than all the rest."""
STRIKES: Final = 3
"""So many denials, while others were accepted in between, are a workload's own fault."""


class Launch:
    """Intent before effect: a crash anywhere is a repeat.

    1. Record the answers of calls that have ended.
    2. Send again, with the same token, what has an intent and no known answer, while that is safe.
    3. Commit intents for workloads that are due, as far as quota and gate allow, and send them.

    The calls themselves run beside the loop (see `seams.Calls`), so that one slow answer delays nobody else.
    """

    name = "launch"

    def __init__(
        self,
        store: Store,
        calls: Calls,
        *,
        delivery: Delivery,
        clock: Clock,
        profiles: Profiles,
        shard: str = "",
        policy: decide.Policy,
        ecs_gates: dict[str, Gate],
        api_gate: Gate,
        fallbacks: Fallbacks,
        max_running_tasks: int,
        on_answer: Callable[[Workload, Answer], None],
        max_cpu: int | None = None,
        definition_of: Callable[[str], Mapping[str, Any] | None] = lambda _: None,
    ) -> None:
        """`max_cpu`: CPU units that tasks on Fargate may have at once. `definition_of`: a task definition, if known."""
        self._store, self._calls, self._delivery, self._clock = store, calls, delivery, clock
        self._profiles, self._shard, self._policy = profiles, shard, policy
        self._gates, self._api_gate = ecs_gates, api_gate
        self._fallbacks = fallbacks
        self._max_running_tasks = max_running_tasks
        self._cpu = CpuQuota(max_cpu, {profile.name: profile.max_cpu for profile in profiles.of_shard(shard)})
        self._on_answer, self._definition_of = on_answer, definition_of
        self._certain: set[identity.Launched] = set()
        """Launches whose every call so far was made by this process and is known to have done nothing."""
        self._resend_at: dict[identity.Launched, tuple[int, float]] = {}
        self._unknown_in_a_row = 0
        self._accepted: Counter[str] = Counter()
        self._strikes: dict[str, tuple[int, int]] = {}
        self._epoch = 0
        self._passes = 0
        self._full_at: int | None = None
        """What `Store.freed` was when the quota was found full: to count again all that runs would find the same."""
        self._full_until = 0.0
        self._quiet_until = 0.0
        """Until then nothing is to be settled: the table need not be asked in every pass."""

    def reconcile(self, lease: Lease) -> Result:
        if lease.epoch != self._epoch:
            # Another leader may have sent any of these in the meantime.
            self._epoch = lease.epoch
            self._certain.clear()
            self._strikes.clear()
            self._full_at = None
            self._quiet_until = 0.0
        changed = self.record(lease)
        # While a gate is closed there is one probe at a time, and neither of the two may take them all.
        self._passes += 1
        for step in (self._resolve, self._claim) if self._passes % 2 else (self._claim, self._resolve):
            changed += step(lease)
        return Result(requeue_after=BUSY if self._calls.under_way() else POLL, changed=changed)

    def record(self, lease: Lease) -> int:
        """Write what RunTask answered."""
        answers = self._calls.collect()
        if not answers:
            return 0
        # Before anything that may fail: an answer that got lost here must not leave the launch certain.
        self._certain -= {(w.exec_id, w.attempt) for w, answer in answers if not isinstance(answer, DONE_NOTHING)}
        now = self._store.now()
        changes: list[Change] = []
        verdicts: dict[identity.Launched, Answer] = {}
        for w, answer in answers:
            launched = (w.exec_id, w.attempt)
            certain = launched in self._certain
            verdict = verdicts[launched] = self._judge(w, answer)
            self._on_answer(w, verdict)
            new = decide.answered(w, verdict, now, self._policy, certain=certain)
            if new is None:
                self._later(launched)
            else:
                changes.append((w, new))
        written = self._store.save(changes, lease) if changes else []
        lost = {w.exec_id for w, _ in changes} - {w.exec_id for w in written}
        return len(written) + (self._record_again(lost, verdicts, now, lease) if lost else 0)

    def _record_again(
        self, exec_ids: set[str], verdicts: Mapping[identity.Launched, Answer], now: datetime, lease: Lease
    ) -> int:
        """Write an answer to a row that somebody else has written to meanwhile, as it is now.

        Airflow may have withdrawn it during the call. What is asked under its token then is another request, to which
        ECS does not repeat that nothing was started: without this only a listing would prove it, forty minutes later.
        """
        changes: list[Change] = []
        for w in self._store.find(exec_ids).workloads:
            launched = (w.exec_id, w.attempt)
            if w.phase is Phase.LAUNCHING and (verdict := verdicts.get(launched)):
                certain = launched in self._certain
                if new := decide.answered(w, verdict, now, self._policy, certain=certain):
                    changes.append((w, new))
        return self._save(changes, lease)

    def _judge(self, w: Workload, answer: Answer) -> Answer:
        """Whose fault an answer is: opens or closes the gate, and blames a workload that alone is refused."""
        now = self._clock.monotonic()
        self._unknown_in_a_row = self._unknown_in_a_row + 1 if isinstance(answer, Unknown) else 0
        match answer:
            case Accepted() | Existing():
                self._accepted[w.profile] += 1
                self._strikes.pop(w.exec_id, None)
                self._gate(w).open()
            case Blocked(reason, denied):
                if denied and self._own_fault(w):
                    return Invalid(reason)
                self._gate(w).close(now, reason)
            case NotStarted(reason, capacity=True):
                self._fallbacks.no_capacity(w, now)
                self._gate(w).close(now, reason)
            case Unknown(reason) if self._unknown_in_a_row >= UNKNOWN_IN_A_ROW:
                self._gate(w).close(now, f"ECS does not answer: {reason}")
            case NotStarted() | Invalid() | Throttled() | Unknown():
                pass
        return answer

    def _own_fault(self, w: Workload) -> bool:
        """Whether this workload was denied again and again while others of its profile were accepted in between."""
        # A workload that was withdrawn, or whose row is gone, takes its strikes with it.
        open_ids = {other.exec_id for other in self._store.find(set(self._strikes)).workloads if not other.terminal}
        self._strikes = {exec_id: struck for exec_id, struck in self._strikes.items() if exec_id in open_ids}
        strikes, before = self._strikes.get(w.exec_id, (0, -1))
        accepted = self._accepted[w.profile]
        strikes += accepted != before
        self._strikes[w.exec_id] = (strikes, accepted)
        return strikes >= STRIKES

    def _resolve(self, lease: Lease) -> int:
        """Send again what has an intent and no known answer. Older ones are found, or not, by listing."""
        if self._clock.monotonic() < self._quiet_until:
            return 0
        snapshot = self._store.launching(lease)
        busy, now = self._calls.under_way(), self._clock.monotonic()
        if not snapshot.workloads:
            self._quiet_until = now + QUIET
        # Of the launches that are over, nothing needs to be remembered.
        current = {(w.exec_id, w.attempt) for w in snapshot.workloads}
        self._certain &= current | busy
        self._resend_at = {launched: when for launched, when in self._resend_at.items() if launched in current}
        changes: list[Change] = []
        for w in snapshot.workloads:
            launched = (w.exec_id, w.attempt)
            if launched in busy or now < self._resend_at.get(launched, (0, 0.0))[1]:
                continue
            new = decide.withdrawn(w, snapshot.now) or decide.unproven(w, snapshot.now, self._policy)
            if new and launched in self._certain:
                changes.append((w, new))
            elif decide.may_resend(w, snapshot.now, self._policy) and self._gate(w).room(now, 1):
                self._gate(w).probing(now)
                self._calls.submit(w)
        return self._save(changes, lease)

    def _later(self, launched: identity.Launched) -> None:
        """Wait before the same launch is sent again: 1, 2, 4 ... 60 seconds."""
        times = self._resend_at.get(launched, (0, 0.0))[0] + 1
        self._resend_at[launched] = (times, self._clock.monotonic() + min(60.0, 2.0 ** min(times - 1, 6)))

    def _claim(self, lease: Lease) -> int:
        """Commit intents, then call."""
        now = self._clock.monotonic()
        free, busy = self._calls.room(), len(self._calls.under_way())
        if busy > MOSTLY_BUSY * (free + busy):
            return 0
        room = self._api_gate.room(now, free)
        if room <= 0:
            return 0
        freed = self._store.freed()
        if freed == self._full_at and now < self._full_until:
            return 0
        counts = self._store.counts_here()
        slots = self._max_running_tasks - counts.by_shard.get(self._shard, 0)
        self._full_at, self._full_until = freed if slots <= 0 else None, now + FULL_FOR
        room = min(room, slots)
        if room <= 0:
            return 0
        chosen = [(w, self._intent(w, at)) for at, ready in self._choose(counts, room, now).values() for w in ready]
        sizes = [(new.profile, new.cpu if new.in_flight else 0) for _, new in chosen]
        fits = self._cpu.fitting(sizes, counts.cpu_by_shard.get(self._shard, 0), counts.cpu_by_profile, self._passes)
        changes = [change for change, fit in zip(chosen, fits, strict=True) if fit]
        if changes:
            self._quiet_until = 0.0  # before the commit: that its answer is lost does not mean that it was not made
        claimed = [w for w in self._store.save(changes, lease) if w.in_flight] if changes else []
        for w in claimed:
            self._certain.add((w.exec_id, w.attempt))
            self._calls.submit(w)
            self._gate(w).probing(now)
        if claimed:
            self._api_gate.probing(now)
        return len(claimed)

    def _choose(self, counts: Counts, room: int, now: float) -> dict[str, tuple[datetime, list[Workload]]]:
        """The workloads to launch now, by profile, and when they were read.

        Each profile has its own limit and its own gate, and what room there is they share: whoever is full, or finds no
        capacity, keeps nobody else waiting.
        """
        queues: dict[str, list[str]] = {}
        for queue, phases in counts.by_queue.items():
            if phases.get(Phase.PENDING) and not counts.holds.of(queue):
                queues.setdefault(self._profiles.of_queue(queue).name, []).append(queue)
        found: dict[str, tuple[datetime, list[Workload]]] = {}
        used = counts.cpu_by_shard.get(self._shard, 0)
        for profile in self._profiles.of_shard(self._shard):
            gate = self._gates.setdefault(profile.name, Gate())
            limit = self._max_running_tasks if profile.max_running_tasks is None else profile.max_running_tasks
            free = gate.room(now, min(room, limit - counts.by_profile.get(profile.name, 0)))
            if free <= 0 or profile.name not in queues or self._cpu.full(profile, used, counts.cpu_by_profile):
                continue
            probing = gate.reason is not None or self._api_gate.reason is not None
            snapshot = self._store.launchable(PROBE_CHOICE if probing else free, queues[profile.name])
            ready = sorted(snapshot.workloads, key=lambda w: w.attempt) if probing else snapshot.workloads
            found[profile.name] = snapshot.now, list(ready[:free])
        dealt = deal(room, {name: len(ready) for name, (_, ready) in found.items()}, self._passes)
        return {name: (at, ready[: dealt[name]]) for name, (at, ready) in found.items()}

    def _intent(self, w: Workload, now: datetime) -> Workload:
        """The intent, or the end of a workload that can never be launched as it is."""
        try:
            if w.spec and w.spec.flaw:
                raise ValueError(w.spec.flaw)  # noqa: TRY301 - one place says what becomes of it
            profile = self._profiles.of(w)
            chosen = self._fallbacks.chosen(profile, self._clock.monotonic())
            asked = w.spec.executor_config if w.spec else {}
            params = runtask.plan(chosen, w.exec_id, asked, runtask.cost_tags(w))
            name = str(params["taskDefinition"])
            definition = self._definition_of(name)
            new = decide.intended(
                w,
                now,
                profile=profile,
                family=runtask.family_of(name),
                params=params,
                logs=logs.awslogs(definition, profile.container_name) if definition else None,
                cpu=self._size(profile, fargate_cpu(params, definition)),
            )
            runtask.compose(params, self._delivery.command(new), "", "")  # for its size
        except (ValueError, RecursionError) as error:
            return decide.invalid(w, now, str(error))
        return new

    def _size(self, profile: Profile, cpu: int | None) -> int:
        """The CPU units that a launch is counted with. Raises ValueError for more than there can ever be."""
        limit = self._cpu.limit(profile.name)
        if limit is None:
            return cpu or 0
        if cpu is None:
            # Its definition can not be seen: it is taken for as large as it may be, since the limit must hold.
            return min(limit, LARGEST)
        if cpu > limit:
            raise ValueError(
                f"the task needs {cpu / VCPU:g} vCPU, and all tasks of its queue together may have {limit / VCPU:g}: "
                "raise [ecs_reconciler] max_running_vcpus, or ask for less"
            )
        return cpu

    def _gate(self, w: Workload) -> Gate:
        """The gate of the profile that a workload was launched with."""
        return self._gates.setdefault(w.profile, Gate())

    def _save(self, changes: Sequence[Change], lease: Lease) -> int:
        return len(self._store.save(changes, lease)) if changes else 0
