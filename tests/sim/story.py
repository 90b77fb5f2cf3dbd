"""A trace, told: only what concerns a few names, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_DULL: Final = frozenset({"synced", "answer", "start", "pass_failed", "retry", "container"})
_QUIET_COLUMNS: Final = frozenset(
    {"exec_id", "version", "acked_version", "params", "intent_at", "desired_at", "ecs_version"}
)


def tell(trace: Iterable[dict[str, Any]], names: Collection[str]) -> Iterator[str]:
    """The lines about these task instances, workloads and tasks, and those that concern everybody."""
    about = {name.partition("-")[0] for name in names}
    arns: set[str] = set(names)
    for event in trace:
        if event["kind"] == "run_task" and event["id"] and event["id"].partition("-")[0] in about:
            arns.add(event["arn"])
        if event["kind"] not in _DULL and _concerns(event, about, arns):
            text = _row(event) if event["kind"] == "row" else _plain(event)
            if text:
                yield f"{event['t']:9.1f}  {text}"


def _concerns(event: dict[str, Any], about: set[str], arns: set[str]) -> bool:
    if event["kind"] == "row":
        return (event["new"] or event["old"])["exec_id"].partition("-")[0] in about
    name = event.get("name") or event.get("id")
    if isinstance(name, str):
        return name.partition("-")[0].partition("#")[0] in about
    if "arn" in event:
        return event["arn"] in arns
    return event["kind"] not in ("emit", "late")


def _row(event: dict[str, Any]) -> str:
    old, new = event["old"], event["new"]
    if new is None:
        return f"{event['who']}: row {old['exec_id']} deleted ({event['via']})"
    if old is None:
        return f"{event['who']}: row {new['exec_id']} {new['phase']} inserted ({event['via']})"
    told = [name for name, value in new.items() if old[name] != value and name not in _QUIET_COLUMNS]
    changes = [f"{name} {old[name]}>{new[name]}" for name in told]
    if new["acked_version"] != old["acked_version"]:
        changes.append("acknowledged")
    return f"{event['who']}: row {new['exec_id']} v{new['version']} {', '.join(changes)} ({event['via']})"


def _plain(event: dict[str, Any]) -> str:
    rest = ", ".join(
        f"{name} {value}" for name, value in event.items() if name not in ("t", "kind") and value is not None
    )
    return f"{event['kind']}: {rest}"
