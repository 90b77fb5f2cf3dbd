"""No value of the chart is dead: each one that values.yaml documents changes what is rendered, and nothing fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.tools.chart_files import values

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chart.conftest import Helm, Objects

ROLE = "arn:aws:iam::123456789012:role/changed"
BLOCK = [{"ipBlock": {"cidr": "10.9.0.0/16"}}]
CHANGES: dict[str, Any] = {
    "nameOverride": "changed",
    "fullnameOverride": "changed",
    "commonLabels": {"changed": "yes"},
    "airflow.release": "changed",
    "airflow.metadataSecret.name": "changed",
    "airflow.metadataSecret.key": "changed",
    "airflow.jwtSecret.name": "changed",
    "airflow.jwtSecret.key": "changed",
    "airflow.configMap.enabled": False,
    "airflow.configMap.name": "changed",
    "airflow.configMap.key": "changed",
    "airflow.executionApiUrl": "https://changed/execution/",
    "config.ecs_reconciler": {"deployment": "changed"},
    "config.aws_ecs_executor": {"cluster": "changed"},
    "aws.roleArn": ROLE,
    "aws.podIdentity": True,
    "image.repository": "changed",
    "image.tag": "changed",
    "image.digest": f"sha256:{'0' * 64}",
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "changed"}],
    "replicaCount": 7,
    "updateStrategy": {"type": "Recreate"},
    "terminationGracePeriodSeconds": 77,
    "revisionHistoryLimit": 7,
    "podDisruptionBudget.enabled": False,
    "podDisruptionBudget.maxUnavailable": "77%",
    "migrations.enabled": False,
    "migrations.useHelmHooks": False,
    "migrations.waitSeconds": 77,
    "migrations.annotations": {"changed": "yes"},
    "migrations.ttlSecondsAfterFinished": 77,
    "database.existingSecret": "changed",
    "database.key": "changed",
    "database.grantTo": "changed",
    "serviceAccount.create": False,
    "serviceAccount.name": "changed",
    "serviceAccount.annotations": {"changed": "yes"},
    "http.host": "::",
    "http.port": 7777,
    "http.statusPageToken.name": "changed",
    "http.statusPageToken.key": "changed",
    "metrics.renderMode": "alwaysRender",
    "metrics.runbookUrl": "https://changed/%s.md",
    "metrics.monitor.enabled": False,
    "metrics.monitor.kind": "PodMonitor",
    "metrics.monitor.additionalLabels": {"changed": "yes"},
    "metrics.monitor.interval": "77s",
    "metrics.monitor.scrapeTimeout": "77s",
    "metrics.monitor.relabelings": [{"targetLabel": "changed"}],
    "metrics.monitor.metricRelabelings": [{"targetLabel": "changed"}],
    "metrics.alerts.enabled": False,
    "metrics.alerts.additionalLabels": {"changed": "yes"},
    "metrics.alerts.additionalRuleLabels": {"changed": "yes"},
    "metrics.alerts.disabled": ["EcsReconcilerDown"],
    "metrics.dashboards.enabled": False,
    "metrics.dashboards.label": "changed",
    "metrics.dashboards.labelValue": "changed",
    "metrics.dashboards.folder": "changed",
    "networkPolicy.enabled": False,
    "networkPolicy.ingressFrom": BLOCK,
    "networkPolicy.databaseTo": BLOCK,
    "networkPolicy.databasePorts": [7777],
    "networkPolicy.awsTo": BLOCK,
    "networkPolicy.extraEgress": [{"ports": [{"port": 7777}]}],
    "resources": {"limits": {"memory": "77Mi"}},
    "podSecurityContext": {"runAsUser": 77},
    "securityContext": {"runAsUser": 77},
    "podLabels": {"changed": "yes"},
    "podAnnotations": {"changed": "yes"},
    "priorityClassName": "changed",
    "nodeSelector": {"changed": "yes"},
    "tolerations": [{"key": "changed"}],
    "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "changed"}]}},
    "topologySpreadConstraints": [{"maxSkew": 7, "topologyKey": "changed", "whenUnsatisfiable": "DoNotSchedule"}],
    "extraEnv": [{"name": "CHANGED", "value": "yes"}],
    "extraEnvFrom": [{"secretRef": {"name": "changed"}}],
    "extraVolumes": [{"name": "changed", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "changed", "mountPath": "/changed"}],
    "extraObjects": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "changed"}}],
}
NEEDS: dict[str, dict[str, Any]] = {
    "database.key": {"database.existingSecret": "own"},
    "http.statusPageToken.key": {"http.statusPageToken.name": "page"},
}
"""What another value needs to be seen."""
ON = {
    "metrics.monitor.enabled": True,
    "metrics.alerts.enabled": True,
    "metrics.dashboards.enabled": True,
    "networkPolicy.enabled": True,
}
"""What is off as the chart comes."""


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Values by their paths, as Helm takes them."""
    made: dict[str, Any] = {"image": {"repository": "example/airflow"}}
    for path, value in flat.items():
        *folders, name = path.split(".")
        place = made
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return made


def test_each_value_that_is_documented_is_changed_here() -> None:
    # `config` is documented as a whole as well, above its two sections.
    assert CHANGES.keys() == {path for path, _, _ in values()} - {"config"}


@pytest.fixture(scope="module")
def unchanged(helm: Helm) -> Callable[[dict[str, Any], bool], Objects]:
    """What is rendered before the change, once for all values that need nothing else."""
    known: dict[str, Objects] = {}

    def render(before: dict[str, Any], operator: bool) -> Objects:
        key = f"{operator} {before}"
        if key not in known:
            known[key] = helm.render(nested(before), operator=operator)
        return known[key]

    return render


@pytest.mark.parametrize("path", CHANGES)
def test_it_changes_what_is_rendered(
    helm: Helm, unchanged: Callable[[dict[str, Any], bool], Objects], path: str
) -> None:
    before = ON | NEEDS.get(path, {})
    operator = path != "metrics.renderMode"
    changed = helm.render(nested(before | {path: CHANGES[path]}), operator=operator)
    assert changed != unchanged(before, operator)
