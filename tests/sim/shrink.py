"""From a failing plan to a short one that fails in the same way: take things away as long as it still fails.

What is taken away changes everything that chance decides after it, so each smaller plan gets a few tries, each with
another salt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.sim.check import check
from tests.sim.plan import Plan
from tests.sim.universe import Universe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sim.check import Violation

SALTS = 3


def broken(plan: Plan, rule: str) -> Violation | None:
    """The first violation of this rule in a universe."""
    return next((found for found in check(Universe(plan).run()) if found.rule == rule), None)


def shrink(plan: Plan, rule: str, runs: int = 150) -> Plan:
    """The smallest plan found that still breaks the rule, after at most so many universes."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(plan):
            for salt in range(SALTS):
                if runs <= 0:
                    return plan
                runs -= 1
                salted = replace(smaller, salt=salt)
                if broken(salted, rule):
                    plan, changed = salted, True
                    break
            if changed:
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with a little less: first halves, then single things, then settings as they are by default."""
    for name in ("troubles", "tasks", "callbacks"):
        things = getattr(plan, name)
        size = len(things) // 2
        while size >= 1:
            for start in range(0, len(things), size):
                yield replace(plan, **{name: things[:start] + things[start + size :]})
            size //= 2
    plain = Plan(plan.seed)
    for name in ("lags", "skews", "throttles", "locked", "fails_to_write", "max_running_tasks", "latency", "pace",
                 "signature_lives", "lease_seconds", "listing_interval", "retention"):  # fmt: skip
        if getattr(plan, name) != getattr(plain, name):
            yield replace(plan, **{name: getattr(plain, name)})
