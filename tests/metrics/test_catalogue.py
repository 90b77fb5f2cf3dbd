"""The catalogue of metrics: names, types, units, labels, and the page made from it."""

from __future__ import annotations

import subprocess

from prometheus_client.exposition import generate_latest

from reconciler.core.answer import Throttled
from reconciler.metrics.catalogue import CATALOGUE, INVARIANTS, Kind
from tests.metrics.meter import Meter, launching
from tests.tools.metrics_page import PAGE, metrics_page


def test_the_page_is_made_from_it() -> None:
    assert PAGE.read_text() == metrics_page(), "run `make docs`"


def test_every_metric_is_exported_by_a_leader_under_its_name_type_and_labels() -> None:
    families = Meter().families()
    for metric in CATALOGUE:
        family = families[metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name]
        assert family.type == metric.kind.value
        for sample in family.samples:
            assert sample.name in metric.series
            assert set(sample.labels) <= set(metric.all_labels)


def test_units_and_totals_are_in_the_names() -> None:
    for metric in CATALOGUE:
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert not metric.unit or f"_{metric.unit}" in metric.name, metric.name
        assert not {"exec_id", "task_id", "dag_id", "arn"} & set(metric.labels), metric.name


def test_counters_whose_labels_are_known_exist_before_they_count() -> None:
    meter = Meter()
    for name in INVARIANTS:
        assert meter.value("invariant_violations_total", invariant=name) == 0
    assert meter.value("reconcile_total", controller="launch", result="error") == 0
    assert meter.value("double_launches_prevented_total", guard="client_token") == 0


def test_promtool_accepts_what_is_exported(promtool: str) -> None:
    meter = Meter()
    meter.shard.called("RunTask", "ok", 0.1)
    meter.shard.answered(launching(), Throttled("x"))
    shown = generate_latest(meter.metrics.registry)
    done = subprocess.run([promtool, "check", "metrics"], input=shown, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"_created" not in shown
