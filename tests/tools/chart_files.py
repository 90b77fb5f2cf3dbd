"""Writes what the chart holds copies of: `python -m tests.tools.chart_files`.

Names and types of options in values.schema.json come from the options themselves, the table of values in the README
from values.yaml, alerts and dashboards from grafana/. A test compares what is committed with `files()`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from reconciler.options import EcsExecutorOptions, ReconcilerOptions

if TYPE_CHECKING:
    from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/ecs-reconciler"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"

GIVEN_ELSEWHERE = {"http_host", "http_port"}
"""Options that the chart sets itself, from values of its own."""


def files() -> dict[Path, str]:
    """Every file that is made here, with what it should hold."""
    made = {CHART / "values.schema.json": schema(), CHART / "README.md": readme()}
    if (alerts := ROOT / "grafana/alerts.yaml").exists():
        made[CHART / "rules/alerts.yaml"] = alerts.read_text()
    for dashboard in ROOT.glob("grafana/dashboards/*.json"):
        made[CHART / "dashboards" / dashboard.name] = dashboard.read_text()
    return made


def schema() -> str:
    """values.schema.json with today's options."""
    text = json.loads((CHART / "values.schema.json").read_text())
    sections = text["properties"]["config"]["properties"]
    sections["ecs_reconciler"]["properties"] = _options(ReconcilerOptions)
    sections["aws_ecs_executor"]["properties"] = _options(EcsExecutorOptions)
    return json.dumps(text, indent=2) + "\n"


def _options(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schemas of the options that may stand in a config map: what is secret may not."""
    schemas = model.model_json_schema()["properties"]
    return {
        name: _value(schema)
        for name, schema in sorted(schemas.items())
        if not schema.get("sensitive") and name not in GIVEN_ELSEWHERE
    }


def _value(schema: dict[str, Any]) -> dict[str, Any]:
    """Of one option: what it may be in YAML. Lists and maps may be text too, as in airflow.cfg."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    told = ("title", "default", "description", "examples", "anyOf")
    value = {name: part for kind in kinds for name, part in kind.items() if name not in told}
    return {"anyOf": [value, {"type": "string"}]} if value["type"] in ("array", "object") else value


def readme() -> str:
    """README.md with a table of values.yaml."""
    before, rest = (CHART / "README.md").read_text().split(BEGIN)
    _, after = rest.split(END)
    rows = "".join(f"| `{path}` | `{default}` | {text} |\n" for path, default, text in values())
    return f"{before}{BEGIN}\n| value | default | meaning |\n| --- | --- | --- |\n{rows}\n{END}{after}"


def values() -> list[tuple[str, str, str]]:
    """(path, default as JSON, comment) of every documented value. Raises ValueError for one without a comment."""
    text = (CHART / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    found, comment, path = [], "", list[str]()
    documented_at: int | None = None
    for line in text.splitlines():
        if started := re.match(r" *# -- (.*)", line):
            comment = started[1]
        elif more := re.match(r" *# (.*)", line):
            comment += f" {more[1]}"
        elif key := re.match(r"( *)([A-Za-z_]+):(.*)", line):
            depth = len(key[1]) // 2
            path = [*path[:depth], key[2]]
            if documented_at is not None and depth > documented_at and not comment:
                continue  # part of a value that is documented as a whole
            value: Any = defaults
            for name in path:
                value = value[name]
            if comment:
                found.append((".".join(path), json.dumps(value).replace("|", "\\|"), comment))
                documented_at = depth
            elif isinstance(value, dict) and value:
                documented_at = None
            else:
                raise ValueError(f"values.yaml: {'.'.join(path)} has no comment")
            comment = ""
    return found


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
