"""The benchmark: this project and Airflow's official ECS executor, one after the other, against the same far end.

`make bench` runs everything and writes `docs/benchmark.md`; `make bench QUICK=1` does it in a few minutes and smaller.

| file | what it is |
| --- | --- |
| `sizes` | how much of everything there is, in both forms |
| `far_end`, `containers` | the local ECS in a process of its own, and containers that are played and not run |
| `forks` | containers that are real: processes forked from one that has imported Airflow |
| `scheduler` | Airflow's own scheduler with either executor, and what is noted of it |
| `database` | PostgreSQL, one database for each run, and SQL of the benchmark's own |
| `stand` | one system with its far end: processes, conditions, what is known at the end |
| `judge` | what went wrong, and how long things took, from what all of them have noted |
| `timing`, `outcomes`, `table` | the scenarios |
| `report`, `figure` | what people see |
"""
