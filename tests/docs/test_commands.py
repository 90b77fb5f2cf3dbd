"""Every command of the documentation is run, or says what it would need to be run.

- A block without a marker is run here, page by page and in order, in an empty folder.
- `make …` is run by the suite or by CI, see ELSEWHERE.
- A block marked `<!-- needs: aws -->` (or one of NEEDS) is not run. What can be known without is checked: our commands
  parse, AWS's commands and options exist, Helm's values render.
- `<!-- run by: make release-check -->`: run there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore import xform_name

from reconciler import cli
from tests.docs.pages import PAGES, ROOT, SHELL

if TYPE_CHECKING:
    from tests.docs.pages import Block

NEEDS = {"aws", "kubernetes", "docker", "postgresql", "a second terminal", "a checkout"}
ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make demo ARGS=--kill-daemon": (".ci/run", "make demo ARGS=--kill-daemon"),
    "make test": (".ci/run", "make test"),
    "ecs-reconciler demo": ("tests/tools/release_check.py", '[program, "demo"]'),
    "pip install 'airflow-ecs-reconciler[postgres]'": ("Makefile", "--extra postgres pyproject.toml"),
}
"""What is run by other means: the file that does it, and its words for it."""

AWS_ONLY = {"cloudformation deploy", "logs tail"}
"""Commands of AWS's command line that are no operations of the API."""
ENVIRONMENT = {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:///{folder}/airflow.db",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:1/execution/",
    "AIRFLOW__ECS_RECONCILER__DEPLOYMENT": "prod",
    "AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER": "airflow",
    "AIRFLOW__AWS_ECS_EXECUTOR__CONTAINER_NAME": "airflow",
    "AIRFLOW__AWS_ECS_EXECUTOR__REGION_NAME": "eu-central-1",
    "AIRFLOW__AWS_ECS_EXECUTOR__TASK_DEFINITION": "airflow",
}
"""The configuration that readers have at that point."""

marked = [block for block in SHELL if block.marker.startswith("needs: ")]


def run_here(block: Block) -> list[str]:
    return [] if block.marker else [command for command in block.commands if command not in ELSEWHERE]


def test_markers_are_known() -> None:
    for block in SHELL:
        kind, _, what = block.marker.partition(": ")
        assert kind in ("", "needs", "run by"), f"{block.where}: {block.marker}"
        assert kind != "needs" or set(what.split(", ")) <= NEEDS, f"{block.where}: {block.marker}"
        assert kind != "run by" or all(command in ELSEWHERE for command in block.commands), block.where


def test_what_is_run_elsewhere_is() -> None:
    for command, (path, words) in ELSEWHERE.items():
        assert words in (ROOT / path).read_text(), f"{path} does not run {command}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(run_here(block) for block in SHELL if block.page == page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    commands = [command for block in SHELL if block.page == page for command in run_here(block)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}
    environment = inherited | {name: value.format(folder=tmp_path) for name, value in ENVIRONMENT.items()}
    environment |= {"AIRFLOW_HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # A reader has made the tables before the pages that come later.
    tables = ["airflow db migrate"] if any(command.startswith("airflow pools") for command in commands) else []
    script = "\n".join(["set -e", *tables, "ecs-reconciler migrate", *commands])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr


def words_of(program: str) -> list[list[str]]:
    """The words of every marked command of a program."""
    found = [shlex.split(command) for block in marked for command in block.commands]
    return [words[1:] for words in found if words[0] == program]


def test_our_commands_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_guarded", lambda _: lambda _: 0)
    commands = words_of("ecs-reconciler")
    assert commands
    for words in commands:
        assert cli.main(words) == 0


def test_awss_commands_and_options_exist() -> None:
    session = boto3.Session(region_name="eu-central-1")
    commands = words_of("aws")
    assert commands
    for service, operation, *options in commands:
        if f"{service} {operation}" in AWS_ONLY:
            continue
        model = session.client(service).meta.service_model  # type: ignore[call-overload]  # any service
        operations = {xform_name(name, "-"): name for name in model.operation_names}
        assert operation in operations, f"aws {service} {operation}"
        shape = model.operation_model(operations[operation]).input_shape
        members = {xform_name(name, "-") for name in shape.members} | {"query", "output", "region", "cli-input-json"}
        given = {option.removeprefix("--").partition("=")[0] for option in options if option.startswith("--")}
        assert given <= members, f"aws {service} {operation}: {given - members}"


def test_helms_commands_render() -> None:
    helm = ROOT / ".tools/helm4"
    if not helm.exists():
        pytest.skip("no .tools/helm4: run `make tools`")
    ours = [words for words in words_of("helm") if "charts/ecs-reconciler" in words]
    assert ours
    for words in ours:
        flags = [word for word in words if word not in ("upgrade", "--install")]
        subprocess.run([helm, "template", *flags], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_the_readme_of_the_chart_names_airflows_values() -> None:
    """The example sets all that the page says has to be set."""
    text = (ROOT / "charts/ecs-reconciler/README.md").read_text()
    for name in ("executor:", "jwtSecretName:", "execution_api_server_url:", "remote_logging:", "aws_ecs_executor:"):
        assert re.search(rf"^ +{name}", text, re.MULTILINE), name
