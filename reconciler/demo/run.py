"""The story of the demo: start everything, run the DAG, kill the daemon if asked to, wait for the end, report."""

from __future__ import annotations

import signal
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from reconciler.clock import SystemClock
from reconciler.core.errors import StartError
from reconciler.core.phase import Phase
from reconciler.demo.report import checks, show_checks, show_totals, show_tries
from reconciler.demo.stack import Stack, StackError, StackTimeoutError
from reconciler.demo.world import observe, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.status import Status

__all__ = ["demo"]

DAGS: Final = Path(__file__).parent / "dags"
DAG: Final = "demo"
RUN: Final = "demo"
RUN_SECONDS: Final = 600.0
SLOW_LAUNCHES: Final = {
    "AIRFLOW__ECS_RECONCILER__LAUNCH_RATE": "2",
    "AIRFLOW__ECS_RECONCILER__LAUNCH_BURST": "2",
}
"""So that there is a middle of launches to kill the daemon in."""


def demo(directory: Path | None, *, kill_daemon: bool, keep: bool) -> int:
    """Run the demo in `directory`, or in a new one. Returns 0 if every check holds, else 1. Raises StartError."""
    place = (directory or Path(tempfile.mkdtemp(prefix="ecs-reconciler-demo-"))).resolve()
    if place.exists() and any(place.iterdir()):
        raise StartError(f"--directory: {place} is not empty; name another directory, or none for a new one")
    console = Console()
    with _interrupted_once(), console.status("starting") as status:
        return _Demo(place, console, status).run(kill_daemon=kill_daemon, keep=keep)


class _Demo:
    """What all steps of the story need."""

    def __init__(self, place: Path, console: Console, status: Status) -> None:
        self._place, self._console, self._status = place, console, status
        self._clock = SystemClock()
        self._began = self._clock.monotonic()

    def run(self, *, kill_daemon: bool, keep: bool) -> int:
        """From the first process to the exit code."""
        self._print(f"Airflow, a local ECS and the daemon run in {self._place}")
        settings = SLOW_LAUNCHES if kill_daemon else {}
        try:
            with Stack(self._place, dags=DAGS, clock=self._clock, settings=settings, say=self._say) as stack:
                good = self._play(stack, kill_daemon=kill_daemon)
                if keep:
                    self._stay(stack)
                self._say("everything to stop")
        except StackError as error:
            self._print(f"The demo failed: {error}")
            return 1
        return 0 if good else 1

    def _play(self, stack: Stack, *, kill_daemon: bool) -> bool:
        """Run the DAG and judge what happened."""
        stack.has_parsed(DAG)
        began = self._clock.monotonic()
        stack.api.trigger(DAG, RUN)
        if kill_daemon:
            self._kill_three_times(stack)
        with suppress(StackTimeoutError):  # the checks say what is missing
            stack.wait("the end of the DAG run", lambda: self._settled(stack), RUN_SECONDS)
        self._status.stop()
        world = observe(stack, DAG, RUN)
        show_tries(self._console, world)
        show_totals(self._console, world, self._clock.monotonic() - began)
        found = checks(world)
        show_checks(self._console, found)
        return all(check.holds for check in found)

    def _settled(self, stack: Stack) -> bool:
        if stack.api.run_state(DAG, RUN) in ("success", "failed"):
            return observe(stack, DAG, RUN).settled
        states = Counter(instance["state"] or "waiting" for instance in stack.api.instances(DAG, RUN))
        self._status.update(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
        return False

    def _kill_three_times(self, stack: Stack) -> None:
        """Twice with launches under way, some of them answered and some not, and once while containers run."""
        launched = 0
        for _ in range(2):
            stack.wait("a moment in the middle of launches", partial(_amid_launches, stack, launched))
            launched = self._kill(stack)
        stack.wait("a moment while tasks run", lambda: _only_running(stack))
        self._kill(stack)

    def _kill(self, stack: Stack) -> int:
        """SIGKILL the daemon and start it again. Returns how many launches had been answered."""
        daemon = stack.processes["daemon"]
        daemon.kill()
        found = _phases(stack)
        self._print(
            f"         the daemon is killed (SIGKILL) with {found[Phase.LAUNCHING]} launches under way, "
            f"{found[Phase.PENDING]} waiting, {found[Phase.STARTED] + found[Phase.RUNNING]} ECS tasks alive"
        )
        daemon.start()
        stack.wait("the daemon to lead again", stack.daemon_ready)
        return _launched(found)

    def _stay(self, stack: Stack) -> None:
        self._print("")
        self._print(f"Airflow    {stack.url}")
        self._print(f"status     {stack.daemon_url}/      (metrics: {stack.daemon_url}/metrics)")
        self._print(f"local ECS  AWS_ENDPOINT_URL_ECS={stack.ecs_url}")
        self._print("Ctrl-C stops it all.")
        with suppress(KeyboardInterrupt):
            stack.wait("Ctrl-C", lambda: False, float("inf"))

    def _say(self, what: str) -> None:
        self._print(f"{self._clock.monotonic() - self._began:6.1f} s waiting for {what}")
        self._status.update(f"waiting for {what}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _phases(stack: Stack) -> Counter[Phase]:
    return Counter(w.phase for w in rows(stack, DAG, RUN) if w.key.task_id == "square")


def _launched(found: Counter[Phase]) -> int:
    return found.total() - found[Phase.LAUNCHING] - found[Phase.PENDING]


def _amid_launches(stack: Stack, least: int) -> bool:
    """Whether some of the mapped tasks are being launched, and more than `least` have been."""
    found = _phases(stack)
    return found[Phase.LAUNCHING] > 0 and _launched(found) > least


def _only_running(stack: Stack) -> bool:
    found = _phases(stack)
    return found[Phase.RUNNING] > 0 and not found[Phase.LAUNCHING]


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """SIGTERM is like Ctrl-C, and a second one does not disturb the tidying up after the first."""

    def interrupt(*_: Any) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
