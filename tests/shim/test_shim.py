"""The executor inside each supported version of Airflow, on each supported database."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT = 900
"""Seconds. They take two minutes on a quiet machine; a busy one may take its time."""


@pytest.mark.airflow
@pytest.mark.timeout(LIMIT + 30)
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
@pytest.mark.parametrize("environment", [".venv", ".venv-3.2"])
def test_the_executor_does_its_work_inside_airflow(
    environment: str, database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    python = ROOT / environment / "bin" / "python"
    if not python.exists():
        reason = f"there is no environment {environment}: make install"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    url: str = request.getfixturevalue(f"{database}_url")

    # The same on each database.
    same = ("test_push.py", "test_credentials.py", "test_options.py", "test_dags_test.py")
    once = [] if database == "sqlite" else [f"--ignore={HERE / 'inside' / name}" for name in same]

    ran = subprocess.run(
        [python, "-m", "pytest", "-c", HERE / "inside.ini", HERE / "inside", "-q", *once],
        cwd=ROOT,
        env={**_without_airflow(os.environ), "SHIM_DATABASE": url, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout


def _without_airflow(environ: Mapping[str, str]) -> dict[str, str]:
    """Nothing that is set for another Airflow on this machine, or for this pytest, reaches the one of the test."""
    return {name: value for name, value in environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
