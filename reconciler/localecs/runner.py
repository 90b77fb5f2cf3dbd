"""Runs containers as local processes.

Each container is a process in a session of its own. Its output goes to a file, its environment is an "image"
environment plus what the task definition and the override set. As in a container, when the first process ends the
rest of its session is killed. A descendant that opens a session of its own escapes; there are no namespaces here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from reconciler.localecs.session import kill_session
from reconciler.localecs.task import Effect, SignalContainer, StartContainer

if TYPE_CHECKING:
    from pathlib import Path

# task ARN, container, exit code, reason
OnExit = Callable[[str, str, int, str | None], None]

CANNOT_START = 127


class Runner:
    """Carries out effects. `on_exit` is called from a thread of its own for each container that ends.

    `environment` is what the image would bring. Log files: `<directory>/<container>/<task id>.log`, the order in
    which the awslogs driver names its streams.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], on_exit: OnExit) -> None:
        self._directory = directory
        self._environment = environment
        self._on_exit = on_exit
        self._lock = threading.Lock()
        self._processes: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._waiters: set[threading.Thread] = set()

    def execute(self, effect: Effect) -> None:
        """Start or signal a container. A signal for one that has ended is too late and does nothing."""
        if isinstance(effect, StartContainer):
            self._start(effect)
        else:
            self._signal(effect)

    def log_path(self, task_arn: str, container: str) -> Path:
        """Where the output of a container goes."""
        return self._directory / container / f"{task_arn.rpartition('/')[2]}.log"

    def running(self) -> int:
        """How many containers run now."""
        with self._lock:
            return len(self._processes)

    def stop_all(self, grace: float) -> None:
        """SIGTERM to every container, SIGKILL after `grace` seconds to what is left, and wait for the end of all."""
        for number, timeout in ((signal.SIGTERM, grace), (signal.SIGKILL, None)):
            with self._lock:
                waiters = list(self._waiters)
                for process in self._processes.values():
                    os.killpg(process.pid, number)
            for waiter in waiters:
                waiter.join(timeout)

    def _start(self, effect: StartContainer) -> None:
        key = (effect.task_arn, effect.container)
        path = self.log_path(*key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not effect.command:
            reason = "CannotStartContainerError: there is no image here, so the task definition must name a command."
            self._on_exit(*key, CANNOT_START, reason)
            return
        with path.open("ab") as log:
            try:
                process = subprocess.Popen(  # noqa: S603 - running the command of a task is what this is for
                    effect.command,
                    env={**self._environment, **effect.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                self._on_exit(*key, CANNOT_START, f"CannotStartContainerError: {error}")
                return
        waiter = threading.Thread(target=self._wait, args=(key, process), name=f"wait-{process.pid}", daemon=True)
        with self._lock:
            self._processes[key] = process
            self._waiters.add(waiter)
        waiter.start()

    def _signal(self, effect: SignalContainer) -> None:
        with self._lock:
            process = self._processes.get((effect.task_arn, effect.container))
            if process is not None:
                os.killpg(process.pid, signal.Signals[effect.signal])

    def _wait(self, key: tuple[str, str], process: subprocess.Popen[bytes]) -> None:
        # Look, do not reap: as long as the zombie holds the process id, the session's id cannot become someone else's.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            kill_session(process.pid)
            del self._processes[key]
            code = process.wait()
        self._on_exit(*key, code if code >= 0 else 128 - code, None)
        with self._lock:
            self._waiters.discard(threading.current_thread())
