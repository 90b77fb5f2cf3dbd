"""Scenarios about what the scheduler is kept with, and what grows with the table."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.database import MAPPED
from tests.bench.judge import examine, spread
from tests.bench.stand import PATIENCE
from tests.bench.timing import result

if TYPE_CHECKING:
    from tests.bench.database import Database
    from tests.bench.stand import Stand
    from tests.bench.timing import Run

AIRFLOW_DEFAULT: Final = 16
"""[scheduler] max_tis_per_query."""
GOES_ON: Final = 70.0
"""Seconds for which a whole scheduler goes on when all are launched: of less than a hundred heartbeats the 99th
percentile is the longest."""
AT_ONCE: Final = 32
"""Real containers at once: more would only share the same cores."""
EACH: Final = 1.5
"""Seconds that each of them may cost, on two cores that others may use as well."""
INSERTS: Final = 7
"""So many times many are queued at once."""
STEP: Final = 5
"""So many workloads end, begin and are queued every half second while heartbeats are watched."""
_RUN: Final = (
    "UPDATE ecs_workload SET phase = 'RUNNING', attempt = 1, cluster = 'default', family = 'airflow-task', "
    "params = '{}', intent_at = now(), started_at = now(), task_arn = 'arn:' || exec_id, last_status = 'RUNNING', "
    "version = version + 1, updated_at = now() WHERE exec_id = ANY(:ids)"
)
_EXIT: Final = (
    "UPDATE ecs_workload SET phase = 'EXITED', exit_code = 0, stopped_at = now(), last_status = 'STOPPED', "
    "version = version + 1, updated_at = now() WHERE exec_id = ANY(:ids)"
)
_TELL: Final = (
    "UPDATE task_instance SET state = :state WHERE dag_id = 'bench' AND task_id = 'work' AND run_id = 'run' "
    "AND map_index = ANY(:indexes)"
)


def heartbeat(run: Run) -> dict[str, Any]:
    """The shim alone, with rows that the benchmark moves: many are queued at once, many run, a few end all the time.
    With few and with many finished rows in the table."""
    sizes = run.sizes
    airflow = {"SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.05"}
    found = {}
    with run.stand(slots=4 * (sizes.queued + sizes.live), max_tis_per_query=0, daemon=False, **airflow) as stand:
        database = stand.database
        database.all(
            "INSERT INTO ecs_lease (name, holder, epoch, expires_at) "
            "VALUES ('bench/us-east-1', 'nobody', 1, now() + interval '1 hour')"
        )
        # A few first: statements are compiled once in the life of a process. Then many, again and again: of a single
        # moment the machine's mood would be half of the figure.
        for number in (10, *[sizes.queued] * INSERTS, sizes.live):
            if number == sizes.queued:
                database.forget()
            before = len(stand.notes("inserted"))
            database.schedule(number)
            stand.until("the rows", lambda before=before: len(stand.notes("inserted")) > before, PATIENCE)  # type: ignore[misc] # mypy can not infer this lambda
        time.sleep(1)
        played = Played(database, sizes.live)
        for finished in sizes.finished:
            finish_rows(database, finished)
            time.sleep(2)
            began = time.monotonic()
            while time.monotonic() < began + sizes.beats:
                played.step()
                time.sleep(0.5)
            found[str(finished)] = (began, time.monotonic())
        facts = examine(stand)
        inserted = stand.notes("inserted")
    return result(
        facts,
        heartbeats={finished: facts.heartbeats(*window) for finished, window in found.items()},
        # Not those that a loop of the scheduler has split, or taken together with the next.
        insert_seconds=spread(note["seconds"] for note in inserted if note["number"] == sizes.queued),
    )


class Played:
    """What daemon and containers would write. By keys, so that it costs the database next to nothing."""

    def __init__(self, database: Database, live: int) -> None:
        self._database = database
        waiting = database.all("SELECT exec_id, map_index FROM ecs_workload ORDER BY map_index")
        self._waiting = [(row["exec_id"], row["map_index"]) for row in waiting]
        self._running: list[tuple[str, int]] = []
        self._begin(live)

    def step(self) -> None:
        """A few end, as many begin, and as many are queued."""
        ended, self._running = self._running[:STEP], self._running[STEP:]
        self._write("success", _EXIT, ended)
        self._begin(STEP)
        self._database.schedule(STEP)

    def _begin(self, number: int) -> None:
        begun, self._waiting = self._waiting[:number], self._waiting[number:]
        self._write("running", _RUN, begun)
        self._running += begun

    def _write(self, state: str, statement: str, some: list[tuple[str, int]]) -> None:
        # A container tells Airflow first, and ECS shows it afterwards.
        self._database.all(_TELL, state=state, indexes=[index for _, index in some])
        self._database.all(statement, ids=[exec_id for exec_id, _ in some])


def passes(run: Run) -> dict[str, Any]:
    """How long our daemon's passes take, with few and with many finished rows in the table."""
    sizes = run.sizes
    seconds: dict[str, dict[str, float]] = {}
    with run.stand(slots=2 * sizes.live, far_end={"latency": False}) as stand:
        stand.ecs.do("hurry", wanted=True)
        stand.database.schedule(sizes.live)
        stand.until("what is live", lambda: stand.counts()["running"] >= sizes.live, PATIENCE)
        for finished in sizes.finished:
            finish_rows(stand.database, finished)
            time.sleep(2)
            before = _passes(stand)
            time.sleep(sizes.passes)
            after = _passes(stand)
            seconds[str(finished)] = {
                name: round((total - before[name][0]) / (number - before[name][1]), 5)
                for name, (total, number) in after.items()
                if name in before and number > before[name][1]
            }
        facts = examine(stand)
    few, many = (sum(seconds[str(finished)].values()) for finished in sizes.finished)
    return result(facts, seconds=seconds, ratio=round(many / few, 3))


