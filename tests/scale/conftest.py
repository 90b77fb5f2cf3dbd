"""A crowded PostgreSQL, filled once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.store.engine import make_engine
from reconciler.store.migrate import migrate
from tests.conftest import Deployment
from tests.scale.crowd import Crowd, fill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Postgres

CROWD = Crowd(shard="eu")


@pytest.fixture(scope="module")
def crowd(postgres: Postgres) -> Iterator[Deployment]:
    """100,000 finished rows, 5,000 live and 10,000 that wait."""
    name = postgres.new_database()
    engine = make_engine(postgres.url(name))
    migrate(engine)
    fill(engine, CROWD)
    yield Deployment(engine, CROWD.shard)
    engine.dispose()
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")
