"""What can go wrong: one function for each kind of trouble, which draws when and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random

    from tests.sim.plan import Task

HOUR: Final = 3600.0
FLEET: Final = 14
"""So many tasks, begun at once, are a fleet."""
_SEAMS: Final = {
    "daemon": (
        "RunTask: signing",
        "RunTask: on the wire",
        "RunTask: answered",
        "StopTask",
        "ListTasks: answered",
        "store.save",
        "store.save done",
        "store.launchable done",
        "store.now",
        "store.in_phase done",
        "store.find",
    ),
    "scheduler": (
        "queue: begin",
        "queue: committed",
        "delivery: committed",
        "task instances",
        "process events",
        "upkeep: begin",
        "upkeep: committed",
        "stuck",
        "adopt",
        "late",
    ),
}
"""Where it hurts: labels of seams, or beginnings of them."""
OUTAGES: Final = (120.0, 660.0, 2700.0, 2700.0)
"""Seconds for which ECS or the API server is away: two, eleven and forty-five minutes."""


LONG: Final = frozenset(
    {"answers", "away after an answer", "slow call", "slow listing", "no scheduler", "no daemon", "restored", "hidden"}
)
"""Kinds of trouble that need more time than a small universe has."""


@dataclass(frozen=True)
class Trouble:
    """One thing that goes wrong. `what` says which; `args` are its own.

    It happens at `at`, or, with `when`, as soon after that as somebody comes to a seam whose label begins so.
    """

    at: float
    what: str
    args: dict[str, Any] = field(default_factory=dict)
    when: str = ""

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.args.items())
        when = f" at the next {self.when!r}" if self.when else ""
        return f"{self.at:7.0f} s  {self.what}{when}{': ' + told if told else ''}"


def _window(rng: random.Random, chaos: float, *lengths: float) -> tuple[float, float]:
    begin = round(rng.random() * chaos * 0.85, 1)
    return begin, rng.choice(lengths or (60.0, 300.0, 1200.0))


def _when(rng: random.Random) -> str:
    return rng.choice(["", "", "RunTask: on the wire", "RunTask: answered", "store.save done", "queue: committed"])


def _outage(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos, *OUTAGES)
    modes = rng.choice(["unreachable", "lost", "late", "fails", "fails_after", "expired", "unsigned", "mixed"])
    return [Trouble(begin, "ECS is away", {"seconds": seconds, "mode": modes}, when=_when(rng))]


def _flaky(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos)
    mode = rng.choice(["unreachable", "lost", "lost_after", "late", "fails", "fails_after", "throttled", "unsigned"])
    operation = rng.choice(["all", "RunTask", "RunTask", "StopTask", "DescribeTasks", "ListTasks"])
    args = {"seconds": seconds, "mode": mode, "operation": operation, "share": rng.choice([0.2, 0.5, 0.9])}
    return [Trouble(begin, "ECS is flaky", args)]


def _answers(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    """RunTask alone goes without answers, for long."""
    mode = rng.choice(["lost", "lost_after", "lost_after", "late", "fails", "fails_after", "throttled"])
    seconds = rng.choice([600.0, 1500.0, 3000.0])
    args = {"seconds": seconds, "mode": mode, "operation": "RunTask", "share": rng.choice([0.6, 1.0])}
    return [Trouble(round(rng.random() * chaos * 0.5, 1), "ECS is flaky", args)]


def _away_after_answer(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    """An answer is lost, and then nobody looks for longer than ECS remembers; perhaps nobody at all."""
    at = round(rng.random() * chaos * 0.2, 1)
    mode = rng.choice(["lost_after", "lost_after", "fails_after", "late"])
    lost = Trouble(at, "ECS is flaky", {"seconds": 900.0, "mode": mode, "operation": "RunTask", "share": 1.0})
    seconds = rng.choice([2000.0, 3000.0, 4000.0, 4800.0])
    away = [Trouble(at, "no daemon runs", {"seconds": seconds}, when="RunTask: answered")]
    if rng.random() < 0.5:
        away.append(Trouble(at, "no scheduler runs", {"seconds": seconds + 300.0}, when="RunTask: answered"))
    return [lost, *away]


def _slow_call(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    """A call waits between its decision and its sending, longer than its token may be used."""
    args = {
        "kind": "daemon",
        "which": 0,
        "seams": 1,
        "where": rng.choice(["RunTask: signing", "store.now"]),
        "seconds": rng.choice([1300.0, 2400.0, 3600.0]),
        "whole": False,
    }
    at = round(rng.random() * chaos * 0.4, 1)
    return [Trouble(at, "a process stalls", {**args, "which": which}) for which in (0, 1)]


def _slow_listing(rng: random.Random, chaos: float, tasks: Any) -> list[Trouble]:
    """A listing is read long after it was made, while answers are lost.

    In half of them it is a listing that may prove absence: some launch, which was never made, is too old by then to be
    sent again. Another, which was not made either, is made while the listing waits to be read.
    """
    proves = rng.random() < 0.5
    at = round(rng.random() * (30.0 if proves else chaos * 0.2), 1)
    args = {
        "kind": "daemon",
        "seams": 1,
        "where": "ListTasks: answered"
        if proves
        else rng.choice(["ListTasks: answered", "store.in_phase", "store.find"]),
        "seconds": rng.choice([2500.0, 2900.0, 3300.0]),
        "whole": False,
    }
    lost = {"seconds": 1590.0, "mode": "lost", "operation": "RunTask", "share": 1.0}
    unheard = {"seconds": 3300.0, "mode": "lost_after", "operation": "RunTask", "share": 1.0}
    later = at + 1300.0 if proves else at
    stalls = [Trouble(later, "a process stalls", {**args, "which": which}) for which in (0, 1)]
    troubles = [*stalls, Trouble(at + 1600.0 if proves else later, "ECS is flaky", unheard)]
    return [*troubles, Trouble(at, "ECS is flaky", lost)] if proves else troubles


def _no_scheduler(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos * 0.5, 600.0, 3000.0, 5400.0)
    return [Trouble(begin, "no scheduler runs", {"seconds": seconds}, when=rng.choice(["", "queue: committed"]))]


def _denied(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos)
    args = {"seconds": seconds, "mode": rng.choice(["denied", "expired"]), "operation": "RunTask", "share": 1.0}
    return [Trouble(begin, "ECS is flaky", args)]


def _throttled(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    """Somebody else uses up the rate of the whole account."""
    begin, seconds = _window(rng, chaos, 200.0, 400.0)
    args = {"seconds": seconds, "mode": "throttled", "operation": rng.choice(["RunTask", "all"]), "share": 1.0}
    return [Trouble(begin, "ECS is flaky", args, when="RunTask: signing")]


def _capacity(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos)
    reason = rng.choice(["RESOURCE:CPU", "AGENT", "Capacity is unavailable at this time"])
    return [Trouble(begin, "no room", {"seconds": seconds, "reason": reason})]


def _start_fails(rng: random.Random, chaos: float, tasks: tuple[Task, ...]) -> list[Trouble]:
    reason = rng.choice(["CannotPullContainerError: timeout", None])
    status = rng.choice(["PROVISIONING", "PENDING", "ACTIVATING"])
    args = {"task": rng.choice(tasks).name, "reason": reason, "status": status, "times": rng.choice([1, 1, 2, 4])}
    return [Trouble(rng.random() * chaos * 0.5, "a start fails", args)]


def _hung(rng: random.Random, chaos: float, tasks: tuple[Task, ...]) -> list[Trouble]:
    """A start hangs, and what is sent to end it gets lost."""
    at = round(rng.random() * chaos * 0.4, 1)
    start = {"task": rng.choice(tasks).name, "reason": None, "status": "PENDING", "times": rng.choice([1, 2])}
    lost = {"seconds": 1500.0, "mode": "lost", "operation": "StopTask", "share": rng.choice([0.5, 0.9])}
    return [Trouble(at, "a start fails", start), Trouble(at, "ECS is flaky", lost, when="StopTask")]


def _placement(rng: random.Random, chaos: float, tasks: tuple[Task, ...]) -> list[Trouble]:
    args = {"task": rng.choice(tasks).name, "reason": "ATTRIBUTE", "times": rng.choice([1, 2, 4])}
    return [Trouble(rng.random() * chaos * 0.5, "a placement fails", args)]


def _database(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos, 20.0, 120.0, 600.0, 1700.0)
    return [Trouble(begin, "the database is down", {"seconds": seconds}, when=_when(rng))]


def _unknown(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos, 600.0, 2400.0)
    args = {"seconds": seconds, "refuses": rng.choice([0.0, 0.1]), "forgets": rng.choice([0.05, 0.2])}
    return [Trouble(begin, "the database is flaky", args)]


def _crashes(kind: str) -> Any:
    def made(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
        return [
            Trouble(
                round(rng.random() * chaos, 1),
                "a process dies",
                {
                    "kind": kind,
                    "which": rng.choice([0, 1]),
                    "seams": rng.choice([0, 1, 1, 2, 3, 5, 13]),
                    "where": rng.choice(["", *_SEAMS[kind]]),
                    "seconds": rng.choice([1.0, 60.0, 600.0]),
                    "orderly": rng.random() < 0.25,
                },
            )
            for _ in range(rng.choice([1, 2, 4]))
        ]

    return made


def _stalls(kind: str) -> Any:
    def made(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
        return [
            Trouble(
                round(rng.random() * chaos, 1),
                "a process stalls",
                {
                    "kind": kind,
                    "which": rng.choice([0, 1]),
                    "seams": rng.choice([1, 1, 2, 3, 5, 13, 21]),
                    "where": rng.choice(["", *_SEAMS[kind]]),
                    "seconds": rng.choice([60.0, 200.0, 900.0, 1500.0, 3000.0, 4500.0]),
                    "whole": kind == "scheduler" or rng.random() < 0.5,
                },
            )
            for _ in range(rng.choice([1, 3]))
        ]

    return made


def _daemon_down(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos, 1800.0, 3600.0, 4500.0)
    return [Trouble(begin, "no daemon runs", {"seconds": seconds}, when=_when(rng))]


def _api(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos, 60.0, *OUTAGES)
    return [Trouble(begin, "the API server is down", {"seconds": seconds}, when=_when(rng))]


def _users(rng: random.Random, chaos: float, tasks: tuple[Task, ...]) -> list[Trouble]:
    verbs = ["clears", "clears", "clears", "marks failed", "marks success", "deletes"]
    return [
        Trouble(round(rng.random() * chaos, 1), f"a user {rng.choice(verbs)}", {"task": rng.choice(tasks).name})
        for _ in range(rng.choice([1, 2, 4]))
    ]


def _machines(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    return [
        Trouble(
            round(rng.random() * chaos, 1),
            rng.choice(["a host is lost", "Spot takes a task"]),
            {"which": round(rng.random(), 3)},
        )
        for _ in range(rng.choice([1, 3]))
    ]


def _agents(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    args = {"which": round(rng.random(), 3), "seconds": rng.choice([400.0, 1500.0, 2700.0])}
    return [Trouble(round(rng.random() * chaos, 1), "an agent is cut off", args)]


def _old_news(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    """DescribeTasks shows what was true before: its answers come from replicas that lag."""
    begin, seconds = _window(rng, chaos)
    args = {"seconds": seconds, "mode": "stale", "operation": "DescribeTasks", "share": rng.choice([0.3, 0.7])}
    return [Trouble(begin, "ECS is flaky", args)]


def _foreign(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    return [
        Trouble(round(rng.random() * chaos, 1), "somebody else's task", {"which": n}) for n in range(rng.choice([2, 5]))
    ]


def _deleted(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    return [Trouble(round(rng.random() * chaos, 1), "a row is deleted by hand", {"which": round(rng.random(), 3)})]


def _restored(rng: random.Random, chaos: float, tasks: tuple[Task, ...]) -> list[Trouble]:
    fleet = len(tasks) >= FLEET
    if rng.random() < (0.0 if fleet else 0.5):
        return []
    at = rng.uniform(0.3, 0.7) * chaos
    # A fleet that the restored database does not know at all is what the orphan breaker is for.
    taken = 2.0 if fleet and rng.random() < 0.6 else at - rng.choice([60.0, 600.0, 1800.0])
    return [Trouble(round(max(taken, 1.0), 1), "a backup is taken"), Trouble(round(at, 1), "the backup is restored")]


def _hidden(rng: random.Random, chaos: float, _: Any) -> list[Trouble]:
    begin, seconds = _window(rng, chaos, 600.0, 1200.0)
    return [Trouble(begin, "ECS shows nothing", {"seconds": seconds})]


KINDS: Final[dict[str, Any]] = {
    "outage": _outage,
    "flaky": _flaky,
    "flaky again": _flaky,
    "answers": _answers,
    "away after an answer": _away_after_answer,
    "slow call": _slow_call,
    "slow listing": _slow_listing,
    "no scheduler": _no_scheduler,
    "denied": _denied,
    "throttled": _throttled,
    "capacity": _capacity,
    "start fails": _start_fails,
    "hung": _hung,
    "placement": _placement,
    "database": _database,
    "unknown commits": _unknown,
    "daemon crashes": _crashes("daemon"),
    "scheduler crashes": _crashes("scheduler"),
    "daemon stalls": _stalls("daemon"),
    "scheduler stalls": _stalls("scheduler"),
    "no daemon": _daemon_down,
    "api": _api,
    "users": _users,
    "machines": _machines,
    "agents": _agents,
    "old news": _old_news,
    "foreign": _foreign,
    "deleted": _deleted,
    "restored": _restored,
    "hidden": _hidden,
}
