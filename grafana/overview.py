"""Overview: the rows are the questions of whoever is on call, in the order in which they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.panels import QUEUE, Query, Row, board, busy, lines, number, pick, quantile, quiet, shared

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

__all__ = ["overview"]


def overview(uid: str, title: str, others: list[tuple[str, str]]) -> Dashboard:
    """The dashboard to begin with."""
    text = "Is it healthy, how far from the quota, what limits, is anything lost."
    return board(uid, title, text, [_healthy(), _through(), _limits(), _safe(), _inside()], others)


def _healthy() -> Row:
    age = f"max(time() - max by (deployment, shard, controller) ({pick('reconcile_last_success_timestamp_seconds')}))"
    skew = f"max(abs({pick('clock_skew_seconds')}))"
    broken = f"sum(increase({pick('invariant_violations_total')}[24h]))"
    panels = [
        number("Leaders", "Normal: one for each shard. 0: nothing is launched or observed.",
               f"sum({pick('leader')})", warn=None, bad=1, low=True, runbook="NoLeader"),
        number("Oldest pass", "Seconds since the slowest controller last succeeded. Normal: a few.",
               age, unit="s", warn=30, bad=120, runbook="Stalled"),
        number("Launches held", "Profiles whose launches wait behind a probe. Normal: 0.",
               shared("launches_held", own=("profile", "cause")), bad=1, runbook="LaunchesHeld"),
        number("Breakers tripped", "Normal: 0. Else nothing is declared lost, or no orphan stopped.",
               shared("breaker_tripped", own=("breaker",)), bad=1, runbook="BreakerTripped"),
        number("Broken invariants", "In 24 hours. Normal: 0, always.", broken, bad=1, runbook="InvariantViolated"),
        number("Orphans", "Live ECS tasks of ours that no workload claims. Normal: 0, or a few for minutes.",
               shared("orphans"), warn=1, bad=10, runbook="Orphans"),
        number("Oldest outcome", "How long an outcome has waited for its scheduler. Normal: seconds.",
               f"max({pick('oldest_unacknowledged_seconds')})", unit="s", warn=60, bad=600,
               runbook="UnacknowledgedOutcomes"),
        number("Clock skew", "Between this machine, the database and AWS. Normal: below a second.",
               skew, unit="s", warn=2, bad=5, runbook="ClockSkew", decimals=1),
    ]  # fmt: skip
    return Row("Is it healthy?", 4, [(3, panel) for panel in panels])


def _through() -> Row:
    ends = busy("workloads_ended_total", QUEUE)
    starts = busy("launches_total", 'result="accepted"', QUEUE)
    stage = ('stage="queued_to_running"', QUEUE)
    return Row("Are tasks getting through?", 8, [
        (12, lines("Workloads by phase",
                   "What the table holds. Normal: RUNNING is most of it, LAUNCHING and STOPPING are thin, ended ones "
                   "wait for seconds until a scheduler has acknowledged them.",
                   Query(shared("workloads", QUEUE, by=("phase",), own=("queue",)) + " > 0", "{{phase}}"),
                   stack=True, runbook="PendingTooLong")),
        (12, lines("Launches and ends per second",
                   "Tasks that ECS accepted, and workloads that ended. Normal: alike over time; launches lead when a "
                   "wave begins.",
                   Query(starts, "launched"), Query(ends, "ended"), unit="ops", runbook="LaunchFailures")),
        (12, lines("From queued to running",
                   "Time of a whole start. Normal: what Fargate needs for your image, 30 to 60 seconds.",
                   Query(quantile(0.5, "launch_stage_seconds", *stage), "half"),
                   Query(quantile(0.95, "launch_stage_seconds", *stage), "95 %"), unit="s",
                   runbook="PendingTooLong")),
        (12, lines("Oldest waiting task by queue",
                   "Normal: seconds while there is headroom, and as long as it takes while the quota is full.",
                   Query(f"max by (queue) ({pick('oldest_pending_seconds', QUEUE)})", "{{queue}}"), unit="s",
                   runbook="PendingTooLong")),
    ])  # fmt: skip


def _limits() -> Row:
    profile = ("profile",)
    launch = ('bucket="launch"',)
    return Row("What limits?", 8, [
        (10, lines("Quota", "ECS tasks that exist, against how many may. Normal: anything up to the limit.",
                   Query(shared("quota_used", by=profile), "{{profile}}"),
                   Query(shared("quota_deployment_limit"), "limit"), limit="limit", runbook="QuotaFull")),
        (4, number("Quota full in", "If it goes on filling as in the last minute. Infinite: it does not fill.",
                   f"min({pick('quota_full_in_seconds')})", unit="s", runbook="QuotaFull")),
        (10, lines("Launches allowed and made",
                   "Calls of RunTask per second that our limiter allows, and those made. Normal: allowed is flat; it "
                   "falls by half when AWS throttles, and climbs back within a minute.",
                   Query(shared("call_rate_allowed", *launch), "allowed"),
                   Query(busy("aws_api_requests_total", 'operation="RunTask"'), "made"), unit="ops", limit="allowed",
                   runbook="Throttled")),
        (12, lines("Failed launches by reason",
                   "Launches that came to nothing. Normal: none, or capacity and quota, which only wait.",
                   Query(quiet(busy("launch_failures_total", QUEUE, by=("reason",)) + " > 0", "reason"), "{{reason}}"),
                   unit="ops", stack=True, runbook="LaunchFailures")),
        (12, lines("Launches held, by the daemon and by people",
                   "1 while launches of a profile wait behind a probe, or somebody holds a queue. Normal: 0.",
                   Query(f"max by (profile, cause) ({pick('launches_held')})", "{{profile}}: {{cause}}"),
                   Query(quiet(f"max by (queue, mode) ({pick('queue_held')})", "queue"), "{{queue}} {{mode}}"),
                   runbook="LaunchesHeld")),
    ])  # fmt: skip


def _safe() -> Row:
    hour = "[1h]"
    return Row("Is it safe?", 8, [
        (8, lines("Double launches prevented, in an hour",
                  "By what kept a launch from becoming a second container. Normal: none, some after a restart or an "
                  "outage: that is what the guards are for.",
                  Query(f"sum by (guard) (increase({pick('double_launches_prevented_total')}{hour}))", "{{guard}}"),
                  runbook="InvariantViolated")),
        (8, lines("Orphans",
                  "Live ECS tasks of ours that no workload claims, and what became of them in an hour. Normal: 0.",
                  Query(shared("orphans"), "orphans"),
                  Query(f"sum by (action) (increase({pick('orphans_handled_total')}{hour}))", "{{action}}"),
                  runbook="Orphans")),
        (8, lines("Broken invariants, in an hour", "Normal: 0, always.",
                  Query(f"sum by (invariant) (increase({pick('invariant_violations_total')}{hour}))", "{{invariant}}"),
                  runbook="InvariantViolated")),
        (12, lines("How workloads end",
                   "exited_zero and exited_nonzero are Airflow's business. Normal: no lost, few failed_start.",
                   Query(busy("workloads_ended_total", QUEUE, by=("outcome",)), "{{outcome}}"), unit="ops",
                   stack=True, runbook="LaunchFailures")),
        (12, lines("Outcomes that wait for a scheduler",
                   "Ended workloads that no scheduler has acknowledged. Normal: near 0, a few per heartbeat.",
                   Query(shared("unacknowledged_outcomes"), "outcomes"), runbook="UnacknowledgedOutcomes")),
    ])  # fmt: skip


def _inside() -> Row:
    ours = f"on (instance) {pick('leader')}"
    return Row("Inside", 8, [
        (8, lines("Passes with errors by controller", "Per second. Normal: 0.",
                  Query(busy("reconcile_total", 'result="error"', by=("controller",)), "{{controller}}"), unit="ops",
                  runbook="Stalled")),
        (8, lines("Duration of a pass, 99 %", "Normal: launch, retry, cleanup and report below 50 ms; sweep and "
                  "adopt wait for ECS.",
                  Query(quantile(0.99, "reconcile_duration_seconds", by=("controller",)), "{{controller}}"), unit="s",
                  runbook="Stalled")),
        (8, lines("Leader", "1 on the replica that leads. Normal: one line at 1, and it stays.",
                  Query(f"max by (shard, instance) ({pick('leader')})", "{{shard}} {{instance}}"),
                  runbook="SplitBrain")),
        (8, lines("Database, 99 % by statement", "Normal: a few milliseconds.",
                  Query(f"topk(8, {quantile(0.99, 'db_statement_duration_seconds', by=('statement',))})",
                        "{{statement}}"), unit="s", runbook="DatabaseSlow")),
        (8, lines("Database errors by kind", "Per second. Normal: 0.",
                  Query(busy("db_errors_total", by=("kind",)), "{{kind}}"), unit="ops", runbook="DatabaseSlow")),
        (8, lines("CPU and connections", "Share of a core, and database connections in use. Normal: below 0.1 at rest.",
                  Query(f"rate(process_cpu_seconds_total[$__rate_interval]) and {ours}", "CPU {{instance}}"),
                  Query(pick("db_pool_connections", 'state="used"'), "connections {{instance}}"),
                  runbook="DatabaseSlow")),
    ])  # fmt: skip
