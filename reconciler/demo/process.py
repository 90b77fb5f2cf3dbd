"""One child process: its own session, its output in a file, and an end that is always reached."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from reconciler.localecs.session import kill_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from reconciler.seams import Clock

__all__ = ["Process"]

_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h: the signal that a process gets when the thread that started it ends."""


class Process:
    """A command that can be started, stopped, killed and started again. Its output is appended to `log`.

    Each start is a session of its own, so that Ctrl-C in the terminal reaches only us and we end the rest in order.
    Should we be killed, which nobody can answer with order, Linux tells each of them to end.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command, self._environment = list(command), dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. It must not be running."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the commands are those of the stack
                self._command,
                env=self._environment,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it calls the kernel and nothing else
            )

    @property
    def pid(self) -> int:
        """The process that was started. It must not have been stopped."""
        if self._process is None:
            raise ValueError(f"{self.name} does not run")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, None while it runs. 128 and its number for a signal."""
        if self._process is None:
            return None
        # Look, do not reap: as long as the zombie holds the process id, the session's id cannot become someone else's.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status

    def terminate(self) -> None:
        """Ask it to end: the first process only, which ends its helpers itself and in order."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGTERM)

    def stop(self, clock: Clock, seconds: float = 15) -> None:
        """Ask it to end, and kill what is left of it after `seconds`."""
        self.terminate()
        deadline = clock.monotonic() + seconds
        while self._process is not None and self.exit_code is None and clock.monotonic() < deadline:
            clock.wait(0.05)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and all that it started."""
        if self._process is not None:
            kill_session(self._process.pid)
            self._process.wait()
            self._process = None

    def tail(self, lines: int = 20) -> str:
        """The end of its output, for the person who has to find out why it died."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _end_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
