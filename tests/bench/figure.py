"""Running tasks over time: ours, the official executor's, and what ECS accepts at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt

from tests.bench.judge import BURST, RATE
from tests.bench.stand import OURS, PEER

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS: Final = {OURS: "#1f77b4", PEER: "#d62728"}
NAMES: Final = {OURS: "airflow-ecs-reconciler", PEER: "AwsEcsExecutor"}


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """The quota filled at once, and short tasks that come and go."""
    mpl.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), dpi=100)
    _curves(left, results, "fill")
    first = int(max(results.get("fill-ours", {}).get("figures", {}).get("limit", {"0": 0}), key=int))
    seconds = [0.0, max(0.0, first - BURST) / RATE]
    left.plot([0, *seconds], [0, min(first, BURST), first], "k--", linewidth=1, label="what ECS accepts")
    left.set_title(f"{first} tasks are queued at once")
    _curves(right, results, "churn")
    if ceiling := results.get("churn-ours", {}).get("figures", {}).get("ceiling"):
        right.axhline(ceiling, color="k", linestyle="--", linewidth=1, label="what ECS's launch rate can keep running")
    right.set_title("short tasks, launched as fast as ECS accepts")
    for axes in (left, right):
        axes.set_xlabel("seconds since the first was queued")
        axes.set_ylabel("running ECS tasks")
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend(loc="lower right", fontsize=8)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _curves(axes: Axes, results: dict[str, dict[str, Any]], scenario: str) -> None:
    longest = 1.0
    for system, colour in COLOURS.items():
        curve = results.get(f"{scenario}-{system}", {}).get("figures", {}).get("curve", [])
        # Without the flat end.
        while len(curve) > 2 and curve[-1][1] == curve[-2][1] == curve[-3][1]:
            curve = curve[:-1]
        if curve:
            axes.plot(*zip(*curve, strict=True), color=colour, label=NAMES[system])
            longest = max(longest, curve[-1][0])
    axes.set_xlim(right=longest)
