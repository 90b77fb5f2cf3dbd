"""Every command of the documentation is run, or says what it would need to be run.

- A block without a marker is run here, page by page and in order, in an empty folder.
- `make …` is run by the suite or by CI, see ELSEWHERE.
- A block marked `<!-- needs: aws -->` (or one of NEEDS) is not run. What can be known without is checked: our commands
  parse, AWS's commands and options exist, Helm's values render. What needs no more than this machine has a test of its
  own: a local ECS in a second terminal, the simulation in a checkout.
- `<!-- run by: make release-check -->`: run there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore import xform_name

from reconciler import cli
from reconciler.clock import SystemClock
from tests.docs.pages import BLOCKS, PAGES, ROOT, SHELL, prose
from tests.sim.__main__ import main as simulate

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

AWS_ONLY = {"cloudformation deploy", "ecr get-login-password", "logs tail"}
"""Commands of AWS's command line that are no operations of the API."""
COMMON = {"query", "output", "region", "cli-input-json", "endpoint-url"}
"""Options that each of its commands has."""
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


def test_no_block_is_overlooked() -> None:
    """Each line that opens or closes a fence, in whatever way, belongs to a block that is looked at."""
    for page in PAGES:
        fences = re.findall(r"^[ >]*(?:```|~~~)", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len([block for block in BLOCKS if block.page == page]), page


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


def test_flags_of_our_commands_in_the_text_exist() -> None:
    known = {f"ecs-reconciler {c.name}": {flag for a in c.arguments for flag in a.flags} for c in cli.COMMANDS}
    known["make demo"] = known["ecs-reconciler demo"]
    named = 0
    for page in PAGES:
        for command, rest in re.findall(r"`((?:ecs-reconciler|make) [a-z-]+)([^`]*)`", prose(page)):
            flags = set(re.findall(r"--[a-z][a-z-]*", rest))
            assert flags <= known.get(command, set()), f"{page.name}: {command}: {flags}"
            named += len(flags)
    assert named > 3


def test_what_is_made_can_be_made() -> None:
    """`make NAME`, in blocks and in the text."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^ *|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, f"{page.name}: {named - targets}"


def test_the_commands_of_the_simulation_run(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in marked if block.marker == "needs: a checkout" and block.page.stem == "simulation"]
    runs = [command.partition(" -m tests.sim ")[2].split() for command in block.commands if " -m tests.sim " in command]
    assert runs
    for words in runs:
        if "NAME" not in words:
            assert simulate(words) == 0
            assert capsys.readouterr().out


def test_a_local_ecs_in_a_second_terminal(tmp_path: Path) -> None:
    """The first command of the block is one terminal, the others are another one."""
    if shutil.which("aws") is None:
        reason = "the aws command line is not installed"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    (block,) = [block for block in marked if block.marker == "needs: a second terminal"]
    first, *others = block.commands
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = inherited | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "AWS_PAGER": ""}
    log = tmp_path / "first.log"
    with log.open("wb") as output:
        # On a port that is free: the one it has by itself may be somebody's.
        server = subprocess.Popen(
            [*shlex.split(first), "--port", "0"], cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
    try:
        clock = SystemClock()
        deadline = clock.monotonic() + 60
        while (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) is None:
            assert server.poll() is None, log.read_text()
            assert clock.monotonic() < deadline, log.read_text()
            clock.wait(0.1)
        script = "\n".join(["set -e", *others]).replace("http://127.0.0.1:4569", found[0])
        assert found[0] in script
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        arns = set(re.findall(r'"(arn:aws:ecs:[^"\\]+:task/[^"\\]+)"', done.stdout))
        assert len(arns) == 1
        assert "ECS Task State Change" in done.stdout
        while not [log for log in tmp_path.rglob(f"{arns.copy().pop().rpartition('/')[2]}.log") if log.stat().st_size]:
            assert clock.monotonic() < deadline, done.stdout
            clock.wait(0.1)
    finally:
        server.terminate()
        server.wait(timeout=30)


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
        members = {xform_name(name, "-") for name in shape.members} | COMMON
        given = {option.removeprefix("--").partition("=")[0] for option in options if option.startswith("--")}
        assert given <= members, f"aws {service} {operation}: {given - members}"


def test_helms_commands_render() -> None:
    helm = ROOT / ".tools/helm4"
    if not helm.exists():
        pytest.skip("no .tools/helm4: run `make tools`")
    ours = [words for words in words_of("helm") if "charts/ecs-reconciler" in words]
    assert ours
    for words in ours:
        flags = [word for word in words if word not in ("upgrade", "--install", "--reuse-values")]
        subprocess.run([helm, "template", *flags], cwd=ROOT, check=True, capture_output=True, timeout=60)
