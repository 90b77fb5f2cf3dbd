"""PgBouncer before the suite's PostgreSQL, as Airflow's Helm chart puts it there: a pool for each transaction."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Postgres

PORT = 6432
_CONFIG = """
[databases]
* = host={server} user={user}
[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
logfile = {folder}/log
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
"""


@contextmanager
def pgbouncer(postgres: Postgres, size: int = 2) -> Iterator[Path]:
    """The folder of its socket. So few server connections for each database that its clients must share them."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer was found: install the distribution's package")
    folder = Path(tempfile.mkdtemp(prefix="pgb-"))  # a socket's path may have 107 characters only
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        _CONFIG.format(server=postgres.socket.parent, user=postgres.user, port=PORT, folder=folder, size=size)
    )
    root = os.geteuid() == 0
    if root:
        # It refuses to run as root.
        shutil.chown(folder, postgres.user)
    process = subprocess.Popen([program, "-q", settings], cwd=folder, user=postgres.user if root else None)
    try:
        _wait(process, folder)
        yield folder
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    clock = SystemClock()
    until = clock.monotonic() + 30
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(folder / f".s.PGSQL.{PORT}")) == 0:
                return
        assert process.poll() is None, (folder / "log").read_text()
        assert clock.monotonic() < until, (folder / "log").read_text()
        clock.wait(0.05)
