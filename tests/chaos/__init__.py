"""Chaos with real parts: PostgreSQL, daemon processes, the local ECS with processes for containers, and a bad network.

    make chaos N=20 SEED=1                  # twenty worlds, beginning with seed 1
    python -m tests.chaos 1 7               # one of them

What fails keeps its files: the daemons' logs, the containers' lines.

| module | is |
| --- | --- |
| `proxy`    | the network between two parts: delays, cuts, resets, falls silent, and stops the world at a named point |
| `history`  | what happened, as the simulation's checker reads it: every committed row, ECS task and container |
| `ecs`      | the local ECS, which tells the history |
| `container` | what runs in a container: a script that writes down that it ran |
| `airflow`  | a scheduler around the shim's real delivery, upkeep and SQL |
| `replica`  | a daemon process, its two edges, and what can be done to it |
| `world`    | all of that together, and its end: a healed world must come to rest |
| `plan`     | what one seed makes of it |
"""
