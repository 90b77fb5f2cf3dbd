"""What all dashboards share: queries, kinds of panels, the grid. The SDK sets neither ids nor positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["RUNBOOKS", "Query", "Row", "board", "busy", "heats", "lines", "number", "pick", "quantile", "quiet"]
__all__ += ["shared"]

RUNBOOKS: Final = "https://ecs-reconciler.example.org/runbooks"
"""A placeholder: where docs/runbooks is served. Alerts begin with the same; installations put their own there."""

PREFIX: Final = "ecs_reconciler_"
DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24
GREEN, YELLOW, RED = "green", "yellow", "red"


# -- queries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """One target of a panel. `legend` is Grafana's notation: {{label}}."""

    expr: str
    legend: str = ""


def pick(metric: str, *more: str) -> str:
    """A metric of the chosen deployments; `more` are further matchers."""
    matchers = ",".join(('namespace=~"$namespace"', 'deployment=~"$deployment"', *more))
    return f"{PREFIX}{metric}{{{matchers}}}"


QUEUE: Final = 'queue=~"$queue"'


def shared(metric: str, *more: str, by: Sequence[str] = (), own: Sequence[str] = ()) -> str:
    """A gauge about shared state, added up over shards and `own` labels, grouped `by` others.

    While the lease changes hands two replicas may show it: `max` first.
    """
    each = ", ".join(dict.fromkeys(("namespace", "deployment", "shard", *by, *own)))
    return f"sum by ({', '.join(by)}) (max by ({each}) ({pick(metric, *more)}))"


def busy(metric: str, *more: str, by: Sequence[str] = ()) -> str:
    """A counter per second."""
    return f"sum by ({', '.join(by)}) (rate({pick(metric, *more)}[$__rate_interval]))"


def quantile(q: float, histogram: str, *more: str, by: Sequence[str] = ()) -> str:
    """A quantile of a histogram."""
    labels = ", ".join((*by, "le"))
    return f"histogram_quantile({q}, sum by ({labels}) (rate({pick(f'{histogram}_bucket', *more)}[$__rate_interval])))"


def quiet(query: str, label: str) -> str:
    """The same with a line at zero, named `none`, so that a panel on which nothing happened is not an empty one."""
    return f'{query} or label_replace(vector(0), "{label}", "none", "", "")'


# -- panels ------------------------------------------------------------------------------------------------------------

Panel = Any
"""A builder of the SDK; its kinds have no base class in common."""


def _dress(panel: Panel, title: str, text: str, unit: str, *, runbook: str) -> Panel:
    """What every panel has: a title, what is normal, a unit, a link to the runbook of the alert that it explains."""
    link = dashboard.DashboardLink(f"Runbook: {runbook}").type(model.DashboardLinkType.LINK)
    link = link.url(f"{RUNBOOKS}/EcsReconciler{runbook}").target_blank(True)
    return panel.title(title).description(text).unit(unit).datasource(DATASOURCE).links([link])


def _ask(panel: Panel, *queries: Query) -> Panel:
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter)
        panel = panel.with_target(target.datasource(DATASOURCE))
    return panel


def _steps(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    made = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def number(
    title: str,
    text: str,
    query: str,
    *,
    unit: str = "short",
    warn: float | None = None,
    bad: float | None = None,
    low: bool = False,
    runbook: str,
    decimals: int = 0,
) -> Panel:
    """One number in a colour. `low`: it is bad when it is below `bad`."""
    steps: list[tuple[float | None, str]] = [(None, RED if low else GREEN)]
    steps += [(warn, YELLOW)] if warn is not None else []
    steps += [(bad, GREEN if low else RED)] if bad is not None else []
    panel = _ask(_dress(stat.Panel(), title, text, unit, runbook=runbook), Query(query))
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
    panel = panel.thresholds(_steps(*steps)).reduce_options(reduce).decimals(decimals)
    return panel.color_mode(options.BigValueColorMode.BACKGROUND).graph_mode(options.BigValueGraphMode.NONE)


def lines(
    title: str,
    text: str,
    *queries: Query,
    unit: str = "short",
    stack: bool = False,
    runbook: str,
    limit: str = "",
) -> Panel:
    """Lines over time. `limit` is the legend of a line that is a limit: drawn dashed."""
    panel = _ask(_dress(timeseries.Panel(), title, text, unit, runbook=runbook), *queries).min(0)
    legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.TABLE)
    legend = legend.placement(options.LegendPlacement.BOTTOM).show_legend(True).calcs(["lastNotNull", "max"])
    tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    panel = panel.legend(legend).tooltip(tooltip).line_width(1).fill_opacity(60 if stack else 8)
    panel = panel.show_points(options.VisibilityMode.NEVER)
    if stack:
        panel = panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if limit:
        dashes = {"fill": "dash", "dash": [8, 8]}
        properties = [("custom.lineStyle", dashes), ("custom.fillOpacity", 0), ("custom.stacking", {"mode": "none"})]
        values = [model.DynamicConfigValue(id_val=name, value=value) for name, value in properties]
        panel = panel.override_by_name(limit, values)
    return panel


