"""The invariants, judged from the trace alone.

The checker shares no code with what it judges, but for the table of phases. docs/simulation.md says what each rule is.
After a backup has been restored the past that the database knows is not the past that happened: from there on only
those invariants are judged that such a database can keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.check_airflow import AirflowRules
from tests.sim.check_ecs import EcsRules
from tests.sim.check_table import TableRules
from tests.sim.truth import SECRET, TERMINAL, Violation, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Checker", "Violation", "check"]


class Checker(TableRules, EcsRules, AirflowRules):
    """Feed it the trace; it collects violations. Methods named `on_<kind>` hear the events of that kind."""

    def check(self, trace: Iterable[dict[str, Any]]) -> list[Violation]:
        for event in trace:
            self.t = event["t"]
            if _holds_a_secret(event):
                self.broken("I21 no secret is stored or told", f"{event['kind']} holds a token", event.get("id"))
            handler = getattr(self, f"on_{event['kind']}", None)
            if handler is not None:
                handler(event)
        return self.violations

    def on_trouble(self, event: dict[str, Any]) -> None:
        if event["what"] in ("a start fails", "a placement fails"):
            self.faulty.add(event["with"]["task"])
        if event["what"] in ("the database is flaky", "no scheduler runs"):
            self.flaky_until = max(self.flaky_until, self.t + event["with"]["seconds"])
        self.stale = self.stale or event["with"].get("mode") == "stale"
        if event["what"] in ("ECS is flaky", "ECS is away"):
            self.ecs_until = max(self.ecs_until, self.t + event["with"]["seconds"])

    def on_api(self, event: dict[str, Any]) -> None:
        self.api_until = float("inf") if event["down"] else self.t

    def on_poison(self, event: dict[str, Any]) -> None:
        self.poisoned.add(event["name"])

    def on_heal(self, _: dict[str, Any]) -> None:
        self.healed_at = self.t

    def on_hidden(self, event: dict[str, Any]) -> None:
        """The breaker needs ten tasks. With fewer, what is hidden for long is believed to be gone."""
        self.ever_hidden = True
        self.hidden = self.hidden or event["live"] < 14

    def on_unforeseen(self, event: dict[str, Any]) -> None:
        self.broken("S6 nothing is unforeseen", f"{event['who']}: {event['error']}")

    def on_end(self, event: dict[str, Any]) -> None:
        for name, ti in self.tis.items():
            self._queued_until_now(name, ti)
        if event["rest"]:
            return
        excused = set(self.excused)
        if self.restored:
            # The same launches are counted anew, and ECS remembers their tokens: each takes as long as a lost one.
            excused |= {name_of(text) for text in event["rows"] if text.endswith(" LAUNCHING")}
        left = [text for text in event["tis"] + event["rows"] if name_of(text) not in excused]
        if left:
            self.broken("I15 a healed world comes to rest", f"left over: {', '.join(left)}", *map(name_of, left))
        for arn in event["tasks"]:
            task = self.tasks.get(arn)
            row = self.rows.get(task.id) if task else None
            if row is not None and row["desired"] == "STOP" and row["phase"] not in TERMINAL:
                self.broken(
                    "I22 what is not wanted is stopped", f"{arn} of {row['exec_id']} lives", row["exec_id"], arn
                )
            elif row is None or row["phase"] in TERMINAL:
                self.broken(
                    "I16 no orphan survives", f"{arn} lives, and no row claims it", arn, task.id if task else None
                )


def _holds_a_secret(event: dict[str, Any]) -> bool:
    values = (event["new"] or {}) if event["kind"] == "row" else event
    return any(isinstance(value, str) and SECRET in value for value in values.values())


def check(trace: Iterable[dict[str, Any]]) -> list[Violation]:
    """What is wrong with a trace."""
    return Checker().check(trace)
