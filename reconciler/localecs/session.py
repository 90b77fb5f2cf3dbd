"""Ending a process with all that it started, as the end of a container does."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

__all__ = ["kill_session"]


def kill_session(leader: int) -> None:
    """SIGKILL to a process that leads a session, and to all in that session. Nobody must have reaped it yet.

    Its process group is not enough: Airflow's supervisor moves the task that it runs to a group of its own
    (airflow/sdk/execution_time/supervisor.py), and a killed supervisor would leave the task running.
    """
    os.killpg(leader, signal.SIGKILL)
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if os.getsid(int(entry.name)) == leader:
                os.kill(int(entry.name), signal.SIGKILL)
