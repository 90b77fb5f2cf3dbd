"""Options, `run_task_kwargs` and `executor_config` in, the exact RunTask request out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.config import ConfigError, DaemonSettings, daemon_settings
from reconciler.core import runtask
from reconciler.core.parameters import placed
from tests.unit.rules import BASE, RULES, Refused, Rule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_STRATEGY: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "with-default": [{"capacityProvider": "FARGATE_SPOT"}],
    "on-ec2": [{"capacityProvider": "instances"}],
}
"""What DescribeClusters shows of the clusters of the rules."""
ADDED = {"AIRFLOW_IS_EXECUTOR_CONTAINER", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "ECS_RECONCILER_EXEC_ID"}


def settings(options: Mapping[str, str | None]) -> DaemonSettings:
    given = {
        ("ecs_reconciler", "deployment"): "prod",
        ("database", "sql_alchemy_conn"): "sqlite:///x.db",
        ("core", "execution_api_server_url"): "http://api/execution/",
        **{("aws_ecs_executor", name): value for name, value in {**BASE, **options}.items()},
    }
    return daemon_settings(lambda section, option: given.get((section, option)))


def request(rule: Rule) -> dict[str, Any]:
    """What is sent, without identity and command, and without what every container is given."""
    profile = settings(rule.options).profiles.default
    strategy = DEFAULT_STRATEGY.get(profile.cluster, [])
    profile = replace(profile, run_task=placed(profile.run_task, strategy))
    sent = runtask.compose(
        runtask.plan(profile, "x", rule.executor_config), ["python"], token="t", started_by="prod/x/1"
    )
    assert (sent.pop("clientToken"), sent.pop("startedBy")) == ("t", "prod/x/1")
    for container in sent["overrides"]["containerOverrides"]:
        variables = container.pop("environment", [])
        assert container.pop("command", ["python"]) == ["python"]
        if container["name"] == profile.container_name:
            assert {v["name"] for v in variables} >= ADDED
        if rest := [v for v in variables if v["name"] not in ADDED]:
            container["environment"] = rest
    return sent


def in_any_order(request: dict[str, Any]) -> dict[str, Any]:
    """Container overrides are told apart by their names."""
    overrides = request["overrides"]
    return {
        **request,
        "overrides": {**overrides, "containerOverrides": {c["name"]: c for c in overrides["containerOverrides"]}},
    }


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule(rule: Rule) -> None:
    if isinstance(rule.request, Refused):
        with pytest.raises((ConfigError, runtask.RequestRefusedError)) as caught:
            request(rule)
        assert rule.request.words in str(caught.value)
    else:
        assert in_any_order(request(rule)) == in_any_order(rule.request)


def test_the_rules_have_names_of_their_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
