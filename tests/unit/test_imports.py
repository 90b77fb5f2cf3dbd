"""What import contracts can not say, because it is about parts of Airflow."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import reconciler


def loaded(code: str, home: Path) -> set[str]:
    """The modules that are loaded after `code` has run in a process of its own."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    env = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__UNIT_TEST_MODE": "False"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["airflow/push.py", "airflow/options.py", "daemon.py", "cli/work.py", "cli/look.py", "cli/common.py"]
)
def test_the_daemons_side_imports_none_of_airflows_models(module: str) -> None:
    """Airflow's own packages may; ours must not come to depend on its tables."""
    tree = ast.parse((Path(reconciler.__file__).parent / module).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name for name in imported if name.startswith(("airflow.models", "airflow.jobs"))}


def test_the_executor_loads_neither_boto3_nor_the_daemon(tmp_path: Path) -> None:
    modules = loaded("import reconciler.airflow.executor", tmp_path)
    assert "airflow.executors.base_executor" in modules
    assert not {name for name in modules if name.split(".")[0] in ("boto3", "botocore")}
    assert not {"reconciler.daemon", "reconciler.controllers", "reconciler.ecs"} & modules


def test_the_command_line_is_cheap_to_read_for_airflows_own(tmp_path: Path) -> None:
    modules = loaded("import reconciler.cli", tmp_path)
    assert not {"airflow", "boto3", "sqlalchemy", "rich", "pydantic"} & modules
