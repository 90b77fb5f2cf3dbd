"""Databases for the suite: a PostgreSQL server of its own, and files of SQLite."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, func, select, text, update

from reconciler.core.phase import Phase
from reconciler.core.task import Spec, Workload
from reconciler.demo import ports
from reconciler.localecs import LocalEcs, Settings
from reconciler.store import shim
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine, writing
from reconciler.store.migrate import migrate
from reconciler.store.rows import WHOLE, read
from reconciler.store.schema import attempts, metadata, workloads
from tests.postgres import postgres_server
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from reconciler.core.task import Snapshot

_MIGRATED = "reconciler"

# Each worker has ports of its own: nobody holds one between its choice and the listening.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
ports.RANGE = ports.RANGE[_WORKER % 8 :: 8]  # type: ignore[misc] # Final for everybody else


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What is skipped on a user's machine is an error in CI: a check that does not run checks nothing."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI nothing may be: {report.longrepr}"
    return report


class Postgres:
    """A running server, reached by a Unix socket only."""

    def __init__(self, socket_dir: Path, user: str) -> None:
        self._socket_dir = socket_dir
        self.user = user
        self.socket = socket_dir / ".s.PGSQL.5432"
        self._made = 0
        self.run(f"CREATE DATABASE {_MIGRATED}")
        migrated = make_engine(self.url(_MIGRATED))
        migrate(migrated)
        migrated.dispose()

    def url(self, database: str, driver: str = "postgresql") -> str:
        return f"{driver}://{self.user}@/{database}?host={self._socket_dir}"

    def new_database(self) -> str:
        """The name of a fresh database. Names are never used twice."""
        self._made += 1
        name = f"test_{self._made}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the owner of everything."""
        engine = create_engine(self.url(database), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as conn:
            for statement in statements:
                conn.execute(text(statement))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that lives as long as the session."""
    with postgres_server() as server:
        yield Postgres(server.folder, server.user)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A fresh PostgreSQL database without tables."""
    name = postgres.new_database()
    yield postgres.url(name)
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_database(postgres: Postgres) -> Iterator[str]:
    """The name of a PostgreSQL database with the reconciler's tables, all empty."""
    yield _MIGRATED
    # A test that leaves a transaction open fails here.
    tables = ", ".join(table.name for table in metadata.sorted_tables)
    postgres.run("SET lock_timeout = '5s'", f"TRUNCATE {tables}", database=_MIGRATED)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A fresh SQLite database without tables, in a file."""
    return f"sqlite:///{tmp_path / 'reconciler.db'}"


@pytest.fixture
def sqlite_migrated_url(sqlite_url: str) -> str:
    """A SQLite database with the reconciler's tables."""
    engine = make_engine(sqlite_url)
    migrate(engine)
    engine.dispose()
    return sqlite_url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest) -> str:
    """Each supported database in turn, without tables."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each supported database in turn, with the reconciler's tables."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        return server.url(request.getfixturevalue("postgres_database"))
    url: str = request.getfixturevalue("sqlite_migrated_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The daemon's engine on each supported database."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def ids(snapshot: Snapshot) -> list[str]:
    """Whose rows were read, in their order."""
    return [w.exec_id for w in snapshot.workloads]


class Deployment:
    """One deployment on a database: the daemon's store with a lease, the shim's insert, and plain looks at the rows."""

    name = "prod"

    def __init__(self, engine: Engine, shard: str = "") -> None:
        self.engine, self.shard = engine, shard
        self.store = SqlStore(engine, self.name, shard)
        lease = self.store.hold(f"{self.name}/shard", "first", timedelta(minutes=5))
        assert lease is not None
        self.lease = lease

    def queue(self, exec_id: str, **fields: Any) -> Workload:
        """Insert a workload as the shim does. `ti_id` is the exec_id's own unless given."""
        spec = Spec(f'{{"id": "{exec_id}"}}', {"overrides": {"cpu": "256"}})
        given = {"deployment": self.name, "ti_id": f"ti-{exec_id}", "owner_job_id": 7, "spec": spec, **fields}
        with writing(self.engine).begin() as conn:
            shim.insert(conn, [Workload(exec_id=exec_id, **given)])
        return self.get(exec_id)

    def get(self, exec_id: str) -> Workload:
        """The row as it is, whole."""
        with self.engine.connect() as conn:
            (found,) = read(conn, select(*WHOLE).where(workloads.c.exec_id == exec_id))
        return found

    def move(self, exec_id: str, *phases: Phase, **changes: Any) -> Workload:
        """Take a workload through these phases; the last one with these changes."""
        for number, phase in enumerate(phases, start=1):
            old = self.get(exec_id)
            at = self.store.now()
            facts: dict[str, Any] = {}
            if phase is Phase.LAUNCHING:
                facts = {
                    "attempt": old.attempt + 1,
                    "intent_at": at,
                    "cluster": "c",
                    "family": "f",
                    "params": {},
                    "reason": None,
                }
            elif phase is Phase.STARTED:
                facts = {"task_arn": f"arn:{exec_id}/{old.attempt}"}
            facts |= changes if number == len(phases) else {}
            assert self.store.save([(old, old.moved(phase, at, **facts))], self.lease)
        return self.get(exec_id)

    def set(self, exec_id: str, **values: Any) -> Workload:
        """Overwrite columns behind everyone's back."""
        with writing(self.engine).begin() as conn:
            conn.execute(update(workloads).where(workloads.c.exec_id == exec_id).values(**values))
        return self.get(exec_id)

    def attempts(self, exec_id: str) -> list[dict[str, Any]]:
        statement = select(attempts).where(attempts.c.exec_id == exec_id).order_by(attempts.c.attempt)
        with self.engine.connect() as conn:
            return [dict(row) for row in conn.execute(statement).mappings()]

    def count(self) -> int:
        with self.engine.connect() as conn:
            return conn.execute(select(func.count()).select_from(workloads)).scalar_one()


@pytest.fixture
def prod(engine: Engine) -> Deployment:
    """The deployment `prod` on each supported database."""
    return Deployment(engine)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A database with tables, a local ECS, and an environment in which daemons and commands run."""
    with LocalEcs(settings=Settings.unthrottled(), directory=tmp_path, stop_grace=0.5) as ecs:
        made = Site(ecs, tmp_path)
        migrate(made.engine)
        yield made
        made.engine.dispose()