def _passes(stand: Stand) -> dict[str, tuple[float, float]]:
    """By controller: seconds of all passes so far, and their number."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(stand.metrics()):
        if family.name == "ecs_reconciler_reconcile_duration_seconds":
            for sample in family.samples:
                found.setdefault(sample.labels["controller"], {})[sample.name.rpartition("_")[2]] = sample.value
    return {name: (values["sum"], values["count"]) for name, values in found.items() if name != "report"}


def finish_rows(database: Database, number: int) -> None:
    """Let the table hold so many workloads that have ended and been acknowledged."""
    names = [
        row["column_name"]
        for row in database.all(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'ecs_workload' "
            "AND is_generated = 'NEVER'"
        )
    ]
    given = {
        "exec_id": "CAST(gen_random_uuid() AS text)",
        "ti_id": "CAST(gen_random_uuid() AS text)",
        "map_index": "1000000 + number",
        "phase": "'EXITED'",
        "exit_code": "0",
        "version": "9",
        "acked_version": "9",
        "stopped_at": "now() - number * interval '1 second' - interval '1 hour'",
        "created_at": "now() - number * interval '1 second' - interval '2 hours'",
        "updated_at": "now() - number * interval '1 second' - interval '1 hour'",
    }
    there = database.one("SELECT count(*) FROM ecs_workload WHERE map_index >= 1000000")
    chosen = ", ".join(given.get(name, f"w.{name}") for name in names)
    database.all(
        f"INSERT INTO ecs_workload ({', '.join(names)}) SELECT {chosen} FROM "
        "(SELECT * FROM ecs_workload WHERE map_index < 1000000 ORDER BY exec_id LIMIT 1) w, "
        "generate_series(CAST(:first AS int), CAST(:last AS int)) number",
        first=there,
        last=number - 1,
    )
    database.all("ANALYZE ecs_workload")


def whole(run: Run, max_tis_per_query: int) -> dict[str, Any]:
    """A scheduler with all that it does: one run of a DAG with a task that is mapped many times."""
    sizes = run.sizes
    slots = 2 * sizes.mapped
    with run.stand(slots=slots, max_tis_per_query=max_tis_per_query, real=True) as stand:
        began = _begin_mapped(stand)
        done = stand.reached("all to be launched", lambda: stand.counts()["made"] >= sizes.mapped, sizes.whole_cut)
        if done:
            time.sleep(GOES_ON)  # the heartbeats of this time are what is looked at
        facts = examine(stand)
        loops = stand.notes("loop")
    return result(
        facts,
        cut=not done,
        heartbeats=facts.heartbeats(began),
        loops=spread(note["seconds"] for note in loops if note["t"] >= began),
        launched=len(facts.made()),
    )


def mapped(run: Run) -> dict[str, Any]:
    """The same with nothing played but ECS: Airflow's API server answers, and each container runs its command."""
    n = run.sizes.mapped
    with run.stand(slots=AT_ONCE, max_tis_per_query=AT_ONCE, real=True, forks=True) as stand:
        began = _begin_mapped(stand)
        done = stand.reached("the end", lambda: _ended(stand) >= n, PATIENCE + n * EACH)
        over = time.monotonic()
        # The rows of the last ones are closed a moment later.
        stand.reached("no row to be open", lambda: not _open(stand), PATIENCE)
        facts = examine(stand)
    made = facts.made()
    launches = Counter(task["index"] for task in facts.tasks)
    good = sum(ti["state"] == "success" and launches[ti["index"]] == 1 for ti in facts.instances)
    return result(
        facts,
        cut=not done,
        launched=len(made),
        succeeded=sum(ti["state"] == "success" for ti in facts.instances),
        not_once=n - good,
        seconds=round(over - began, 1),
        per_second=round(len(made) / (made[-1] - made[0]), 2) if len(made) > 1 else None,
        heartbeats=facts.heartbeats(began, over),
    )


def _begin_mapped(stand: Stand) -> float:
    """Let the scheduler have the run of the mapped DAG. When that was."""
    stand.database.run_id = MAPPED
    stand.database.all("UPDATE dag SET is_paused = false WHERE dag_id = :dag", dag=MAPPED)
    return time.monotonic()


def _ended(stand: Stand) -> int:
    states = stand.database.states()
    return states.get("success", 0) + states.get("failed", 0)


def _open(stand: Stand) -> int:
    """Workloads that are not over, or of whose end the scheduler has not heard."""
    return int(
        stand.database.one(
            "SELECT count(*) FROM ecs_workload "
            "WHERE phase NOT IN ('EXITED', 'FAILED_START', 'CANCELLED', 'LOST') OR acked_version < version"
        )
    )
