"""Containers that are real: each is a process that runs the very command ECS was asked to run.

A thousand fresh interpreters would import Airflow a thousand times, which takes two cores a quarter of an hour. So one
process imports it once and forks for each container; the child does what `python -m MODULE ARGUMENTS` does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reconciler.localecs import SignalContainer, StartContainer
from tests.bench.containers import DONE, task_instance_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from reconciler.localecs import Effect

ROOT: Final = Path(__file__).parents[2]
IMPORTED: Final = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.log",
    "airflow.executors.base_executor",
    "airflow.executors.workloads",
    "airflow.dag_processing.dagbag",
    "airflow.providers.standard.decorators.python",
    "setproctitle",
)
"""What the run of a task imports, but for the module that the command names."""


class Forks(threading.Thread):
    """`exited` reports a container's end to ECS. `environment`: what the image brings. Logs go into `folder`."""

    def __init__(self, environment: Mapping[str, str], folder: str, exited: Callable[[str, str, int], None]) -> None:
        super().__init__(name="forks", daemon=True)
        self._exited = exited
        self._ti: dict[str, str] = {}
        self.admitted: list[tuple[float, str, str]] = []
        """Whose code has run to its end: when that was, the task instance, and the ECS task."""
        self.refused = 0
        """Containers that ended otherwise."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.forks", folder],
            env=dict(environment),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise RuntimeError("the process that forks has ended before it was ready")

    def execute(self, effect: Effect) -> None:
        """Called by the model's driver for all that is to happen, from one thread."""
        if isinstance(effect, StartContainer):
            self._ti[effect.task_arn] = str(task_instance_of(effect.command).get("id", ""))
            what = {"command": list(effect.command), "environment": dict(effect.environment)}
        else:
            assert isinstance(effect, SignalContainer)
            what = {"signal": effect.signal}
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"arn": effect.task_arn, "container": effect.container, **what}) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End all that still runs."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self.join()
        assert self._process.stdout
        self._process.stdout.close()

    def run(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            ended = json.loads(line)
            arn, code = ended["arn"], ended["code"]
            if code == DONE and self._ti[arn]:
                self.admitted.append((time.monotonic(), self._ti[arn], arn))
            self.refused += code != DONE
            self._exited(arn, ended["container"], code)


class Parent:
    """The process that forks. It has one thread, or a child could wait for a lock that nobody holds any more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[int, dict[str, Any]] = {}
        self._wakes, self._wake = os.pipe()
        for end in (self._wakes, self._wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake)

    def serve(self) -> None:
        """Until the far end is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._wakes, selectors.EVENT_READ)
            rest = b""
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._wakes in ready:
                    os.read(self._wakes, 4096)
                    self._reap()
                if 0 in ready:
                    read = os.read(0, 1 << 20)
                    if not read:
                        break
                    *lines, rest = (rest + read).split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))
        for pid in self._children:
            os.killpg(pid, signal.SIGKILL)

    def _obey(self, told: dict[str, Any]) -> None:
        if "signal" in told:
            for pid, child in self._children.items():
                if child["arn"] == told["arn"]:
                    os.killpg(pid, signal.Signals[told["signal"]])
            return
        pid = os.fork()
        if pid == 0:
            self._become(told)
        os.setpgid(pid, pid)  # both do it, because either may be the first to need it
        self._children[pid] = {"arn": told["arn"], "container": told["container"]}

    def _reap(self) -> None:
        for pid, status in _ended():
            child = self._children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            line = json.dumps({**child, "code": code if code >= 0 else 128 - code}) + "\n"
            os.write(1, line.encode())

    def _become(self, told: dict[str, Any]) -> None:
        """The child's life. Does not return."""
        code: Any = 1
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            log = os.open(self._folder / f"{told['arn'].rpartition('/')[2]}.log", os.O_WRONLY | os.O_CREAT, 0o600)
            for fd, number in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
                os.dup2(fd, number)
            os.closerange(3, 64)
            os.environ.update(told["environment"])
            _python(told["command"])
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:  # noqa: BLE001 - whatever it is, it ends this child and no other
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)


def _python(command: list[str]) -> None:
    """`python -m MODULE ...` or `python -c CODE ...`, in this process."""
    python, how, what, *arguments = command
    assert python == "python"
    if how == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [how, *arguments]
        exec(what, {"__name__": "__main__"})  # noqa: S102 - as Python does it


def _ended() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def main() -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or each child copies what the collector touches
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    parent = Parent(folder)
    os.write(1, b"ready\n")
    parent.serve()


if __name__ == "__main__":
    main()
