"""What one seed makes of the universe: an explicit list of what goes wrong and when, which can be read and cut down.

Swarm testing: each seed enables a random part of all kinds of trouble, because too much of one hides another. Most
universes are small; some are large, because some faults need an hour; some have a single such trouble and no other; and
some begin with a fleet, because the breakers judge only what many tasks show.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

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


_LONG: Final = frozenset(
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


@dataclass(frozen=True)
class Task:
    """A task instance: when it is born and what its code does at each admission."""

    name: str
    born: float
    program: tuple[tuple[float, str], ...]
    retries: int
    priority: int
    breaks: int
    poison: bool = False
    queue: str = "default"

    def __str__(self) -> str:
        does = ", ".join(f"{outcome} after {seconds:.0f} s" for seconds, outcome in self.program)
        broken = f", {self.breaks} containers break" if self.breaks else ""
        poison = ", no launch can be made of it" if self.poison else ""
        return f"{self.born:7.0f} s  {self.name} is born: {does}, retries {self.retries}{broken}{poison}"


@dataclass(frozen=True)
class Plan:
    """A universe before it is run."""

    seed: int
    salt: int = 0
    chaos: float = 1.5 * HOUR
    """Seconds of trouble, before everything heals."""
    kinds: tuple[str, ...] = ()
    """The kinds of trouble it was made of."""
    tasks: tuple[Task, ...] = ()
    callbacks: tuple[tuple[float, int], ...] = ()
    troubles: tuple[Trouble, ...] = ()
    replicas: int = 2
    schedulers: int = 2
    latency: float = 0.2
    pace: float = 20.0
    max_running_tasks: int = 50
    lease_seconds: float = 300.0
    listing_interval: float = 120.0
    retention: float = 7200.0
    lags: tuple[float, float] = (0.0, 0.0)
    """Seconds until DescribeTasks and ListTasks show a new task."""
    skews: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Seconds by which database, AWS and API server are ahead of the true time."""
    throttles: bool = False
    """ECS has its published rate limits, and others use them too."""
    signature_lives: float = 300.0
    locked: float = 0.0
    fails_to_write: float = 0.0
    queues: tuple[tuple[str, int, str], ...] = ()
    """Queues with profiles of their own: name, max_running_tasks (and an Airflow pool of that size), and shard."""

    def __str__(self) -> str:
        events = sorted([(t.born, str(t)) for t in self.tasks] + [(t.at, str(t)) for t in self.troubles])
        common = replace(self, tasks=(), troubles=(), callbacks=())
        settings = [
            f"{name} {value}"
            for name, value in vars(common).items()
            if name not in ("seed", "salt", "tasks", "troubles", "callbacks", "kinds")
            and value != getattr(Plan(0), name)
        ]
        head = f"seed {self.seed}.{self.salt}: {'; '.join(settings) or 'nothing special'}"
        callbacks = [f"{born:7.0f} s  a callback is born that exits {code}" for born, code in self.callbacks]
        return "\n".join([head, *callbacks, *(text for _, text in events)])


def to_json(plan: Plan) -> str:
    """A plan to be kept: what a seed makes changes with every change of this module, and a kept plan does not."""
    things = {name: value for name, value in asdict(plan).items() if value != getattr(Plan(0), name)}
    lists = {name: things.pop(name, ()) for name in ("tasks", "troubles")}
    lines = [json.dumps(things)[1:-1]]
    for name, entries in lists.items():
        each = ",\n  ".join(json.dumps(entry) for entry in entries)
        lines.append(f'"{name}": [\n  {each}\n]' if each else f'"{name}": []')
    return "{" + ",\n".join(lines) + "}\n"


