"""A real Prometheus scrapes a real daemon under load; an outage reaches a real Alertmanager, and so does its end.

The rules are the committed ones, made sixty times as fast by one mechanical step (`live.shortened`): minutes are read
as seconds and hours as minutes, in `for:` and in windows. Thresholds are as committed.
"""

from __future__ import annotations

import json
import math
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from grafana.build import FOLDER
from reconciler.localecs import AwsError, Settings
from reconciler.store.daemon import SqlStore
from tests.metrics.conftest import RULES, filled, program
from tests.metrics.live import DEPLOYMENT, REGION, Live, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

FAST = {
    "AIRFLOW__ECS_RECONCILER__MAX_RUNNING_TASKS": "200",
    "AIRFLOW__ECS_RECONCILER__LEASE_SECONDS": "3",
    "AIRFLOW__ECS_RECONCILER__LISTING_INTERVAL": "5",
    "AIRFLOW__ECS_RECONCILER__SWEEP_INTERVAL": "0.5",
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    programs = {
        "prometheus": program("prometheus"),
        "alertmanager": program("alertmanager", "prometheus-alertmanager"),
    }
    with Live(
        tmp_path_factory.mktemp("live"),
        programs=programs,
        rules=shortened(RULES.read_text()),
        settings=Settings.unthrottled(),
        seconds=(1.0, 4.0),
        environment=FAST,
    ) as made:
        yield made


def targets() -> list[tuple[str, str]]:
    """Every query of every panel, with a name."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            found += [
                (f"{path.stem}: {panel['title']} {target['refId']}", filled(target["expr"], "10s"))
                for target in panel.get("targets", ())
            ]
    return found


def test_the_rules_are_shortened_and_nothing_else() -> None:
    rules = "for: 15m\nexpr: rate(x[1h]) > 120 and y[5m] offset 3\nsummary: 10m of text\n"
    assert shortened(rules) == "for: 15s\nexpr: rate(x[1m]) > 120 and y[5s] offset 3\nsummary: 10m of text\n"


@pytest.mark.timeout(1200)
def test_panels_show_data_and_an_outage_reaches_alertmanager_and_ends(live: Live, promtool: str) -> None:
    """One story, because the parts are slow to start: load, refused credentials, the daemon's death, no leader."""
    _panels_show_data(live)
    _what_is_exported_is_accepted(live, promtool)
    _refused_credentials_fire_and_resolve(live)
    _death_and_a_lease_held_by_nobody_fire_and_resolve(live)


def _panels_show_data(live: Live) -> None:
    with live.ecs.lock:
        live.ecs.model.faults.on_start("CannotPullContainerError: no such image", times=5)
        live.ecs.model.faults.on_placement("RESOURCE:MEMORY", times=5)
    missing: list[str] = []

    def all_answer() -> bool:
        if (live.value("sum(ecs_reconciler_workloads)") or 0) < 10:
            live.queue(10)
            live.queue(5, "gpu")
        if live.value("sum(ecs_reconciler_leader)") != 1:
            return False
        minute = _last_minute(live)
        missing[:] = [name for name, query in targets() if not _answers(live, query, minute)]
        return not missing

    try:
        live.until("every panel's query answers with data", all_answer)
    except AssertionError:
        pytest.fail(f"these have no data: {missing}\n{live._tail()}")
    assert not _answers(live, "ecs_reconciler_no_such_metric", _last_minute(live))
    exemplars = live.ask("query_exemplars", query="ecs_reconciler_launch_stage_seconds_bucket", **_last_minute(live))
    assert all("exec_id" in found["labels"] for series in exemplars for found in series["exemplars"])
    assert exemplars


def _answers(live: Live, query: str, when: dict[str, str]) -> bool:
    """Whether there is a number. NaN is none: a quantile of nothing."""
    series = live.ask("query_range", query=query, step="1", **when)["result"]
    return any(not math.isnan(float(value)) for one in series for _, value in one["values"])


def _last_minute(live: Live) -> dict[str, str]:
    now = live.value("vector(time())") or 0.0
    return {"start": str(now - 60), "end": str(now)}


def _what_is_exported_is_accepted(live: Live, promtool: str) -> None:
    shown = live.metrics()
    done = subprocess.run([promtool, "check", "metrics"], input=shown, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"_created" not in shown
    live.until("no violation", lambda: live.value("sum(ecs_reconciler_invariant_violations_total)") == 0)


def _refused_credentials_fire_and_resolve(live: Live) -> None:
    with live.ecs.lock:
        expired = live.ecs.model.faults.on_call(
            "*", AwsError("ExpiredTokenException", "The security token is expired"), times=None
        )
    live.queue(20)
    expected = {"EcsReconcilerLaunchesHeld", "EcsReconcilerCredentialsRefused"}
    live.until("both alerts fire", lambda: expected <= set(live.firing()))
    alert = live.firing()["EcsReconcilerLaunchesHeld"]
    assert (cause := alert["labels"]["cause"]) in ("ecs", "credentials")
    assert alert["annotations"]["summary"] == f"prod launches nothing but probes, cause: {cause}."
    quiet = {"EcsReconcilerSplitBrain", "EcsReconcilerInvariantViolated", "EcsReconcilerBreakerTripped"}
    quiet |= {"EcsReconcilerDown", "EcsReconcilerNoLeader", "EcsReconcilerLaunchFailures"}
    assert not quiet & set(live.firing())
    with live.ecs.lock:
        live.ecs.model.faults.remove(expired)
    live.until("both alerts resolve", lambda: not expected & set(live.firing()))


def _death_and_a_lease_held_by_nobody_fire_and_resolve(live: Live) -> None:
    live.kill_daemon()
    live.until("Down", lambda: "EcsReconcilerDown" in live.firing())
    assert _clean(live.firing()["EcsReconcilerDown"])
    store = SqlStore(live.engine, DEPLOYMENT)
    name = f"{DEPLOYMENT}/{REGION}"
    live.until("the dead daemon's lease ends", lambda: store.hold(name, "nobody", timedelta(hours=1)) is not None)
    live.start_daemon()
    live.until("NoLeader", lambda: "EcsReconcilerNoLeader" in live.firing())
    live.until("Down resolves", lambda: "EcsReconcilerDown" not in live.firing())
    lease = store.hold(name, "nobody", timedelta(hours=1))
    assert lease is not None
    store.release(lease)
    live.until("NoLeader resolves", lambda: "EcsReconcilerNoLeader" not in live.firing())
    live.until("it leads", lambda: live.value("max(ecs_reconciler_leader)") == 1)


def _clean(alert: dict[str, Any]) -> bool:
    """Whether the sentences were filled in without an error."""
    text = " ".join(alert["annotations"].values())
    return "prod" in text and "{{" not in text and "error" not in text.lower() and "no value" not in text
