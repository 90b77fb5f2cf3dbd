"""What the tests of metrics, rules and dashboards share: the distribution's Prometheus, and the files under test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "grafana/alerts.yaml"


def program(*names: str) -> str:
    """The first of these programs that is installed. In CI a skip is an error."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not installed: apt-get install prometheus prometheus-alertmanager")


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool")


def alerts() -> dict[str, dict[str, Any]]:
    """The rules by alert."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def filled(expression: str, window: str = "1m") -> str:
    """A panel's query as Grafana sends it, with all namespaces, deployments and queues chosen."""
    for name, value in (("$__rate_interval", window), ("$__interval", window)):
        expression = expression.replace(name, value)
    for name in ("namespace", "deployment", "queue"):
        expression = expression.replace(f"${name}", ".*")
    return expression
