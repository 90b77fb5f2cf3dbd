"""Writes docs/metrics.md from the catalogue: `python -m tests.tools.metrics_page`."""

from __future__ import annotations

from pathlib import Path

from reconciler.metrics.catalogue import CATALOGUE, SHIM, Kind, Scope

PAGE = Path(__file__).parents[2] / "docs/metrics.md"

HEAD = """\
# Metrics

The daemon serves them at `/metrics`, as Prometheus's text and as OpenMetrics, the latter with exemplars that name
the launch (`exec_id`, `attempt`) behind a point in a histogram. A scrape never waits on the database: one counting
statement runs every two seconds on the replica that leads, and a scrape shows its result.

A shard is an AWS account and region, because AWS's rate limits are. All metrics have the label `deployment` besides
those shown. A standby exports what concerns its process and who leads; the rest is there on a replica that leads. So a
gauge about shared state is read with `max by`, a counter with `sum by`.

**stable** metrics keep name, type and labels within a major version; **beta** ones may change with any release.
No label holds the id of a task, a DAG or an ARN. The label `queue` is Airflow's queue; after 50 of them the rest is
`others`. `profile` is what a queue's tasks are launched with. `process_*` and `python_info` are prometheus-client's.
"""


def metrics_page() -> str:
    """The whole page."""
    parts = [HEAD]
    for scope in (Scope.PROCESS, Scope.LEADER):
        parts += [f"\n## On {scope.value}\n", "\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"]
        for metric in (metric for metric in CATALOGUE if metric.scope is scope):
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            buckets = ""
            if metric.kind is Kind.HISTOGRAM:
                buckets = f" Buckets from {metric.buckets[0]:g} to {metric.buckets[-1]:g} {metric.unit}."
            name = f"`{metric.name}`<br>{metric.stability.value}"
            parts.append(f"| {name} | {metric.kind.value} | {labels} | {metric.help}{buckets} |\n")
    parts.append(
        "\n## In the scheduler\n\nWhat the executor costs there goes through Airflow's own metrics (StatsD or "
        "OpenTelemetry, `[metrics]` in airflow.cfg).\n\n| metric | type | meaning |\n| --- | --- | --- |\n"
    )
    parts += [f"| `{name}` | {kind} | {text} |\n" for name, kind, text in SHIM]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(metrics_page())