def heats(title: str, text: str, histogram: str, *more: str, unit: str = "s", runbook: str) -> Panel:
    """A histogram over time, with exemplars."""
    query = f"sum by (le) (rate({pick(f'{histogram}_bucket', *more)}[$__rate_interval]))"
    target = prometheus.Dataquery().expr(query).legend_format("{{le}}").ref_id("A").exemplar(True)
    target = target.format(PromQueryFormat.HEATMAP).datasource(DATASOURCE)
    panel = _dress(heatmap.Panel(), title, text, unit, runbook=runbook).with_target(target)
    color = heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    axis = heatmap.YAxisConfig().unit(unit).axis_placement(options.AxisPlacement.LEFT)
    return panel.color(color).y_axis(axis).calculate(False)


# -- dashboards --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A question, and panels (each with its width in 24ths) that answer it."""

    title: str
    height: int
    panels: Sequence[tuple[int, Panel]]


def board(uid: str, title: str, text: str, rows: Sequence[Row], others: Sequence[tuple[str, str]]) -> model.Dashboard:
    """A dashboard with the variables and annotations of all of them, and links to the `others` (uid, title)."""
    made = dashboard.Dashboard(title).uid(uid).description(text).tags(["ecs-reconciler"]).readonly().refresh("30s")
    made = made.time("now-1h", "now").timezone("browser").tooltip(model.DashboardCursorSync.CROSSHAIR)
    for variable in _variables():
        made = made.with_variable(variable)
    for annotation in _annotations():
        made = made.annotation(annotation)
    for other, name in others:
        link = dashboard.DashboardLink(name).type(model.DashboardLinkType.LINK).url(f"/d/{other}")
        made = made.link(link.keep_time(True).include_vars(True))
    number_, top = 0, 0
    for row in rows:
        number_ += 1
        at = model.GridPos(h=1, w=WIDTH, x=0, y=top)
        made = made.with_row(dashboard.Row(row.title).id(number_).grid_pos(at))
        top, left = top + 1, 0
        for width, panel in row.panels:
            if left + width > WIDTH:
                top, left = top + row.height, 0
            number_ += 1
            made = made.with_panel(panel.id(number_).grid_pos(model.GridPos(h=row.height, w=width, x=left, y=top)))
            left += width
        top += row.height
    return made.build()


def _variables() -> Iterable[Any]:
    yield dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    for name, query in (
        ("namespace", f"label_values({PREFIX}leader, namespace)"),
        ("deployment", f'label_values({PREFIX}leader{{namespace=~"$namespace"}}, deployment)'),
        ("queue", f"label_values({pick('workloads')}, queue)"),
    ):
        variable = dashboard.QueryVariable(name).label(name.capitalize()).query(query).datasource(DATASOURCE)
        # An installation outside Kubernetes has no label `namespace`: everything matches what is not there, too.
        variable = variable.multi(True).include_all(True).all_value(".*")
        yield variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)


def _annotations() -> Iterable[Any]:
    versions = f"count by (deployment, version) ({pick('build_info')})"
    for name, color, expr in (
        ("Leader changes", "blue", f"sum by (shard) (increase({pick('leader_transitions_total')}[1m])) > 0"),
        ("Versions", "purple", f"{versions} unless count by (deployment, version) ({pick('build_info')} offset 2m)"),
        ("Breaker tripped", "red", f"max by (shard, breaker) ({pick('breaker_tripped')}) > 0"),
    ):
        yield dashboard.AnnotationQuery().name(name).icon_color(color).expr(expr).enable(True).datasource(DATASOURCE)
