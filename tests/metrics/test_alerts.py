"""Each alert fires when it should and is silent when it should, as Prometheus's own promtool evaluates it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from grafana.panels import RUNBOOKS
from reconciler.metrics.catalogue import CATALOGUE
from tests.metrics.conftest import ROOT, RULES, alerts
from tests.metrics.promql import TARGET, uses

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Series = dict[str, str]
"""Sample name with its labels (those of WHERE are added) to promtool's notation of values, one each 15 seconds."""

WHERE = 'namespace="ns",deployment="prod"'


@dataclass(frozen=True)
class Case:
    """What makes an alert fire at a moment, and what does not although it is close to it."""

    alert: str
    at: str
    firing: Series
    silent: Series
    labels: Mapping[str, str]
    """Labels of the alert, besides severity, namespace and deployment."""


S = 'shard="eu"'
P = 'shard="eu",profile="default"'
Q = 'shard="eu",queue="gpu",profile="default"'


def bucket(name: str, labels: str, fast: str, slow: str) -> Series:
    """A histogram with two buckets: up to half a second, and above all others."""
    return {f"{name}_bucket{{{labels}le={q}}}": value for q, value in (('"0.5"', fast), ('"120"', slow), ('"+Inf"', slow))}  # fmt: skip  # noqa: E501 - one row


