"""A handful of words for what AWS says in a thousand sentences, so that it can be a label.

Sources: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html and
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from reconciler.core.phase import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.core.task import Workload

__all__ = ["REASONS", "WAITING", "outcome", "reason_of"]

_PATTERNS: Final[Sequence[tuple[str, str]]] = (
    ("refused", r"exited before Airflow admitted"),
    ("start_timeout", r"within start_timeout"),
    ("never_made", r"ECS never made the task"),
    ("spot_interrupted", r"SpotInterruption|Spot Task was interrupted"),
    ("image", r"CannotPull|image.*not found|manifest"),
    ("credentials", r"ExpiredToken|UnrecognizedClient|InvalidSignature|InvalidClientToken|could not be signed"),
    ("throttled", r"Throttl|rate exceeded|request limit"),
    ("secrets", r"secret|ssm|parameter store"),
    ("permission", r"AccessDenied|not authorized|assume role|PassRole"),
    ("network", r"network interface|\bENI\b|subnet|IP address|security group"),
    ("quota", r"quota|reached the limit|limit on the number"),
    ("capacity", r"capacity|^RESOURCE|^AGENT|no active instances|no container instances"),
    ("unreachable", r"can not be reached|does not answer|timed? ?out"),
    ("container", r"CannotStartContainer|CannotCreateContainer|ContainerRuntime|OutOfMemory|ResourceInitialization"),
    ("host", r"\bhost\b|EC2|agent"),
    ("invalid", r"InvalidParameter|ClientException|not allowed|Validation|MISSING|ATTRIBUTE"),
)
_COMPILED: Final = tuple((word, re.compile(pattern, re.IGNORECASE)) for word, pattern in _PATTERNS)

REASONS: Final = (*(word for word, _ in _PATTERNS), "other")
WAITING: Final = ("capacity", "quota", "throttled", "credentials", "unreachable", "never_made")
"""Reasons that are nobody's failure: they wait and are not counted."""


def reason_of(text: str | None) -> str:
    """The word for a sentence; the first pattern that fits wins."""
    return next((word for word, pattern in _COMPILED if pattern.search(text or "")), "other")


def outcome(old: Workload, new: Workload) -> str:
    """How a workload ended, in one word. `new` is terminal."""
    if new.phase is not Phase.EXITED:
        return new.phase.value.lower()
    if reason_of(new.stop_code) == "spot_interrupted" or reason_of(new.reason) == "spot_interrupted":
        return "spot_interrupted"
    if old.phase is Phase.STOPPING:
        return "stopped_by_us"
    if "OutOfMemory" in (new.reason or ""):
        return "out_of_memory"
    if new.exit_code is None:
        return "exited_unknown"
    return "exited_zero" if new.exit_code == 0 else "exited_nonzero"
