"""The table of errors, row by row."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.session import get_session
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import EcsThrottled, EcsUnavailable, NoSuchCluster
from reconciler.ecs.errors import Meaning, TooLateError, classify, not_started

UNKNOWN, CONFLICT, THROTTLED, BLOCKED, INVALID = Meaning


def refusal(code: str, message: str = "", status: int = 400, **extra: Any) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}, **extra}
    return ClientError(answer, "RunTask")


CODES = [
    ("ThrottlingException", THROTTLED, "throttled"),
    ("Throttling", THROTTLED, "throttled"),
    ("TooManyRequestsException", THROTTLED, "throttled"),
    ("RequestLimitExceeded", THROTTLED, "throttled"),
    ("SlowDown", THROTTLED, "throttled"),
    ("ExpiredToken", BLOCKED, "credentials"),
    ("ExpiredTokenException", BLOCKED, "credentials"),
    ("UnrecognizedClientException", BLOCKED, "credentials"),
    ("InvalidClientTokenId", BLOCKED, "credentials"),
    ("InvalidSignatureException", BLOCKED, "credentials"),
    ("SignatureDoesNotMatch", BLOCKED, "credentials"),
    ("IncompleteSignature", BLOCKED, "credentials"),
    ("MissingAuthenticationToken", BLOCKED, "credentials"),
    ("MissingAuthenticationTokenException", BLOCKED, "credentials"),
    ("AccessDenied", BLOCKED, "credentials"),
    ("AccessDeniedException", BLOCKED, "credentials"),
    ("OptInRequired", BLOCKED, "credentials"),
    ("RequestExpired", BLOCKED, "credentials"),
    ("BlockedException", BLOCKED, "client_error"),
    ("ClusterNotFoundException", BLOCKED, "client_error"),
    ("InvalidParameterException", INVALID, "client_error"),
    ("ClientException", INVALID, "client_error"),
    ("PlatformUnknownException", INVALID, "client_error"),
    ("PlatformTaskDefinitionIncompatibilityException", INVALID, "client_error"),
    ("UnsupportedFeatureException", INVALID, "client_error"),
    ("ValidationException", INVALID, "client_error"),
    ("ConflictException", CONFLICT, "client_error"),
    ("ServerException", UNKNOWN, "client_error"),
    ("RequestAbortedException", UNKNOWN, "client_error"),
    ("NeverHeardOf", UNKNOWN, "client_error"),
    ("", UNKNOWN, "client_error"),
    ("403", UNKNOWN, "client_error"),
]


@pytest.mark.parametrize(("code", "meaning", "result"), CODES)
def test_a_code_has_one_meaning(code: str, meaning: Meaning, result: str) -> None:
    verdict = classify(refusal(code, "text"), sent=True)
    assert (verdict.meaning, verdict.result) == (meaning, result)
    assert "text" in verdict.reason


@pytest.mark.parametrize("code", [code for code, _, _ in CODES])
@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_failed_may_have_acted_whatever_it_says(code: str, status: int) -> None:
    verdict = classify(refusal(code, status=status), sent=True)
    assert (verdict.meaning, verdict.result) == (UNKNOWN, "server_error")


def test_every_error_that_the_model_of_run_task_knows_is_in_the_table() -> None:
    shapes = get_session().get_service_model("ecs").operation_model("RunTask").error_shapes
    unknown = {shape.name for shape in shapes if classify(refusal(shape.name), sent=True).meaning is UNKNOWN}
    assert unknown == {"ServerException"}


@pytest.mark.parametrize("code", ["InvalidParameterException", "ClientException"])
@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("Error retrieving subnet information: Request limit exceeded. (ErrorCode: RequestLimitExceeded)", THROTTLED),
        ("Rate exceeded", THROTTLED),
        ("Unable to call EC2 (ErrorCode: Throttling)", THROTTLED),
        ("You've reached the quota of tasks in the PROVISIONING state", THROTTLED),
        ("Tasks provisioning capacity limit exceeded.", THROTTLED),
        ("You've reached the limit on the number of vCPUs you can run concurrently", THROTTLED),
        ("Unable to assume the service linked role.", BLOCKED),
        ("No Container Instances were found in your cluster.", BLOCKED),
        ("TaskDefinition not found.", INVALID),
        ("Container Overrides length must be at most 8192", INVALID),
    ],
)
def test_what_ecs_wraps_is_read_from_the_message(code: str, message: str, meaning: Meaning) -> None:
    assert classify(refusal(code, message), sent=True).meaning is meaning


def test_messages_of_other_codes_are_not_read() -> None:
    assert classify(refusal("AccessDeniedException", "Rate exceeded"), sent=True).meaning is BLOCKED


def test_a_conflict_names_the_tasks_of_its_token() -> None:
    verdict = classify(refusal("ConflictException", resourceIds=["arn:1", "arn:2"]), sent=True)
    assert verdict.arns == ("arn:1", "arn:2")


URL = "https://ecs"


@pytest.mark.parametrize(
    ("error", "meaning", "result"),
    [
        (ReadTimeoutError(endpoint_url=URL), UNKNOWN, "timeout"),
        (ConnectionClosedError(endpoint_url=URL), UNKNOWN, "network"),
        (HTTPClientError(error="reset"), UNKNOWN, "network"),
        (SSLError(endpoint_url=URL, error=OSError("decryption failed")), UNKNOWN, "network"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "no"), UNKNOWN, "network"),
        (ConnectTimeoutError(endpoint_url=URL), BLOCKED, "timeout"),
        (EndpointConnectionError(endpoint_url=URL), BLOCKED, "network"),
        (ProxyConnectionError(proxy_url=URL), BLOCKED, "network"),
    ],
)
def test_without_an_answer_only_a_connection_that_never_was_proves_anything(
    error: Exception, meaning: Meaning, result: str
) -> None:
    verdict = classify(error, sent=True)
    assert (verdict.meaning, verdict.result) == (meaning, result)


@pytest.mark.parametrize(
    "error",
    [
        NoCredentialsError(),
        PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
        ReadTimeoutError(endpoint_url="https://sts"),
        refusal("ThrottlingException"),
        refusal("InternalFailure", status=500),
    ],
)
def test_what_fails_before_sending_blocks(error: Exception) -> None:
    verdict = classify(error, sent=False)
    assert (verdict.meaning, verdict.result) == (BLOCKED, "credentials")


def test_parameters_that_botocore_refuses_are_invalid() -> None:
    assert classify(ParamValidationError(report="Invalid type"), sent=False).meaning is INVALID


def test_a_call_that_was_held_back_is_unknown() -> None:
    assert classify(TooLateError("late"), sent=False).meaning is UNKNOWN


@pytest.mark.parametrize(("code", "meaning", "_"), CODES)
def test_other_calls_raise_throttled_or_unavailable(code: str, meaning: Meaning, _: str) -> None:
    error = classify(refusal(code), sent=True).error()
    no_cluster = code == "ClusterNotFoundException"
    assert type(error) is (EcsThrottled if meaning is THROTTLED else NoSuchCluster if no_cluster else EcsUnavailable)


@pytest.mark.parametrize(
    ("code", "message", "gone"),
    [
        ("InvalidParameterException", "The referenced task was not found.", True),
        ("ClientException", "Task not found", True),
        ("InvalidParameterException", "Task Identifier is invalid", False),
        ("ClusterNotFoundException", "Cluster not found.", True),
        ("AccessDeniedException", "task not found", False),
    ],
)
def test_only_an_unknown_task_or_cluster_counts_as_gone(code: str, message: str, gone: bool) -> None:
    assert classify(refusal(code, message), sent=True).task_is_gone is gone


def test_a_token_that_aws_repeats_is_not_passed_on() -> None:
    token = "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiIxMjMifQ.c2lnbmF0dXJl"
    verdict = classify(refusal("InvalidParameterException", f"bad command: {token} in container"), sent=True)
    assert token not in verdict.reason
    assert verdict.reason.endswith("in container")


@given(st.text(max_size=3000), st.integers(min_value=400, max_value=599))
def test_any_text_has_a_short_reason_and_never_raises(text: str, status: int) -> None:
    verdict = classify(refusal("ClientException", text, status), sent=True)
    assert len(verdict.reason) <= 1000
    assert verdict.answer() is not None


def test_a_failure_tells_its_detail() -> None:
    answer = not_started([{"reason": "RESOURCE:MEMORY", "detail": "no instance has 64 GiB"}])
    assert answer.reason == "RESOURCE:MEMORY: no instance has 64 GiB"
    assert answer.capacity


def test_a_failure_s_detail_does_not_make_it_a_matter_of_room() -> None:
    assert not not_started([{"reason": "ATTRIBUTE", "detail": "over the limit"}]).capacity


def test_a_failure_without_a_reason_counts() -> None:
    assert not not_started([{}]).capacity
