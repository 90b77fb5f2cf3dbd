"""How much of Fargate's vCPU quota an ECS task takes.

Only the task's own size counts there, not what its containers are given of it:
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html#fargate-tasks-size
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from reconciler.core.parameters import on_fargate

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LARGEST", "SMALLEST", "VCPU", "cpu_units", "fargate_cpu", "in_units"]

VCPU: Final = 1024
"""CPU units in one vCPU."""
SMALLEST, LARGEST = VCPU // 4, 16 * VCPU
"""Sizes of a task on Fargate."""
ABSURD: Final = 1024 * VCPU
"""What no machine has. A DAG may ask for it, and must not bring down with it what counts all tasks together."""
_SIZE: Final = re.compile(r"(\d+)|(\d*\.?\d+) ?vcpu", re.IGNORECASE)


def in_units(vcpus: float | None) -> int | None:
    """A number of vCPUs in CPU units."""
    return None if vcpus is None else int(vcpus * VCPU)


def cpu_units(text: str) -> int:
    """Of `1024` or `1 vCPU`, the two ways in which ECS takes a size. Raises ValueError."""
    if found := _SIZE.fullmatch(text.strip()):
        units = float(found[1]) if found[1] else float(found[2]) * VCPU
        if units < ABSURD:
            return round(units)
    raise ValueError(f"the cpu of a task is {text[:40]!r}: give CPU units such as 1024, or text such as 1 vCPU")


def fargate_cpu(params: Mapping[str, Any], definition: Mapping[str, Any] | None) -> int | None:
    """The CPU units of a RunTask request: 0 where Fargate does not run it, None where its definition is not known.

    Raises ValueError for a size that is none.
    """
    if not on_fargate(params):
        return 0
    cpu = params.get("overrides", {}).get("cpu") or (definition or {}).get("cpu")
    return cpu_units(str(cpu)) if cpu else None
