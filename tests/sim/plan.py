"""What one seed makes of the universe: an explicit list of what goes wrong and when, which can be read and cut down.

Swarm testing: each seed enables a random part of all kinds of trouble, because too much of one hides another. Most
universes are small; some are large, because some faults need an hour; some have a single such trouble and no other; and
some begin with a fleet, because the breakers judge only what many tasks show.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace
from typing import Any

from tests.sim.trouble import FLEET, HOUR, KINDS, LONG, Trouble


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
class Mail:
    """What becomes of events in the queue: shares of them, and how long."""

    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    """They come within so many `hours`, and the others within `spread` seconds, in any order."""
    hours: float = 3.0
    spread: float = 2.0
    outage: tuple[float, float] = (0.0, 0.0)
    """When nobody reaches the queue, and for how long, in seconds."""


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
    spot_fallback_after: int = 0
    """Tasks are to run on Spot, and after so many failures for want of its capacity on demand. 0: neither."""
    mail: Mail | None = None
    """ECS's events come into a queue, and the daemons listen."""

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
    if mail := kept.pop("mail", None):
        kept["mail"] = Mail(**{name: _tuples(value) for name, value in mail.items()})
    return Plan(**kept, tasks=tasks, troubles=troubles)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def plan(seed: int) -> Plan:
    """The universe of a seed."""
    rng = random.Random(f"plan/{seed}")
    size = rng.choices(("small", "large", "single", "fleet"), weights=(50, 30, 16, 4))[0]
    small, fleet = size == "small", size == "fleet"
    chaos = (rng.choice([0.4, 0.5, 0.6]) if small else rng.choice([0.75, 1.0, 1.5, 1.75])) * HOUR
    kinds = [kind for kind in KINDS if rng.random() < 0.2 and not (small and kind in LONG)]
    if size == "single":
        kinds, chaos = [rng.choice(sorted(LONG))], rng.choice([1.0, 1.75, 1.75]) * HOUR
    elif fleet:
        kinds = sorted({*(kind for kind in kinds if rng.random() < 0.3), rng.choice(["hidden", "restored"])})
    if not kinds:
        kinds = [rng.choice([kind for kind in KINDS if kind not in LONG])]
    count = rng.choice(
        {"small": [1, 2, 2, 3, 4], "large": [2, 4, 6, 6, 8, 12], "single": [2, 4, 6], "fleet": [FLEET, FLEET + 2]}[size]
    )
    long = rng.random() < {"small": 0.0, "large": 0.15, "single": 0.0, "fleet": 0.8}[size]
    tasks = tuple(_task(rng, n, chaos, long=long, at_once=fleet) for n in range(1, count + 1))
    callbacks = tuple((rng.random() * chaos * 0.7, rng.choice([0, 0, 1])) for _ in range(rng.choice([0, 0, 0, 1, 2])))
    troubles: list[Trouble] = []
    for kind in kinds:
        troubles += KINDS[kind](rng, chaos, tasks)
    spot, no_spot = _spot(random.Random(f"spot/{seed}"), chaos)
    troubles += no_spot
    troubles += _away_for_a_while(random.Random(f"away/{seed}"), chaos)
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
        spot_fallback_after=spot,
    )


def _spot(rng: random.Random, chaos: float) -> tuple[int, list[Trouble]]:
    """One universe in eight runs on Spot, which has no capacity from time to time and takes tasks away."""
    if rng.random() >= 0.125:
        return 0, []
    troubles = []
    for _ in range(rng.choice([1, 2])):
        at, seconds = round(rng.random() * chaos * 0.7, 1), rng.choice([300.0, 900.0, 1800.0])
        troubles.append(Trouble(at, "Spot has no room", {"seconds": seconds}))
        troubles.append(Trouble(at + 20.0, "Spot takes a task", {"which": round(rng.random(), 3)}))
        start = round(rng.random() * chaos * 0.7, 1)
        troubles.append(
            Trouble(start, "Spot takes a start", {"which": round(rng.random(), 3)}, when="RunTask: answered")
        )
    return rng.choice([1, 2, 3]), troubles


def _away_for_a_while(rng: random.Random, chaos: float) -> list[Trouble]:
    """In one universe in eight the daemon is gone in the middle of its launches, for about as long as Airflow lets a
    task wait in QUEUED: it comes back to launches that are not wanted any more and whose tokens still live."""
    if rng.random() >= 0.125:
        return []
    at, seconds = round(rng.random() * chaos * 0.6, 1), round(rng.uniform(600.0, 1100.0), 1)
    where = rng.choice(["RunTask: signing", "RunTask: on the wire", "RunTask: answered"])
    return [Trouble(at, "no daemon runs", {"seconds": seconds}, when=where)]


def queued(plain: Plan) -> Plan:
    """The same universe with queues: two at home, one of them often full, and one in another account."""
    rng = random.Random(f"queues/{plain.seed}")
    queues = (("full", rng.choice([1, 2]), ""), ("other", 10, ""), ("far", rng.choice([2, 10]), "far"))
    names = ["default", *(name for name, _, _ in queues)]
    tasks = tuple(replace(task, queue=rng.choice(names)) for task in plain.tasks)
    return replace(plain, tasks=tasks, queues=queues, max_running_tasks=max(plain.max_running_tasks, 14))


def listening(plain: Plan) -> Plan:
    """The same universe with a queue of events."""
    rng = random.Random(f"events/{plain.seed}")
    outage = (rng.random() * plain.chaos, rng.choice([60.0, 600.0, 3600.0])) if rng.random() < 0.3 else (0.0, 0.0)
    mail = Mail(
        lost=rng.choice([0.0, 0.0, 0.0, 0.02, 0.3, 1.0]),
        twice=rng.choice([0.0, 0.3, 1.0]),
        late=rng.choice([0.0, 0.0, 0.1, 0.5]),
        spread=rng.choice([0.0, 1.0, 1.0, 5.0, 120.0]),
        outage=outage,
    )
    return replace(plain, mail=mail)


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
