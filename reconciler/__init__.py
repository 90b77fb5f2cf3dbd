"""Run every Airflow task in its own Amazon ECS container, by reconciling a table of desired state."""

__version__ = "0.1.0"
