"""What RunTask answered, as the protocol sees it: did anything start, and whose fault is it if not?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.core.task import EcsTask

__all__ = ["Accepted", "Answer", "Blocked", "Existing", "Invalid", "NotStarted", "Throttled", "Unknown"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """There is a task for this launch: a new one, or the one that an earlier call with this token made."""

    task: EcsTask


@dataclass(frozen=True, slots=True)
class Existing:
    """ConflictException: this token has been used with other parameters. `arns` are what it made, possibly nothing."""

    arns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotStarted:
    """HTTP 200 with `failures[]`. ECS remembers this under the token, so only a new attempt can change it."""

    reason: str
    capacity: bool
    """True for want of room (capacity, quota, agents): waits and is not counted. False counts as a failed start."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """Refused for its rate before anything was done. The same token may be sent again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """Refused for the account, the credentials or the cluster, or ECS was never reached. Nothing was done."""

    reason: str
    denied: bool = False
    """The credentials are good, but not for this: the fault may be what this workload alone asks for, such as a role
    that may not be passed."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Refused for what this workload asked. Nothing was done, and asking again is useless."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """No usable answer: 5xx, timeout, reset. The task may exist."""

    reason: str


Answer = Accepted | Existing | NotStarted | Throttled | Blocked | Invalid | Unknown
