"""What reaches a container besides its task: the same as with Airflow's own executors, Sentry and tracing included."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.executors import workloads

from reconciler.airflow.push import Push

if TYPE_CHECKING:
    from tests.shim.inside.world import World

CARRIER = {"traceparent": "00-89e88ee73c4f9a06831ce4f57292e831-8d0c31bf2faa8946-01"}


def test_the_container_gets_the_very_workload_that_airflow_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every member but the token, which is signed at launch: what Celery's and the official ECS executor send."""
    made: list[Any] = []
    queue = world.executor.queue_workload

    def keep(workload: Any, session: Any) -> None:
        made.append(workload)
        queue(workload, session)

    monkeypatch.setattr(world.executor, "queue_workload", keep)
    monkeypatch.setattr(world.executor, "sentry_integration", "sentry_sdk.integrations.example.Integration")
    (w,) = world.queued(context_carrier=CARRIER, pool_slots=2, priority_weight=7)
    world.daemon(w.exec_id, phase="LAUNCHING", attempt=1, intent_at=datetime.now(UTC))
    *program, text = Push(timedelta(seconds=600)).command(world.row(w.exec_id))

    assert program == ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string"]
    sent, (original,) = json.loads(text), made
    expected = json.loads(original.model_dump_json())
    assert sent.pop("token")
    expected.pop("token")
    assert sent == expected
    assert sent["sentry_integration"] == "sentry_sdk.integrations.example.Integration"
    assert sent["ti"]["context_carrier"] == CARRIER
    assert isinstance(workloads.ExecuteTask.model_validate_json(text), workloads.ExecuteTask)


def test_the_official_ecs_executor_would_send_the_same(world: World) -> None:
    """Its command, byte for byte but for the token, where the Amazon provider is installed."""
    utils = pytest.importorskip("airflow.providers.amazon.aws.executors.ecs.ecs_executor")
    (w,) = world.queued(context_carrier=CARRIER)
    world.daemon(w.exec_id, phase="LAUNCHING", attempt=1, intent_at=datetime.now(UTC))
    ours = list(Push(timedelta(seconds=600)).command(world.row(w.exec_id)))
    workload = workloads.ExecuteTask.model_validate_json(ours[-1])

    class Peer(utils.AwsEcsExecutor):  # type: ignore[misc, name-defined]  # its class, without its clients
        def __init__(self) -> None: ...

    assert [json.loads(part) if part.startswith("{") else part for part in ours] == [
        json.loads(part) if part.startswith("{") else part for part in Peer()._serialize_workload_to_command(workload)
    ]
