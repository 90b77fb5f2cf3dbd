"""Writes grafana/dashboards/*.json: `python -m grafana.build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.aws import aws
from grafana.launch_path import launch_path
from grafana.overview import overview

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FOLDER", "dashboards"]

FOLDER: Final = Path(__file__).parent / "dashboards"
BOARDS: Final = (
    ("ecs-reconciler-overview", "ECS reconciler / Overview", overview),
    ("ecs-reconciler-launch-path", "ECS reconciler / Launch path", launch_path),
    ("ecs-reconciler-aws", "ECS reconciler / AWS API and quotas", aws),
)


def dashboards() -> Mapping[str, str]:
    """JSON by file name."""
    names = [(uid, title.rpartition("/ ")[2]) for uid, title, _ in BOARDS]
    made = {}
    for uid, title, make in BOARDS:
        built = make(uid, title, [other for other in names if other[0] != uid])
        made[f"{uid}.json"] = JSONEncoder(sort_keys=True, indent=2).encode(built) + "\n"
    return made


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text)
