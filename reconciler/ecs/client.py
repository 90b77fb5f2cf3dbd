"""The boto3 clients: one per account, region and service, shared by all threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from botocore.config import Config

from reconciler import __version__
from reconciler.ecs.shown import read_plainly

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_sqs import SQSClient

__all__ = ["credentials_config", "make_client", "make_queue_client"]

CONNECT_TIMEOUT: Final = 5.0
"""Seconds to reach ECS."""
READ_TIMEOUT: Final = 20.0
"""Seconds to wait for an answer. RunTask answers in a fraction of one; giving up leaves a launch unknown."""
EVENTS_READ_TIMEOUT: Final = 10.0
"""Seconds to wait for an answer of SQS, which itself waits for a second until there are messages."""
STS_ATTEMPTS: Final = 2
"""How often credentials are asked for before a call that needs them is given up."""


def make_client(region: str, *, threads: int, session: boto3.Session) -> ECSClient:
    """An ECS client for up to `threads` calls at once. `session` brings the credentials.

    The SDK never repeats a call: RunTask must not be sent late, and a repeat by the SDK would sleep between signing and
    sending and hide throttling from our rate limits. Everything here is repeated by whoever looks again.
    DescribeTasks shows each task as its JSON, which `shown.ecs_task` reads.
    An endpoint of one's own is set by AWS_ENDPOINT_URL_ECS.
    """
    config = _config(threads, READ_TIMEOUT)
    client = session.client("ecs", region_name=region, config=config)
    client.meta.events.register("before-parse.ecs.DescribeTasks", read_plainly)
    return client


def make_queue_client(region: str, *, threads: int, session: boto3.Session) -> SQSClient:
    """An SQS client, of the same kind. An endpoint of one's own is set by AWS_ENDPOINT_URL_SQS."""
    config = _config(threads, EVENTS_READ_TIMEOUT)
    return session.client("sqs", region_name=region, config=config)


def _config(threads: int, read_timeout: float) -> Config:
    return Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=read_timeout,
        max_pool_connections=threads,
        parameter_validation=True,
        tcp_keepalive=True,
        user_agent_extra=f"airflow-ecs-reconciler/{__version__}",
    )


def credentials_config() -> Config:
    """How STS is asked for the credentials of a role, while a call waits for them: boto3 would wait for minutes."""
    return Config(
        retries={"mode": "standard", "total_max_attempts": STS_ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
    )
