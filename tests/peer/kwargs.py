"""Run by the tests in a process of its own: what the official executor would send, for each rule given on stdin.

Its own code builds the request; only its clients are pointed at the local ECS by the environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from typing import Any

from airflow.configuration import conf
from airflow.providers.amazon.aws.executors.ecs import ecs_executor, ecs_executor_config


def request(options: dict[str, str | None], executor_config: dict[str, Any]) -> dict[str, Any]:
    names = {name: f"AIRFLOW__AWS_ECS_EXECUTOR__{name.upper()}" for name in options}
    os.environ |= {names[name]: value for name, value in options.items() if value is not None}
    try:
        peer = ecs_executor.AwsEcsExecutor.__new__(ecs_executor.AwsEcsExecutor)
        peer.container_name = conf.get("aws_ecs_executor", "container_name")
        peer.run_task_kwargs = ecs_executor_config.build_task_kwargs(conf)
        key: Any = "the task instance's key, of no effect here"
        peer.pending_workloads = deque()
        peer.execute_async(key, ["python", "-m", "x"], executor_config=executor_config)
        return {"request": peer._run_task_kwargs(key, ["python"], "queue", executor_config)}
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        for name in names.values():
            os.environ.pop(name, None)


if __name__ == "__main__":
    json.dump([request(**rule) for rule in json.load(sys.stdin)], sys.stdout)
