"""Rules about what happens in ECS: calls, tasks, containers."""

from __future__ import annotations

from typing import Any

from tests.sim.truth import TERMINAL, EcsTask, Known, short


class EcsRules(Known):
    """Each call that reached ECS, and what its containers do."""

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
        known = self.submitted.get((event["who"], exec_id, attempt), -1)
        task = EcsTask(event["arn"], exec_id, attempt, ti, withdrawn=known >= self.stop_version.get(exec_id, known + 1))
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
        for other in self.tasks.values() if exec_id not in self.excused else ():
            row = self.rows.get(other.id, {})
            lost = row.get("phase") == "LOST" and (self.hidden or (self.ever_hidden and row["desired"] == "STOP"))
            lost = lost or (other.id, other.attempt) in self.believed_absent
            if other is not task and other.ti == ti and not other.ended and other.id not in self.excused and not lost:
                text = f"{task.arn} of {exec_id} and {other.arn} of {other.id} live for {ti}"
                self.broken("I2 one live container per task instance", text, exec_id, other.id, task.arn, other.arn)

    def on_submit(self, event: dict[str, Any]) -> None:
        self.submitted[event["who"], event["id"], event["attempt"]] = event["version"]

    def on_foreign(self, event: dict[str, Any]) -> None:
        self.foreign.add(event["arn"])

    def on_stop_task(self, event: dict[str, Any]) -> None:
        self._rate()
        if event["arn"] in self.foreign:
            self.broken("S1 tasks of others are not touched", f"{event['who']} stopped {event['arn']}", event["arn"])
        self.asked_to_stop.add(event["arn"])
        task = self.tasks.get(event["arn"])
        row = self.rows.get(task.id) if task else None
        if task is None or row is None or self.restored or row["phase"] in TERMINAL or row["desired"] == "STOP":
            return
        if row["phase"] != "STOPPING" and (row["attempt"], short(row["task_arn"]) or task.arn) == (
            task.attempt,
            task.arn,
        ):
            text = f"{event['who']} stopped {task.arn} of {task.id}: {event['why']}"
            self.broken("S2 what is wanted is not stopped", text, task.id, task.arn)

    def on_log_cut(self, event: dict[str, Any]) -> None:
        if event["arn"] not in self.asked_to_stop:
            return  # by Spot, say
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
            if self.t < self.api_until and event["code"] == 0:
                self.echo_at = self.t
            if not event["ran"] and (event["stop_code"] == "TaskFailedToStart" or task.id in self.late):
                self.own_faults[task.id] = self.own_faults.get(task.id, 0) + 1

    def on_forgotten(self, event: dict[str, Any]) -> None:
        if task := self.tasks.get(event["arn"]):
            task.forgotten = True

    def on_mail_deleted(self, event: dict[str, Any]) -> None:
        """What a message told must be known by then to whoever may need it: the row whose task it is about."""
        task = self.tasks.get(event["arn"])
        row = self.rows.get(task.id) if task else None
        if task is None or row is None or self.restored or row["attempt"] != task.attempt:
            return
        waits = row["phase"] == "LAUNCHING"
        behind = row["phase"] in ("STARTED", "RUNNING", "STOPPING") and row["ecs_version"] < event["version"]
        if waits or (behind and short(row["task_arn"]) == task.arn):
            text = f"version {event['version']} of {task.arn} is deleted, {task.id} knows {row['ecs_version']}"
            self.broken("I19 an event is deleted only after its effect", text, task.id, task.arn)

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
        if task.withdrawn and not self.restored:
            text = f"{task.arn} was called for when {task.id} was not wanted any more"
            self.broken("I22 what is withdrawn does not begin", text, task.id, task.arn)
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
            # Where nothing was ever admitted, it may be how all is set up that keeps containers from Airflow's API.
            if event["why"] == "broken" or (event["why"] == "no api" and not self.has_admitted(task.id)):
                self.own_faults[task.id] = self.own_faults.get(task.id, 0) + 1
            if event["why"] != "nothing":
                self.callbacks.setdefault(task.id.partition("-")[0], []).append(event["code"])