CASES = [
    Case("Down", "20m",
         firing={f"leader{{{S}}}": "1x20 _x80"},
         silent={f"leader{{{S}}}": "1x40 _x12 1x40"},
         labels={}),
    Case("NoLeader", "5m",
         firing={f'leader{{{S},pod="a"}}': "1x2 0x40", f'leader{{{S},pod="b"}}': "0x40"},
         silent={f'leader{{{S},pod="a"}}': "1x2 0x40", f'leader{{{S},pod="b"}}': "0x6 1x40"},
         labels={"shard": "eu"}),
    Case("SplitBrain", "5m",
         firing={f'leader{{{S},pod="a"}}': "1x40", f'leader{{{S},pod="b"}}': "1x40"},
         silent={f'leader{{{S},pod="a"}}': "1x40", 'leader{shard="us",pod="b"}': "1x40"},
         labels={"shard": "eu"}),
    Case("Stalled", "10m",
         firing={f"leader{{{S}}}": "1x60",
                 f'reconcile_last_success_timestamp_seconds{{{S},controller="launch"}}': "60x60"},
         silent={f"leader{{{S}}}": "1x60",
                 f'reconcile_last_success_timestamp_seconds{{{S},controller="launch"}}': "0+15x60"},
         labels={"shard": "eu", "controller": "launch"}),
    Case("PendingTooLong", "20m",
         firing={f"oldest_pending_seconds{{{Q}}}": "0+15x100", f"quota_headroom{{{P}}}": "20x100",
                 'queue_held{shard="eu",queue="etl",mode="paused"}': "1x100"},
         silent={f"oldest_pending_seconds{{{Q}}}": "0+15x100", f"quota_headroom{{{P}}}": "0x100",
                 'quota_headroom{shard="eu",profile="gpu"}': "5x100"},
         labels={"shard": "eu", "queue": "gpu", "profile": "default"}),
    Case("PendingTooLong", "20m",
         firing={f"oldest_pending_seconds{{{Q}}}": "301x100", f"quota_headroom{{{P}}}": "1x100"},
         silent={f"oldest_pending_seconds{{{Q}}}": "301x100", f"quota_headroom{{{P}}}": "1x100",
                 'queue_held{shard="eu",queue="gpu",mode="paused"}': "1x100"},
         labels={"shard": "eu", "queue": "gpu", "profile": "default"}),
    Case("PendingTooLong", "20m",
         firing={f"oldest_pending_seconds{{{Q}}}": "301x100", f"quota_headroom{{{P}}}": "1x100",
                 'queue_held{shard="us",queue="all",mode="draining"}': "1x100"},
         silent={f"oldest_pending_seconds{{{Q}}}": "301x100", f"quota_headroom{{{P}}}": "1x100",
                 'queue_held{shard="eu",queue="all",mode="draining"}': "1x100"},
         labels={"shard": "eu", "queue": "gpu", "profile": "default"}),
    Case("QuotaFull", "20m",
         firing={f"oldest_pending_seconds{{{Q}}}": "9x100", f"quota_headroom{{{P}}}": "0x100"},
         silent={f"oldest_pending_seconds{{{Q}}}": "0x100", f"quota_headroom{{{P}}}": "0x100"},
         labels={"shard": "eu", "profile": "default"}),
    Case("LaunchesHeld", "8m",
         firing={f'launches_held{{{P},cause="ecs"}}': "1x100"},
         silent={f'launches_held{{{P},cause="ecs"}}': "1x10 0x2 1x100"},
         labels={"shard": "eu", "profile": "default", "cause": "ecs"}),
    Case("CredentialsRefused", "8m",
         firing={f"credentials_valid{{{S}}}": "1x2 0x100"},
         silent={f"credentials_valid{{{S}}}": "0x10 1x2 0x100"},
         labels={"shard": "eu"}),
    Case("BreakerTripped", "5m",
         firing={f'breaker_tripped{{{S},breaker="missing"}}': "0x2 1x100"},
         silent={f'breaker_tripped{{{S},breaker="missing"}}': "1x4 0x100"},
         labels={"shard": "eu", "breaker": "missing"}),
    Case("QueueHeld", "70m",
         firing={'queue_held{shard="eu",queue="gpu",mode="paused"}': "1x400"},
         silent={'queue_held{shard="eu",queue="gpu",mode="paused"}': "1x80 _x2 _x60 1x320"},
         labels={"shard": "eu", "queue": "gpu", "mode": "paused"}),
    Case("Throttled", "20m",
         firing={f'aws_api_requests_total{{{S},operation="RunTask",result="ok"}}': "0+8x100",
                 f'aws_api_requests_total{{{S},operation="RunTask",result="throttled"}}': "0+2x100"},
         silent={f'aws_api_requests_total{{{S},operation="RunTask",result="ok"}}': "0+19x100",
                 f'aws_api_requests_total{{{S},operation="RunTask",result="throttled"}}': "0+1x100"},
         labels={"shard": "eu", "operation": "RunTask"}),
    Case("LaunchFailures", "30m",
         firing={f'launch_failures_total{{{S},queue="gpu",reason="image",action="again"}}': "0+3x150",
                 f'launches_total{{{S},queue="gpu",result="accepted"}}': "0+10x150"},
         silent={f'launch_failures_total{{{S},queue="gpu",reason="capacity",action="again"}}': "0+9x150",
                 f'launches_total{{{S},queue="gpu",result="accepted"}}': "0+10x150"},
         labels={"queue": "gpu"}),
    Case("Orphans", "40m",
         firing={f"orphans{{{S}}}": "3x200"},
         silent={f"orphans{{{S}}}": "3x60 0x200"},
         labels={"shard": "eu"}),
    Case("InvariantViolated", "10m",
         firing={f'invariant_violations_total{{{S},invariant="version_by_one"}}': "0x20 1x40"},
         silent={f'invariant_violations_total{{{S},invariant="version_by_one"}}': "1x60"},
         labels={"shard": "eu", "invariant": "version_by_one"}),
    Case("EventLag", "20m",
         firing=bucket("event_lag_seconds", f'{S},source="sqs",', "0x100", "0+9x100"),
         silent=bucket("event_lag_seconds", f'{S},source="sqs",', "0+9x100", "0+9x100"),
         labels={"shard": "eu", "source": "sqs"}),
    Case("DatabaseSlow", "20m",
         firing=bucket("db_transaction_duration_seconds", "", "0+90x100", "0+99x100"),
         silent=bucket("db_transaction_duration_seconds", "", "0+99x100", "0+99x100"),
         labels={}),
    Case("DatabaseSlow", "20m",
         firing={'db_errors_total{statement="fence",kind="timeout"}': "0+3x100"},
         silent={'db_errors_total{statement="fence",kind="timeout"}': "0+1x100"},
         labels={}),
    Case("UnacknowledgedOutcomes", "20m",
         firing={f"oldest_unacknowledged_seconds{{{S}}}": "300+15x100"},
         silent={f"oldest_unacknowledged_seconds{{{S}}}": "500x100"},
         labels={"shard": "eu"}),
    Case("ClockSkew", "10m",
         firing={'clock_skew_seconds{against="ecs"}': "-8x100"},
         silent={'clock_skew_seconds{against="ecs"}': "-2x100"},
         labels={"against": "ecs"}),
    Case("UnreadableWorkloads", "30m",
         firing={f"unreadable_workloads_total{{{S}}}": "0+1x200"},
         silent={f"unreadable_workloads_total{{{S}}}": "4x200"},
         labels={"shard": "eu"}),
]  # fmt: skip


