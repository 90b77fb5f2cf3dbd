"""Token buckets: one per API group, all of one account and Region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.localecs.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.localecs.settings import Rate

# Which bucket an operation drains (API reference, request-throttling.html).
GROUPS: Mapping[str, str] = {
    "RunTask": "cluster-resource-modify",
    "StopTask": "cluster-resource-modify",
    "DescribeTasks": "cluster-resource-read",
    "ListTasks": "cluster-resource-read",
    "CreateCluster": "cluster-modify",
    "DescribeClusters": "cluster-read",
    "RegisterTaskDefinition": "task-definition-modify",
    "DeregisterTaskDefinition": "task-definition-modify",
    "DescribeTaskDefinition": "task-definition-read",
    "TagResource": "tag-modify",
    "ListTagsForResource": "tag-read",
}


class Throttle:
    """The buckets, full at the start, refilled continuously.

    `take` takes from all the named buckets or from none. Refused calls cost nothing. Tokens that another tenant of
    the account uses up can be taken with the same method.
    """

    def __init__(self, rates: Mapping[str, Rate]) -> None:
        self._rates = rates
        self._levels: dict[str, tuple[float, float]] = {}  # group -> (tokens, as of)
        self.accepted: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def take(self, wanted: Mapping[str, float], now: float) -> None:
        """Take `wanted[group]` tokens of each group, or raise ThrottlingException (HTTP 400, "Rate exceeded")."""
        levels = {group: self._level(group, now) for group in wanted if group in self._rates}
        # A hair of tolerance: a client that waits for exactly one token must not lose to rounding.
        short = [group for group, level in levels.items() if level < wanted[group] - 1e-6]
        for group in short:
            self.refused[group] = self.refused.get(group, 0) + 1
        if short:
            raise AwsError("ThrottlingException", "Rate exceeded")
        for group, amount in wanted.items():
            self.accepted[group] = self.accepted.get(group, 0) + 1
            if group in levels:
                self._levels[group] = (levels[group] - amount, now)

    def _level(self, group: str, now: float) -> float:
        rate = self._rates[group]
        tokens, since = self._levels.get(group, (rate.burst, now))
        return min(rate.burst, tokens + (now - since) * rate.refill)
