"""What this project promises itself, and where in the results of a run it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.bench.judge import limit
from tests.bench.stand import OURS, PEER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.sizes import Sizes

QUIET: Final = ("fill", "live", "live_events", "churn", "slots", "slots_events")
"""Scenarios in which nobody disturbs: ECS must have refused nothing of ours."""


class Look:
    """Results by scenario and system, and how they are shown. What was not run is None."""

    def __init__(self, results: dict[str, dict[str, Any]]) -> None:
        self._results = results

    def figure(self, scenario: str, system: str, *path: str) -> Any:
        """A figure by its path, or None."""
        return self._at(self._results.get(f"{scenario}-{system}", {}).get("figures"), *path)

    def wrong(self, scenario: str, system: str, *kinds: str) -> int | None:
        """Wrong outcomes of a scenario; all kinds, unless some are named."""
        found = self._results.get(f"{scenario}-{system}")
        if found is None:
            return None
        counts: dict[str, int] = found["wrong"]
        return sum(number for kind, number in counts.items() if not kinds or kind in kinds)

    def refusals(self, *scenarios: str) -> int | None:
        """Calls of ours that ECS throttled."""
        found = [self._results[key]["refusals"] for name in scenarios if (key := f"{name}-{OURS}") in self._results]
        return sum(found) if found else None

    def all_wrong(self) -> int | None:
        """Wrong outcomes of ours in all scenarios."""
        found = [sum(result["wrong"].values()) for key, result in self._results.items() if key.endswith(OURS)]
        return sum(found) if found else None

    def _at(self, found: Any, *path: str) -> Any:
        for name in path:
            if not isinstance(found, dict) or name not in found:
                return None
            found = found[name]
        return found


@dataclass(frozen=True)
class Budget:
    """`measure` gives a number, `show` makes it readable; it is met if it is at most `most`, or with `least` at least
    that. `beside`: the limit, or the official executor."""

    what: str
    beside: Callable[[Look, Sizes], str]
    measure: Callable[[Look, Sizes], float | None]
    show: Callable[[float], str]
    most: float | None = None
    least: float | None = None

    def row(self, look: Look, sizes: Sizes) -> tuple[str, ...]:
        what = self.what.format(**{name: getattr(sizes, name) for name in sizes.__dataclass_fields__})
        value = self.measure(look, sizes)
        bound = f"≤ {self.show(self.most)}" if self.most is not None else f"≥ {self.show(self.least or 0)}"
        if value is None:
            return what, self.beside(look, sizes), bound, "not run", "-"
        met = value <= self.most if self.most is not None else value >= (self.least or 0)
        return what, self.beside(look, sizes), bound, self.show(value), "yes" if met else "**no**"


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def _times(value: float) -> str:
    return f"{value:.3f} x"


def _share(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count(value: float) -> str:
    return f"{value:.0f}"


def _nobody(_look: Look, _sizes: Sizes) -> str:
    return ""


def _of_peer(scenario: str, *path: str, show: Callable[[float], str] = _seconds) -> Callable[[Look, Sizes], str]:
    def beside(look: Look, _sizes: Sizes) -> str:
        values = {at: look.figure(scenario, PEER, *path, at) for at in ("p50", "p99")}
        if values["p99"] is None:
            ran = look.figure(scenario, PEER) is not None
            return f"official: {'none before it was cut off' if ran else 'not run'}"
        return "official: " + ", ".join(f"{at} {show(value)}" for at, value in values.items() if value is not None)

    return beside


def _of_ours(scenario: str, *path: str) -> Callable[[Look, Sizes], float | None]:
    def measure(look: Look, _sizes: Sizes) -> float | None:
        found = look.figure(scenario, OURS, *path)
        return None if found is None else float(found)

    return measure


def _filled(of: Callable[[Sizes], int]) -> Budget:
    def measure(look: Look, sizes: Sizes) -> float | None:
        seconds = look.figure("fill", OURS, "seconds_to", str(of(sizes)))
        return None if seconds is None else float(seconds) / limit(of(sizes)) if limit(of(sizes)) else None

    def beside(look: Look, sizes: Sizes) -> str:
        seconds = look.figure("fill", PEER, "seconds_to", str(of(sizes)))
        launched = look.figure("fill", PEER, "launched")
        official = f"{seconds:.1f} s" if seconds else f"cut off with {launched}" if launched else "not run"
        ours = look.figure("fill", OURS, "seconds_to", str(of(sizes)))
        return f"limit {limit(of(sizes)):.1f} s, ours {ours or 0:.1f} s, official {official}"

    what = "{mark}" if of.__name__ == "mark" else "{first}"
    return Budget(f"RunTask accepted for {what} of {{first}} pending", beside, measure, _times, most=1.05)


def mark(sizes: Sizes) -> int:
    return sizes.mark


def first(sizes: Sizes) -> int:
    return sizes.first


def _churned(look: Look, _sizes: Sizes) -> str:
    official = look.figure("churn", PEER, "in_use")
    ceiling = look.figure("churn", OURS, "ceiling")
    return f"ceiling {ceiling} (launch rate x seconds in a slot), official {official} in use"


def _heartbeats(look: Look, _sizes: Sizes) -> str:
    found = {"16 per loop": ("live", "heartbeats_busy"), "512": ("fill", "heartbeats")}
    shown = [
        f"p99 {_seconds(beats['p99'])}, max {_seconds(beats['max'])} ({per_loop})"
        for per_loop, (scenario, name) in found.items()
        if (beats := look.figure(scenario, PEER, name)) and beats["n"]
    ]
    return f"official: {'; '.join(shown) or 'not run'}"


def _beat(look: Look, sizes: Sizes) -> float | None:
    found = look.figure("heartbeat", OURS, "heartbeats", str(sizes.finished[1]), "p99")
    return None if found is None else float(found)


def _official_wrong(scenario: str, *kinds: str) -> Callable[[Look, Sizes], str]:
    def beside(look: Look, _sizes: Sizes) -> str:
        found = look.wrong(scenario, PEER, *kinds)
        return "official: not run" if found is None else f"official: {found}"

    return beside


def _wrong(what: str, scenario: str, *kinds: str, official: bool = True) -> Budget:
    beside = _official_wrong(scenario, *kinds) if official else _nobody
    return Budget(what, beside, lambda look, _: look.wrong(scenario, OURS, *kinds), _count, most=0)


def _whole(number: int) -> Budget:
    return Budget(
        f"the executor's heartbeat in a whole scheduler, {number} per loop, p99",
        _of_peer(f"whole_{number}", "heartbeats"),
        _of_ours(f"whole_{number}", "heartbeats", "p99"),
        _seconds,
        most=0.020,
    )


def _mapped(look: Look, sizes: Sizes) -> str:
    seconds, rate = (look.figure("mapped", OURS, name) for name in ("seconds", "per_second"))
    return "" if seconds is None else f"{seconds:.0f} s, {rate} launches/s on this machine's cores"


BUDGETS: Final = (
    _filled(mark),
    _filled(first),
    Budget(
        "row committed to RunTask sent, slot and token free, p99",
        _of_peer("live", "sending"),
        _of_ours("live", "sending", "p99"),
        _seconds,
        most=0.300,
    ),
    Budget(
        "scheduler blocked per heartbeat, {queued} queued and {live} live, {finished[1]} finished rows, p99",
        _heartbeats,
        _beat,
        _seconds,
        most=0.020,
    ),
    Budget(
        "inserting {queued} workloads, p50",
        _nobody,
        _of_ours("heartbeat", "insert_seconds", "p50"),
        _seconds,
        most=0.100,
    ),
    _whole(16),
    _whole(512),
    Budget(
        "STOPPED in ECS to the key leaving `running`, by polling, idle, p99",
        _of_peer("live", "detection_idle"),
        _of_ours("live", "detection_idle", "p99"),
        _seconds,
        most=2.7,
    ),
    Budget(
        "the same while launching, p99",
        _of_peer("live", "detection_busy"),
        _of_ours("live", "detection_busy", "p99"),
        _seconds,
        most=2.7,
    ),
    Budget(
        "DescribeTasks per second by polling, {live} live",
        lambda look, _: f"official: {look.figure('live', PEER, 'describes_per_second')}",
        _of_ours("live", "describes_per_second"),
        lambda value: f"{value:.1f}/s",
        most=3.0,
    ),
    Budget(
        "STOPPED to the key leaving `running`, with events, idle, p50",
        _of_peer("live", "detection_idle"),
        _of_ours("live_events", "detection_idle", "p50"),
        _seconds,
        most=0.7,
    ),
    Budget(
        "the same, p99",
        _of_peer("live", "detection_idle"),
        _of_ours("live_events", "detection_idle", "p99"),
        _seconds,
        most=1.5,
    ),
    Budget(
        "the same while launching, p99",
        _of_peer("live", "detection_busy"),
        _of_ours("live_events", "detection_busy", "p99"),
        _seconds,
        most=1.5,
    ),
    Budget(
        "DescribeTasks per second with events, {live} live",
        _nobody,
        _of_ours("live_events", "describes_per_second"),
        lambda value: f"{value:.1f}/s",
        most=0.3,
    ),
    Budget("slots in use under churn, share of the ceiling", _churned, _of_ours("churn", "share"), _share, least=0.97),
    Budget(
        "a free slot is used again, by polling, once tasks have ended for 5 s, p50",
        _of_peer("slots", "reuse"),
        _of_ours("slots", "reuse", "p50"),
        _seconds,
        most=1.0,
    ),
    Budget(
        "the same with events, p99",
        _of_peer("slots", "reuse"),
        _of_ours("slots_events", "reuse", "p99"),
        _seconds,
        most=1.0,
    ),
    Budget(
        "one pass of all controllers, {finished[1]} finished rows against {finished[0]}",
        _nobody,
        _of_ours("passes", "ratio"),
        _times,
        most=1.2,
    ),
    Budget(
        "daemon, {live} live and idle, by polling: share of a core",
        _nobody,
        _of_ours("live", "daemon_cpu"),
        _percent,
        most=0.05,
    ),
    Budget("the same with events", _nobody, _of_ours("live_events", "daemon_cpu"), _percent, most=0.05),
    Budget("its resident memory", _nobody, _of_ours("live", "daemon_mb"), lambda value: f"{value:.0f} MB", most=200),
    Budget("calls that ECS refused, undisturbed", _nobody, lambda look, _: look.refusals(*QUIET), _count, most=0),
    Budget(
        "{mapped} real task runs of a mapped task: not successful, or not launched exactly once",
        _mapped,
        _of_ours("mapped", "not_once"),
        _count,
        most=0,
    ),
    _wrong("failed because the quota was full", "quota", "failed"),
    _wrong("failed because the quota was full, tasks of two hours", "quota_long", "failed"),
    _wrong("failed because the daemon was down for 45 minutes", "down", "failed", official=False),
    _wrong("scheduler killed in the middle of launches: orphans and launched twice", "killed"),
    _wrong("answers lost: launched twice, failed, orphans", "lost"),
    _wrong("MISSING for 3 s after a launch: launched twice, failed, orphans", "eventual"),
    _wrong("API outage: launched twice, failed, orphans, lost", "outage"),
    _wrong("noisy neighbour: launched twice, failed, orphans, lost", "noisy"),
    Budget("any wrong outcome, in all scenarios", _nobody, lambda look, _: look.all_wrong(), _count, most=0),
)
