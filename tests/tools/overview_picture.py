"""Draws docs/images/overview.png from the Overview dashboard's own queries and the data of a real run.

`python -m tests.tools.overview_picture` runs daemon, local ECS and Prometheus for five minutes (see `story`), asks
Prometheus what each panel of the committed dashboard asks, and draws the answers in the dashboard's own layout. The
renderer is matplotlib and not Grafana, which is why the caption says so. `--draw FILE` draws what an earlier run saved.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from grafana.build import FOLDER
from reconciler.localecs import AwsError, Settings
from reconciler.localecs.settings import Latencies
from tests.metrics.conftest import RULES, filled, program
from tests.metrics.live import Live

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE: Final = Path(__file__).parents[2] / "docs/images/overview.png"
BOARD: Final = FOLDER / "ecs-reconciler-overview.json"
ROWS: Final = 3
"""How many rows are drawn: healthy, through, limits."""
WIDTH, UNIT, DPI = 1500, 27, 100
PAPER, CARD, EDGE, INK, FAINT = "#111217", "#181b1f", "#2a2d33", "#d8d9da", "#8e9096"
COLOURS: Final = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#f2495c", "#8ab8ff", "#fade2a")
GOOD, WARN, BAD = "#3b8f3e", "#c79a12", "#c4162a"

OPTIONS: Final = {
    "AIRFLOW__ECS_RECONCILER__MAX_RUNNING_TASKS": "150",
    "AIRFLOW__ECS_RECONCILER__LAUNCH_RATE": "6",
    "AIRFLOW__ECS_RECONCILER__LAUNCH_BURST": "6",
    "AIRFLOW__ECS_RECONCILER__LEASE_SECONDS": "5",
}
SETTINGS: Final = Settings(
    latencies=Latencies(provisioning=3, pending=1, activating=4, deprovisioning=2, jitter=0.4, stragglers=0.03),
    rates={},
)


def story(live: Live) -> None:
    """Waves against a quota of 150, an image that is gone, throttling, refused credentials, a dead daemon."""
    live.until("a leader", lambda: live.value("sum(ecs_reconciler_leader)") == 1)
    faults = live.ecs.model.faults
    live.queue(180)
    live.queue(60, "gpu")
    live.clock.wait(60)
    with live.ecs.lock:
        faults.on_start("CannotPullContainerError: pull image manifest has been retried", times=12)
    live.queue(60)
    live.clock.wait(50)
    with live.ecs.lock:
        faults.on_call("RunTask", AwsError("ThrottlingException", "Rate exceeded"), times=6)
    live.clock.wait(40)
    live.queue(80, "gpu")
    live.queue(40)
    with live.ecs.lock:
        refusal = AwsError("ExpiredTokenException", "The security token is expired")
        expired = faults.on_call("RunTask", refusal, times=None)
    live.clock.wait(25)
    with live.ecs.lock:
        faults.remove(expired)
    live.clock.wait(50)
    live.kill_daemon()
    live.start_daemon()
    live.clock.wait(75)


def record(folder: Path) -> dict[str, Any]:
    """Run the story and answer every panel's queries: by panel id, one list of series per target."""
    programs = {
        "prometheus": program("prometheus"),
        "alertmanager": program("alertmanager", "prometheus-alertmanager"),
    }
    with Live(
        folder,
        programs=programs,
        rules=RULES.read_text(),
        settings=SETTINGS,
        seconds=(25.0, 80.0),
        environment=OPTIONS,
        scrape="4s",
    ) as live:
        live.until("Prometheus", lambda: live.value("vector(time())") is not None)
        first = live.value("vector(time())") or 0.0
        story(live)
        last = live.value("vector(time())") or 0.0
        answers = {}
        for panel in json.loads(BOARD.read_text())["panels"]:
            answers[str(panel["id"])] = [
                live.ask("query_range", query=filled(target["expr"], "16s"), start=str(first), end=str(last), step="1")[
                    "result"
                ]
                for target in panel.get("targets", ())
            ]
    return {"first": first, "last": last, "answers": answers}


