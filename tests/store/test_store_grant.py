"""The role that sees the reconciler's tables only can do a daemon's work, and nothing else. Real PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from reconciler.core.phase import Phase
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine
from reconciler.store.grant import grant
from reconciler.store.migrate import at_head, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.conftest import Postgres

pytestmark = pytest.mark.postgres
ROLE = 'daemon "of" prod'


@pytest.fixture
def owner(postgres_url: str, postgres: Postgres) -> Iterator[Engine]:
    """Airflow's own role, in a database with a table of Airflow's beside ours."""
    quoted = ROLE.replace('"', '""')
    postgres.run(f'CREATE ROLE "{quoted}" LOGIN')
    engine = make_engine(postgres_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE connection (password text)"))
    yield engine
    with engine.begin() as connection:
        connection.execute(text(f'DROP OWNED BY "{quoted}"'))
    engine.dispose()
    postgres.run(f'DROP ROLE "{quoted}"')


@pytest.fixture
def daemon(owner: Engine, postgres_url: str) -> Iterator[Engine]:
    """The daemon's role, with its rights."""
    grant(owner, ROLE)
    grant(owner, ROLE)
    engine = make_engine(make_url(postgres_url).set(username=ROLE))
    yield engine
    engine.dispose()


def test_it_does_a_daemons_work(daemon: Engine, owner: Engine) -> None:
    assert at_head(daemon)
    store = SqlStore(daemon, "prod")
    lease = store.hold("prod/shard", "first", timedelta(minutes=5))
    assert lease is not None
    assert store.in_phase(Phase.PENDING).workloads == ()
    with daemon.begin() as connection:
        for table in ("ecs_workload", "ecs_launch_attempt", "ecs_lease"):
            connection.execute(text(f"SELECT * FROM {table} FOR UPDATE"))
            connection.execute(text(f"DELETE FROM {table}"))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM connection",
        "DROP TABLE ecs_workload",
        "ALTER TABLE ecs_workload ADD COLUMN x int",
        "UPDATE alembic_version_ecs_reconciler SET version_num = 'x'",
        "CREATE TABLE mine (x int)",
    ],
)
def test_it_may_do_nothing_else(daemon: Engine, statement: str) -> None:
    with pytest.raises(ProgrammingError, match=r"denied|must be owner"), daemon.begin() as connection:
        connection.execute(text(statement))


def test_a_role_that_is_not_there_is_named(owner: Engine) -> None:
    with pytest.raises(ValueError, match=r"--grant nobody-here.*CREATE ROLE"):
        grant(owner, "nobody-here")


def test_sqlite_has_no_roles(sqlite_migrated_url: str) -> None:
    engine = create_engine(sqlite_migrated_url)
    with pytest.raises(ValueError, match="only PostgreSQL has roles"):
        grant(engine, "x")
    engine.dispose()
