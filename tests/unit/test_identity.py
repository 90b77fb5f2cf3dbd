"""Names are functions of what they name."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import backoff, identity

deployments = st.from_regex(identity.DEPLOYMENT, fullmatch=True)
exec_ids = st.uuids().map(str)
attempts = st.integers(1, 10**6)


@given(deployments, exec_ids, attempts)
def test_started_by_says_which_launch_it_is_and_fits_into_ecs(deployment: str, exec_id: str, attempt: int) -> None:
    name = identity.started_by(deployment, exec_id, attempt)
    assert re.fullmatch(r"[A-Za-z0-9_/-]{1,128}", name)
    assert identity.parse_started_by(name, deployment) == (exec_id, attempt)
    assert identity.parse_started_by(name, deployment + "x") is None


@given(st.text())
def test_nothing_else_is_taken_for_one_of_ours(text: str) -> None:
    if not re.fullmatch(r"prod/[^/]+/\d+", text):
        assert identity.parse_started_by(text, "prod") is None
    assert identity.parse_started_by(None, "prod") is None


@given(exec_ids, attempts, attempts)
def test_a_client_token_names_one_launch_in_one_cluster(exec_id: str, one: int, other: int) -> None:
    token = identity.client_token("airflow", exec_id, one)
    assert re.fullmatch(r"[!-~]{1,64}", token)
    assert token == identity.client_token("airflow", exec_id, one)
    assert (token == identity.client_token("airflow", exec_id, other)) == (one == other)
    assert token != identity.client_token("other", exec_id, one)


def test_a_client_token_never_changes_between_releases() -> None:
    """A daemon that is upgraded in the middle of a launch must send the same token again."""
    token = identity.client_token("airflow", "0190b2a4-0000-7000-8000-000000000001", 1)
    assert token == "VKQJ4GOWB4PUN4QR4EEJSXBTBJEFMV5J2BFJQKXUHZ7X4BFGQKNQ"


def test_a_derived_exec_id_is_a_uuid_of_its_facts() -> None:
    assert identity.derived_exec_id("a", 1) == identity.derived_exec_id("a", 1)
    assert identity.derived_exec_id("a", 1) != identity.derived_exec_id("a", 2)


@given(exec_ids, attempts)
def test_jitter_is_a_fraction(exec_id: str, attempt: int) -> None:
    assert 0 <= identity.jitter(exec_id, attempt) < 1


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_grows_to_its_cap_and_never_past_it(failures: int, jitter: float) -> None:
    seconds = backoff.delay(failures, jitter).total_seconds()
    assert 2 <= seconds <= 120
    assert backoff.delay(failures + 1, jitter).total_seconds() >= seconds


def test_backoff_doubles() -> None:
    assert [backoff.delay(n, 0.999999).total_seconds().__round__() for n in (1, 2, 3, 6)] == [4, 8, 16, 120]
