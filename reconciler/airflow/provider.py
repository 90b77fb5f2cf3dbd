"""What Airflow learns of us through the entry point `apache_airflow_provider`.

Source of the form: airflow/provider_info.schema.json.
"""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import PydanticUndefined

from reconciler.options import EcsExecutorOptions, ReconcilerOptions

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = ["get_provider_info"]

_SINCE: Final = "0.1.0"
_TYPES: Final = {str(bool): "boolean", str(int): "integer", str(float): "float"}


def get_provider_info() -> dict[str, Any]:
    """Our configuration, executor, commands and tables."""
    config = {"ecs_reconciler": _section("Options of the ECS reconciler.", ReconcilerOptions)}
    if not _amazon_provider_installed():
        config["aws_ecs_executor"] = _section(
            "Options of the ECS executor, as Airflow's official one has them.", EcsExecutorOptions
        )
    return {
        "package-name": "airflow-ecs-reconciler",
        "name": "ECS reconciler",
        "description": "Runs every task in its own Amazon ECS container, by reconciling a table of desired state.",
        "config": config,
        "executors": ["reconciler.airflow.executor.EcsReconcilerExecutor"],
        "cli": ["reconciler.cli.airflow_commands"],
        "db-managers": ["reconciler.airflow.db.EcsReconcilerDBManager"],
    }


def _amazon_provider_installed() -> bool:
    """Two providers must not describe the same section: Airflow keeps the one that it happens to load last."""
    try:
        metadata.distribution("apache-airflow-providers-amazon")
    except metadata.PackageNotFoundError:
        return False
    return True


def _section(description: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "description": description,
        "options": {name: _option(info) for name, info in model.model_fields.items()},
    }


def _option(info: FieldInfo) -> dict[str, Any]:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    return {
        "description": info.description,
        "version_added": _SINCE,
        "type": _TYPES.get(str(info.annotation), "string"),
        "example": info.examples[0] if info.examples else None,
        "default": _default(info.default),
        "sensitive": bool(extra.get("sensitive")),
    }


def _default(value: Any) -> str | None:
    """A default as one would write it into airflow.cfg."""
    if value is PydanticUndefined or value is None:
        return None
    if isinstance(value, list):
        return ",".join(value)
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    # Airflow passes defaults through str.format.
    return text.replace("{", "{{").replace("}", "}}")
