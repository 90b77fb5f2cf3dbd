"""Writes docs/configuration.md from the options themselves: `python -m tests.tools.options_page`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.config import variable
from reconciler.options import EcsExecutorOptions, ReconcilerOptions

if TYPE_CHECKING:
    from pydantic import BaseModel

PAGE = Path(__file__).parents[2] / "docs/configuration.md"

HEAD = """\
# Options

Set in airflow.cfg, or in the environment as shown. `_CMD` and `_SECRET` work as for Airflow's own options. The daemon
reads the same configuration as the scheduler; what is missing or wrong is reported all at once, and it ends with
exit code 2.
"""


def options_page() -> str:
    """The whole page."""
    return HEAD + _section("ecs_reconciler", ReconcilerOptions) + _section("aws_ecs_executor", EcsExecutorOptions)


def _section(name: str, model: type[BaseModel]) -> str:
    rows = ["", f"## `[{name}]`", "", "| option | default | meaning |", "| --- | --- | --- |"]
    for option, info in model.model_fields.items():
        default = "**required**" if info.is_required() else f"`{info.default}`"
        default = "" if info.default in (None, [], {}) else default
        text = info.description or ""
        example = f" Example: `{info.examples[0]}`." if info.examples else ""
        rows.append(f"| `{option}`<br>`{variable(name, option)}` | {default} | {text}{example} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(options_page())
