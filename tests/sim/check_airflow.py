"""Rules about what Airflow is told, and what becomes of its task instances."""

from __future__ import annotations

from typing import Any

from tests.sim.truth import LONGEST_STALL, MAX_ATTEMPTS, WITHOUT_ROW, Instance, Known


class AirflowRules(Known):
    """Each change of a task instance, each event and each look of a scheduler."""

    def on_ti(self, event: dict[str, Any]) -> None:
        ti = self.tis.setdefault(event["name"], Instance())
        before, was_id = ti.state, ti.id
        if ti.ext and (event["state"] not in ("queued", "running") or event["ext"] != ti.ext):
            self.inactive_since.setdefault(ti.ext, self.t)
        if event["ext"] and event["state"] in ("queued", "running"):
            self.inactive_since.pop(event["ext"], None)
        self._queued_until_now(event["name"], ti)
        self._waits(event, ti)
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

    def _waits(self, event: dict[str, Any], ti: Instance) -> None:
        """Whether it may be called stuck in QUEUED: what hampers one wait is remembered for the next ones."""
        if event["why"] in ("stuck", "stuck too often"):
            troubled = max(self.flaky_until, min(self.api_until, self.ecs_until)) > ti.queued_at
            ti.hampered = ti.hampered or troubled or ti.adopted == ti.ext
        elif event["state"] == "running":
            ti.hampered = False
        elif event["why"] == "adopted":
            ti.adopted = event["ext"]
        if event["state"] == "queued":
            ti.queued_at = self.t

    def _failed(self, event: dict[str, Any], before: str | None, was_id: str) -> None:
        """Nothing fails without a cause that is its own."""
        why, name, ext = event["why"], event["name"], event["ext"]
        if self.restored or name in self.excused | self.poisoned or why in ("reported", "marked by a user"):
            return
        if why == "stuck too often":
            if name in self.faulty or any(self.own_faults.get(exec_id) for exec_id in self.of_ti.get(name, ())):
                return  # what fails to start by itself is not given back when it waits after that, or hangs
            if self.tis[name].hampered:
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
                lost = lost or not self.has_admitted(ext)  # how it is set up may be wrong: its user must hear of it
            faults = self.own_faults.get(ext or "", 0)
            # An end that was reported before an outage, and seen in it, passes for proof that the API can be reached.
            taken = any(exec_id == ext and at <= self.echo_at for (exec_id, _), at in self.intents.items())
            # The last one of the budget is judged by the scheduler, which can not know whose fault it was.
            if not lost and faults + taken < MAX_ATTEMPTS - 1:
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
            upkept = self.upkept.setdefault(job, [])
            since[True] = upkept[-1] if upkept else float("-inf")
            upkept.append(self.t)
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

    def _queued_until_now(self, name: str, ti: Instance) -> None:
        """It was QUEUED all the while since, or is no more. Airflow itself lets it wait so long."""
        waited = self.t - max(ti.queued_at, self.healed_at)
        if ti.state == "queued" and ti.ext not in self.ti_of and waited > WITHOUT_ROW and not self.restored:
            self.broken("I17 what is queued has a row", f"{ti.ext} waited {waited:.0f} s for one", name)
