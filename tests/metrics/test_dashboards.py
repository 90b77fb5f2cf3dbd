"""The dashboards: made from the code, readable by Grafana's own schema, and linted with a parser of PromQL."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.build import FOLDER, dashboards
from grafana.panels import RUNBOOKS
from reconciler.metrics.catalogue import CATALOGUE, Kind
from tests.metrics.conftest import alerts, filled
from tests.metrics.promql import TARGET, uses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = sorted(dashboards())
DECLARED = {series: metric for metric in CATALOGUE for series in metric.series}
PROCESS = {"process_cpu_seconds_total"}
"""Metrics of prometheus-client's own that may be used."""
LONG = {"1m", "1h", "24h"}
"""Windows that a panel or an annotation names in its title: they do not depend on how far one has zoomed in."""
ALL = 'namespace=~"$namespace",deployment=~"$deployment"'


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


def faults(board: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a dashboard, in sentences."""
    everything = [*board["panels"], *(p for row in board["panels"] for p in row.get("panels") or ())]
    ids = [panel.get("id") for panel in everything]
    if len(set(ids)) != len(ids) or None in ids or 0 in ids:
        yield "the panels' ids are not different numbers"
    if board.get("editable", True) is not False:
        yield "it can be edited, and would differ from its source"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    if variables != {"datasource", "namespace", "deployment", "queue"}:
        yield f"the variables are {sorted(variables)}"
    if len(board["annotations"]["list"]) != 3:
        yield "annotations for leader changes, versions and breaker trips are wanted"
    yield from _overlaps(everything)
    for panel in panels(board):
        yield from (f"{panel['title']}: {fault}" for fault in _faults_of_panel(panel))
        for target in panel["targets"]:
            yield from (f"{panel['title']}: {fault}" for fault in faults_of(target["expr"], variables))
    for annotation in board["annotations"]["list"]:
        yield from (f"{annotation['name']}: {fault}" for fault in faults_of(annotation["expr"], variables))


def _overlaps(everything: list[dict[str, Any]]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in everything:
        at = panel["gridPos"]
        if at.get("x", 0) + at["w"] > 24:
            yield f"{panel['title']} reaches beyond the grid"
        for x in range(at.get("x", 0), at.get("x", 0) + at["w"]):
            for y in range(at.get("y", 0), at.get("y", 0) + at["h"]):
                if (other := taken.setdefault((x, y), panel["title"])) != panel["title"]:
                    yield f"{panel['title']} lies over {other}"


def _faults_of_panel(panel: dict[str, Any]) -> Iterator[str]:
    text = panel.get("description", "")
    if not panel.get("title") or len(text) < 10:
        yield "has no title or no description"
    if not panel["fieldConfig"]["defaults"].get("unit"):
        yield "has no unit"
    if panel["datasource"]["uid"] != "${datasource}" or any(
        target["datasource"]["uid"] != "${datasource}" for target in panel["targets"]
    ):
        yield "does not use the variable for its data source"
    links = [link["url"] for link in panel.get("links", ())]
    if not any(link.startswith(RUNBOOKS) and link.rpartition("/")[2] in alerts() for link in links):
        yield f"has no link to a runbook: {links}"
    if len({target["refId"] for target in panel["targets"]}) != len(panel["targets"]) or not panel["targets"]:
        yield "has no targets, or two of one name"


def faults_of(expression: str, variables: set[str]) -> Iterator[str]:
    """What is wrong with a query."""
    if unknown := set(re.findall(r"\$(\w+)", expression)) - variables - {"__rate_interval"}:
        yield f"uses unknown variables {unknown}"
    if set(re.findall(r"\[(\w+)\]", expression)) - LONG:
        yield "has a fixed window: use $__rate_interval"
    try:
        used = uses(filled(expression))
    except ValueError as error:
        yield f"can not be parsed: {error}"
        return
    for name, labels in used.selectors:
        if name not in PROCESS:
            yield from _faults_of_selector(name, labels, rated=name in used.rated)
    for labels, names in used.grouped:
        for name in names & set(DECLARED):
            if extra := labels - set(DECLARED[name].all_labels) - TARGET:
                yield f"{name} has no labels {sorted(extra)} to group by"


def _faults_of_selector(name: str, labels: frozenset[str], *, rated: bool) -> Iterator[str]:
    metric = DECLARED.get(name)
    if metric is None:
        yield f"{name} is not declared in the catalogue"
        return
    if extra := labels - set(metric.all_labels) - TARGET:
        yield f"{name} has no labels {sorted(extra)}"
    if not {"namespace", "deployment"} <= labels:
        yield f"{name} is not restricted to the chosen deployments"
    if rated is (metric.kind is Kind.GAUGE):
        yield f"{name} is a gauge under rate()" if rated else f"{name} is a counter and not under rate()"


def test_the_files_are_made_from_the_code() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == set(FILES)
    for name, text in dashboards().items():
        assert (FOLDER / name).read_text() == text, "run `make docs`"


@pytest.mark.parametrize("name", FILES)
def test_grafanas_schema_knows_every_member(name: str) -> None:
    """What the schema does not know is dropped on the way there and back."""
    register_default_plugins()
    board = read(name)
    there_and_back = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
    for panel in panels(there_and_back):
        if not panel["fieldConfig"]["defaults"].get("custom"):
            panel["fieldConfig"]["defaults"].pop("custom", None)  # the reader's, where nothing was
    assert there_and_back == board
    typo = {**board, "titel": "x"}
    assert json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(typo))) != typo


@pytest.mark.parametrize("name", FILES)
def test_a_dashboard_has_no_faults(name: str) -> None:
    assert list(faults(read(name))) == []


def test_uids_and_links_between_the_dashboards_are_stable() -> None:
    uids = {read(name)["uid"] for name in FILES}
    assert uids == {name.removesuffix(".json") for name in FILES}
    for name in FILES:
        board = read(name)
        assert {link["url"].removeprefix("/d/") for link in board["links"]} == uids - {board["uid"]}
        assert all(link["keepTime"] and link["includeVars"] for link in board["links"])


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sum(ecs_reconciler_nothing)", "not declared"),
        (f'rate(ecs_reconciler_launches_total{{{ALL},dag="x"}}[$__rate_interval])', "has no labels"),
        (f"sum by (dag) (ecs_reconciler_leader{{{ALL}}})", "to group by"),
        ("ecs_reconciler_leader", "not restricted"),
        (f"ecs_reconciler_launches_total{{{ALL}}}", "not under rate"),
        (f"rate(ecs_reconciler_leader{{{ALL}}}[$__rate_interval])", "a gauge under rate"),
        (f"rate(ecs_reconciler_launches_total{{{ALL}}}[5m])", "fixed window"),
        (f'sum(ecs_reconciler_leader{{{ALL},shard=~"$shard"}})', "unknown variables"),
        (f"rate(ecs_reconciler_leader{{{ALL}}})", "can not be parsed"),
    ],
)
def test_the_linter_finds_what_it_looks_for(expression: str, fault: str) -> None:
    found = list(faults_of(expression, {"namespace", "deployment", "queue", "datasource"}))
    assert any(fault in sentence for sentence in found), found


def test_the_linter_finds_faults_of_panels() -> None:
    spoilt: list[tuple[Callable[[Any], Any], str]] = [
        (lambda panel: panel.update(description=""), "no description"),
        (lambda panel: panel.update(links=[]), "runbook"),
        (lambda panel: panel["gridPos"].update(x=23), "beyond the grid"),
        (lambda panel: panel["fieldConfig"]["defaults"].pop("unit"), "no unit"),
        (lambda panel: panel.update(id=1), "ids"),
        (lambda panel: panel["datasource"].update(uid="mine"), "data source"),
    ]
    for spoil, fault in spoilt:
        board = read(FILES[0])
        spoil(next(panels(board)))
        assert any(fault in sentence for sentence in faults(board)), fault
