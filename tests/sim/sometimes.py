"""What must happen in some universe, or the simulation proves less than it says: rare paths, counted from the trace."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

PATHS: Final = (
    "answer lost after the effect",
    "late request arrives",
    "late request refused for its signature",
    "request too old to be sent",
    "conflict answered",
    "throttled by ECS",
    "same token gives the same task",
    "found by listing",
    "absence proven",
    "attempt closed as never executed",
    "lost declared",
    "stale leader refused",
    "compare-and-swap lost",
    "unknown commit",
    "leader changed",
    "start failed and tried again",
    "start given up",
    "start too late",
    "refused start relaunched",
    "held behind the API gate",
    "held behind the ECS gate",
    "missing breaker tripped",
    "orphan breaker tripped",
    "orphan stopped",
    "predecessor still alive",
    "withdrawn",
    "revoked when stuck",
    "given back",
    "cancelled",
    "unwanted launch resolved",
    "container ended itself when fenced",
    "running container stopped",
    "restarting delivered",
    "failure delivered",
    "event lost on a locked row",
    "event emitted again",
    "scheduler's work adopted",
    "handed over or taken over",
    "row written late",
    "row written by adoption",
    "callback succeeded",
    "callback failed",
    "pruned",
    "host lost",
    "backup restored",
    "no Spot capacity",
    "taken by Spot before it began",
    "launched on demand in place of Spot",
    "Spot tried again",
)


EVENT_PATHS: Final = ("event applied", "event was old news", "foreign event", "events relied on", "events went stale")
"""The same where there is a queue of events."""


def count(trace: Iterable[dict[str, Any]]) -> Counter[str]:
    """How often each of PATHS was taken in a trace."""
    seen: Counter[str] = Counter()
    emitted: set[str] = set()
    live: dict[str | None, str] = {}
    spot: bool | None = None
    for event in trace:
        kind = event["kind"]
        if kind == "run_task" and event["spot"] is not None:
            seen["no Spot capacity"] += event["spot"] and event["result"].startswith("Capacity")
            seen["launched on demand in place of Spot"] += not event["spot"] and event["result"] == "created"
            seen["Spot tried again"] += event["spot"] and spot is False
            spot = event["spot"]
        if kind == "row":
            _row(event, seen, live)
        elif kind == "emit" and event["what"] == "task":
            seen["event emitted again"] += event["id"] in emitted
            emitted.add(event["id"])
        elif kind == "applied":
            seen["restarting delivered" if event["state"] == "restarting" else "failure delivered"] += 1
        elif name := _plain(event):
            seen[name] += 1
    return seen


def _plain(event: dict[str, Any]) -> str | None:
    kind = event["kind"]
    if kind == "run_task":
        if event["result"] == "InvalidSignatureException":
            return "late request refused for its signature"
        if event["who"].endswith("late") and event["result"] == "created":
            return "late request arrives"
        return "same token gives the same task" if event["result"] == "same" and event["arn"] else None
    if kind == "answer":
        too_old = event["answer"] == "Unknown" and "too old" in event["why"]
        known = {"Existing": "conflict answered", "Throttled": "throttled by ECS"}
        return "request too old to be sent" if too_old else known.get(event["answer"])
    if kind == "orphan":
        return "orphan stopped" if event["what"] == "stopped" else "found by listing"
    if kind == "callback":
        return {"success": "callback succeeded", "failed": "callback failed"}.get(event["state"])
    if kind == "breaker":
        return f"{event['which']} breaker tripped"
    if kind == "heard":
        known = {"applied": "event applied", "stale": "event was old news", "foreign": "foreign event"}
        return known.get(event["result"])
    if kind == "gate":
        return "held behind the API gate" if event["which"] == "api_server" else "held behind the ECS gate"
    if kind == "refused_write":
        return "stale leader refused" if event["why"] == "LeaseLost" else None
    if kind == "trouble":
        return "backup restored" if event["what"] == "the backup is restored" else None
    return {
        "answer_lost": "answer lost after the effect",
        "overtaken": "compare-and-swap lost",
        "commit_unknown": "unknown commit",
        "event_lost": "event lost on a locked row",
        "relied_on": "events relied on",
        "not_relied_on": "events went stale",
        "fenced": "container ended itself when fenced",
        "late": "row written late",
        "host_lost": "host lost",
        "leads": "leader changed",
    }.get(kind)


def _row(event: dict[str, Any], seen: Counter[str], live: dict[str | None, str]) -> None:
    old, new, via = event["old"], event["new"], event["via"]
    if new is None:
        seen["pruned"] += via == "prune"
        return
    if old is None:
        seen["predecessor still alive"] += new["ti_id"] in live
        seen["row written by adoption"] += via == "adopt"
        return
    if old["owner_job_id"] != new["owner_job_id"]:
        seen["scheduler's work adopted" if via == "adopt" else "handed over or taken over"] += 1
    if old["desired"] != new["desired"]:
        seen["revoked when stuck" if via == "stuck" else "withdrawn"] += 1
    if old["phase"] != new["phase"]:
        if new["phase"] in ("STARTED", "RUNNING", "STOPPING"):
            live[new["ti_id"]] = new["exec_id"]
        elif live.get(new["ti_id"]) == new["exec_id"]:
            del live[new["ti_id"]]
        for name in _edge(old, new, via):
            seen[name] += 1


def _edge(old: dict[str, Any], new: dict[str, Any], via: str) -> list[str]:
    reason = new["reason"] or ""
    match old["phase"], new["phase"]:
        case "LAUNCHING", "PENDING" if "never made" in reason:
            return ["absence proven"]
        case "LAUNCHING", "PENDING" if reason.startswith("ECS refused every call"):
            return ["attempt closed as never executed"]
        case "LAUNCHING", "CANCELLED":
            return ["unwanted launch resolved"]
        case _, "LOST":
            return ["lost declared"]
        case "STARTED", "PENDING":
            by_spot = old["stop_code"] in ("SpotInterruption", "TerminationNotice")
            return ["taken by Spot before it began" if by_spot else "start failed and tried again"]
        case (("STARTED" | "LAUNCHING"), "FAILED_START"):
            return ["start given up"]
        case "STARTED", "STOPPING":
            late = "start_timeout" in reason
            return ["start too late"] if late else ["unwanted launch resolved"]
        case "RUNNING", "STOPPING":
            return ["running container stopped"]
        case "EXITED", "PENDING":
            return ["refused start relaunched"]
        case "PENDING", "CANCELLED":
            return ["given back" if via == "upkeep" else "cancelled"]
    return []
