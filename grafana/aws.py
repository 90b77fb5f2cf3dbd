"""AWS API and quotas: what we ask of AWS, what it refuses, what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.panels import Query, Row, board, busy, heats, lines, number, pick, quantile, shared

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

__all__ = ["aws"]


def aws(uid: str, title: str, others: list[tuple[str, str]]) -> Dashboard:
    """The dashboard of AWS's limits."""
    return board(uid, title, "What we ask of AWS, what it refuses, what is left.", [_calls(), _rates(), _quotas()],
                 others)  # fmt: skip


def _calls() -> Row:
    operation = ("operation",)
    calls = busy("aws_api_requests_total", by=operation)
    throttled = busy("aws_api_requests_total", 'result="throttled"', by=operation)
    return Row("Does AWS answer?", 8, [
        (12, lines("Calls by operation", "Per second. Normal: DescribeTasks once per sweep and 100 tasks.",
                   Query(calls, "{{operation}}"), unit="ops", runbook="Throttled")),
        (12, lines("Calls by result", "Normal: ok. client_error of RunTask is a request that ECS refuses.",
                   Query(busy("aws_api_requests_total", by=("result",)), "{{result}}"), unit="ops", stack=True,
                   runbook="LaunchesHeld")),
        (8, lines("Throttled share", "Of the calls of an operation. Normal: 0, short peaks in a wave.",
                  Query(f"({throttled}) / ({calls}) or 0 * {calls}", "{{operation}}"), unit="percentunit",
                  runbook="Throttled")),
        (8, lines("Duration, 99 %", "Of one call, without the wait for its turn. Normal: below a second.",
                  Query(quantile(0.99, "aws_api_request_duration_seconds", by=operation), "{{operation}}"), unit="s",
                  runbook="Stalled")),
        (8, heats("RunTask", "Duration of RunTask. Normal: 100 to 600 ms.", "aws_api_request_duration_seconds",
                  'operation="RunTask"', runbook="Stalled")),
    ])  # fmt: skip


def _rates() -> Row:
    bucket = ("bucket",)
    return Row("What do the rate limits leave?", 8, [
        (8, lines("Calls allowed",
                  "Per second. A refusal halves it, then it climbs by one each second. Normal: flat.",
                  Query(shared("call_rate_allowed", by=bucket), "{{bucket}}"), unit="ops", runbook="Throttled")),
        (8, lines("Tokens left", "Calls that may be made at once. Normal: full at rest, at 0 in a wave.",
                  Query(shared("token_bucket_tokens", by=bucket), "{{bucket}}"), runbook="Throttled")),
        (8, lines("Calls that wait", "For their turn at a rate limit. Normal: 0 at rest, up to 32 in a wave.",
                  Query(shared("calls_waiting", by=bucket), "{{bucket}}"), runbook="Throttled")),
    ])  # fmt: skip


def _quotas() -> Row:
    profile = ("profile",)
    return Row("Quotas and credentials", 8, [
        (8, lines("Quota used by profile", "ECS tasks that exist or may exist. Normal: anything up to the limit.",
                  Query(shared("quota_used", by=profile), "{{profile}}"), stack=True, runbook="QuotaFull")),
        (8, lines("Headroom by profile", "How many more may be launched. Normal: above 0, or 0 and tasks wait.",
                  Query(shared("quota_headroom", by=profile), "{{profile}}"), runbook="QuotaFull")),
        (8, lines("Fargate vCPUs by profile", "Those of tasks that exist or may exist, and the limit if one is set.",
                  Query(shared("quota_vcpus_used", by=profile), "{{profile}}"),
                  Query(shared("quota_vcpus_limit", by=profile), "{{profile}} limit"), runbook="QuotaFull")),
        (8, lines("Above the limit", "ECS tasks beyond max_running_tasks, by what explains them. Normal: 0.",
                  Query(shared("quota_exceeded_tasks", by=("cause",)), "{{cause}}"), runbook="QuotaFull")),
        (4, number("Launches per second", "Accepted by ECS, over the last minute.",
                   shared("launches_per_second"), unit="ops", decimals=1, runbook="Throttled")),
        (4, number("Credentials", "1: AWS accepts them. 0: it refused the last call for them.",
                   f"min({pick('credentials_valid')})", bad=1, low=True, runbook="CredentialsRefused")),
    ])  # fmt: skip
