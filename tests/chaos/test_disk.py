"""A disk that is full, under SQLite: nothing is launched twice, nothing is lost, and the daemon goes on by itself."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from reconciler.localecs import LocalEcs, Settings
from reconciler.localecs.server import DEMO_DEFINITION
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine
from reconciler.store.migrate import migrate
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = "8m"
"""SQLite tidies its log at four megabytes, which must have room or the disk stays full."""
COUNT = 40


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system that is small enough to be filled")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], check=True, timeout=60)
    yield disk
    subprocess.run(["umount", disk], check=True, timeout=60)


def fill(disk: Path) -> Path:
    """Write until nothing fits any more. Returns what to delete."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(b"\0" * 1024)
    return ballast


@pytest.mark.timeout(900)
def test_a_full_disk_stops_the_daemon_for_as_long_as_it_is_full(tmp_path: Path, small_disk: Path) -> None:
    with LocalEcs(settings=Settings.unthrottled(), directory=tmp_path, stop_grace=0.5) as ecs:
        (tmp_path / "bin").mkdir()
        command = tmp_path / "bin" / "python"
        command.write_text("#!/bin/sh\nexit 1\n")
        command.chmod(0o755)
        environment = [{"name": "PATH", "value": str(command.parent)}]
        container = {"name": "airflow", "image": "none", "environment": environment}
        ecs.call("RegisterTaskDefinition", {**DEMO_DEFINITION, "containerDefinitions": [container]})
        site = Site(ecs, tmp_path)
        site.engine.dispose()
        site.url = f"sqlite:///{small_disk}/airflow.db"
        site.engine = make_engine(site.url)
        site.store = SqlStore(site.engine, "test")
        site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = site.url
        migrate(site.engine)
        names = [f"w{n}" for n in range(COUNT)]
        # Few at a time, so that there is a middle for the disk to be full in.
        with site.daemon(AIRFLOW__ECS_RECONCILER__MAX_RUNNING_TASKS="4") as daemon:
            daemon.until_it_says("this replica leads")
            site.queue(*names)
            site.until(lambda: any(site.row(name).terminal for name in names), daemon.log)
            ballast = fill(small_disk)
            daemon.until_it_says("database or disk is full")
            assert daemon.process.poll() is None
            assert daemon.get("/livez")[0] == 200
            ballast.unlink()
            site.until(lambda: all(site.row(name).terminal for name in names), daemon.log)
        rows = [site.row(name) for name in names]
        with ecs.lock:
            made = ecs.model.stats()["tasks"]["created"]
        site.engine.dispose()
    assert {row.exit_code for row in rows} == {1}
    assert made == sum(row.attempt for row in rows) == COUNT
