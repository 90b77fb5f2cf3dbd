"""A PostgreSQL server of the suite's own, in a folder of its own, reached by a Unix socket only."""

from __future__ import annotations

import getpass
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import runs

if TYPE_CHECKING:
    from collections.abc import Iterator


class Server:
    """A database cluster in `folder`. It refuses to run as root, so then it is nobody's."""

    def __init__(self, folder: Path, user: str, binaries: Path, as_user: dict[str, Any], settings: str) -> None:
        self.folder, self.user, self._settings = folder, user, settings
        self._binaries, self._as_user = binaries, as_user
        self._data = folder / "data"
        self._run("initdb", "-D", self._data, "-U", user, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / ".s.PGSQL.5432"

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= {self._settings}"
        self._run("pg_ctl", "-D", self._data, "-l", self.folder / "log", "-o", options, "-w", "-t", "240", "start")

    def stop(self) -> None:
        """Without a checkpoint, and without a word to its clients: the next start recovers as after a crash."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "-t", "240", "stop")

    def processes(self) -> list[int]:
        """The server, and what it has started."""
        postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def kill(self) -> None:
        """SIGKILL to the server and to all its processes, as the kernel does it when memory runs out."""
        lock = self._data / "postmaster.pid"
        os.kill(self.processes()[0], signal.SIGSTOP)  # so that it starts no more of them
        processes = self.processes()
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        for pid in processes:
            while runs(pid):
                os.sched_yield()
        # Their parent may not have reaped them; to the next server a dead process looks like one that still runs.
        lock.unlink()
        (self.folder / ".s.PGSQL.5432.lock").unlink()

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [self._binaries / program, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=300,
            **self._as_user,
        )


@contextmanager
def postgres_server(settings: str = "-c fsync=off -c max_connections=50") -> Iterator[Server]:
    """A running server with these options. Skips the test where no PostgreSQL can be found; in CI that is an error."""
    user = getpass.getuser()
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        user, as_user = "nobody", {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    binaries = _binaries(as_user)
    if binaries is None:
        reason = "no PostgreSQL was found: pip install pgserver, or install the distribution's package"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    # Not pytest's own folder: nobody may not enter it, and a socket's path may have 107 characters only.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if as_user:
            shutil.chown(folder, user)
        server = Server(folder, user, binaries, as_user, settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _binaries(as_user: dict[str, Any]) -> Path | None:
    """A folder with PostgreSQL's programs that this user may run: the distribution's newest, or the wheel's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    wheel = importlib.util.find_spec("pgserver")
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in found:
        try:
            subprocess.run([folder / "initdb", "--version"], check=True, capture_output=True, **as_user)
        except (OSError, subprocess.CalledProcessError):
            continue
        return folder
    return None
