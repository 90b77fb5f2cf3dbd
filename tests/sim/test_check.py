"""The checker can fail: for each of its rules the shortest history that breaks it, and the same history mended."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.sim.check import Checker, check

Event = dict[str, Any]
ARN = "arn:aws:ecs:us-east-1:1:task/airflow/"


def at(t: float, kind: str, **what: Any) -> Event:
    return {"t": t, "kind": kind, **what}


class Row:
    """The history of one row: each write is an event."""

    def __init__(self, exec_id: str = "t1-1", ti: str = "t1#1", **first: Any) -> None:
        self.now: Event = {
            "exec_id": exec_id, "ti_id": ti, "kind": "task", "try_number": 1, "owner_job_id": 1, "desired": "RUN",
            "desired_at": None, "refused": False, "acked_version": 0, "phase": "PENDING", "version": 1, "attempt": 0,
            "shard": "", "start_failures": 0, "intent_at": None, "task_arn": None, "ecs_version": 0, "exit_code": None,
            "stop_code": None, "reason": None, "params": None, "created_at": None, **first,
        }  # fmt: skip
        self.inserted = False

    def write(self, t: float = 1.0, epoch: int | None = None, via: str = "save", **changes: Any) -> Event:
        old = self.now if self.inserted else None
        if self.inserted:
            self.now = {**self.now, "version": self.now["version"] + 1, **changes}
        self.inserted = True
        return at(t, "row", who="somebody", via=via, epoch=epoch, old=old, new=self.now)

    def gone(self, t: float = 1.0, via: str = "prune") -> Event:
        return at(t, "row", who="somebody", via=via, epoch=None, old=self.now, new=None)

    def launched(self, t: float = 1.0, arn: str = "a", **changes: Any) -> list[Event]:
        """Inserted, intended, created, known."""
        intent = self.write(t, phase="LAUNCHING", attempt=self.now["attempt"] + 1) if self.inserted else None
        events = [intent] if intent else [self.write(t), self.write(t, phase="LAUNCHING", attempt=1)]
        events += [self.created(t, arn)]
        return [*events, self.write(t, phase="STARTED", task_arn=f"{ARN}{arn}", **changes)]

    def created(self, t: float = 1.0, arn: str = "a", **what: Any) -> Event:
        known = {"who": "daemon", "id": self.now["exec_id"], "attempt": self.now["attempt"], "token": "token"}
        return at(t, "run_task", **{**known, "signed": t, "result": "created", "arn": arn, **what})


def stopped(t: float = 1.0, arn: str = "a", code: int | None = 0) -> Event:
    return at(t, "stopped", arn=arn, code=code, stop_code="EssentialContainerExited", ran=True)


def admission(t: float = 1.0, arn: str = "a", ti: str = "t1#1", ext: str | None = "t1-1") -> Event:
    return at(t, "admission", arn=arn, id="t1-1", attempt=1, ti=ti, ok=True, ext=ext)


def ti(state: str | None, t: float = 1.0, why: str = "it did", **what: Any) -> Event:
    known = {"name": "t1", "id": "t1#1", "was": None, "tries": 1, "ext": "t1-1", "job": 1}
    return at(t, "ti", **{**known, "state": state, "why": why, **what})


def emit(event: str, **what: Any) -> Event:
    known = {"job": 1, "id": "t1-1", "what": "task", "info": None, "state": None}
    return at(1, "emit", **{**known, "event": event, **what})


def applied(event: str, state: str, ext: str = "t1-1") -> Event:
    return at(1, "applied", id="t1-1", event=event, name="t1", state=state, ext=ext, ti="t1#1")


def synced(t: float, *held: tuple[str, int]) -> Event:
    return at(t, "synced", job=1, ok=True, upkept=True, held=list(held))


def end(**left: Any) -> Event:
    return at(9999, "end", **{"rest": False, "tis": [], "rows": [], "tasks": [], **left})


def one_token() -> list[Event]:
    row = Row()
    return [*row.launched(), row.created(result="same", token="other")]


def after_the_intent(seconds: float) -> list[Event]:
    row = Row()
    return [row.write(), row.write(phase="LAUNCHING", attempt=1), row.created(1.0 + seconds)]


def moved_on() -> list[Event]:
    row = Row()
    intent = [row.write(), row.write(phase="LAUNCHING", attempt=1)]
    return [*intent, row.write(2.0, phase="PENDING"), row.created(5.0, attempt=1)]


def again(*between: Event) -> list[Event]:
    """Launched once more after these."""
    row = Row()
    first = row.launched()
    return [*first, *between, row.write(3.0, phase="PENDING"), *row.launched(4.0, "b")]


def ended(code: int, *before: Event) -> list[Event]:
    row = Row()
    return [*row.launched(), *before, row.write(2.0, phase="EXITED", exit_code=code)]


def told(phase: str, **more: Any) -> list[Event]:
    row = Row(phase=phase)
    return [row.write(), ti("queued", **more), row.write(3.0, acked_version=2)]


def late_stop(runs_since: float) -> list[Event]:
    row = Row()
    return [*row.launched(), admission(runs_since), row.write(1000.0, phase="STOPPING")]


def cut(after: float) -> list[Event]:
    row = Row()
    running = [*row.launched(), row.write(phase="RUNNING"), admission(), row.write(10.0, desired="STOP")]
    return [*running, stop("a"), at(10 + after, "log_cut", arn="a", id="t1-1")]


def alive_at_the_end(**row: Any) -> list[Event]:
    r = Row()
    return [*r.launched(), r.write(**row), end(tasks=["a"])]


def forgotten(*between: Event, **row: Any) -> list[Event]:
    r = Row()
    return [*r.launched(), *between, r.write(2.0, phase="EXITED", exit_code=0), r.write(3.0, **row), r.gone(4.0)]


def slot(*held: tuple[str, int]) -> list[Event]:
    row = Row()
    events = [row.write(), row.write(phase="FAILED_START")]
    return [*events, synced(5.0), synced(10.0, *held)]


def two_of_one(first_ended: list[Event]) -> list[Event]:
    old, new = Row(), Row("t1-2")
    return [*old.launched(), *first_ended, *new.launched(2.0, "b")]


def stop(arn: str = "a", **more: Any) -> Event:
    return at(2, "stop_task", who="daemon", arn=arn, why="because", result="", **more)


def wanted(phase: str) -> list[Event]:
    row = Row()
    return [*row.launched(), row.write(phase=phase), stop()]


def failing(why: str, *before: Event, was: str = "queued") -> list[Event]:
    return [Row().write(), ti(was), *before, ti("failed", why=why)]


def fences(*epochs: int) -> list[Event]:
    row = Row()
    return [row.write(), *(row.write(epoch=epoch, start_failures=n) for n, epoch in enumerate(epochs, start=1))]


def under(*leases: tuple[str, int]) -> list[Event]:
    """Writes to a row that was launched in `far`, under these leases and epochs."""
    row = Row(phase="STARTED", attempt=1, shard="far")
    writes = (
        row.write(epoch=epoch, ecs_version=n) | {"lease": lease} for n, (lease, epoch) in enumerate(leases, start=1)
    )
    return [row.write(), *writes]


def callback(state: str, code: int) -> list[Event]:
    row = Row("cb1-1", "cb1", kind="callback")
    exit_ = at(1, "exit", arn="a", id="cb1-1", attempt=1, code=code, why="done")
    return [*row.launched(), exit_, at(2, "callback", id="cb1", state=state)]


def write(changes: Event, first: Event | None = None) -> list[Event]:
    row = Row(**(first or {}))
    return [row.write(), row.write(**changes)]


def unwanted_launch(looks: int) -> list[Event]:
    row = Row()
    gone = [row.write(), ti("queued"), ti(None, 2.0)]
    return [*gone, *(synced(10.0 * n) for n in range(1, looks + 1)), row.write(99.0, **LAUNCHED)]


def withdrawn(*, known: bool) -> list[Event]:
    """Launched again when it was not wanted any more, and admitted."""
    row = Row()
    before = [row.write(), row.write(phase="LAUNCHING", attempt=1), row.write(2.0, desired="STOP")]
    called = at(3, "submit", who="daemon", id="t1-1", attempt=1, version=3 if known else 2)
    return [*before, called, row.created(4.0), admission(5.0, ext="t1-2")]


def waits(seconds: float) -> list[Event]:
    return [at(0, "heal"), ti("queued", 1.0), ti("scheduled", 1.0 + seconds)]


EXIT = at(2, "exit", arn="a", id="t1-1", attempt=1, code=1, why="broken")
GONE: list[Event] = [stopped(1.5)]


def hears(version: int) -> list[Event]:
    """Version 3 of a running task's state is deleted while its row knows this one."""
    row = Row()
    known = [*row.launched(), row.write(2.0, phase="RUNNING", ecs_version=version)]
    return [*known, at(3, "mail_deleted", who="daemon", arn="a", version=3)]


