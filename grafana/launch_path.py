"""Launch path: where the time of a start goes, and what becomes of launches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana.panels import QUEUE, Query, Row, board, busy, heats, lines, quantile, quiet

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

__all__ = ["launch_path"]

STAGES = (
    ("queued_to_claimed", "Waiting for quota and order. Normal: below half a second while there is room.",
     "PendingTooLong"),
    ("claimed_to_accepted", "RunTask and its turn at the rate limit. Normal: below a second, more in a wave.",
     "Throttled"),
    ("accepted_to_running", "ECS: network, image, start. Normal: 20 to 60 s on Fargate, less on EC2.",
     "LaunchFailures"),
    ("queued_to_running", "The whole start. Normal: hardly more than ECS's own part of it.", "PendingTooLong"),
)  # fmt: skip


def launch_path(uid: str, title: str, others: list[tuple[str, str]]) -> Dashboard:
    """The dashboard of starts."""
    return board(uid, title, "Where the time of a start goes.", [_time(), _answers(), _news()], others)


def _time() -> Row:
    by_stage = ("stage",)
    shapes = [
        (12, heats(stage.replace("_", " ").capitalize(), text, "launch_stage_seconds", f'stage="{stage}"', QUEUE,
                   runbook=runbook))
        for stage, text, runbook in STAGES
    ]  # fmt: skip
    return Row("Where does the time go?", 8, [
        (12, lines("Time by stage, half of the launches",
                   "The first heartbeat to Airflow comes after these, and is in Airflow's own log. Normal: "
                   "accepted_to_running is nearly all of it.",
                   Query(quantile(0.5, "launch_stage_seconds", QUEUE, by=by_stage), "{{stage}}"), unit="s",
                   runbook="PendingTooLong")),
        (12, lines("Time by stage, 95 %", "Normal: not far above the half.",
                   Query(quantile(0.95, "launch_stage_seconds", QUEUE, by=by_stage), "{{stage}}"), unit="s",
                   runbook="PendingTooLong")),
        *shapes,
    ])  # fmt: skip


def _answers() -> Row:
    again, gone = 'action="again"', 'action="given_up"'
    return Row("What becomes of launches?", 8, [
        (8, lines("RunTask by answer", "Normal: accepted. existing and accepted are both a task.",
                  Query(busy("launches_total", QUEUE, by=("result",)), "{{result}}"), unit="ops",
                  runbook="LaunchesHeld")),
        (8, lines("Launched again, by reason", "Wait and are launched again. Normal: none, or capacity and quota.",
                  Query(quiet(busy("launch_failures_total", QUEUE, again, by=("reason",)), "reason"), "{{reason}}"),
                  unit="ops", stack=True, runbook="LaunchFailures")),
        (8, lines("Given up, by reason", "Fail in Airflow with ECS's words. Normal: none.",
                  Query(quiet(busy("launch_failures_total", QUEUE, gone, by=("reason",)), "reason"), "{{reason}}"),
                  unit="ops", stack=True, runbook="LaunchFailures")),
        (12, lines("Launches by queue", "Accepted per second. Normal: as Airflow queues them.",
                   Query(busy("launches_total", 'result="accepted"', QUEUE, by=("queue",)), "{{queue}}"), unit="ops",
                   runbook="PendingTooLong")),
        (12, lines("Ends by outcome", "Normal: no lost; spot_interrupted only where Spot is used.",
                   Query(busy("workloads_ended_total", QUEUE, by=("outcome",)), "{{outcome}}"), unit="ops",
                   runbook="LaunchFailures")),
    ])  # fmt: skip


def _news() -> Row:
    moment = ("moment",)
    return Row("How soon is a change known?", 8, [
        (8, lines("From ECS's time to the table, 95 %",
                  "However it was heard of. Normal: about a second with events, one sweep without.",
                  Query(quantile(0.95, "observation_lag_seconds", by=moment), "{{moment}}"), unit="s",
                  runbook="EventLag")),
        (8, lines("Events by result", "From SQS, if `events_queue_url` is set; 0 without. Normal: applied and stale.",
                  Query(quiet(busy("events_received_total", by=("source", "result")), "source"),
                        "{{source}} {{result}}"), unit="ops", runbook="EventLag")),
        (8, lines("Age of events, 95 %", "0 without `events_queue_url`. Normal: about a second.",
                  Query(quiet(quantile(0.95, "event_lag_seconds", by=("source",)), "source"), "{{source}}"), unit="s",
                  runbook="EventLag")),
    ])  # fmt: skip
