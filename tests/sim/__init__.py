"""Deterministic simulation: the real daemon and the real shim logic in a universe that one seed decides.

    python -m tests.sim 1000 1        # a thousand universes, beginning with seed 1
    python -m tests.sim --story 42    # one of them, told

| module | is |
| --- | --- |
| `engine`   | time, processes and chance: who runs next, who stalls, who dies |
| `database` | SQLite in memory with a clock of its own, which forgets answers and notes every write to a row |
| `sql`      | SQLAlchemy's statements on SQLite, compiled once and executed fast |
| `aws`      | ECS between the gateway and the model: outages, lost answers, late requests, containers |
| `airflow`  | Airflow's tables, Execution API, users and schedulers around the real delivery and upkeep |
| `daemon`   | replicas: the real manager, elector, controllers, gateway and rate limiter |
| `plan`     | what one seed makes of all this: an explicit list, which can be printed, kept and cut down |
| `trouble`  | what can go wrong, kind by kind |
| `universe` | one plan, run to its end: chaos first, then a healed world that must come to rest |
| `check`    | the invariants, judged from the trace alone: `check_table`, `check_ecs`, `check_airflow` |
| `truth`    | what the checker knows: the ground truth, as the trace tells it |
| `sometimes`| rare paths that must have been taken, counted from the trace |
| `mutants`  | faults planted into the protocol, each of which the simulation must find |
| `shrink`   | cuts a failing plan down to a short story |

`regressions` holds plans that broke a rule once, with what was wrong then.
"""
