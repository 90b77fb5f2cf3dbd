"""Start what is wanted, due and within the quota."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reconciler.controllers import Result
from reconciler.core import decide, identity, runtask
from reconciler.core.answer import Accepted, Answer, Blocked, Existing, Invalid, NotStarted, Throttled, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reconciler.core.gate import Gate
    from reconciler.core.task import Workload
    from reconciler.seams import Calls, Change, Clock, Delivery, Lease, Store

__all__ = ["Launch"]

POLL: Final = 0.2
"""Seconds between two looks for new workloads. A launch waits half of this on average."""
BUSY: Final = 0.05
"""Seconds between two collections of answers while calls are under way."""
UNKNOWN_IN_A_ROW: Final = 3
"""So many calls without an answer, one after the other, mean that ECS is out of reach: do not make every waiting
workload's fate unknown."""
DONE_NOTHING: Final = (NotStarted, Throttled, Blocked, Invalid)
"""Answers that prove that their call started nothing."""
PROBE_CHOICE: Final = 100
"""Of so many workloads the one that has been tried least is the probe: a few that can never be placed must not be
the only ones that are ever tried."""
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
        profile: runtask.Profile,
        policy: decide.Policy,
        ecs_gate: Gate,
        api_gate: Gate,
        max_running_tasks: int,
        on_answer: Callable[[Workload, Answer], None],
        logs_of: Callable[[str], Mapping[str, str] | None] = lambda _: None,
    ) -> None:
        """`logs_of`: where CloudWatch gets the output of our container of a task definition, if that is known."""
        self._store, self._calls, self._delivery, self._clock = store, calls, delivery, clock
        self._profile, self._policy = profile, policy
        self._gate, self._api_gate = ecs_gate, api_gate
        self._max_running_tasks = max_running_tasks
        self._on_answer, self._logs_of = on_answer, logs_of
        self._certain: set[identity.Launched] = set()
        """Launches whose every call so far was made by this process and is known to have done nothing."""
        self._resend_at: dict[identity.Launched, tuple[int, float]] = {}
        self._unknown_in_a_row = 0
        self._accepted = 0
        self._strikes: dict[str, tuple[int, int]] = {}
        self._epoch = 0
        self._passes = 0

    def reconcile(self, lease: Lease) -> Result:
        if lease.epoch != self._epoch:
            # Another leader may have sent any of these in the meantime.
            self._epoch = lease.epoch
            self._certain.clear()
            self._strikes.clear()
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
        for w, answer in answers:
            launched = (w.exec_id, w.attempt)
            certain = launched in self._certain
            verdict = self._judge(w, answer)
            self._on_answer(w, verdict)
            new = decide.answered(w, verdict, now, self._policy, certain=certain)
            if new is None:
                self._later(launched)
            else:
                changes.append((w, new))
        return self._save(changes, lease)

    def _judge(self, w: Workload, answer: Answer) -> Answer:
        """Whose fault an answer is: opens or closes the gate, and blames a workload that alone is refused."""
        now = self._clock.monotonic()
        self._unknown_in_a_row = self._unknown_in_a_row + 1 if isinstance(answer, Unknown) else 0
        match answer:
            case Accepted() | Existing():
                self._accepted += 1
                self._strikes.pop(w.exec_id, None)
                self._gate.open()
            case Blocked(reason, denied):
                if denied and self._own_fault(w):
                    return Invalid(reason)
                self._gate.close(now, reason)
            case NotStarted(reason, capacity=True):
                self._gate.close(now, reason)
            case Unknown(reason) if self._unknown_in_a_row >= UNKNOWN_IN_A_ROW:
                self._gate.close(now, f"ECS does not answer: {reason}")
            case NotStarted() | Invalid() | Throttled() | Unknown():
                pass
        return answer

    def _own_fault(self, w: Workload) -> bool:
        """Whether this workload was denied again and again while others were accepted in between."""
        # A workload that was withdrawn, or whose row is gone, takes its strikes with it.
        open_ids = {other.exec_id for other in self._store.find(set(self._strikes)).workloads if not other.terminal}
        self._strikes = {exec_id: struck for exec_id, struck in self._strikes.items() if exec_id in open_ids}
        strikes, accepted = self._strikes.get(w.exec_id, (0, -1))
        strikes += self._accepted != accepted
        self._strikes[w.exec_id] = (strikes, self._accepted)
        return strikes >= STRIKES

    def _resolve(self, lease: Lease) -> int:
        """Send again what has an intent and no known answer. Older ones are found, or not, by listing."""
        snapshot = self._store.launching()
        busy, now = self._calls.under_way(), self._clock.monotonic()
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
            elif decide.may_resend(w, snapshot.now, self._policy) and self._gate.room(now, 1):
                self._gate.probing(now)
                self._calls.submit(w)
        return self._save(changes, lease)

    def _later(self, launched: identity.Launched) -> None:
        """Wait before the same launch is sent again: 1, 2, 4 ... 60 seconds."""
        times = self._resend_at.get(launched, (0, 0.0))[0] + 1
        self._resend_at[launched] = (times, self._clock.monotonic() + min(60.0, 2.0 ** min(times - 1, 6)))

    def _claim(self, lease: Lease) -> int:
        """Commit intents, then call."""
        now = self._clock.monotonic()
        wanted = self._api_gate.room(now, self._gate.room(now, self._calls.room()))
        if wanted <= 0:
            return 0
        wanted = min(wanted, self._max_running_tasks - self._store.counts().in_flight)
        if wanted <= 0:
            return 0
        probing = self._gate.reason is not None or self._api_gate.reason is not None
        snapshot = self._store.launchable(PROBE_CHOICE if probing else wanted)
        chosen = sorted(snapshot.workloads, key=lambda w: w.attempt)[:wanted] if probing else snapshot.workloads
        changes: list[Change] = []
        for w in chosen:
            try:
                if w.spec and w.spec.flaw:
                    raise ValueError(w.spec.flaw)  # noqa: TRY301 - one place says what becomes of it
                asked = w.spec.executor_config if w.spec else {}
                params = runtask.plan(self._profile, w.exec_id, asked, runtask.cost_tags(w))
                new = decide.intended(
                    w,
                    snapshot.now,
                    profile=self._profile.name,
                    cluster=self._profile.cluster,
                    family=runtask.family_of(str(params["taskDefinition"])),
                    params=params,
                    logs=self._logs_of(str(params["taskDefinition"])),
                )
                runtask.compose(params, self._delivery.command(new), "", "")  # for its size
            except (ValueError, RecursionError) as error:
                new = decide.invalid(w, snapshot.now, str(error))
            changes.append((w, new))
        claimed = [w for w in self._store.save(changes, lease) if w.in_flight] if changes else []
        for w in claimed:
            self._certain.add((w.exec_id, w.attempt))
            self._calls.submit(w)
        if claimed:
            self._gate.probing(now)
            self._api_gate.probing(now)
        return len(claimed)

    def _save(self, changes: Sequence[Change], lease: Lease) -> int:
        return len(self._store.save(changes, lease)) if changes else 0
