"""Options from everywhere that Airflow reads its own from."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest
from airflow.configuration import conf
from airflow.secrets import BaseSecretsBackend

from reconciler.airflow import options
from reconciler.airflow.options import read
from reconciler.config import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER = "AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER"


class Backend(BaseSecretsBackend):
    def get_config(self, key: str) -> str | None:
        return "from-backend" if key == "ecs/cluster" else None


@pytest.mark.parametrize("option", ["cluster", "subnets", "run_task_kwargs", "conn_id"])
def test_any_option_may_come_from_a_command(option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_text("from-file\n")
    monkeypatch.setenv(f"AIRFLOW__AWS_ECS_EXECUTOR__{option.upper()}_CMD", f"cat {shlex.quote(str(path))}")
    assert read("aws_ecs_executor", option) == "from-file"


def test_or_from_the_secrets_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "get_custom_secret_backend", Backend)
    monkeypatch.setenv(f"{CLUSTER}_SECRET", "ecs/cluster")
    assert read("aws_ecs_executor", "cluster") == "from-backend"
    monkeypatch.setenv(f"{CLUSTER}_SECRET", "nothing")
    with pytest.raises(ConfigError, match=r"cluster_secret.*no configuration named 'nothing'"):
        read("aws_ecs_executor", "cluster")


def test_an_options_own_variable_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{CLUSTER}_CMD", "false")
    monkeypatch.setenv(CLUSTER, "mine")
    assert read("aws_ecs_executor", "cluster") == "mine"


def test_airflow_cfg_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLUSTER, raising=False)
    conf.set("aws_ecs_executor", "cluster", "in-the-file")
    try:
        assert read("aws_ecs_executor", "cluster") == "in-the-file"
    finally:
        conf.remove_option("aws_ecs_executor", "cluster")


@pytest.mark.parametrize("command", ["false", "/nowhere/at-all", "echo 'unclosed"])
def test_a_command_that_fails_is_a_sentence(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{CLUSTER}_CMD", command)
    with pytest.raises(ConfigError, match=r"\[aws_ecs_executor\] cluster_cmd: the command failed"):
        read("aws_ecs_executor", "cluster")


def test_a_secret_without_a_backend_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{CLUSTER}_SECRET", "ecs/cluster")
    with pytest.raises(ConfigError, match="no secrets backend"):
        read("aws_ecs_executor", "cluster")
