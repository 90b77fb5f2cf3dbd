"""One plan, run to its end: first chaos, then everything heals and the world must come to rest."""

from __future__ import annotations

import gc
import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from reconciler.localecs import PUBLISHED_RATES, Latencies, Settings
from reconciler.queues import shares
from tests.sim import daemon
from tests.sim.airflow import Airflow, Callback, Job, TaskInstance
from tests.sim.aws import FOREIGN, Aws, asks_for_spot, short
from tests.sim.daemon import Options, Replica
from tests.sim.database import Database
from tests.sim.engine import Process, Sim
from tests.sim.post import Post
from tests.sim.scheduler import Scheduler
from tests.sim.sql import remembered_workloads

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.localecs.task import Task
    from tests.sim.plan import Plan
    from tests.sim.trouble import Trouble

PATIENCE = 100 * 60.0
"""Seconds after the heal within which everything must have come to rest, besides what containers still run."""
MIXED = {"unreachable": 0.3, "lost": 0.2, "lost_after": 0.1, "late": 0.1, "fails": 0.15, "fails_after": 0.15}


@dataclass
class Slot:
    """A place for a process, which is filled again when it dies."""

    kind: str
    number: int
    lives: int = 0
    process: Process | None = None
    body: Any = None
    down_until: float = 0.0
    """Nobody starts it before; infinity while it is kept down."""