ECS_AWAY = at(0, "trouble", what="ECS is away", **{"with": {"seconds": 60.0}})
POISON = at(0, "poison", name="t1")
LAUNCHED: Event = {"phase": "LAUNCHING", "attempt": 1}

CASES: dict[str, tuple[list[Event], list[Event]]] = {
    "I1 one task per launch": ([*(r := Row()).launched(), stopped(), r.created(arn="b")], Row().launched()),
    "I2 one live container per task instance": (two_of_one([]), two_of_one(GONE)),
    "I3 user code never overlaps itself": (
        [*two_of_one(GONE[:0]), admission(), admission(arn="b", ext="t1-2")],
        [*two_of_one([admission(), at(1, "user_end", arn="a", ti="t1#1")]), admission(arn="b", ext="t1-2")],
    ),
    "I3 one admission per queueing": ([admission(arn="a"), *Row().launched(), admission(), admission()], [admission()]),
    "I4 intent before effect": ([Row().write(), Row().created(attempt=1)], Row().launched()),
    "I4 one token per launch": (one_token(), Row().launched()),
    "I5 no late RunTask": (after_the_intent(2200), after_the_intent(2000)),
    "I5 no RunTask for what has moved on": (moved_on(), after_the_intent(1)),
    "I6 again only if nothing ran": (again(admission(), *GONE), again(EXIT, *GONE)),
    "I6 again only after the end": (again(), again(EXIT)),
    "I7 versions count the writes": (write({"version": 5, "desired": "STOP"}), write({"desired": "STOP"})),
    "I7 phases move along the edges": (write({"phase": "RUNNING"}), write(LAUNCHED)),
    "I7 attempts count the intents": (write({"attempt": 1}), write(LAUNCHED)),
    "I7 desired goes to STOP once": (write({"desired": "RUN"}, {"desired": "STOP"}), write({"desired": "STOP"})),
    "I8 fencing": (fences(2, 1), fences(1, 2)),
    "I8 a row is its own shard's": (under(("prod/region", 1)), under(("prod/far", 1))),
    "I9 an ARN stays": (write({"task_arn": "b"}, {"task_arn": "a", "phase": "STARTED"}), write({"task_arn": "a"})),
    "I9 news only gets newer": (write({"ecs_version": 1}, {"ecs_version": 2}), write({"ecs_version": 1})),
    "I10 EXITED means STOPPED": (ended(0), ended(0, *GONE)),
    "I10 the exit code is our container's": (ended(7, *GONE), ended(0, *GONE)),
    "I10 ended means ended": (
        [*(r := Row()).launched(), r.write(phase="FAILED_START")],
        [*(r := Row()).launched(), *GONE, r.write(2.0, phase="FAILED_START")],
    ),
    "I11 no event makes a success": ([ti("success", why="event success")], [ti("success", why="reported")]),
    "I11 SUCCESS is for RESTARTING only": ([ti("running"), emit("success")], [ti("restarting"), emit("success")]),
    "I11 RESTARTING hears SUCCESS": ([applied("failed", "restarting")], [applied("success", "restarting")]),
    "I12 an event is for its own queueing": ([applied("failed", "queued", "t1-2")], [applied("failed", "queued")]),
    "I12 what is SCHEDULED is not failed": ([applied("failed", "scheduled")], [applied("failed", "queued")]),
    "I13 only ends are acknowledged": (told("PENDING", ext=None), told("CANCELLED", ext=None)),
    "I13 acknowledged means nothing is left to tell": (told("CANCELLED"), told("CANCELLED", ext="t1-2")),
    "I14 a reported success stays": (
        [ti("success"), ti("failed", why="marked by a user")],
        [ti("running"), ti("failed", why="marked by a user")],
    ),
    "I14 what runs is not failed": (
        [*Row().launched(), ti("running"), admission(), ti("failed", why="event")],
        [*Row().launched(), ti("running"), admission(), at(1, "user_end", arn="a", ti=""), ti("failed", why="event")],
    ),
    "I15 a healed world comes to rest": ([end(tis=["t1 queued"])], [end(rest=True)]),
    "I16 no orphan survives": ([end(tasks=["a"])], alive_at_the_end(phase="RUNNING")),
    "I17 what is queued has a row": (waits(1000), waits(800)),
    "I18 only what is done is forgotten": (forgotten(*GONE), forgotten(*GONE, acked_version=6)),
    "I18 nothing alive is forgotten": (forgotten(acked_version=6), forgotten(*GONE, acked_version=6)),
    "I19 an event is deleted only after its effect": (hears(2), hears(3)),
    "I20 calls stay below the rate": ([stop(arn="x")] * 141, [stop(arn="x")] * 140),
    "I21 no secret is stored or told": ([emit("failed", info="eyJhbGciOi")], [emit("failed", info="exit code 1")]),
    "I22 what is not wanted is not launched": (unwanted_launch(4), unwanted_launch(3)),
    "I22 what is withdrawn does not begin": (withdrawn(known=True), withdrawn(known=False)),
    "I22 what is not wanted is stopped": (alive_at_the_end(desired="STOP"), alive_at_the_end(phase="RUNNING")),
    "I23 LOST only if ECS knows nothing": (
        [*(r := Row()).launched(), r.write(phase="LOST")],
        [*(r := Row()).launched(), *GONE, at(2, "forgotten", arn="a"), r.write(3.0, phase="LOST")],
    ),
    "I24 what has ended holds no slot": (slot(("t1", 1)), slot()),
    "S1 tasks of others are not touched": ([at(0, "foreign", arn="f"), stop("f")], [stop("f")]),
    "S2 what is wanted is not stopped": (wanted("RUNNING"), wanted("STOPPING")),
    "S3 logs are uploaded to their end": (cut(60), cut(200)),
    "S4 no event overwrites the id": ([emit("running")], [emit("failed")]),
    "S5 a callback's exit code is its outcome": (callback("success", 1), callback("failed", 1)),
    "S6 nothing is unforeseen": ([at(1, "unforeseen", who="daemon", error="KeyError")], []),
    "W1 waiting fails no task": (failing("stuck too often"), failing("reported")),
    "W2 no trouble of others fails a task": (failing("event failed"), failing("event failed", EXIT, POISON)),
    "W3 what is invalid is not sent": ([POISON, *Row().launched()], Row().launched()),
}
"""By rule: a history that breaks it, and its mended twin."""


