"""Everything works through a transaction pooler: the migration, a scheduler's INSERT, a real daemon."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine, inspect

from reconciler.core.phase import LIVE, Phase
from reconciler.core.task import Workload
from reconciler.localecs import LocalEcs, Settings, StartContainer
from reconciler.store import shim
from reconciler.store.census import take_census
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine, prepares_if_direct, writing
from reconciler.store.migrate import migrate
from tests.pgbouncer import PORT, pgbouncer
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from reconciler.localecs.task import Effect
    from tests.conftest import Postgres

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def pooler(postgres: Postgres) -> Iterator[Path]:
    with pgbouncer(postgres) as folder:
        yield folder


@pytest.fixture
def database(postgres: Postgres, pooler: Path) -> Iterator[str]:
    """A fresh database as it is reached through the pooler: a URL that lacks the driver."""
    name = postgres.new_database()
    yield f"://{postgres.user}@/{name}?host={pooler}&port={PORT}"
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["postgresql+psycopg", "postgresql+psycopg2"])
def pooled(request: pytest.FixtureRequest, database: str) -> Iterator[Engine]:
    """Each driver in turn, with tables."""
    engine = make_engine(request.param + database)
    migrate(engine)
    yield engine
    engine.dispose()


def test_several_that_migrate_at_once_wait_for_one_another(database: str) -> None:
    engines = [make_engine(f"postgresql{database}") for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrate, engines))
    assert inspect(engines[0]).has_table("ecs_workload")
    for engine in engines:
        engine.dispose()


def test_statements_that_are_repeated_work_on_whatever_connection_they_meet(pooled: Engine) -> None:
    """What is prepared stays behind on one server connection, and the next transaction gets another."""
    store = SqlStore(pooled, "prod")
    lease = store.hold("prod/shard", "first", timedelta(minutes=5))
    assert lease is not None
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait(10)
        for n in range(12):
            exec_id = f"w{number}-{n}"
            with writing(pooled).begin() as conn:
                shim.insert(conn, [Workload(exec_id, "prod", ti_id=f"t{number}-{n}", owner_job_id=1)])
            (w,) = store.find([exec_id]).workloads
            intent = w.moved(Phase.LAUNCHING, store.now(), attempt=1, intent_at=store.now(), cluster="c", family="f")
            assert store.save([(w, intent)], lease)
            store.in_phase(*LIVE)
            store.counts_here()
            take_census(pooled, "prod")
            with writing(pooled).begin() as conn:
                shim.demand(conn, "prod")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert store.counts().by_phase[Phase.LAUNCHING] == 96


def test_a_scheduler_can_keep_a_connection_of_its_own(pooled: Engine) -> None:
    """Airflow's engine knows nothing of poolers: two of its connections would prepare under the same name."""
    its = create_engine(pooled.url)
    with its.connect() as one, its.connect() as other:
        for connection in (one, other):
            assert not prepares_if_direct(connection.connection.dbapi_connection)
        for _ in range(12):
            for connection in (one, other):
                shim.demand(connection, "prod")
                connection.commit()
    its.dispose()


def test_nothing_of_ours_is_left_on_a_server_connection(pooled: Engine, postgres: Postgres) -> None:
    store = SqlStore(pooled, "prod")
    for _ in range(20):
        store.counts()
        store.hold("prod/shard", "first", timedelta(minutes=5))
    # Airflow's own components get these connections next.
    found = set()
    for _ in range(10):
        with psycopg.connect(pooled.url.set(drivername="postgresql").render_as_string()) as other:
            found |= set(other.execute("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"))
            assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    assert found == {("0", "0")}


def test_a_real_daemon_works_through_it(database: str, tmp_path: Path) -> None:
    def run(effect: Effect) -> None:
        """A container that ends at once."""
        if isinstance(effect, StartContainer):
            ecs.container_exited(effect.task_arn, effect.container, 0)

    with LocalEcs(settings=Settings.unthrottled(), on_effect=run) as ecs:
        site = Site(ecs, tmp_path)
        site.use(f"postgresql{database}")
        done = site.call("migrate")
        assert done.returncode == 0, done.stderr
        with site.daemon() as daemon:
            daemon.until_it_says("this replica leads")
            names = [f"w{n}" for n in range(100)]
            site.queue(*names)
            site.until(lambda: all(w.terminal for w in site.store.find(names).workloads), daemon.log)
            assert {w.phase for w in site.store.find(names).workloads} == {Phase.EXITED}
            assert daemon.get("/readyz") == (200, "leading\n")
            assert "error" not in {event["level"] for event in daemon.events}
        site.engine.dispose()
