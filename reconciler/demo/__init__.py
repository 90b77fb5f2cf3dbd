"""Airflow, a local ECS and the daemon on one machine, with a DAG that checks itself: `ecs-reconciler demo`."""
