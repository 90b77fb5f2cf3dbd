"""`ecs-reconciler demo`, as a user stops and misuses it. That it runs to its end is checked by CI, by running it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]


def processes_of(directory: Path) -> list[str]:
    """The command lines of all processes that work in a directory of the demo."""
    mark = f"AIRFLOW_HOME={directory}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended meanwhile, or is somebody else's
    return found


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "output.txt"
    assert processes_of(tmp_path / "demo") == []


def start(output: Path, *options: str) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        command = [sys.executable, "-m", "reconciler", "demo", "--directory", str(output.parent / "demo"), *options]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def test_ctrl_c_stops_all_that_was_started(output: Path) -> None:
    clock, process = SystemClock(), start(output)
    deadline = clock.monotonic() + 300
    while "the API server" not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert clock.monotonic() < deadline, output.read_text()
        clock.wait(0.2)
    assert len(processes_of(output.parent / "demo")) >= 5
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, output.read_text()


def test_a_directory_that_is_in_use_is_refused_with_a_sentence(tmp_path: Path, output: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").touch()
    assert start(output).wait(timeout=60) == 2
    assert "is not empty; name another directory" in output.read_text()
