"""What several commands begin with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import boto3

    from reconciler.clock import SystemClock
    from reconciler.config import DaemonSettings

__all__ = ["aws", "quiet", "settings"]


def settings() -> DaemonSettings:
    """The options, from Airflow's configuration. Raises ConfigError."""
    from reconciler.airflow.options import read
    from reconciler.config import daemon_settings

    return daemon_settings(read)


def quiet() -> None:
    """Keep out of a command's answer what Airflow's logging would write to the same standard output."""
    for name in ("alembic", "botocore", "boto3"):
        logging.getLogger(name).setLevel(logging.WARNING)


def aws(given: DaemonSettings, clock: SystemClock) -> boto3.Session:
    """Whom we are to AWS: `[aws_ecs_executor] conn_id`, or boto3's own chain."""
    from reconciler.ecs.credentials import chain, make_session

    found = chain
    if conn_id := given.ecs.conn_id:
        from reconciler.airflow.credentials import look_up

        in_database = given.options.conn_id_from_database
        found = look_up(conn_id, given.ecs.region_name, in_database=in_database, chain=chain)
    return make_session(found, clock)
