"""The invariants, judged from the trace alone.

The checker shares no code with what it judges, but for the table of phases. Numbers are those of docs/protocol.md.
After a backup has been restored the past that the database knows is not the past that happened: from there on only
those invariants are judged that such a database can keep.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from reconciler.core.phase import EDGES, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

TERMINAL: Final = frozenset({"EXITED", "FAILED_START", "CANCELLED", "LOST"})
MAX_ATTEMPTS: Final = 3
SECRET: Final = "eyJ"
WITHOUT_ROW: Final = 900.0
"""Seconds in a healed world within which a QUEUED task instance has a row, or is taken back as stuck in QUEUED."""
LONGEST_STALL: Final = 5000.0
ACTIVE: Final = frozenset({"queued", "running", "restarting"})


@dataclass(frozen=True)
class Violation:
    """`rule` was broken at `t`; `ids` are the task instances, workloads and tasks that the story is about."""

    rule: str
    t: float
    text: str
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule} at {self.t:.0f} s: {self.text}"


@dataclass
class EcsTask:
    """Ground truth of one ECS task."""

    arn: str
    id: str
    attempt: int
    ti: str | None
    ran: bool = False
    ended: bool = False
    """Our container has exited, or the task is STOPPED."""
    stopped: float | None = None
    forgotten: bool = False
    code: int | None = None
    why: str = ""
    stop_code: str | None = None
    works: bool = False
    admitted: bool = False
    admitted_at: float = 0.0


@dataclass
class Instance:
    """Ground truth of one task instance."""

    state: str | None = None
    id: str = ""
    ext: str | None = None
    succeeded: bool = False
    restarted_at: float = float("-inf")
    """When it was last seen RESTARTING."""
    queued_at: float = 0.0


@dataclass
class Checker:
    """Feed it the trace; it collects violations."""

    violations: list[Violation] = field(default_factory=list)
    t: float = 0.0
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    ti_of: dict[str, str | None] = field(default_factory=dict)
    of_ti: dict[str, list[str]] = field(default_factory=dict)
    tasks: dict[str, EcsTask] = field(default_factory=dict)
    launches: dict[tuple[str, int], list[EcsTask]] = field(default_factory=dict)
    tokens: dict[tuple[str | None, int | None], str] = field(default_factory=dict)
    intents: dict[tuple[str, int], float] = field(default_factory=dict)
    left: dict[tuple[str, int], float] = field(default_factory=dict)
    tis: dict[str, Instance] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    """Workloads whose row somebody deleted by hand, and their task instances."""
    own_faults: dict[str, int] = field(default_factory=dict)
    """How many starts of a workload failed for a reason of its own."""
    admissions: dict[str, int] = field(default_factory=dict)
    callbacks: dict[str, list[int]] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)
    desired_at: dict[str, float] = field(default_factory=dict)
    stopping_at: dict[str, float] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)
    owned_at: dict[str, float] = field(default_factory=dict)
    synced: dict[int, float] = field(default_factory=dict)
    upkept: dict[int, float] = field(default_factory=dict)
    """When each scheduler last delivered, and last compared all its open rows, with nothing in its way."""
    epochs: dict[str, int] = field(default_factory=dict)
    """The newest epoch under which each lease was used."""
    faulty: set[str] = field(default_factory=set)
    """Task instances whose starts were made to fail or to hang."""
    poisoned: set[str] = field(default_factory=set)
    """Task instances that no launch can be made of."""
    healed_at: float = float("inf")
    remembered: set[str] = field(default_factory=set)
    """Rows by which the database knows that containers can reach Airflow's API server at all."""
    restored: bool = False
    hidden: bool = False
    """ECS showed nothing, of so few tasks that the breaker cannot judge."""
    ever_hidden: bool = False
    flaky_until: float = float("-inf")
    stale: bool = False
    """DescribeTasks showed for many minutes what had been true before."""
    calls: deque[float] = field(default_factory=deque)

    def check(self, trace: Iterable[dict[str, Any]]) -> list[Violation]:
        for event in trace:
            self.t = event["t"]
            if _holds_a_secret(event):
                self.broken("I21 no secret is stored or told", f"{event['kind']} holds a token", event.get("id"))
            handler = getattr(self, f"on_{event['kind']}", None)
            if handler is not None:
                handler(event)
        return self.violations

    def broken(self, rule: str, text: str, *ids: str | None) -> None:
        self.violations.append(Violation(rule, self.t, text, tuple(i for i in ids if i)))

    # -- the table ------------------------------------------------------------------------------------------------

    def on_row(self, event: dict[str, Any]) -> None:
        old, new = event["old"], event["new"]
        if new is None:
            self._deleted(event, old)
            return
        exec_id = new["exec_id"]
        self.rows[exec_id] = new
        if exec_id not in self.ti_of:
            self.ti_of[exec_id] = new["ti_id"]
            self.of_ti.setdefault(exec_id.partition("-")[0], []).append(exec_id)
        if old is None or old["owner_job_id"] != new["owner_job_id"]:
            self.owned_at[exec_id] = self.t
        if old is None:
            return
        self._moves(old, new)
        if event["epoch"] is not None and not self.restored:
            lease, epoch = event.get("lease", ""), event["epoch"]
            if epoch < self.epochs.get(lease, 0):
                self.broken("I8 fencing", f"{event['who']} wrote {exec_id} in epoch {epoch}", exec_id)
            self.epochs[lease] = max(self.epochs.get(lease, 0), epoch)
            if old["phase"] != "PENDING" and lease and old["shard"] != _shard_of(lease):
                self.broken("I8 a row is its own shard's", f"{event['who']} wrote {exec_id} under {lease}", exec_id)
        if old["phase"] != new["phase"]:
            self._phase(old, new)
        if new["desired"] != old["desired"]:
            self.desired_at[exec_id] = self.t
        if new["acked_version"] != old["acked_version"]:
            self._acked(new)

    def _moves(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        exec_id = new["exec_id"]
        status = ("phase", "attempt", "desired", "refused", "task_arn", "exit_code", "ecs_version", "start_failures")
        changed = any(old[name] != new[name] for name in status)
        step = new["version"] - old["version"]
        if step not in ((1,) if changed else (0, 1)):
            self.broken("I7 versions count the writes", f"{exec_id} went {old['version']} to {new['version']}", exec_id)
        if old["phase"] != new["phase"] and Phase(new["phase"]) not in EDGES[Phase(old["phase"])]:
            self.broken("I7 phases move along the edges", f"{exec_id} {old['phase']} to {new['phase']}", exec_id)
        intent = old["phase"] == "PENDING" and new["phase"] == "LAUNCHING"
        if new["attempt"] - old["attempt"] != int(intent):
            self.broken("I7 attempts count the intents", f"{exec_id} {old['attempt']} to {new['attempt']}", exec_id)
        if old["desired"] == "STOP" and new["desired"] == "RUN":
            self.broken("I7 desired goes to STOP once", exec_id, exec_id)
        if not intent and old["task_arn"] and new["task_arn"] != old["task_arn"]:
            self.broken("I9 an ARN stays", f"{exec_id} changed its ARN", exec_id)
        if not intent and new["ecs_version"] < old["ecs_version"]:
            self.broken("I9 news only gets newer", f"{exec_id} went back to an older version", exec_id)

    def _phase(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        exec_id, phase = new["exec_id"], new["phase"]
        launched = (exec_id, old["attempt"])
        if old["phase"] == "LAUNCHING":
            self.left[launched] = self.t
        if phase in TERMINAL:
            self.ended_at[exec_id] = self.t
        else:
            self.ended_at.pop(exec_id, None)
        if phase == "LAUNCHING":
            self.intents[exec_id, new["attempt"]] = self.t
            self._before_again(exec_id, new["attempt"] - 1)
        elif phase == "STOPPING":
            self.stopping_at[exec_id] = self.t
            if new["desired"] == "RUN":
                self.late.add(exec_id)
                self._called_late(new)
        elif phase == "EXITED":
            self._exited(new)
        elif phase == "LOST":
            self._lost(new)
        elif phase in ("CANCELLED", "FAILED_START") and not self.restored:
            alive = [task.arn for n in range(1, new["attempt"] + 1) for task in self.launches.get((exec_id, n), [])
                     if not task.ended]  # fmt: skip
            if alive:
                self.broken("I10 ended means ended", f"{exec_id} is {phase} and {alive} lives", exec_id, *alive)

    def _called_late(self, row: dict[str, Any]) -> None:
        task = self.tasks.get(_short(row["task_arn"]))
        if task and task.works and task.admitted_at < self.t - 300 and not self.stale and not self.restored:
            text = f"{row['exec_id']} is stopped as late and runs since {task.admitted_at:.0f} s"
            self.broken("S2 what is wanted is not stopped", text, row["exec_id"], task.arn)

    def _before_again(self, exec_id: str, attempt: int) -> None:
        if self.restored:
            return
        for task in self.launches.get((exec_id, attempt), []):
            if task.admitted or (task.ran and task.why in ("done", "oom") and self.rows[exec_id]["kind"] == "callback"):
                self.broken("I6 again only if nothing ran", f"{exec_id} attempt {attempt} had run", exec_id, task.arn)
            if not task.ended:
                self.broken("I6 again only after the end", f"{exec_id} attempt {attempt} lives", exec_id, task.arn)

    def _exited(self, row: dict[str, Any]) -> None:
        task = self.tasks.get(_short(row["task_arn"]))
        if task is None or self.restored:
            return
        if task.stopped is None:
            self.broken("I10 EXITED means STOPPED", f"{row['exec_id']} is EXITED, its task lives", row["exec_id"])
        elif row["exit_code"] != task.code:
            text = f"{row['exec_id']} says {row['exit_code']}, the container {task.code}"
            self.broken("I10 the exit code is our container's", text, row["exec_id"], task.arn)

    def _lost(self, row: dict[str, Any]) -> None:
        known = [task for task in self.launches.get((row["exec_id"], row["attempt"]), []) if not task.forgotten]
        # While ECS shows nothing, what nobody wants any more is not waited for: the orphan sweep ends it.
        unwanted = self.ever_hidden and row["desired"] == "STOP"
        if known and not self.hidden and not unwanted and not self.restored:
            self.broken("I23 LOST only if ECS knows nothing", f"{row['exec_id']}: ECS knows {known[0].arn}",
                        row["exec_id"], known[0].arn)  # fmt: skip

    def _acked(self, row: dict[str, Any]) -> None:
        if row["acked_version"] < row["version"] or row["kind"] != "task":
            return
        if row["phase"] == "EXITED" and row["exit_code"] == 0:
            self.remembered.add(row["exec_id"])
        if row["phase"] not in TERMINAL:
            self.broken("I13 only ends are acknowledged", f"{row['exec_id']} is {row['phase']}", row["exec_id"])
        ti = self.tis.get(row["exec_id"].partition("-")[0])
        if ti is not None and ti.ext == row["exec_id"] and ti.state in ACTIVE and not self.restored:
            text = f"{row['exec_id']} acknowledged, {ti.id} is {ti.state}"
            self.broken("I13 acknowledged means nothing is left to tell", text, row["exec_id"])

    def _deleted(self, event: dict[str, Any], old: dict[str, Any]) -> None:
        exec_id = old["exec_id"]
        self.rows.pop(exec_id, None)
        self.remembered.discard(exec_id)
        if event["via"] != "prune":
            self.excused |= {exec_id, exec_id.partition("-")[0]}
            return
        if old["phase"] not in TERMINAL or old["acked_version"] < old["version"]:
            self.broken("I18 only what is done is forgotten", exec_id, exec_id)
        for (of, _), tasks in self.launches.items():
            if of == exec_id and any(task.stopped is None for task in tasks) and not self.restored:
                self.broken("I18 nothing alive is forgotten", exec_id, exec_id)

    # -- ECS ------------------------------------------------------------------------------------------------------

    def on_run_task(self, event: dict[str, Any]) -> None:
        self._rate()
        exec_id, attempt = event["id"], event["attempt"]
        token = self.tokens.setdefault((exec_id, attempt), event["token"])
        if token != event["token"] and not self.restored:
            self.broken("I4 one token per launch", f"{exec_id} attempt {attempt} has two", exec_id)
        if exec_id is not None and exec_id.partition("-")[0] in self.poisoned:
            self.broken("W3 what is invalid is not sent", exec_id, exec_id)
        if event["result"] == "ATTRIBUTE":
            self.own_faults[exec_id] = self.own_faults.get(exec_id, 0) + 1
        if event["result"] != "created":
            return
        ti = self.ti_of.get(exec_id)
        task = EcsTask(event["arn"], exec_id, attempt, ti)
        self.tasks[task.arn] = task
        twins = self.launches.setdefault((exec_id, attempt), [])
        twins.append(task)
        if self.restored:
            return
        if len(twins) > 1:
            self.broken("I1 one task per launch", f"{exec_id} attempt {attempt} has {len(twins)}", exec_id, task.arn)
        intent = self.intents.get((exec_id, attempt))
        if intent is None:
            self.broken("I4 intent before effect", f"{exec_id} attempt {attempt} had none", exec_id, task.arn)
        elif self.t - intent > 35 * 60:
            self.broken("I5 no late RunTask", f"{exec_id} {self.t - intent:.0f} s after its intent", exec_id, task.arn)
        left = self.left.get((exec_id, attempt))
        if left is not None and left < event["signed"]:
            self.broken("I5 no RunTask for what has moved on", f"{exec_id} attempt {attempt}", exec_id, task.arn)
        for other in self.tasks.values():
            lost = self.hidden and self.rows.get(other.id, {}).get("phase") == "LOST"
            if other is not task and other.ti == ti and not other.ended and other.id not in self.excused and not lost:
                text = f"{task.arn} of {exec_id} and {other.arn} of {other.id} live for {ti}"
                self.broken("I2 one live container per task instance", text, exec_id, other.id, task.arn, other.arn)

    def on_foreign(self, event: dict[str, Any]) -> None:
        self.foreign.add(event["arn"])

    def on_stop_task(self, event: dict[str, Any]) -> None:
        self._rate()
        if event["arn"] in self.foreign:
            self.broken("S1 tasks of others are not touched", f"{event['who']} stopped {event['arn']}", event["arn"])
        task = self.tasks.get(event["arn"])
        row = self.rows.get(task.id) if task else None
        if task is None or row is None or self.restored or row["phase"] in TERMINAL or row["desired"] == "STOP":
            return
        if row["phase"] != "STOPPING" and (row["attempt"], _short(row["task_arn"]) or task.arn) == (
            task.attempt,
            task.arn,
        ):
            text = f"{event['who']} stopped {task.arn} of {task.id}: {event['why']}"
            self.broken("S2 what is wanted is not stopped", text, task.id, task.arn)

    def on_log_cut(self, event: dict[str, Any]) -> None:
        since = self.desired_at.get(event["id"])
        # The stop of a start that nobody wants may have been decided before Airflow admitted it all the same.
        task = self.tasks.get(event["arn"])
        decided = self.stopping_at.get(event["id"], self.t)
        late = task is not None and decided < task.admitted_at
        if since is not None and self.t - since < 138 and event["id"] in self.rows and not late:
            self.broken("S3 logs are uploaded to their end", f"{event['id']} was cut off", event["id"], event["arn"])

    def on_stopped(self, event: dict[str, Any]) -> None:
        if task := self.tasks.get(event["arn"]):
            task.stopped, task.code, task.stop_code, task.ended = self.t, event["code"], event["stop_code"], True
            task.works = False
            if not event["ran"] and (event["stop_code"] == "TaskFailedToStart" or task.id in self.late):
                self.own_faults[task.id] = self.own_faults.get(task.id, 0) + 1

    def on_forgotten(self, event: dict[str, Any]) -> None:
        if task := self.tasks.get(event["arn"]):
            task.forgotten = True

    def _rate(self) -> None:
        self.calls.append(self.t)
        while self.calls[0] < self.t - 1:
            self.calls.popleft()
        if len(self.calls) > 140:
            self.broken("I20 calls stay below the rate", f"{len(self.calls)} in one second")

    # -- containers and the API -----------------------------------------------------------------------------------

    def on_container(self, event: dict[str, Any]) -> None:
        if task := self.tasks.get(event["arn"]):
            task.ran = True

    def on_admission(self, event: dict[str, Any]) -> None:
        task = self.tasks.get(event["arn"])
        if task is None or not event["ok"]:
            return
        task.admitted = task.works = True
        task.admitted_at = self.t
        task.ti = event["ti"]
        others = [o.arn for o in self.tasks.values() if o is not task and o.works and o.ti == event["ti"]]
        if others and not self.restored:
            self.broken("I3 user code never overlaps itself", f"{task.arn} and {others} run {event['ti']}", task.id)
        if event["ext"]:
            self.admissions[event["ext"]] = self.admissions.get(event["ext"], 0) + 1
            if self.admissions[event["ext"]] > 1 and not self.restored:
                self.broken("I3 one admission per queueing", event["ext"], event["ext"], task.arn)

    def on_user_end(self, event: dict[str, Any]) -> None:
        if task := self.tasks.get(event["arn"]):
            task.works = False

    def on_exit(self, event: dict[str, Any]) -> None:
        if task := self.tasks.get(event["arn"]):
            task.ended, task.why = True, event["why"]
            if event["why"] == "broken":
                self.own_faults[task.id] = self.own_faults.get(task.id, 0) + 1
            self.callbacks.setdefault(task.id.partition("-")[0], []).append(event["code"])

    # -- Airflow --------------------------------------------------------------------------------------------------

    def on_ti(self, event: dict[str, Any]) -> None:
        ti = self.tis.setdefault(event["name"], Instance())
        before, was_id = ti.state, ti.id
        self._queued_until_now(event["name"], ti)
        if event["state"] == "queued":
            ti.queued_at = self.t
        ti.state, ti.id, ti.ext = event["state"], event["id"], event["ext"]
        why = event["why"]
        if "restarting" in (before, ti.state):
            ti.restarted_at = self.t
        if why == "restored":
            self.restored = True
            return
        if ti.state == "success" and why.startswith("event"):
            self.broken("I11 no event makes a success", ti.id, event["name"])
        if before == "success" and ti.state in ("failed", "up_for_retry"):
            self.broken("I14 a reported success stays", ti.id, event["name"])
        if ti.state in ("failed", "up_for_retry"):
            self._failed(event, before, was_id)
        if why == "event overwrote the id":
            self.broken("S4 no event overwrites the id", ti.id, event["name"])

    def _failed(self, event: dict[str, Any], before: str | None, was_id: str) -> None:
        """Nothing fails without a cause that is its own."""
        why, name, ext = event["why"], event["name"], event["ext"]
        if self.restored or name in self.excused | self.poisoned or why in ("reported", "marked by a user"):
            return
        if why == "stuck too often":
            if name in self.faulty or any(self.own_faults.get(exec_id) for exec_id in self.of_ti.get(name, ())):
                return  # what fails to start by itself is not given back when it waits after that, or hangs
            if self.flaky_until > self.tis[name].queued_at:
                return  # upkeep, slow as it is here, had hardly a pass in which the database did not fail it
            self.broken("W1 waiting fails no task", f"{name} was stuck in QUEUED three times", name)
        elif before == "running":
            working = [task.arn for task in self.tasks.values() if task.ti == was_id and task.works]
            if working and "heartbeat" not in why and not self.hidden:
                text = f"{name} failed while {working[0]} runs it: {why}"
                self.broken("I14 what runs is not failed", text, name, *working)
        elif before in ("queued", "scheduled") and "heartbeat" not in why:
            row = self.rows.get(ext or "")
            lost = row is not None and row["phase"] == "LOST"
            if "before Airflow admitted it" in why or "without reporting" in why:
                lost = lost or not self.remembered  # how it is set up may be wrong: its user must hear of it
            # The last one of the budget is judged by the scheduler, which can not know whose fault it was.
            if not lost and self.own_faults.get(ext or "", 0) < MAX_ATTEMPTS - 1:
                faults = self.own_faults.get(ext or "", 0)
                self.broken("W2 no trouble of others fails a task", f"{ext} had {faults} faults of its own: {why}",
                            name, ext)  # fmt: skip

    def on_emit(self, event: dict[str, Any]) -> None:
        if event["what"] != "task":
            return
        if event["event"] not in ("success", "failed"):
            self.broken("S4 no event overwrites the id", f"{event['event']} for {event['id']}", event["id"])
        ti = self.tis.get(event["id"].partition("-")[0])
        # A scheduler may have been stalled since it looked.
        restarting = ti is not None and (ti.state == "restarting" or ti.restarted_at > self.t - LONGEST_STALL)
        if event["event"] == "success" and not restarting and not self.restored:
            self.broken("I11 SUCCESS is for RESTARTING only", event["id"], event["id"])

    def on_applied(self, event: dict[str, Any]) -> None:
        if event["id"] is None or self.restored:
            return
        if event["state"] != "restarting" and event["ext"] != event["id"]:
            text = f"{event['event']} of {event['id']} applied to {event['ext']} ({event['state']})"
            self.broken("I12 an event is for its own queueing", text, event["name"], event["id"])
        if event["state"] == "restarting" and event["event"] == "failed":
            self.broken("I11 RESTARTING hears SUCCESS", event["id"], event["name"], event["id"])
        if event["state"] == "scheduled":
            self.broken("I12 what is SCHEDULED is not failed", event["id"], event["name"], event["id"])

    def on_callback(self, event: dict[str, Any]) -> None:
        codes = self.callbacks.get(event["id"], [])
        right = {"success": 0 in codes, "failed": 0 not in codes}.get(event["state"], True)
        rows = [row for exec_id in self.of_ti.get(event["id"], ()) if (row := self.rows.get(exec_id))]
        lost = any(row["phase"] == "LOST" for row in rows)
        if not right and not self.restored and not lost:
            text = f"{event['id']} {event['state']}: {codes}"
            self.broken("S5 a callback's exit code is its outcome", text, event["id"])

    def on_synced(self, event: dict[str, Any]) -> None:
        job = event["job"]
        # What is given back is acknowledged at once: should its commit's answer be lost, only upkeep lets go of it.
        since = {False: self.synced.get(job, float("-inf")), True: float("-inf")}
        if not event["ok"]:
            return
        self.synced[job] = self.t
        if event["upkept"]:
            since[True] = self.upkept.get(job, float("-inf"))
            self.upkept[job] = self.t
        for name, tries in event["held"]:
            if name in self.excused:
                continue
            rows = [row for exec_id in self.of_ti.get(name, ()) if (row := self.rows.get(exec_id))
                    and (row["kind"] != "task" or row["try_number"] == tries)]  # fmt: skip
            if not rows or rows[-1]["owner_job_id"] != job or rows[-1]["refused"] or self.restored:
                continue
            newest = rows[-1]["exec_id"]
            before = since[rows[-1]["phase"] == "CANCELLED"]
            if self.owned_at[newest] < before and all(
                self.ended_at.get(row["exec_id"], float("inf")) < before for row in rows
            ):
                self.broken("I24 what has ended holds no slot", f"{name} of job {job}", name)

    # -- the rest -------------------------------------------------------------------------------------------------

    def on_trouble(self, event: dict[str, Any]) -> None:
        if event["what"] in ("a start fails", "a placement fails"):
            self.faulty.add(event["with"]["task"])
        if event["what"] == "the database is flaky":
            self.flaky_until = max(self.flaky_until, self.t + event["with"]["seconds"])
        self.stale = self.stale or event["with"].get("mode") == "stale"

    def on_poison(self, event: dict[str, Any]) -> None:
        self.poisoned.add(event["name"])

    def on_heal(self, _: dict[str, Any]) -> None:
        self.healed_at = self.t

    def on_hidden(self, event: dict[str, Any]) -> None:
        """The breaker needs ten tasks. With fewer, what is hidden for long is believed to be gone."""
        self.ever_hidden = True
        self.hidden = self.hidden or event["live"] < 14

    def on_unforeseen(self, event: dict[str, Any]) -> None:
        self.broken("S6 nothing is unforeseen", f"{event['who']}: {event['error']}")

    def on_end(self, event: dict[str, Any]) -> None:
        for name, ti in self.tis.items():
            self._queued_until_now(name, ti)
        if event["rest"]:
            return
        left = [text for text in event["tis"] + event["rows"] if _name(text) not in self.excused]
        if left:
            self.broken("I15 a healed world comes to rest", f"left over: {', '.join(left)}", *map(_name, left))
        for arn in event["tasks"]:
            task = self.tasks.get(arn)
            row = self.rows.get(task.id) if task else None
            if row is not None and row["desired"] == "STOP" and row["phase"] not in TERMINAL:
                self.broken(
                    "I22 what is not wanted is stopped", f"{arn} of {row['exec_id']} lives", row["exec_id"], arn
                )
            elif row is None or row["phase"] in TERMINAL:
                self.broken(
                    "I16 no orphan survives", f"{arn} lives, and no row claims it", arn, task.id if task else None
                )

    def _queued_until_now(self, name: str, ti: Instance) -> None:
        """It was QUEUED all the while since, or is no more. Airflow itself lets it wait so long."""
        waited = self.t - max(ti.queued_at, self.healed_at)
        if ti.state == "queued" and ti.ext not in self.ti_of and waited > WITHOUT_ROW and not self.restored:
            self.broken("I17 what is queued has a row", f"{ti.ext} waited {waited:.0f} s for one", name)


def _holds_a_secret(event: dict[str, Any]) -> bool:
    values = (event["new"] or {}) if event["kind"] == "row" else event
    return any(isinstance(value, str) and SECRET in value for value in values.values())


def _name(text: str) -> str:
    """The task instance or callback in `t1 queued` or `t1-2 EXITED`."""
    return text.partition(" ")[0].partition("-")[0]


def _shard_of(lease: str) -> str:
    """The shard that a lease is for. Its deployment's name comes first; the shard at home has no name of its own."""
    name = lease.partition("/")[2]
    return "" if name == "region" else name


def _short(arn: str | None) -> str:
    return (arn or "").rsplit("/", 1)[-1][:8]


def check(trace: Iterable[dict[str, Any]]) -> list[Violation]:
    """What is wrong with a trace."""
    return Checker().check(trace)
