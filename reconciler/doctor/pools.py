"""Airflow's pools: the only numbers of slots that Airflow knows for one queue and not for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from reconciler.core.finding import Finding, fine, note, warning
from reconciler.core.profiles import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Engine

    from reconciler.core.shares import Shares

__all__ = ["Pools", "check_pools", "read_pools"]

DEFAULT_POOL: Final = "default_pool"


@dataclass(frozen=True, slots=True)
class Pools:
    """What Airflow's tables say."""

    slots: Mapping[str, int]
    """Of each pool. Negative: without limit."""
    used: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By queue: the pools of its task instances that are active now."""


def read_pools(engine: Engine) -> Pools | str:
    """Or why they can not be seen: the daemon's role need not see Airflow's tables."""
    used: dict[str, frozenset[str]] = {}
    try:
        with engine.connect() as conn:
            slots = {str(pool): int(slots) for pool, slots in conn.execute(text("SELECT pool, slots FROM slot_pool"))}
            active = text(
                "SELECT DISTINCT queue, pool FROM task_instance WHERE state IN ('scheduled', 'queued', 'running')"
            )
            for queue, pool in conn.execute(active):
                used[str(queue)] = used.get(str(queue), frozenset()) | {str(pool)}
    except SQLAlchemyError as failed:
        return type(failed).__name__
    return Pools(slots, used)


def check_pools(pools: Pools | str | None, limit: int, shares: Shares) -> Iterator[Finding]:
    """Whether the default pool is large enough, and each queue with a share of its own has a pool of that size.

    Without one a full queue fills Airflow's QUEUED with tasks that can not start.
    """
    if not isinstance(pools, Pools):
        why = f" ({pools})" if pools else ""
        yield note("pools", f"Airflow's pools could not be seen{why}", "run doctor where the scheduler runs")
        return
    yield from _default(pools.slots.get(DEFAULT_POOL, 0), limit, shares)
    for queue, share in sorted(shares.of.items()):
        if share is not None and queue != DEFAULT:
            yield from _of_queue(queue, share, pools)


def _default(slots: int, limit: int, shares: Shares) -> Iterator[Finding]:
    """The pool of all tasks that name none: those of the queues that neither run elsewhere nor have a share."""
    wanted = shares.most(DEFAULT, limit)
    mend = f"airflow pools set {DEFAULT_POOL} {{}} 'Default pool'"
    if 0 <= slots < wanted:
        whose = f"max_running_tasks = {wanted}" if shares.home is None else f"the {wanted} tasks that can run"
        yield warning(DEFAULT_POOL, f"{slots} slots, below {whose}", mend.format(wanted))
    elif shares.home is not None and not 0 <= slots <= shares.home:
        has = "no limit" if slots < 0 else f"{slots} slots"
        what = f"{has}, and {shares.home} tasks can run beside the queues of other accounts and regions"
        yield warning(DEFAULT_POOL, what, mend.format(shares.home))


def _of_queue(queue: str, share: int, pools: Pools) -> Iterator[Finding]:
    """The pools that its tasks are in. While it has none, the one that bears its name: that is how docs make it."""
    where = f'pool of the queue "{queue}"'
    mend = f"airflow pools set {queue} {share} '[ecs_reconciler] queues', and put the queue's tasks into it"
    names = pools.used.get(queue) or {queue}
    wide = {
        name: pools.slots[name] for name in sorted(names & pools.slots.keys()) if not 0 <= pools.slots[name] <= share
    }
    if missing := sorted(names - pools.slots.keys()):
        what = f"there is no pool {missing[0]!r}, and {share} tasks of the queue can run: more would wait as QUEUED"
        yield warning(where, what, mend)
    elif wide:
        name, slots = next(iter(wide.items()))
        what = f"{name!r} has {'no limit' if slots < 0 else f'{slots} slots'}, and {share} tasks of the queue can run"
        yield warning(where, what, mend)
    else:
        yield fine(where, f"{', '.join(sorted(names))}, of no more slots than the queue's {share} tasks")
