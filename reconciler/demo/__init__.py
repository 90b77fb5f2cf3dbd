"""Airflow, a local ECS and the daemon on one machine, with a DAG that checks itself: `ecs-reconciler demo`."""

from reconciler.demo.run import demo

__all__ = ["demo"]
