"""From Airflow's workloads to rows, and from rows to the keys that Airflow knows them by."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast

from airflow.executors.workloads import ExecuteCallback, ExecuteTask
from airflow.models.callback import CallbackKey
from airflow.models.taskinstancekey import TaskInstanceKey

from reconciler.core.identity import derived_exec_id
from reconciler.core.phase import Phase
from reconciler.core.task import Kind, Spec, TaskKey, Workload

if TYPE_CHECKING:
    from airflow.executors.workloads.types import WorkloadKey

__all__ = ["key_of", "rejected", "strict_json", "to_row"]

MAX_DEPTH: Final = 20
MAX_BYTES: Final = 65536
"""RunTask takes 64 KiB of parameters in all: nothing larger could ever be launched."""


def to_row(
    workload: ExecuteTask | ExecuteCallback, *, deployment: str, team: str | None, owner: int | None
) -> Workload:
    """The row of a workload that Airflow has queued, without its token.

    `exec_id` is the UUID that Airflow commits with QUEUED, and empty where Airflow gives none. What can not be a row of
    JSON becomes one that is rejected, with its reason: only this one task fails, and its user is told why.
    """
    spec, reason = None, None
    try:
        spec = Spec(_tokenless(workload), _executor_config(getattr(workload, "ti", None)))
    except ValueError as error:
        reason = str(error)
    phase = Phase.PENDING if spec else Phase.FAILED_START
    if isinstance(workload, ExecuteCallback):
        return Workload(
            # A callback is queued once in its life, so its own id is enough to derive from.
            exec_id=derived_exec_id(deployment, "callback", workload.callback.id),
            deployment=deployment,
            kind=Kind.CALLBACK,
            ti_id=workload.callback.id,
            team=team,
            owner_job_id=owner,
            spec=spec,
            phase=phase,
            reason=reason,
        )
    ti = workload.ti
    return Workload(
        exec_id=ti.external_executor_id or "",
        deployment=deployment,
        ti_id=str(ti.id),
        key=TaskKey(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.try_number),
        queue=ti.queue,
        team=team,
        priority=ti.priority_weight,
        owner_job_id=owner,
        spec=spec,
        phase=phase,
        reason=reason,
    )


def rejected(row: Workload, reason: str) -> Workload:
    """A row that is never launched and reported as FAILED for this reason."""
    return replace(row, spec=None, phase=Phase.FAILED_START, reason=reason)


def key_of(row: Workload) -> WorkloadKey:
    """What Airflow calls this workload in `running` and in the event buffer.

    Airflow 3.4 can key task instances by UUID, but only for executors that ask for it.
    """
    if row.kind is Kind.TASK:
        key = row.key
        return TaskInstanceKey(key.dag_id, key.task_id, key.run_id, key.try_number, key.map_index)
    if issubclass(CallbackKey, str):
        # Airflow 3.2 has plain text for a key and hands it to session.get(), where SQLite takes nothing but a UUID.
        return cast("WorkloadKey", uuid.UUID(row.ti_id))
    return CallbackKey(row.ti_id or "")


def _tokenless(workload: ExecuteTask | ExecuteCallback) -> str:
    text = workload.model_dump_json(exclude={"token"})
    if workload.token and workload.token in text:
        raise ValueError("the workload's token is in its data as well, and would be stored with it")
    if len(text) > MAX_BYTES:
        raise ValueError(f"the workload has {len(text)} bytes of JSON, and RunTask takes {MAX_BYTES} at most")
    return text


def _executor_config(ti: Any) -> dict[str, Any]:
    """Airflow leaves it out of the workload's JSON. Callbacks have none."""
    if ti is None or not ti.executor_config:
        return {}
    clean: dict[str, Any] = strict_json(ti.executor_config, "executor_config")
    size = len(json.dumps(clean))
    if size > MAX_BYTES:
        raise ValueError(f"executor_config has {size} bytes of JSON, and RunTask takes {MAX_BYTES} at most")
    return clean


def strict_json(value: Any, where: str, depth: int = 0) -> Any:
    """`value` as plain JSON; tuples become lists and members of an Enum their values.

    Raises ValueError that names the place. `executor_config` is unpickled, so it may hold anything at all, such as the
    `pod_override` of a DAG that was written for Kubernetes.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, (list, tuple)):
        return [strict_json(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {_text(name, where): strict_json(item, f"{where}[{name!r}]", depth + 1) for name, item in value.items()}
    what = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
    if isinstance(value, dict):
        what = "an object with names that are not text"
    raise ValueError(f"{where} is {what}, but parameters of ECS's RunTask are JSON: remove it or write it as text")


def _text(value: str, where: str) -> str:
    """Text that a database and JSON both take."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where} holds a NUL or half a character, which can not be stored: remove it")
    return str(value)
