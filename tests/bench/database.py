"""PostgreSQL: one server for the whole benchmark, one database for each run, and statements of the benchmark's own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import NullPool, create_engine, text

from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET: Final = "a-secret-of-sixty-four-characters-or-more-that-nobody-else-knows-00"
OPTIONS: Final = "-c max_connections=300 -c fsync=on"
"""Commits reach the disk, as they must in production."""
BENCH: Final = "bench"
"""A DAG whose task instances the benchmark makes itself."""
MAPPED: Final = "mapped"
"""The DAG that the whole scheduler works on, and its run: one task, mapped so many times. See `dags`."""
NUMBER: Final = "BENCH_MAPPED"
"""What tells that DAG how many times."""
DAGS: Final = Path(__file__).parent / "dags"
TEMPLATE: Final = "template_airflow"


def airflow_environment(url: str, home: Path) -> dict[str, str]:
    """What any Airflow process of the benchmark has, whatever its executor."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_", "PYTEST"))
    }
    return inherited | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": url.replace("postgresql:", "postgresql+psycopg:"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "5000",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "5000",
        "AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT": "5000",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:1/execution/",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__METRICS__LEGACY_NAMES_ON": "False",
        "AIRFLOW__API_AUTH__JWT_SECRET": SECRET,
    }


class Databases:
    """Makes databases in which Airflow and this project have their tables."""

    def __init__(self, folder: Path, user: str, home: Path, mapped: int) -> None:
        self._folder, self._user = folder, user
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._admin = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        self._run(f"CREATE DATABASE {TEMPLATE}")
        subprocess.run(
            [sys.executable, "-m", "tests.bench.template"],
            env={**airflow_environment(self._url(TEMPLATE), home), NUMBER: str(mapped)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.mapped = mapped
        self.version = str(self._run("SHOW server_version"))

    def make(self) -> Database:
        with self._lock:  # a template may have one user at a time
            name = f"run_{next(self._numbers)}"
            self._run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return Database(self._url(name), lambda: self._run(f"DROP DATABASE {name} WITH (FORCE)"))

    def _run(self, statement: str) -> Any:
        with self._admin.connect() as connection:
            done = connection.execute(text(statement))
            return done.scalar() if done.returns_rows else None

    def _url(self, database: str) -> str:
        return f"postgresql://{self._user}@/{database}?host={self._folder}"


@contextmanager
def databases(home: Path, mapped: int) -> Iterator[Databases]:
    with postgres_server(OPTIONS) as server:
        yield Databases(server.folder, server.user, home, mapped)


class Database:
    """The metadata database of one run."""

    def __init__(self, url: str, drop: Any) -> None:
        self.url, self._drop = url, drop
        self._engine = create_engine(url)
        self._made = 0
        self.run_id = "run"
        """Whose task instances are looked at."""

    def close(self) -> None:
        self._engine.dispose()
        self._drop()

    def all(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """Run a statement in a transaction of its own, and return its rows."""
        with self._engine.begin() as connection:
            done = connection.execute(text(statement), values)
            return [dict(row) for row in done.mappings()] if done.returns_rows else []

    def one(self, statement: str, **values: Any) -> Any:
        """The first column of the only row."""
        (row,) = self.all(statement, **values)
        return next(iter(row.values()))

    def schedule(self, number: int) -> None:
        """So many task instances more, SCHEDULED. They are told apart by their map_index, which counts from 0."""
        names = [row["column_name"] for row in self.all(_COLUMNS)]
        given = {
            "id": "gen_random_uuid()",
            "run_id": "'run'",
            "map_index": "number",
            "state": "'scheduled'",
            "try_number": "1",
            "scheduled_dttm": "now()",
            "updated_at": "now()",
        }
        chosen = ", ".join(given.get(name, f"t.{name}") for name in names)
        self.all(
            f"INSERT INTO task_instance ({', '.join(names)}) SELECT {chosen} FROM task_instance t, "
            "generate_series(CAST(:first AS int), CAST(:last AS int)) number "
            "WHERE t.dag_id = 'bench' AND t.run_id = 'template'",
            first=self._made,
            last=self._made + number - 1,
        )
        self._made += number

    def forget(self) -> None:
        """All task instances so far, and their workloads."""
        self.all("DELETE FROM ecs_workload")
        self.all("DELETE FROM task_instance WHERE dag_id = 'bench' AND run_id = 'run'")

    def withdraw_scheduled(self) -> None:
        """What has not been queued yet is not wanted any more."""
        self.all("UPDATE task_instance SET state = 'removed' WHERE state = 'scheduled' AND run_id = 'run'")

    def task_instances(self) -> list[dict[str, Any]]:
        """Those of the run: index, state and id."""
        return self.all(
            "SELECT map_index AS index, state, CAST(id AS text) AS id FROM task_instance "
            "WHERE run_id = :run_id AND map_index >= 0",
            run_id=self.run_id,
        )

    def states(self) -> dict[str, int]:
        """How many task instances are in which state."""
        found = self.all(
            "SELECT state, count(*) AS n FROM task_instance WHERE run_id = :run_id AND map_index >= 0 GROUP BY state",
            run_id=self.run_id,
        )
        return {row["state"] or "none": row["n"] for row in found}


_COLUMNS: Final = (
    "SELECT column_name FROM information_schema.columns WHERE table_name = 'task_instance' AND is_generated = 'NEVER'"
)
