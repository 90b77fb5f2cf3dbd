"""No secret in any line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reconciler.log import redact


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("token eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl end", "token <token> end"),
        ("postgresql+psycopg://airflow:hunter2@db/airflow", "postgresql+psycopg://airflow:***@db/airflow"),
        ("http://127.0.0.1:9102/metrics", "http://127.0.0.1:9102/metrics"),
        ("arn:aws:ecs:us-east-1:1:task/airflow/1", "arn:aws:ecs:us-east-1:1:task/airflow/1"),
    ],
)
def test_tokens_and_passwords_are_taken_out(line: str, shown: str) -> None:
    assert redact(line) == shown


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_variables(form: str) -> None:
    script = f"""
import structlog
from reconciler.log import configure
configure({form!r}, "INFO")
def fail(password, token):
    raise RuntimeError("postgresql://airflow:hunter2@db/airflow")
try:
    fail("hunter2", "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl")
except RuntimeError:
    structlog.get_logger().exception("failed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "RuntimeError" in done.stderr
    assert "hunter2" not in done.stderr.replace('fail("hunter2"', "").replace('fail(\\"hunter2', "")
    assert "eyJhbGciOiJIUzUxMiJ9.eyJz" not in done.stderr
