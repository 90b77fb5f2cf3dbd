"""`ecs-reconciler doctor`: everything that can be seen to be wrong, before it is felt.

Each part looks at one side (configuration, database, AWS, Airflow's settings, who runs) and returns findings. A part
that can not look says so and keeps none of the others from looking. Nothing is launched, stopped or changed.
"""

from reconciler.doctor.examine import Tools, examine

__all__ = ["Tools", "examine"]
