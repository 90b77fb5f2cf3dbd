"""Beside the official Airflow chart, by its documented names and values. The chart itself is not fetched by tests.

Names: https://airflow.apache.org/docs/helm-chart/stable/release_notes.html, 1.11.0 and 1.18.0.
Values: https://airflow.apache.org/docs/helm-chart/stable/parameters-ref.html
"""

from __future__ import annotations

import configparser
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from reconciler.config import daemon_settings, shim_settings
from tests.chart.conftest import CHART
from tests.docs.pages import blocks

if TYPE_CHECKING:
    from tests.chart.conftest import Helm

EXECUTOR = (
    r"([a-zA-Z_][a-zA-Z0-9_]*\.)*[A-Z][a-zA-Z0-9]+Executor(,([a-zA-Z_][a-zA-Z0-9_]*\.)*[A-Z][a-zA-Z0-9]+Executor)*"
)
"""What the chart's schema takes for `executor`: a class whose name ends in Executor."""
DOCUMENTED = {
    "executor",
    "images.airflow.repository",
    "images.airflow.tag",
    "jwtSecretName",
    "config",
    "ingress.apiServer.enabled",
    "ingress.apiServer.ingressClassName",
    "ingress.apiServer.path",
    "ingress.apiServer.pathType",
    "ingress.apiServer.hosts",
    "ingress.apiServer.annotations",
    "pgbouncer.extraNetworkPolicies",
    "apiServer.networkPolicy.ingress.from",
}
"""Values that the README sets, each looked up in the chart."""
README = CHART / "README.md"
EXAMPLES = [yaml.safe_load(block.text) for block in blocks(README) if block.language == "yaml"]
OURS = [values for values in EXAMPLES if "metrics" in values]
BLOCKS = [values for values in EXAMPLES if values not in OURS]


def leaves(value: Any, path: str = "") -> set[str]:
    if not isinstance(value, dict) or path in DOCUMENTED:
        return {path}
    return {leaf for name, part in value.items() for leaf in leaves(part, f"{path}.{name}".removeprefix("."))}


def test_the_readme_sets_values_that_airflows_chart_has() -> None:
    assert set().union(*map(leaves, BLOCKS)) == DOCUMENTED


def test_airflows_chart_takes_our_executor() -> None:
    assert re.fullmatch(EXECUTOR, BLOCKS[0]["executor"])


def test_the_airflow_cfg_of_the_readme_is_what_scheduler_and_daemon_need() -> None:
    """As Airflow's chart writes it: `name = value`, each value as text."""
    config: dict[str, dict[str, Any]] = BLOCKS[0]["config"]
    values = [value for section in config.values() for value in section.values()]
    assert not [value for value in values if isinstance(value, list | dict)], "they would be written in Go's own form"
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read_dict(config)
    secret = {("database", "sql_alchemy_conn"): "postgresql://"}

    def read(section: str, option: str) -> str | None:
        return secret.get((section, option)) or parsed.get(section, option, fallback=None)

    assert daemon_settings(read).options.deployment == shim_settings(read).deployment == "prod"


@pytest.mark.parametrize(
    ("release", "prefix"),
    [("airflow", "airflow"), ("prod", "prod"), ("prod-airflow", "prod-airflow")],
    ids=["airflow", "any-release", "full-name-with-useStandardNaming"],
)
def test_the_names_are_those_of_airflows_chart(helm: Helm, release: str, prefix: str) -> None:
    rendered = helm.render({"airflow": {"release": release}})
    assert rendered.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]["secretKeyRef"]["name"] == f"{prefix}-metadata"
    assert rendered.env["AIRFLOW__API_AUTH__JWT_SECRET"]["secretKeyRef"]["name"] == f"{prefix}-jwt-secret"
    (config,) = [volume["configMap"] for volume in rendered.pod["spec"]["volumes"] if "configMap" in volume]
    assert config["name"] == f"{prefix}-config"


def test_the_policies_of_the_readme_let_the_daemon_in(helm: Helm) -> None:
    (entry,) = next(block for block in BLOCKS if "pgbouncer" in block)["pgbouncer"]["extraNetworkPolicies"]
    labels = helm.render(release="ecs-reconciler").pod["metadata"]["labels"]
    assert entry["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_readme_sets_values_that_this_chart_has(each_helm: Helm) -> None:
    assert OURS
    for values in OURS:
        assert each_helm.render(values)