def _written(series: Series) -> list[dict[str, str]]:
    """promtool's input, with the names and labels that are the same everywhere."""
    written = []
    for sample, values in series.items():
        name, _, labels = sample.rstrip("}").partition("{")
        written.append({"series": f"ecs_reconciler_{name}{{{labels}{',' if labels else ''}{WHERE}}}", "values": values})
    return written


def _test(case: Case, *, fires: bool) -> dict[str, Any]:
    """One of promtool's tests. It asks for the series ALERTS, so that the sentences need not be written out twice."""
    alert = f"EcsReconciler{case.alert}"
    labels = {"namespace": "ns", "deployment": "prod", "severity": alerts()[alert]["labels"]["severity"], **case.labels}
    shown = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    expected = [{"labels": f'ALERTS{{alertname="{alert}",alertstate="firing",{shown}}}', "value": 1}]
    return {
        "interval": "15s",
        "name": f"{case.alert} {'fires' if fires else 'is silent'}",
        "input_series": _written(case.firing if fires else case.silent),
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                "eval_time": case.at,
                "exp_samples": expected if fires else [],
            }
        ],
    }


def _run(promtool: str, folder: Path, rules: str, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(rules)
    suite = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    command = [promtool, "test", "rules", "tests.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_promtool_accepts_the_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_and_is_silent_when_it_should(promtool: str, tmp_path: Path) -> None:
    assert {f"EcsReconciler{case.alert}" for case in CASES} == set(alerts())
    tests = [_test(case, fires=fires) for case in CASES for fires in (True, False)]
    done = _run(promtool, tmp_path, RULES.read_text(), tests)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fires", [True, False])
def test_a_rule_that_never_or_always_holds_is_found_out(promtool: str, tmp_path: Path, *, fires: bool) -> None:
    cases = {f"EcsReconciler{case.alert}": case for case in CASES}
    expressions = {alert: "vector(1) == 0" if fires else _any(case) for alert, case in cases.items()}
    broken = [{**rule, "expr": expressions[alert], "for": "0s"} for alert, rule in alerts().items()]
    rules = yaml.safe_dump({"groups": [{"name": "broken", "rules": broken}]})
    done = _run(promtool, tmp_path, rules, [_test(case, fires=fires) for case in cases.values()])
    found = set(re.findall(r'alertname="(\w+)"', done.stdout + done.stderr))
    assert done.returncode != 0
    assert found == set(cases), done.stdout + done.stderr


def _any(case: Case) -> str:
    """An expression that holds whenever anything at all was recorded of a silent case."""
    names = "|".join(sample.partition("{")[0] for sample in case.silent)
    return f'group by (namespace, deployment) (last_over_time({{__name__=~"ecs_reconciler_({names})"}}[2h]))'


@pytest.mark.parametrize("alert", sorted(alerts()))
def test_every_alert_says_what_it_is_and_where_to_read_on(alert: str) -> None:
    rule = alerts()[alert]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}/{alert}"
    page = (ROOT / "docs/runbooks" / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert titles == ["What it means", "What users feel", "What to look at", "What to do"]


def test_every_runbook_has_its_alert() -> None:
    pages = {page.stem for page in (ROOT / "docs/runbooks").glob("*.md")} - {"README"}
    assert pages == set(alerts())
    index = (ROOT / "docs/runbooks/README.md").read_text()
    assert set(re.findall(r"\((\w+)\.md\)", index)) == pages


@pytest.mark.parametrize("alert", sorted(alerts()))
def test_rules_use_only_declared_metrics_and_labels(alert: str) -> None:
    rule = alerts()[alert]
    declared = {series: set(metric.all_labels) for metric in CATALOGUE for series in metric.series}
    used = uses(rule["expr"])
    assert used.selectors
    for name, labels in used.selectors:
        assert name in declared, name
        assert labels <= declared[name] | TARGET, name
    for labels, names in used.grouped:
        for name in names:
            assert labels <= declared[name] | TARGET, (labels, name)
    texts = " ".join(rule["annotations"].values())
    by = [labels for labels, _ in used.grouped]
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= set().union(*by)