class Universe:
    """Everything, wired. `run` returns the trace."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        name = f"{plan.seed}.{plan.salt}"
        self.sim = sim = Sim(name)
        sim.latency, sim.pace = plan.latency, plan.pace
        database_skew, aws_skew, api_skew = plan.skews
        self.database = Database(sim, database_skew)
        settings = Settings(
            latencies=Latencies(8, 3, 12, 1, 1, 1, 8, jitter=0.5, stragglers=0.05),
            visibility_lag=plan.lags[0],
            list_lag=plan.lags[1],
            rates=PUBLISHED_RATES if plan.throttles else {},
            list_page_size=5 if plan.throttles else 100,
        )
        chance, queues = random.Random(f"{name}/aws"), [queue for queue, _, _ in plan.queues]
        self.aws = Aws(sim, settings, aws_skew, chance, events=plan.mail is not None, queues=queues)
        self.aws.signature_lives = plan.signature_lives
        if plan.mail:
            self.aws.post = Post(sim, settings, random.Random(f"{name}/mail"), plan.mail, self.aws.now)
        self.airflow = Airflow(sim, random.Random(f"{name}/airflow"), api_skew)
        self.aws.airflow = self.airflow
        self.airflow.weather.locked = plan.locked
        self.airflow.weather.fails_to_write = plan.fails_to_write
        for task in plan.tasks:
            self.airflow.tis[task.name] = TaskInstance(
                task.name, list(task.program), task.retries, task.priority, task.breaks, task.born,
                max_tries=task.retries, poison=task.poison, queue=task.queue,
            )  # fmt: skip
            if task.poison:
                sim.note("poison", name=task.name)
            sim.at(task.born, sim.happen)
        for n, (born, code) in enumerate(plan.callbacks, start=1):
            self.airflow.callbacks[f"cb{n}"] = Callback(f"cb{n}", code, born)
            sim.at(born, sim.happen)
        self.options = Options(
            max_running_tasks=plan.max_running_tasks,
            lease_seconds=plan.lease_seconds,
            listing_interval=plan.listing_interval,
            retention=plan.retention,
            policy=daemon.POLICY,
            queues=plan.queues,
            spot_fallback_after=plan.spot_fallback_after,
        )
        self.slots = [Slot("daemon", n) for n in range(plan.replicas)]
        self.slots += [Slot("scheduler", n) for n in range(plan.schedulers)]
        self.healed = False
        self._backup: Any = None

    def run(self) -> list[dict[str, Any]]:
        sim = self.sim
        collecting = gc.isenabled()
        gc.disable()  # what a universe is made of lives as long as the universe
        try:
            with daemon.simulated_manager(sim), remembered_workloads():
                self._live()
        finally:
            if collecting:
                gc.enable()
        return sim.trace

    def _live(self) -> None:
        sim, plan = self.sim, self.plan
        try:
            for slot in self.slots:
                self._start(slot)
            for trouble in plan.troubles:
                sim.at(trouble.at, self._maker(trouble))
            sim.run(lambda: False, plan.chaos)
            self._heal()
            rest = sim.run(self._at_rest, max(sim.now, self._working()) + PATIENCE)
            sim.note("end", rest=rest, tis=self._left_tis(), rows=self._left_rows(), tasks=self._left_tasks())
        finally:
            for slot in self.slots:
                if slot.process is not None and slot.process.alive:
                    slot.process.alive = False
                    slot.process._bury(sim.hub)

    # -- processes ------------------------------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        sim = self.sim
        if sim.now < slot.down_until or (slot.process is not None and slot.process.alive):
            return
        slot.lives += 1
        slot.process = process = Process(sim, f"{slot.kind}{slot.number}.{slot.lives}", slot.kind)
        process.on_death = lambda: self._died(slot)
        sim.note("start", who=process.name)
        if slot.kind == "daemon":
            slot.body = Replica(sim, process, self.database, self.aws, self.options)
        else:
            job = Job(len(self.airflow.jobs) + 1, process)
            self.airflow.jobs[job.id] = job
            said = {name: {"max_running_tasks": share, "region_name": shard} for name, share, shard in self.plan.queues}
            slot.body = Scheduler(
                sim,
                process,
                self.database,
                self.airflow,
                job,
                max_running_tasks=self.plan.max_running_tasks,
                max_run_task_attempts=self.options.policy.max_run_task_attempts,
                pools={name: share for name, share, _ in self.plan.queues},
                shares=shares(said, "", self.plan.max_running_tasks),
            )
        process.spawn(slot.body.run)

    def _died(self, slot: Slot) -> None:
        if slot.kind == "scheduler":
            slot.body.job.died_at = self.sim.now
        wait = max(slot.down_until - self.sim.now, 5.0)
        if wait < float("inf"):
            self.sim.at(self.sim.now + wait, lambda: self._start(slot))

    # -- troubles -------------------------------------------------------------------------------------------------

    def _maker(self, trouble: Trouble) -> Callable[[], None]:
        makers: dict[str, Callable[[dict[str, Any]], None]] = {
            "ECS is away": self._ecs_away,
            "ECS is flaky": self._ecs_flaky,
            "no room": self._no_room,
            "Spot has no room": self._no_spot,
            "a start fails": self._start_fails,
            "a placement fails": self._placement_fails,
            "the database is down": self._database_down,
            "the database is flaky": self._database_flaky,
            "a process dies": self._process_dies,
            "a process stalls": self._process_stalls,
            "no daemon runs": lambda args: self._none_of("daemon", args),
            "no scheduler runs": lambda args: self._none_of("scheduler", args),
            "the API server is down": self._api_down,
            "a user clears": lambda args: self.airflow.clear(self.airflow.tis[args["task"]]),
            "a user marks failed": lambda args: self.airflow.mark(self.airflow.tis[args["task"]], "failed"),
            "a user marks success": lambda args: self.airflow.mark(self.airflow.tis[args["task"]], "success"),
            "a user deletes": lambda args: self.airflow.drop(self.airflow.tis[args["task"]]),
            "a host is lost": self._host_lost,
            "Spot takes a task": partial(self._interrupt, starting=False),
            "Spot takes a start": partial(self._interrupt, starting=True),
            "an agent is cut off": self._cut_off,
            "somebody else's task": lambda args: self.aws.start_foreign(FOREIGN[args["which"] % len(FOREIGN)]),
            "a row is deleted by hand": self._delete_row,
            "a backup is taken": self._take_backup,
            "the backup is restored": self._restore,
            "ECS shows nothing": self._hide,
        }

        def make() -> None:
            if not self.healed:
                self.sim.note("trouble", what=trouble.what, **{"with": trouble.args})
                self.sim.happen()
                makers[trouble.what](trouble.args)

        if trouble.when:
            return lambda: self.sim.armed.append((trouble.when, make))
        return make

    def _for(self, seconds: float, undo: Callable[[], None]) -> None:
        def over() -> None:
            if not self.healed:
                undo()
                self.sim.happen()

        self.sim.at(self.sim.now + seconds, over)

    def _ecs_away(self, args: dict[str, Any]) -> None:
        shares = self.aws.weather.shares
        shares["all"] = MIXED if args["mode"] == "mixed" else {args["mode"]: 1.0}
        self._for(args["seconds"], partial(_forget, shares, "all"))

    def _ecs_flaky(self, args: dict[str, Any]) -> None:
        shares = self.aws.weather.shares
        shares[args["operation"]] = {args["mode"]: args["share"]}
        self._for(args["seconds"], partial(_forget, shares, args["operation"]))

    def _no_room(self, args: dict[str, Any]) -> None:
        rule = self.aws.model.faults.on_placement(args["reason"], times=None)
        self._for(args["seconds"], lambda: self.aws.model.faults.remove(rule))

    def _no_spot(self, args: dict[str, Any]) -> None:
        reason = "Capacity is unavailable at this time"
        rule = self.aws.model.faults.on_placement(reason, times=None, where=asks_for_spot)
        self._for(args["seconds"], lambda: self.aws.model.faults.remove(rule))

    def _of_task(self, name: str) -> Callable[[Any], bool]:
        return lambda request: f"/{name}-" in request.get("startedBy", "")

    def _start_fails(self, args: dict[str, Any]) -> None:
        self.aws.model.faults.on_start(
            args["reason"], status=args["status"], times=args["times"], where=self._of_task(args["task"])
        )

    def _placement_fails(self, args: dict[str, Any]) -> None:
        self.aws.model.faults.on_placement(args["reason"], times=args["times"], where=self._of_task(args["task"]))

    def _database_down(self, args: dict[str, Any]) -> None:
        weather = self.database.weather
        weather.down = True
        self.airflow.api_goes(down=True, why="database")

        def up() -> None:
            weather.down = False
            self.airflow.api_goes(down=False, why="database")

        self._for(args["seconds"], up)

    def _database_flaky(self, args: dict[str, Any]) -> None:
        weather = self.database.weather
        weather.refuses, weather.forgets = args["refuses"], args["forgets"]

        def calm() -> None:
            weather.refuses = weather.forgets = 0.0

        self._for(args["seconds"], calm)

    def _victim(self, args: dict[str, Any]) -> Slot | None:
        slot = [slot for slot in self.slots if slot.kind == args["kind"]][args["which"]]
        return slot if slot.process is not None and slot.process.alive else None

    def _process_dies(self, args: dict[str, Any]) -> None:
        slot = self._victim(args)
        if slot is None or slot.process is None:
            return
        slot.down_until = max(slot.down_until, self.sim.now + args["seconds"])
        if args["orderly"]:
            if slot.kind == "daemon":
                slot.body.stop()
            else:
                slot.body.job.state = "success"
                slot.process.kill("stopped in order")
        elif args["seams"] == 0:
            slot.process.kill("at once")
        else:
            slot.process.die_in, slot.process.die_at = args["seams"], args["where"]

    def _process_stalls(self, args: dict[str, Any]) -> None:
        slot = self._victim(args)
        if slot is not None and slot.process is not None:
            slot.process.stall_in, slot.process.stall_at = args["seams"], args["where"]
            slot.process.stall_for, slot.process.stall_whole = args["seconds"], args["whole"]

    def _none_of(self, kind: str, args: dict[str, Any]) -> None:
        for slot in self.slots:
            if slot.kind == kind:
                slot.down_until = max(slot.down_until, self.sim.now + args["seconds"])
                if slot.process is not None:
                    slot.process.kill(f"every {kind} is down")

    def _api_down(self, args: dict[str, Any]) -> None:
        self.airflow.api_goes(down=True, why="itself")
        self._for(args["seconds"], lambda: self.airflow.api_goes(down=False, why="itself"))

    def _some_task(self, which: float, *, starting: bool = False) -> str | None:
        live = [task.arn for task in self.aws.live() if (task.status != "RUNNING") == starting]
        return live[min(int(which * len(live)), len(live) - 1)] if live else None

    def _host_lost(self, args: dict[str, Any]) -> None:
        if arn := self._some_task(args["which"]):
            self.sim.note("host_lost", arn=short(arn))
            self.aws.model.lose_host(arn, self.aws.now)
            self.aws.pump()

    def _interrupt(self, args: dict[str, Any], *, starting: bool) -> None:
        if arn := self._some_task(args["which"], starting=starting):
            self.sim.note("spot", arn=short(arn))
            self.aws.model.interrupt_spot(arn, self.aws.now)
            self.aws.pump()

    def _cut_off(self, args: dict[str, Any]) -> None:
        """A host dies, and ECS hears of it much later."""
        if arn := self._some_task(args["which"]):
            self.sim.note("cut_off", arn=short(arn))
            for (of, _), runner in self.aws.runners.items():
                if of == arn and runner.exec_id:
                    runner.vanish(args["seconds"])

    def _delete_row(self, args: dict[str, Any]) -> None:
        rows = self.database.rows()
        if rows:
            self.database.delete(rows[min(int(args["which"] * len(rows)), len(rows) - 1)]["exec_id"])

    def _take_backup(self, _: dict[str, Any]) -> None:
        self._backup = self.database.backup(), self.airflow.backup()

    def _restore(self, _: dict[str, Any]) -> None:
        """Everybody who works on the database is restarted with it."""
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill("its database is restored")
        if self._backup:
            self.database.restore(self._backup[0])
            self.airflow.restore(self._backup[1])

    def _hide(self, args: dict[str, Any]) -> None:
        """The wrong region, or credentials of another account: every task is MISSING."""
        # Each account has a breaker of its own, and a cluster of its own here.
        live = Counter(task.cluster_arn for task in self._ours())
        self.sim.note("hidden", live=min(live.values(), default=0))
        self.aws.model.faults.hidden = _Everything()
        self._for(args["seconds"], self._show)

    def _show(self) -> None:
        self.aws.model.faults.hidden = set()

    # -- the end --------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """No more trouble: everything works, everybody lives, nobody is stalled."""
        sim = self.sim
        self.healed = self.airflow.healed = sim.healed = True
        sim.note("heal")
        self.aws.weather.shares.clear()
        self.aws.model.faults.clear()
        self._show()
        weather = self.database.weather
        weather.down, weather.refuses, weather.forgets = False, 0.0, 0.0
        self.airflow.weather.locked = self.airflow.weather.fails_to_write = 0.0
        for why in ("itself", "database"):
            self.airflow.api_goes(down=False, why=why)
        for ti in self.airflow.tis.values():
            ti.program, ti.breaks = [(20.0, "success")], 0
        for slot in self.slots:
            slot.down_until = 0.0
            if slot.process is not None and slot.process.alive:
                slot.process.die_in = slot.process.stall_in = None
                slot.process.wake()
            else:
                self._start(slot)
        sim.happen()

    def _working(self) -> float:
        """Until when the containers that run now will run."""
        return max((runner.until for runner in self.aws.runners.values() if runner.works), default=0.0)

    def _at_rest(self) -> bool:
        busy_ti = any(not ti.gone and ti.state not in ("success", "failed") for ti in self.airflow.tis.values())
        if busy_ti or any(callback.state not in ("success", "failed") for callback in self.airflow.callbacks.values()):
            return False
        return not self._left_tasks() and not self._left_rows()

    def _left_tis(self) -> list[str]:
        left = [
            f"{ti.name} {ti.state}"
            for ti in self.airflow.tis.values()
            if not ti.gone and ti.state not in ("success", "failed")
        ]
        return left + [
            f"{callback.id} {callback.state}"
            for callback in self.airflow.callbacks.values()
            if callback.state not in ("success", "failed")
        ]

    def _left_rows(self) -> list[str]:
        return [
            f"{row['exec_id']} {row['phase']}"
            for row in self.database.rows()
            if row["phase"] not in ("EXITED", "FAILED_START", "CANCELLED", "LOST")
            or row["acked_version"] < row["version"]
        ]

    def _left_tasks(self) -> list[str]:
        return [short(task.arn) for task in self._ours()]

    def _ours(self) -> list[Task]:
        return [task for task in self.aws.live() if task.containers[-1].command[:1] == ("run",)]


def _forget(shares: dict[str, dict[str, float]], operation: str) -> None:
    shares.pop(operation, None)


class _Everything(set[str]):
    def __contains__(self, _: object) -> bool:
        return True