@pytest.mark.parametrize("rule", CASES)
def test_a_broken_rule_is_seen(rule: str) -> None:
    broken, mended = CASES[rule]
    assert rule in {violation.rule for violation in check(broken)}
    assert rule not in {violation.rule for violation in check(mended)}


def test_every_rule_has_its_case() -> None:
    source = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("check*.py")))
    assert set(re.findall(r'self\.broken\(\s*"([^"]+)"', source)) == CASES.keys()


def test_an_event_of_a_launch_that_waits_for_its_task_is_not_deleted() -> None:
    rule, row = "I19 an event is deleted only after its effect", Row()
    waits = [row.write(), row.write(phase="LAUNCHING", attempt=1), row.created()]
    deleted = at(2, "mail_deleted", who="daemon", arn="a", version=1)
    assert rule in {violation.rule for violation in check([*waits, deleted])}
    later = row.write(3.0, phase="LAUNCHING", attempt=2)
    assert rule not in {violation.rule for violation in check([*waits, later, deleted])}


def test_each_lease_counts_epochs_of_its_own() -> None:
    rule = "I8 fencing"
    assert rule in {violation.rule for violation in check(under(("prod/far", 5), ("prod/far", 4)))}
    assert rule not in {violation.rule for violation in check(under(("prod/near", 5), ("prod/far", 4)))}


