"""What several commands begin with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import boto3
    from sqlalchemy import Engine

    from reconciler.clock import SystemClock
    from reconciler.config import DaemonSettings, Read
    from reconciler.seams import Delivery

__all__ = ["aws", "delivery", "options", "quiet", "settings", "tables"]


def options() -> Read:
    """How to look up an option in Airflow's configuration. Airflow reads all of it when it is imported."""
    from reconciler.config import ConfigError

    try:
        from reconciler.airflow.options import read
    except ValueError as error:
        problem = (
            f"Airflow can not read its own configuration ({error}): look at [database] sql_alchemy_conn first, which "
            "looks like postgresql://user@host/database"
        )
        raise ConfigError([problem]) from error
    return read


def settings() -> DaemonSettings:
    """The options, from Airflow's configuration. Raises ConfigError."""
    from reconciler.config import daemon_settings

    return daemon_settings(options())


def tables(given: DaemonSettings) -> Engine:
    """The database, for a command that reads our tables. Raises StartError where they are not."""
    from reconciler.core.errors import StartError
    from reconciler.store.engine import make_engine
    from reconciler.store.migrate import NO_TABLES, at_head

    quiet()
    engine = make_engine(given.sql_alchemy_conn)
    if not at_head(engine):
        raise StartError(NO_TABLES)
    return engine


def quiet() -> None:
    """Keep out of a command's answer what libraries would write beside it: what it is about is in the answer."""
    for name in ("alembic", "botocore", "boto3"):
        logging.getLogger(name).setLevel(logging.ERROR)


def aws(given: DaemonSettings, clock: SystemClock) -> boto3.Session:
    """Whom we are to AWS: `[aws_ecs_executor] conn_id`, or boto3's own chain."""
    from reconciler.ecs.credentials import chain, make_session

    found = chain
    if conn_id := given.ecs.conn_id:
        from reconciler.airflow.credentials import look_up

        in_database = given.options.conn_id_from_database
        found = look_up(conn_id, given.ecs.region_name, in_database=in_database, chain=chain)
    return make_session(found, clock)


def delivery(given: DaemonSettings) -> Delivery:
    """How workloads reach their containers. Raises ConfigError without the key that signs their tokens."""
    from reconciler.airflow.push import Push

    return Push(given.longest_start_timeout)
