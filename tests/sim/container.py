"""What runs in a container: Airflow's supervisor and the user's code in it, or a sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.core.runtask import EXEC_ID_VARIABLE, NOTHING

if TYPE_CHECKING:
    from reconciler.localecs import StartContainer
    from tests.sim.aws import Aws

PATIENCE = 5
"""How often the supervisor tries to begin its task before it gives up."""


class Runner:
    """One container from its start to its exit."""

    def __init__(self, aws: Aws, effect: StartContainer) -> None:
        self.aws, self.sim = aws, aws.sim
        self.full_arn, self.container = effect.task_arn, effect.container
        self.arn = effect.task_arn.rsplit("/", 1)[-1][:8]
        self.alive, self.works, self.uploads = True, False, False
        self.ti_id = self.exec_id = ""
        self.attempt = 0
        self.valid = (0.0, 0.0)
        """From when to when its token is valid."""
        self.until = 0.0
        self._tries = 0
        self.unseen = 0.0
        chance = aws.chance
        if effect.command[:1] == ("run",):
            _, self.exec_id, attempt, self.ti_id, kind, begin, end = effect.command[:7]
            self.attempt = int(attempt)
            self.valid = (float(begin), float(end))
            self.sim.note("container", arn=self.arn, id=self.exec_id, attempt=self.attempt, ti=self.ti_id)
            self._after(1 + 10 * chance.random(), self._begin_callback if kind == "callback" else self._begin)
        elif tuple(effect.command) == NOTHING:
            self.exec_id = effect.environment[EXEC_ID_VARIABLE]
            self._after(1 + 10 * chance.random(), lambda: self._exit(1, "nothing"))
        elif effect.command[:1] == ("foreign",):
            self._after(600 + 9000 * chance.random(), lambda: self._exit(0, "done"))
        elif chance.random() < 0.3:  # a sidecar that ends when it likes
            code = chance.choice([0, 1])
            self._after(1 + 60 * chance.random(), lambda: self._exit(code, "sidecar"))

    def _after(self, seconds: float, do: object) -> None:
        def later() -> None:
            if self.alive:
                do()  # type: ignore[operator] # a function without arguments

        self.sim.at(self.sim.now + seconds, later)

    # -- a task ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        airflow = self.aws.airflow
        if airflow.breaks_before_start(self.exec_id):
            self._exit(1, "broken")
        elif airflow.api_down:
            self._tries += 1
            if self._tries >= PATIENCE:
                self._exit(1, "no api")
            else:
                self._after(1 + 20 * self.aws.chance.random(), self._begin)
        elif not airflow.api_run(self):
            self._exit(1, "refused")
        else:
            self.works = True
            seconds, outcome = airflow.program_of(self.ti_id)
            self.until = self.sim.now + seconds
            self._after(seconds, lambda: self._report(outcome))
            if outcome == "oom":
                self._after(seconds * 0.7, lambda: self.die("oom"))

    def _report(self, outcome: str) -> None:
        """The user's code has ended; the supervisor tells the API, and uploads the logs."""
        if not self.works:
            return
        airflow = self.aws.airflow
        if airflow.api_down:
            self._after(10 + 20 * self.aws.chance.random(), lambda: self._report(outcome))
            return
        if outcome != "silent":  # a supervisor that ends in order, and did not come to tell
            airflow.api_report(self, outcome)
        self._leave()

    def _leave(self) -> None:
        self.works, self.uploads = False, True
        self.sim.note("user_end", arn=self.arn, ti=self.ti_id)
        self._after(60 * self.aws.chance.random() ** 2, lambda: self._exit(0, "done"))

    def notice(self) -> None:
        """A heartbeat is due: is the task instance still this container's?"""
        if self.alive and self.works:
            self._after(10 * self.aws.chance.random(), self._heartbeat)

    def _heartbeat(self) -> None:
        if not self.works:
            return
        if self.aws.airflow.api_down:
            self._after(10 * self.aws.chance.random(), self._heartbeat)
        elif not self.aws.airflow.is_mine(self):
            self.sim.note("fenced", arn=self.arn, ti=self.ti_id)
            self._leave()

    def give_up(self) -> None:
        """The API has been away for longer than the supervisor bears: it kills its task."""
        if self.alive and self.works:
            self.works = False
            self.sim.note("user_end", arn=self.arn, ti=self.ti_id)
            self._exit(1, "gave up")

    # -- a callback -----------------------------------------------------------------------------------------------

    def _begin_callback(self) -> None:
        self.sim.note("callback_runs", id=self.exec_id, attempt=self.attempt, callback=self.ti_id)
        code = self.aws.airflow.callback_code(self.ti_id)
        self._after(5 + 60 * self.aws.chance.random(), lambda: self._exit(code, "done"))

    # -- both -----------------------------------------------------------------------------------------------------

    def signal(self, name: str) -> None:
        if not self.alive:
            return
        if name == "SIGKILL":
            self.die("killed")
            return
        if self.uploads:
            self.sim.note("log_cut", arn=self.arn, id=self.exec_id)
        if self.works:
            self.works = False
            self.sim.note("user_end", arn=self.arn, ti=self.ti_id)
            # Airflow's task process raises, and its supervisor may still come to tell.
            if not self.aws.airflow.api_down and self.aws.chance.random() < 0.5:
                self.aws.airflow.api_report(self, "terminated")
        self._after(5 * self.aws.chance.random(), lambda: self._exit(143, "stopped"))

    def die(self, why: str) -> None:
        """At once, and without a word."""
        if self.alive:
            if self.works:
                self.works = False
                self.sim.note("user_end", arn=self.arn, ti=self.ti_id)
            self._exit(137, why)

    def vanish(self, seconds: float) -> None:
        """The same, and the agent that would tell ECS of it is cut off for so long: ECS goes on to show RUNNING."""
        if self.alive:
            self.unseen = seconds
            self.die("vanished")

    def _exit(self, code: int, why: str) -> None:
        self.alive = self.works = self.uploads = False
        if self.exec_id:
            self.aws.airflow.container_gone(self)
            self.sim.note("exit", arn=self.arn, id=self.exec_id, attempt=self.attempt, code=code, why=why)
        if self.unseen:
            self.sim.at(self.sim.now + self.unseen, lambda: self.aws.exited(self.full_arn, self.container, code))
        else:
            self.aws.exited(self.full_arn, self.container, code)