def test_a_start_that_runs_for_long_is_not_late() -> None:
    rule = "S2 what is wanted is not stopped"
    assert rule in {violation.rule for violation in check(late_stop(500))}
    assert rule not in {violation.rule for violation in check(late_stop(900))}


def test_a_row_that_was_deleted_by_hand_and_written_anew_begins_anew() -> None:
    row, again = Row(), Row()
    first = [*row.launched(), *GONE, row.write(2.0, phase="EXITED", exit_code=0)]
    assert check([*first, row.gone(3.0, via="by hand"), *again.launched(4.0, "b")]) == []
    assert check([*first, row.gone(3.0, via="prune"), *again.launched(4.0, "b")]) != []


def test_a_call_on_its_way_when_its_row_was_deleted_by_hand_has_had_its_intent() -> None:
    row = Row()
    assert check([row.write(), row.write(1.0, **LAUNCHED), row.gone(2.0, via="by hand"), row.created(3.0)]) == []


@pytest.mark.parametrize(("seconds", "broken"), [(30.0, False), (2.0, True)])
def test_a_flaky_database_that_once_kept_a_workload_back_is_remembered_until_it_runs(
    seconds: float, broken: bool
) -> None:
    flaky = at(0, "trouble", what="the database is flaky", **{"with": {"seconds": seconds}})
    times = [ti("queued", 5.0), ti("scheduled", 50.0, why="stuck"), ti("queued", 60.0, ext="t1-2")]
    ended = ti("failed", 90.0, why="stuck too often", ext="t1-2")
    told = [flaky, Row().write(), *times]
    assert ("W1 waiting fails no task" in {violation.rule for violation in check([*told, ended])}) is broken
    ran = [ti("running", 61.0, ext="t1-2"), ti("queued", 62.0, ext="t1-2")]
    assert "W1 waiting fails no task" in {violation.rule for violation in check([*told, *ran, ended])}


