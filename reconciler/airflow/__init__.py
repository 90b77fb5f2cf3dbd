"""Everything that runs inside Airflow: the executor in the scheduler, its registration, its tables, and the token.

Nothing here calls AWS. The executor writes down what Airflow wants and tells Airflow what became of it; `delivery` and
`upkeep` decide that without Airflow, through the `AirflowSide` that `views` implements. `ecs_config` is for DAG files.
"""

from reconciler.airflow.authoring import ecs_config

__all__ = ["ecs_config"]
