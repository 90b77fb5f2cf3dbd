"""The same options, given to the official executor's own code and to ours: the same request, or a stated reason."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest

from reconciler.localecs import LocalEcs, Settings
from tests.unit.rules import BASE, RULES, Refused, Rule
from tests.unit.test_rules import ADDED, DEFAULT_STRATEGY, in_any_order

HERE = Path(__file__).parent
GUIDE = HERE.parents[1] / "docs/migrating.md"

pytestmark = [pytest.mark.airflow]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the official executor makes of each rule: `request` or `error`."""
    if importlib.util.find_spec("airflow.providers.amazon") is None:
        pytest.skip("the Amazon provider is not installed: pip install apache-airflow-providers-amazon")
    home = tmp_path_factory.mktemp("peer")
    rules = [{"options": {**BASE, **rule.options}, "executor_config": rule.executor_config} for rule in RULES]
    with LocalEcs(settings=Settings.unthrottled(), cluster="some-cluster") as ecs:
        client = boto3.client(
            "ecs",
            endpoint_url=ecs.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
        )
        for cluster, strategy in DEFAULT_STRATEGY.items():
            shown: Any = strategy
            client.create_cluster(clusterName=cluster, defaultCapacityProviderStrategy=shown)
        client.close()
        done = subprocess.run(
            [sys.executable, HERE / "kwargs.py"],
            input=json.dumps(rules),
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))},
                "AIRFLOW_HOME": str(home),
                "AWS_ENDPOINT_URL_ECS": ecs.endpoint_url,
                "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": "any",
                "AWS_DEFAULT_REGION": "us-east-1",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return {rule.name: answer for rule, answer in zip(RULES, answers, strict=True)}


def plain(request: dict[str, Any]) -> dict[str, Any]:
    """Without what either side adds to a container."""
    for container in request["overrides"]["containerOverrides"]:
        container.pop("command", None)
        left = [v for v in container.pop("environment", []) if v["name"] not in ADDED]
        if left:
            container["environment"] = left
    return in_any_order(request)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_peer_sends_the_same_or_the_difference_is_stated(rule: Rule, peer: dict[str, dict[str, Any]]) -> None:
    answer = peer[rule.name]
    same = (
        not isinstance(rule.request, Refused)
        and "request" in answer
        and (plain(answer["request"]) == in_any_order(rule.request))
    )
    if rule.peer == "same":
        assert same, answer
    else:
        assert not same, "the official executor does the same by now: take the difference off the list"


def test_each_difference_has_its_reason_in_the_guide_and_the_guide_has_no_others() -> None:
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", GUIDE.read_text(), re.MULTILINE))
    assert listed == {rule.peer for rule in RULES} - {"same"}
