"""The sizes that Fargate runs.

Source: "Task CPU and memory" in
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
"""

from __future__ import annotations

from typing import Final

__all__ = ["check_size"]

_GB: Final = 1024
_SIZES: Final[dict[int, tuple[int, ...]]] = {
    256: (512, 1 * _GB, 2 * _GB),
    512: tuple(range(1 * _GB, 4 * _GB + 1, _GB)),
    1024: tuple(range(2 * _GB, 8 * _GB + 1, _GB)),
    2048: tuple(range(4 * _GB, 16 * _GB + 1, _GB)),
    4096: tuple(range(8 * _GB, 30 * _GB + 1, _GB)),
    8192: tuple(range(16 * _GB, 60 * _GB + 1, 4 * _GB)),
    16384: tuple(range(32 * _GB, 120 * _GB + 1, 8 * _GB)),
}
"""CPU units to MiB of memory."""


def check_size(cpu: int, memory: int) -> None:
    """Raise ValueError for a pair that Fargate does not run."""
    if cpu not in _SIZES:
        raise ValueError(f"cpu {cpu}: Fargate runs {', '.join(map(str, _SIZES))} CPU units")
    if memory not in _SIZES[cpu]:
        raise ValueError(
            f"memory {memory}: with {cpu} CPU units Fargate runs {', '.join(map(str, _SIZES[cpu]))} MiB of memory"
        )
