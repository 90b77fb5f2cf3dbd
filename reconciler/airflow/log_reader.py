"""The output of a running container, from CloudWatch Logs, for the task's page in Airflow's UI.

Airflow's API server asks for it, for RUNNING task instances. Needs boto3 and logs:GetLogEvents there. Nothing here may
break or block the page: it ends after a few seconds, and what went wrong becomes a line on the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from reconciler.core.logs import stream_of
from reconciler.store.rows import LIGHT, read
from reconciler.store.schema import workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Engine

    from reconciler.core.task import TaskKey, Workload

    Lines = tuple[list[str], list[str]]
    """What Airflow wants: messages about the sources, and the lines."""

__all__ = ["LogReader", "running"]

SECONDS: Final = 5.0
"""No further page is asked for after this long."""
PAGES: Final = 5
"""A page has at most 10,000 lines and 1 MiB."""
CONNECT_TIMEOUT, READ_TIMEOUT = 2.0, 3.0

_c: Final = workloads.c


def running(engine: Engine, key: TaskKey) -> Workload | None:
    """The newest workload of this try that has an ECS task."""
    mine = (_c.dag_id == key.dag_id, _c.task_id == key.task_id, _c.run_id == key.run_id)
    this = (_c.map_index == key.map_index, _c.try_number == key.try_number, _c.task_arn.is_not(None))
    statement = select(*LIGHT).where(*mine, *this).order_by(_c.created_at.desc()).limit(1)
    with engine.connect() as connection:
        return next(iter(read(connection, statement)), None)


class LogReader:
    """Reads streams with one client per region. `monotonic` is a clock in seconds."""

    def __init__(self, monotonic: Callable[[], float], make_client: Callable[[str], Any] | None = None) -> None:
        self._monotonic = monotonic
        self._make_client = make_client or _client
        self._clients: dict[str, Any] = {}

    def read(self, w: Workload | None) -> Lines:
        """The lines from the first one on, as many as the bounds allow. Never raises."""
        if w is None or w.task_arn is None:
            return [], []
        if w.logs is None:
            why = "as far as ECS told, its task definition does not send it there with log driver awslogs and a prefix"
            return [f"ECS task {w.task_arn}: its output can not be read from CloudWatch Logs: {why}"], []
        stream = stream_of(w.logs, w.task_arn)
        where = f"CloudWatch Logs, group {w.logs['group']}, stream {stream}"
        lines: list[str] = []
        try:
            whole = self._pages(w.logs, stream, lines)
        except Exception as error:  # noqa: BLE001 - whatever boto3 raises is news for the page, and no reason to break it
            return [_trouble(where, error)], lines
        if not whole:
            where += f": the first {len(lines)} lines; see the rest there"
        return [where], lines

    def _pages(self, logs: Mapping[str, str], stream: str, lines: list[str]) -> bool:
        """Append to `lines`. Returns whether that was all there is."""
        # AWS names the region of a stream in the task definition; where it does not, boto3's default must do.
        client = self._clients.get(logs["region"]) or self._make_client(logs["region"])
        self._clients[logs["region"]] = client
        request = {"logGroupName": logs["group"], "logStreamName": stream, "startFromHead": True}
        until = self._monotonic() + SECONDS
        for _ in range(PAGES):
            page = client.get_log_events(**request)
            lines += [event["message"] for event in page["events"]]
            if page["nextForwardToken"] == request.get("nextToken"):
                return True
            request["nextToken"] = page["nextForwardToken"]
            if self._monotonic() >= until:
                return False
        return False


def _trouble(where: str, error: Exception) -> str:
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    if code == "ResourceNotFoundException":
        return f"{where}: nothing has been written yet"
    if code == "AccessDeniedException":
        return f"{where}: Airflow's API server may not read it; give its role logs:GetLogEvents on this group ({error})"
    if isinstance(error, ImportError):
        return f"{where}: boto3 is not installed beside Airflow's API server, so it can not be shown here"
    return f"{where}: can not be read now ({type(error).__name__}: {error})"


def _client(region: str) -> Any:
    # Here and not above: the scheduler loads this module too, and has no use for AWS.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    return boto3.Session().client("logs", region_name=region or None, config=config)