def api(t: float, *, down: bool) -> Event:
    return at(t, "api", down=down)


@pytest.mark.parametrize(
    ("troubles", "broken"),
    [
        ([], True),
        ([api(1, down=True)], True),
        ([ECS_AWAY], True),
        ([ECS_AWAY, api(1, down=True)], False),
        ([ECS_AWAY, api(1, down=True), api(4, down=False)], True),
        ([ECS_AWAY, api(1, down=True), api(40, down=False)], False),
        ([ti("queued", 50.0, why="adopted", ext="t1-2")], False),
        ([ti("queued", 3.0, why="adopted", ext="t1-1")], True),
    ],
)
def test_waiting_is_promised_for_one_outage_at_a_time(troubles: list[Event], broken: bool) -> None:
    queued, ended = ti("queued", 5.0, ext="t1-2"), ti("failed", 90.0, why="stuck too often", ext="t1-2")
    told = sorted([Row().write(0.0), *troubles, queued, ended], key=lambda event: float(event["t"]))
    assert ("W1 waiting fails no task" in {violation.rule for violation in check(told)}) is broken


def test_a_call_on_its_way_when_its_row_was_deleted_by_hand_may_meet_the_next_one() -> None:
    old, new = Row(), Row("t1-2")
    called = [old.write(), old.write(1.0, **LAUNCHED), old.gone(2.0, via="by hand")]
    assert check([*called, *new.launched(3.0, "b"), old.created(4.0)]) == []


@pytest.mark.parametrize("phase", ["LAUNCHING", "STARTED"])
def test_after_a_restored_backup_a_launch_may_take_its_time(phase: str) -> None:
    left = [*Row().launched(), ti("queued", why="restored"), end(tis=["t1 queued"], rows=[f"t1-1 {phase}"])]
    broken = "I15 a healed world comes to rest" in {violation.rule for violation in check(left)}
    assert broken is (phase != "LAUNCHING")


@pytest.mark.parametrize(("ended_at", "broken"), [(2, True), (4, False), (6, True)])
def test_an_end_that_was_reported_before_an_outage_may_pass_for_proof(ended_at: float, broken: bool) -> None:
    row, other = Row(), Row("t2-1", "t2#1")
    begun = [*other.launched(0.5, "b"), *row.launched(), ti("queued"), EXIT]
    outage = sorted(
        [api(3, down=True), stopped(ended_at, "b"), api(5, down=False)], key=lambda event: float(event["t"])
    )
    told = [*begun, *outage, ti("failed", 9.0, why="event")]
    assert ("W2 no trouble of others fails a task" in {violation.rule for violation in check(told)}) is broken


def test_logs_that_spot_cuts_off_are_not_cut_off_by_us() -> None:
    events = cut(60)
    assert check([event for event in events if event != stop("a")]) == []


@pytest.mark.parametrize(("hidden", "broken"), [(20, True), (3, False)])
def test_what_was_hidden_and_believed_gone_may_be_forgotten(hidden: int, broken: bool) -> None:
    row = Row()
    events = [
        *row.launched(),
        at(1, "hidden", live=hidden),
        row.write(2.0, phase="LOST", acked_version=4),
        row.gone(3.0),
    ]
    assert ("I18 nothing alive is forgotten" in {violation.rule for violation in check(events)}) is broken


def test_a_violation_names_those_whom_its_story_is_about() -> None:
    checker = Checker()
    (violation,) = checker.check(write({"phase": "RUNNING"}))
    assert violation.ids == ("t1-1",)
    assert "I7" in str(violation)


def test_the_page_explains_every_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
    told = re.findall(r"^\| ([ISW]\d+ [^|]+) \|", page, re.MULTILINE)
    assert sorted(told) == sorted(CASES)