def from_json(text: str) -> Plan:
    """The inverse."""
    kept = {name: _tuples(value) for name, value in json.loads(text).items()}
    tasks = tuple(Task(**{name: _tuples(value) for name, value in task.items()}) for task in kept.pop("tasks"))
    troubles = tuple(Trouble(**trouble) for trouble in kept.pop("troubles"))
    return Plan(**kept, tasks=tasks, troubles=troubles)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def plan(seed: int) -> Plan:
    """The universe of a seed."""
    rng = random.Random(f"plan/{seed}")
    size = rng.choices(("small", "large", "single", "fleet"), weights=(50, 30, 16, 4))[0]
    small, fleet = size == "small", size == "fleet"
    chaos = (rng.choice([0.4, 0.5, 0.6]) if small else rng.choice([0.75, 1.0, 1.5, 1.75])) * HOUR
    kinds = [kind for kind in _KINDS if rng.random() < 0.2 and not (small and kind in _LONG)]
    if size == "single":
        kinds, chaos = [rng.choice(sorted(_LONG))], rng.choice([1.0, 1.75, 1.75]) * HOUR
    elif fleet:
        kinds = sorted({*(kind for kind in kinds if rng.random() < 0.3), rng.choice(["hidden", "restored"])})
    if not kinds:
        kinds = [rng.choice([kind for kind in _KINDS if kind not in _LONG])]
    count = rng.choice(
        {"small": [1, 2, 2, 3, 4], "large": [2, 4, 6, 6, 8, 12], "single": [2, 4, 6], "fleet": [FLEET, FLEET + 2]}[size]
    )
    long = rng.random() < {"small": 0.0, "large": 0.15, "single": 0.0, "fleet": 0.8}[size]
    tasks = tuple(_task(rng, n, chaos, long=long, at_once=fleet) for n in range(1, count + 1))
    callbacks = tuple((rng.random() * chaos * 0.7, rng.choice([0, 0, 1])) for _ in range(rng.choice([0, 0, 0, 1, 2])))
    troubles: list[Trouble] = []
    for kind in kinds:
        troubles += _KINDS[kind](rng, chaos, tasks)
    return Plan(
        seed=seed,
        kinds=tuple(kinds),
        chaos=chaos,
        tasks=tasks,
        callbacks=callbacks,
        troubles=tuple(sorted(troubles, key=lambda trouble: trouble.at)),
        latency=rng.choice([0.05, 0.2, 1.0, 5.0]),
        pace=rng.choice([12.0, 25.0, 40.0]),
        max_running_tasks=50 if fleet else rng.choice([2, 4, 50, 50]),
        lease_seconds=rng.choice([150.0, 300.0, 600.0]),
        listing_interval=rng.choice([60.0, 120.0, 240.0]),
        retention=rng.choice([3700.0, 7200.0]),
        lags=rng.choice([(0.0, 0.0), (0.0, 0.0), (3.0, 10.0), (45.0, 60.0), (0.0, 280.0), (200.0, 280.0)]),
        skews=_skews(rng),
        throttles=rng.random() < 0.3,
        signature_lives=rng.choice([300.0, 900.0]),
        locked=rng.choice([0.0, 0.0, 0.3, 0.7]),
        fails_to_write=rng.choice([0.0, 0.0, 0.3, 1.0]),
    )


def queued(plain: Plan) -> Plan:
    """The same universe with queues: two at home, one of them often full, and one in another account."""
    rng = random.Random(f"queues/{plain.seed}")
    queues = (("full", rng.choice([1, 2]), ""), ("other", 10, ""), ("far", rng.choice([2, 10]), "far"))
    names = ["default", *(name for name, _, _ in queues)]
    tasks = tuple(replace(task, queue=rng.choice(names)) for task in plain.tasks)
    return replace(plain, tasks=tasks, queues=queues, max_running_tasks=max(plain.max_running_tasks, 14))


def _skews(rng: random.Random) -> tuple[float, float, float]:
    if rng.random() < 0.5:
        return (0.0, 0.0, 0.0)
    return (round(rng.uniform(-60, 60), 1), round(rng.uniform(-60, 60), 1), round(rng.uniform(-20, 20), 1))


def _task(rng: random.Random, number: int, chaos: float, *, long: bool, at_once: bool) -> Task:
    def seconds() -> float:
        return 2 * HOUR if long else round(rng.choice([5.0, 30.0, 200.0, 900.0, 2400.0]) * (0.5 + rng.random()), 1)

    outcomes = rng.choices(
        ["defer", "reschedule", "fail", "oom", "silent"], weights=[4, 2, 3, 1, 1], k=rng.choice([0, 0, 0, 1, 1, 2])
    )
    program = (*((seconds(), outcome) for outcome in outcomes), (seconds(), "success"))
    return Task(
        name=f"t{number}",
        born=0.0 if at_once else round(rng.choice([0.0, rng.random() * chaos * 0.8]), 1),
        program=program,
        retries=rng.choice([0, 1, 2]),
        priority=rng.choice([1, 1, 5]),
        breaks=rng.choice([0, 0, 0, 0, 0, 0, 1, 2, 5]),
        poison=rng.random() < 0.01,
    )


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
    sent again; others are made while the listing waits to be read.
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
    lost = {"seconds": 1290.0, "mode": "lost", "operation": "RunTask", "share": 1.0}
    unheard = {"seconds": 3300.0, "mode": "lost_after", "operation": "RunTask", "share": 1.0}
    later = at + 1300.0 if proves else at
    stalls = [Trouble(later, "a process stalls", {**args, "which": which}) for which in (0, 1)]
    troubles = [*stalls, Trouble(later, "ECS is flaky", unheard)]
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


_KINDS: Final[dict[str, Any]] = {
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
