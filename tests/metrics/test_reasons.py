"""AWS's sentences as words."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.core.phase import Phase
from reconciler.metrics.reasons import REASONS, WAITING, outcome, reason_of
from tests.metrics.meter import workload


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("CannotPullContainerError: pull image manifest has been retried 5 time(s)", "image"),
        ("RESOURCE:ENI", "network"),
        ("Capacity is unavailable at this time. Please try again later", "capacity"),
        ("You've reached the limit on the number of tasks you can run concurrently", "quota"),
        ("ThrottlingException: Rate exceeded", "throttled"),
        ("ExpiredTokenException: The security token included in the request is expired", "credentials"),
        ("AccessDeniedException: is not authorized to perform: iam:PassRole", "permission"),
        ("ResourceInitializationError: unable to pull secrets or registry auth", "secrets"),
        ("Timeout waiting for network interface provisioning to complete", "network"),
        ("not RUNNING within start_timeout (600 s): PENDING", "start_timeout"),
        ("attempt 1 exited before Airflow admitted it (x); starting again", "refused"),
        ("Your Spot Task was interrupted.", "spot_interrupted"),
        ("a sentence of next year", "other"),
        (None, "other"),
    ],
)
def test_a_sentence_has_its_word(text: str | None, word: str) -> None:
    assert reason_of(text) == word
    assert word in REASONS


def test_waiting_reasons_are_reasons() -> None:
    assert set(WAITING) <= set(REASONS)


@pytest.mark.parametrize(
    ("old", "facts", "word"),
    [
        (Phase.RUNNING, {"exit_code": 0}, "exited_zero"),
        (Phase.RUNNING, {"exit_code": 1}, "exited_nonzero"),
        (Phase.RUNNING, {}, "exited_unknown"),
        (Phase.STOPPING, {"exit_code": 143}, "stopped_by_us"),
        (Phase.RUNNING, {"exit_code": 137, "reason": "OutOfMemoryError: killed"}, "out_of_memory"),
        (Phase.RUNNING, {"exit_code": 143, "stop_code": "SpotInterruption"}, "spot_interrupted"),
    ],
)
def test_an_end_has_its_word(old: Phase, facts: dict[str, Any], word: str) -> None:
    assert outcome(workload(phase=old), workload(phase=Phase.EXITED, **facts)) == word
