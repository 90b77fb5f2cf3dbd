"""Rules about the table: which writes to a row may be made."""

from __future__ import annotations

from typing import Any

from reconciler.core.phase import EDGES, Phase
from tests.sim.truth import ACTIVE, TERMINAL, Known, short

BREAKER_NEEDS = 10
"""Tasks. The breaker judges how many of at least so many are MISSING."""
SETTLED_AFTER = 40 * 60
"""Seconds after the intent from which on a listing that does not show a launch settles it."""


class TableRules(Known):
    """Each write to a row, before and after."""

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
            if exec_id in self.excused:
                self._anew(exec_id)
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
            self.stop_version[exec_id] = new["version"]
        if new["acked_version"] != old["acked_version"]:
            self._acked(new)

    def _anew(self, exec_id: str) -> None:
        """Somebody deleted this row and a scheduler wrote it anew: its attempts are counted from the first again.

        Not at the deletion: a call that was on its way then has had its intent.
        """
        for known in (self.left, self.launches):
            for launched in [launched for launched in known if launched[0] == exec_id]:
                known.pop(launched)

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
            old_enough = self.t - self.intents.get(launched, self.t) >= SETTLED_AFTER
            if self.hidden and old_enough and "never made" in (new["reason"] or ""):
                self.believed_absent.add(launched)
        if phase in TERMINAL:
            self.ended_at[exec_id] = self.t
        else:
            self.ended_at.pop(exec_id, None)
        if phase == "LAUNCHING":
            self.intents[exec_id, new["attempt"]] = self.t
            self._before_again(exec_id, new["attempt"] - 1)
            self._unwanted(new)
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
        task = self.tasks.get(short(row["task_arn"]))
        if task and task.works and task.admitted_at < self.t - 300 and not self.stale and not self.restored:
            text = f"{row['exec_id']} is stopped as late and runs since {task.admitted_at:.0f} s"
            self.broken("S2 what is wanted is not stopped", text, row["exec_id"], task.arn)

    def _unwanted(self, row: dict[str, Any]) -> None:
        """Its scheduler had looked four times since: two looks must agree, and writing takes a moment."""
        since = self.inactive_since.get(row["exec_id"])
        looks = self.upkept.get(row["owner_job_id"], [])[-4:]
        owned = self.owned_at.get(row["exec_id"], 0.0)
        if since is not None and len(looks) == 4 and looks[0] > max(since, owned) and not self.restored:
            text = f"{row['exec_id']} is launched, and not wanted since {since:.0f} s"
            self.broken("I22 what is not wanted is not launched", text, row["exec_id"])

    def _before_again(self, exec_id: str, attempt: int) -> None:
        if self.restored or (exec_id, attempt) in self.believed_absent:
            return
        for task in self.launches.get((exec_id, attempt), []):
            if task.admitted or (task.ran and task.why in ("done", "oom") and self.rows[exec_id]["kind"] == "callback"):
                self.broken("I6 again only if nothing ran", f"{exec_id} attempt {attempt} had run", exec_id, task.arn)
            if not task.ended:
                self.broken("I6 again only after the end", f"{exec_id} attempt {attempt} lives", exec_id, task.arn)

    def _exited(self, row: dict[str, Any]) -> None:
        task = self.tasks.get(short(row["task_arn"]))
        if task is None or self.restored:
            return
        if task.stopped is None:
            self.broken("I10 EXITED means STOPPED", f"{row['exec_id']} is EXITED, its task lives", row["exec_id"])
        elif row["exit_code"] != task.code:
            text = f"{row['exec_id']} says {row['exit_code']}, the container {task.code}"
            self.broken("I10 the exit code is our container's", text, row["exec_id"], task.arn)

    @staticmethod
    def _is_watched(row: dict[str, Any]) -> bool:
        return row["desired"] == "RUN" and row["phase"] in ("STARTED", "RUNNING", "STOPPING")

    def _lost(self, row: dict[str, Any]) -> None:
        known = [task for task in self.launches.get((row["exec_id"], row["attempt"]), []) if not task.forgotten]
        # While ECS shows nothing, what nobody wants any more is not waited for: the orphan sweep ends it.
        unwanted = self.ever_hidden and row["desired"] == "STOP"
        # The breaker of an account judges tasks that are known and wanted. Of few of them it cannot.
        here = [other for other in self.rows.values() if other["shard"] == row["shard"]]
        few = self.ever_hidden and sum(map(self._is_watched, here)) < BREAKER_NEEDS
        if known and not self.hidden and not unwanted and not few and not self.restored:
            self.broken("I23 LOST only if ECS knows nothing", f"{row['exec_id']}: ECS knows {known[0].arn}",
                        row["exec_id"], known[0].arn)  # fmt: skip

    def _acked(self, row: dict[str, Any]) -> None:
        if row["acked_version"] < row["version"] or row["kind"] != "task":
            return
        if row["phase"] == "EXITED" and row["exit_code"] == 0:
            self.remembered[row["exec_id"]] = row["shard"]
        if row["phase"] not in TERMINAL:
            self.broken("I13 only ends are acknowledged", f"{row['exec_id']} is {row['phase']}", row["exec_id"])
        ti = self.tis.get(row["exec_id"].partition("-")[0])
        if ti is not None and ti.ext == row["exec_id"] and ti.state in ACTIVE and not self.restored:
            text = f"{row['exec_id']} acknowledged, {ti.id} is {ti.state}"
            self.broken("I13 acknowledged means nothing is left to tell", text, row["exec_id"])

    def _deleted(self, event: dict[str, Any], old: dict[str, Any]) -> None:
        exec_id = old["exec_id"]
        self.rows.pop(exec_id, None)
        self.remembered.pop(exec_id, None)
        if event["via"] != "prune":
            self.excused |= {exec_id, exec_id.partition("-")[0]}
            return
        if old["phase"] not in TERMINAL or old["acked_version"] < old["version"]:
            self.broken("I18 only what is done is forgotten", exec_id, exec_id)
        believed_gone = self.hidden and old["phase"] == "LOST"
        for (of, _), tasks in self.launches.items():
            alive = of == exec_id and any(task.stopped is None for task in tasks)
            if alive and not believed_gone and not self.restored:
                self.broken("I18 nothing alive is forgotten", exec_id, exec_id)


def _shard_of(lease: str) -> str:
    """The shard that a lease is for. Its deployment's name comes first; the shard at home has no name of its own."""
    name = lease.partition("/")[2]
    return "" if name == "region" else name
