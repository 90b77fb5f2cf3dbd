"""The option `[aws_ecs_executor] run_task_kwargs`: its shape, and whose its first container override is."""

from __future__ import annotations

from typing import Any

__all__ = ["misshapen", "named"]


def misshapen(kwargs: dict[str, Any]) -> list[str]:
    """What the program itself reads there and could not. What boto3 would refuse besides is said by `checks`."""

    def objects(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, dict) for item in value)

    overrides = kwargs.get("overrides", {})
    containers = overrides.get("containerOverrides", []) if isinstance(overrides, dict) else []
    variables = [c.get("environment", []) for c in containers] if objects(containers) else []
    right = {
        "overrides must be an object": isinstance(overrides, dict),
        "networkConfiguration must be an object": isinstance(kwargs.get("networkConfiguration", {}), dict),
        "capacityProviderStrategy must be a list of objects": objects(kwargs.get("capacityProviderStrategy", [])),
        "overrides.containerOverrides must be a list of objects": objects(containers),
        'environment must be a list of objects, such as [{"name": "A", "value": "1"}]': all(map(objects, variables)),
    }
    return [f"[aws_ecs_executor] run_task_kwargs: {what}" for what, good in right.items() if not good]


def named(kwargs: dict[str, Any], container_name: str) -> dict[str, Any]:
    """The first of `run_task_kwargs`' container overrides is the task's own, if it does not say whose it is."""
    overrides = kwargs.get("overrides")
    if not isinstance(overrides, dict):
        return kwargs
    containers = overrides.get("containerOverrides")
    if not (isinstance(containers, list) and containers and isinstance(containers[0], dict)):
        return kwargs
    first = {"name": container_name, **containers[0]}
    return {**kwargs, "overrides": {**overrides, "containerOverrides": [first, *containers[1:]]}}