def _span(data: dict[str, Any]) -> tuple[float, float]:
    return data["first"], data["last"]


def _name(legend: str, labels: dict[str, str]) -> str:
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend


def _short(unit: str, value: float) -> str:
    """A number as Grafana shows it."""
    if math.isinf(value):
        return "∞"
    if unit == "s":
        if value >= 120:
            return f"{value / 60:.3g} min"
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    return f"{value:.3g}" + (" /s" if unit == "ops" else "")


class Picture:
    """A figure with the dashboard's grid."""

    def __init__(self, height: int, data: dict[str, Any]) -> None:
        self._height, self._data = height, data
        self.figure: Figure = plt.figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)

    def box(self, at: dict[str, int], shift: int) -> tuple[float, float, float, float]:
        """Left, bottom, width, height in pixels, with a gap around."""
        step = (WIDTH - 16) / 24
        left, top = 8 + at.get("x", 0) * step + 4, (at.get("y", 0) - shift) * UNIT + 12
        return left, self._height - top - at["h"] * UNIT + 8, at["w"] * step - 8, at["h"] * UNIT - 8

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        return self.figure.add_axes((left / WIDTH, bottom / self._height, width / WIDTH, height / self._height))

    def card(self, panel: dict[str, Any], shift: int) -> tuple[float, float, float, float]:
        left, bottom, width, height = self.box(panel["gridPos"], shift)
        self.figure.add_artist(
            Rectangle(
                (left / WIDTH, bottom / self._height), width / WIDTH, height / self._height,
                transform=self.figure.transFigure, facecolor=CARD, edgecolor=EDGE, linewidth=0.8, zorder=-1,
            )
        )  # fmt: skip
        self.text(left + 9, bottom + height - 17, panel["title"], 9.5, INK, weight="bold")
        return left, bottom, width, height

    def text(self, x: float, y: float, words: str, size: float, color: str, **more: Any) -> None:
        self.figure.text(x / WIDTH, y / self._height, words, fontsize=size, color=color, **more)

    def row(self, panel: dict[str, Any], shift: int) -> None:
        left, bottom, _, height = self.box(panel["gridPos"], shift)
        self.text(left + 2, bottom + height / 2 - 3, f"▾ {panel['title']}", 11, INK, weight="bold")

    def number(self, panel: dict[str, Any], shift: int) -> None:
        """One number on its colour: the last value."""
        left, bottom, width, height = self.box(panel["gridPos"], shift)
        (answer,) = self._data["answers"][str(panel["id"])]
        value = float(answer[0]["values"][-1][1]) if answer else math.nan
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
        face = {"green": GOOD, "yellow": WARN, "red": BAD}[colour]
        self.figure.add_artist(
            Rectangle(
                (left / WIDTH, bottom / self._height), width / WIDTH, height / self._height,
                transform=self.figure.transFigure, facecolor=face, linewidth=0, zorder=-1,
            )
        )  # fmt: skip
        self.text(left + 9, bottom + height - 17, panel["title"], 9.5, "white", weight="bold")
        shown = _short(panel["fieldConfig"]["defaults"]["unit"], value)
        size = 24 if height < 150 else 34
        self.text(
            left + width / 2, bottom + (height - 16) / 2, shown, size, "white", ha="center", va="center", weight="bold"
        )

    def lines(self, panel: dict[str, Any], shift: int) -> None:
        """Lines or areas over time, with the legend below."""
        left, bottom, width, height = self.card(panel, shift)
        defaults = panel["fieldConfig"]["defaults"]
        unit, custom = defaults["unit"], defaults.get("custom", {})
        axes = self.axes(left + 56, bottom + 48, width - 70, height - 74)
        first, last = _span(self._data)
        grid = list(range(int(last - first) + 1))
        dashed = {rule["matcher"]["options"] for rule in panel["fieldConfig"]["overrides"]}
        series = []
        for target, answer in zip(panel["targets"], self._data["answers"][str(panel["id"])], strict=True):
            for one in answer:
                values = [math.nan] * len(grid)
                for when, value in one["values"]:
                    values[min(len(grid) - 1, round(when - first))] = float(value)
                series.append((_name(target["legendFormat"], one["metric"]), values))
        self._plot(axes, grid, series, stacked=custom.get("stacking", {}).get("mode") == "normal", dashed=dashed)
        self._dress(axes, unit, len(grid))
        self._legend(left, bottom, width, unit, series)

    def _plot(
        self,
        axes: Axes,
        grid: Sequence[int],
        series: Sequence[tuple[str, list[float]]],
        *,
        stacked: bool,
        dashed: set[str],
    ) -> None:
        below = [0.0] * len(grid)
        for number, (name, values) in enumerate(series):
            colour = COLOURS[number % len(COLOURS)]
            if name in dashed:
                axes.plot(grid, values, color="#f2495c", linewidth=1.2, dashes=(5, 4))
            elif stacked:
                above = [a + (0 if math.isnan(b) else b) for a, b in zip(below, values, strict=True)]
                axes.fill_between(grid, below, above, color=colour, alpha=0.62, linewidth=0)
                axes.plot(grid, above, color=colour, linewidth=0.9)
                below = above
            else:
                axes.plot(grid, values, color=colour, linewidth=1.3)
                axes.fill_between(grid, values, color=colour, alpha=0.09, linewidth=0)

    def _dress(self, axes: Axes, unit: str, seconds: int) -> None:
        axes.set_facecolor(CARD)
        axes.set_xlim(0, seconds - 1)
        axes.set_ylim(0, max(axes.get_ylim()[1] * 1.04, 1e-9))
        axes.grid(color=EDGE, linewidth=0.7)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(colors=FAINT, labelsize=7.5, length=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(unit, value)))
        axes.set_xticks(range(0, seconds, 60))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02d}"))

    def _legend(
        self, left: float, bottom: float, width: float, unit: str, series: Sequence[tuple[str, list[float]]]
    ) -> None:
        x = left + 12
        for number, (name, values) in enumerate(series):
            last = next((value for value in reversed(values) if not math.isnan(value)), None)
            words = f"{name}  {'' if last is None else _short(unit, last)}"
            needed = 16 + 7.0 * len(words)
            if x + needed > left + width:
                return
            colour = "#f2495c" if name in ("limit", "allowed") else COLOURS[number % len(COLOURS)]
            self.text(x, bottom + 12, "━", 10, colour, weight="bold")
            self.text(x + 16, bottom + 12, words, 8.5, INK)
            x += needed + 12


def draw(data: dict[str, Any], path: Path) -> None:
    """The first rows of the dashboard, as it lays them out."""
    panels = json.loads(BOARD.read_text())["panels"]
    rows = [panel for panel in panels if panel["type"] == "row"]
    end = rows[ROWS]["gridPos"]["y"]
    picture = Picture(end * UNIT + 16, data)
    for panel in panels:
        if panel["gridPos"].get("y", 0) >= end:
            continue
        kind = {"row": picture.row, "stat": picture.number, "timeseries": picture.lines}[panel["type"]]
        kind(panel, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.figure.savefig(path, facecolor=PAPER)
    plt.close(picture.figure)
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)


def main() -> None:
    """See the head of this page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="keep the answers in this file")
    parser.add_argument("--draw", type=Path, help="draw the answers of this file")
    arguments = parser.parse_args()
    mpl.use("Agg")
    plt.rcParams["font.family"] = "DejaVu Sans"
    if arguments.draw:
        data = json.loads(arguments.draw.read_text())
    else:
        data = record(Path(tempfile.mkdtemp(prefix="overview-")))
        if arguments.save:
            arguments.save.write_text(json.dumps(data))
    draw(data, PICTURE)


if __name__ == "__main__":
    main()
