"""Faults on demand. Whoever owns the model decides what goes wrong, when, and how often; nothing here is random.

`on_call` is there for ECS and for SQS: an operation raises, before or after it took effect: throttling, 500,
AccessDenied, a lost answer. Besides that ECS has three kinds, independent of each other:

* `on_placement` - RunTask answers with a `failures` entry instead of a task.
* `on_start` - an accepted task does not start: it stops as TaskFailedToStart, or is stuck in a state for ever.
* `hide` - DescribeTasks and ListTasks do not see a task, whatever its age.

A rule holds for the next `times` matches, or until `remove` when `times` is None. The oldest matching rule wins.
What kills a task that already runs is an action, not a rule: `EcsModel.lose_host` and `EcsModel.interrupt_spot`.

And SQS has two:

* `on_delivery` - a message is lost, comes several times, or comes later, and so out of order.
* `on_delete` - DeleteMessage answers, and the message comes back all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from reconciler.localecs.errors import AwsError, ResponseLost

Where = Callable[[Mapping[str, Any]], bool]


@dataclass(eq=False)
class Rule:
    """What all rules share: `where` sees the request (None: every request), `times` counts down (None: no end)."""

    where: Where | None
    times: int | None


@dataclass(eq=False)
class CallRule(Rule):
    """`operation` (or "*") raises `error`; `after_effect` says on which side of the effect."""

    operation: str
    error: AwsError | ResponseLost
    after_effect: bool


@dataclass(eq=False)
class PlacementRule(Rule):
    """One task of a RunTask call is not placed: `failures` gets `reason`."""

    reason: str


@dataclass(eq=False)
class StartRule(Rule):
    """A task goes no further than `status`. It stops with `stopped_reason`, or stays there when that is None."""

    status: str
    stopped_reason: str | None


@dataclass(eq=False)
class DeliveryRule(Rule):
    """A message arrives `copies` times (0: never), each `delay` plus up to `spread` seconds after it was sent."""

    copies: int
    delay: float
    spread: float


@dataclass(eq=False)
class DeleteRule(Rule):
    """A message that was deleted is still there."""


Found = TypeVar("Found", bound=Rule)


class CallFaults:
    """The rules in force for the calls of a service, and what the rules of all kinds share."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def on_call(
        self,
        operation: str,
        error: AwsError | ResponseLost,
        *,
        after_effect: bool = False,
        times: int | None = 1,
        where: Where | None = None,
    ) -> Rule:
        """Make `operation` (or "*", any) raise `error`, before its effect or after it."""
        return self._add(CallRule(where, times, operation, error, after_effect))

    def remove(self, rule: Rule) -> None:
        """Take a rule out; no error if it has already been used up."""
        self._rules = [known for known in self._rules if known is not rule]

    def clear(self) -> None:
        """Take out all rules."""
        self._rules.clear()

    def check_call(self, operation: str, request: Mapping[str, Any], *, after_effect: bool) -> None:
        """Raise the error of the first rule for this operation and side."""
        rule = self.find_call(operation, request, after_effect=after_effect)
        if rule is not None:
            self._use(rule)
            # A standing rule raises one object again and again: its old traceback must not pile up.
            raise rule.error.with_traceback(None)

    def find_call(self, operation: str, request: Mapping[str, Any], *, after_effect: bool) -> CallRule | None:
        """The rule that `check_call` would use up."""
        for rule in self._rules:
            if (
                isinstance(rule, CallRule)
                and rule.after_effect is after_effect
                and rule.operation in (operation, "*")
                and self._holds(rule, request)
            ):
                return rule
        return None

    def _take(self, kind: type[Found], request: Mapping[str, Any]) -> Found | None:
        """Use the first rule of a kind that holds for the request."""
        for rule in self._rules:
            if isinstance(rule, kind) and self._holds(rule, request):
                self._use(rule)
                return rule
        return None

    def _add(self, rule: Rule) -> Rule:
        if rule.times is not None and rule.times < 1:
            raise ValueError(f"times is {rule.times}; give the number of matches, at least 1, or None for no end")
        self._rules.append(rule)
        return rule

    @staticmethod
    def _holds(rule: Rule, request: Mapping[str, Any]) -> bool:
        return rule.where is None or rule.where(request)

    def _use(self, rule: Rule) -> None:
        if rule.times is not None:
            rule.times -= 1
            if rule.times <= 0:
                self.remove(rule)


class Faults(CallFaults):
    """The rules in force for ECS. See the page above."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: set[str] = set()

    def on_placement(self, reason: str, *, times: int | None = 1, where: Where | None = None) -> Rule:
        """Make RunTask answer a `failures` entry with `reason`; `times` counts tasks, not calls."""
        return self._add(PlacementRule(where, times, reason))

    def on_start(
        self,
        stopped_reason: str | None,
        *,
        status: str = "PROVISIONING",
        times: int | None = 1,
        where: Where | None = None,
    ) -> Rule:
        """Make a launched task fail at the end of `status` with `stopped_reason`, or be stuck there when None."""
        if status not in ("PROVISIONING", "PENDING", "ACTIVATING"):
            raise ValueError(f"status {status!r} is not a state of starting; use PROVISIONING, PENDING or ACTIVATING")
        return self._add(StartRule(where, times, status, stopped_reason))

    def hide(self, task_arn: str) -> None:
        """Make DescribeTasks answer MISSING for a task, and ListTasks leave it out, until `show`."""
        self.hidden.add(task_arn)

    def show(self, task_arn: str) -> None:
        """Undo `hide`."""
        self.hidden.discard(task_arn)

    def clear(self) -> None:
        """Take out all rules and show all tasks."""
        super().clear()
        self.hidden.clear()

    def placement_failure(self, request: Mapping[str, Any]) -> str | None:
        """The reason why the next task of this request is not placed, if it is not."""
        rule = self._take(PlacementRule, request)
        return rule.reason if rule else None

    def start_failure(self, request: Mapping[str, Any]) -> StartRule | None:
        """What will go wrong with the start of the next task of this request."""
        return self._take(StartRule, request)


class QueueFaults(CallFaults):
    """The rules in force for SQS. `where` of `on_delivery` sees the request of SendMessage, also for an event."""

    def on_delivery(
        self,
        *,
        copies: int = 1,
        delay: float = 0.0,
        spread: float = 0.0,
        times: int | None = 1,
        where: Where | None = None,
    ) -> Rule:
        """Make a message arrive `copies` times, each `delay` plus a random part of `spread` seconds late.

        No copy is a loss, two are a duplicate, a spread is disorder.
        """
        if copies < 0 or delay < 0 or spread < 0:
            raise ValueError(f"copies, delay and spread are {copies}, {delay}, {spread}; none can be negative")
        return self._add(DeliveryRule(where, times, copies, delay, spread))

    def on_delete(self, *, times: int | None = 1, where: Where | None = None) -> Rule:
        """Make a deleted message stay; it comes back when its visibility timeout ends. `times` counts messages."""
        return self._add(DeleteRule(where, times))

    def delivery(self, request: Mapping[str, Any]) -> DeliveryRule | None:
        """What will go wrong with the message that this request sends."""
        return self._take(DeliveryRule, request)

    def survives(self, request: Mapping[str, Any]) -> bool:
        """Whether the message that this request deletes stays."""
        return self._take(DeleteRule, request) is not None
