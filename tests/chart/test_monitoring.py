"""Alerts and dashboards as the chart renders them: rules, labels, folders, runbooks."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.chart.conftest import CHART, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.conftest import Helm


RULES = {
    "groups": [
        {
            "name": "alerts",
            "interval": "30s",
            "rules": [
                {
                    "alert": "Down",
                    "expr": "absent(up)",
                    "labels": {"severity": "critical"},
                    "annotations": {"summary": "{{ $labels.job }} is down: {{ $value | humanize }}"},
                },
                {"alert": "Slow", "expr": "up == 0", "for": "5m"},
            ],
        },
        {"name": "recorded", "rules": [{"record": "job:up:sum", "expr": "sum by (job) (up)"}]},
    ]
}


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """The chart with rules and a dashboard of the test's own."""
    copy = tmp_path / "ecs-reconciler"
    shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("rules", "dashboards"))
    (copy / "rules").mkdir()
    (copy / "rules/alerts.yaml").write_text(yaml.safe_dump(RULES))
    (copy / "dashboards").mkdir()
    (copy / "dashboards/Over_view.json").write_text('{"panels": [{"legendFormat": "{{phase}} \\"1\\""}]}')
    return copy


def rendered_rules(helm: Helm, chart: Path, **alerts: Any) -> list[dict[str, Any]]:
    rule = helm.render({"metrics": {"alerts": {"enabled": True, **alerts}}}, chart=chart).one("PrometheusRule")
    groups: list[dict[str, Any]] = rule["spec"]["groups"]
    return groups


def test_rules_arrive_as_they_are(each_helm: Helm, chart: Path) -> None:
    """Templates of Prometheus's own included, and labels where there are none."""
    expected = json.loads(json.dumps(RULES))["groups"]
    expected[0]["rules"][1]["labels"] = {}
    assert rendered_rules(each_helm, chart) == expected


def test_labels_for_every_alert_and_alerts_left_out(helm: Helm, chart: Path) -> None:
    labels = {"team": "data", "severity": "page"}
    groups = rendered_rules(helm, chart, additionalRuleLabels=labels, disabled=["Slow"])
    (alert,) = groups[0]["rules"]
    assert (alert["alert"], alert["labels"]) == ("Down", labels)
    assert groups[1] == RULES["groups"][1], "what is recorded has no labels of an alert"
    with pytest.raises(RefusedError, match="there is no alert Nope, only Down, Slow"):
        rendered_rules(helm, chart, disabled=["Nope"])


def test_dashboards_for_the_sidecar(helm: Helm, chart: Path) -> None:
    on = {"metrics": {"dashboards": {"enabled": True, "folder": "Airflow"}}}
    before = {config["metadata"]["name"] for config in helm.render(chart=chart).of("ConfigMap")}
    (made,) = [c for c in helm.render(on, chart=chart).of("ConfigMap") if c["metadata"]["name"] not in before]
    assert made["metadata"]["name"] == "r-ecs-reconciler-over-view"
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "Airflow"}
    assert made["data"] == {"Over_view.json": (chart / "dashboards/Over_view.json").read_text()}


def test_runbooks_are_linked_where_they_are_served(each_helm: Helm) -> None:
    """In alerts and dashboards, each by its name; and no placeholder is left."""
    shown = {"alerts": {"enabled": True}, "dashboards": {"enabled": True}}
    before, after = (
        each_helm.template({"metrics": shown | link}) for link in ({}, {"runbookUrl": "https://wiki/docs/%s.md?x=1"})
    )
    placeholder = "https://ecs-reconciler.example.org/runbooks/"
    links = re.findall(rf"{placeholder}(\w+)", before)
    assert len(links) > 30
    assert placeholder not in after
    assert re.findall(r"https://wiki/docs/(\w+)\.md\?x=1", after) == links
