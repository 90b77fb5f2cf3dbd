"""What a replica remembers for the page."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.core.holds import Holds
from reconciler.core.phase import Desired, Phase
from reconciler.core.task import TaskKey, Workload
from reconciler.core.why import Circumstances, duration, is_problem, why
from reconciler.page.board import EVENTS, KEPT, STEP, Board
from reconciler.seams import Counts

START = datetime(2026, 1, 1, tzinfo=UTC)


class Time:
    def __init__(self) -> None:
        self.now = START.timestamp()

    def __call__(self) -> float:
        return self.now


def counts(by_phase: dict[Phase, int], oldest_pending: float) -> Counts:
    return Counts(by_phase, oldest_pending, {}, {}, {}, Holds())


def workload(**changes: object) -> Workload:
    row = Workload("a", "prod", key=TaskKey("etl", "load", "run", -1, 1), created_at=START, updated_at=START)
    return replace(row, **changes)  # type: ignore[arg-type]  # any column, by name


def step(old: Workload, phase: Phase, seconds: float, **changes: object) -> Workload:
    return old.moved(phase, START + timedelta(seconds=seconds), **changes)


def test_a_life_leaves_figures_and_events() -> None:
    time = Time()
    board = Board(time)
    pending = workload()
    launching = step(pending, Phase.LAUNCHING, 2, attempt=1, intent_at=START + timedelta(seconds=2))
    started = step(launching, Phase.STARTED, 3, task_arn="arn")
    running = step(started, Phase.RUNNING, 45, started_at=START + timedelta(seconds=42))
    ended = step(running, Phase.EXITED, 60, exit_code=3)
    for change in [(pending, launching), (launching, started), (started, running), (running, ended)]:
        board.moved(*change)
    board.counted(counts({Phase.RUNNING: 4, Phase.STOPPING: 1, Phase.PENDING: 9}, 0.0), {}, {})

    history = board.history()
    assert {name: values for name, values in history.items() if name != "at"} == {
        "step_seconds": STEP,
        "running": [5],
        "starting": [0],
        "pending": [9],
        "launched": [1],
        "ended": [1],
        "failed": [1],
        "queued_seconds_p50": [2.0],
        "queued_seconds_p95": [2.0],
        "started_seconds_p50": [40.0],
        "started_seconds_p95": [40.0],
    }
    newest, *_, oldest = board.events(10)
    assert (newest["phase"], newest["what"], newest["problem"]) == ("EXITED", "exit code 3", True)
    assert (oldest["phase"], oldest["task"], oldest["problem"]) == ("LAUNCHING", "etl.load run try 1", False)


def test_levels_go_on_through_silence_and_memory_is_bounded() -> None:
    time = Time()
    board = Board(time)
    board.counted(counts({Phase.RUNNING: 7}, 0.0), {}, {})
    time.now += 10 * STEP
    board.counted(counts({Phase.RUNNING: 8}, 0.0), {}, {})
    assert board.history()["running"] == [7] * 10 + [8]
    assert board.history()["launched"] == [0] * 11
    for _ in range(EVENTS + 1):
        time.now += 2 * STEP
        board.counted(counts({}, 0.0), {}, {})
        board.happened("something")
    assert len(board.history()["at"]) == KEPT
    assert len(board.events(10 * EVENTS)) == EVENTS
    time.now += 100 * 3600
    board.counted(counts({Phase.RUNNING: 1}, 0.0), {}, {})
    assert board.history()["running"][-1] == 1


def test_what_holds_all_launches_is_told_once_when_it_begins_and_once_when_it_ends() -> None:
    board = Board(Time())
    found = counts({}, 0.0)
    for reason in (None, "expired", "expired", None, None):
        board.counted(found, {"ecs": reason} if reason else {}, {"missing": reason is not None})
    said = [(event["what"], event["problem"]) for event in reversed(board.events(10))]
    assert said == [
        ("launches are held: expired (ecs)", True),
        ("too much looks wrong at once, nothing is concluded (missing)", True),
        ("launches are let through again (ecs)", False),
        ("all looks well again (missing)", False),
    ]


def test_a_controller_that_fails_keeps_the_time_of_its_last_good_pass() -> None:
    time = Time()
    board = Board(time)
    board.passed("launch", "success", 0.1)
    good = time.now
    time.now += 60
    board.passed("launch", "error", 5.0)
    last = board.passes()["launch"]
    assert (last.at, last.result, last.succeeded_at) == (time.now, "error", good)


def test_of_several_shards_the_page_shows_the_one_that_is_behind_and_forgets_what_is_led_elsewhere() -> None:
    time = Time()
    board = Board(time)
    for shard in ("east", "west"):
        board.leading(1, shard, among=True)
        board.passed("launch", "success", 0.1, shard)
    behind = time.now
    time.now += 300
    board.passed("launch", "success", 0.1, "east")
    board.passed("launch", "error", 2.0, "west")
    last = board.passes()["launch"]
    assert (last.result, last.succeeded_at, last.shard) == ("error", behind, "west")
    late = board.late(time.now, 120)
    assert "launch has had no good pass for 5 min 0 s in west" in late
    assert not [said for said in late if said.startswith("launch") and said.endswith("in east")]
    board.counted(counts({}, 0.0), {}, {"east/missing": True})
    board.leading(None, "west", among=True)
    assert board.passes()["launch"].succeeded_at == time.now
    assert board.breakers == {"east/missing": True}
    assert board.events(1)[0]["what"] == "this replica stands by in west"
    board.leading(None, "east", among=True)
    assert board.breakers == {}


SOON = START + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("changes", "around", "words"),
    [
        ({}, Circumstances(), "waits for its launch, or for its predecessor's container to end"),
        ({}, Circumstances(headroom=0), "waits for a free slot"),
        ({}, Circumstances(headroom=3, held="the token is expired"), "launches are held: the token is expired"),
        ({}, Circumstances(leading=False), "waits for a daemon: none leads"),
        (
            {"not_before": START + timedelta(seconds=72), "attempt": 1, "reason": "CannotPullContainerError"},
            Circumstances(),
            "waits 42 s before attempt 2 after: CannotPullContainerError",
        ),
        (
            {"desired": Desired.STOP, "desired_reason": "cleared"},
            Circumstances(),
            "is to be cancelled: cleared",
        ),
        (
            {
                "phase": Phase.STARTED,
                "intent_at": START,
                "last_status": "PENDING",
                "attempt": 2,
                "reason": "no capacity",
            },
            Circumstances(),
            "PENDING for 30 s, attempt 2 after: no capacity",
        ),
        ({"phase": Phase.RUNNING, "started_at": START}, Circumstances(), "runs for 30 s"),
        ({"phase": Phase.EXITED, "exit_code": 0}, Circumstances(), "exit code 0"),
        ({"phase": Phase.LOST, "reason": "its task is gone"}, Circumstances(), "its task is gone"),
    ],
)
def test_why_is_said_in_words(changes: dict[str, object], around: Circumstances, words: str) -> None:
    assert why(workload(**changes), SOON, around) == words


def test_problems_are_what_somebody_on_call_wants_to_see() -> None:
    assert [
        is_problem(workload(**changes))
        for changes in (
            {"phase": Phase.LOST},
            {"phase": Phase.FAILED_START},
            {"phase": Phase.EXITED, "exit_code": 1},
            {"start_failures": 1},
            {"phase": Phase.EXITED, "exit_code": 0},
            {"phase": Phase.CANCELLED},
            {"phase": Phase.RUNNING},
        )
    ] == [True, True, True, True, False, False, False]


@pytest.mark.parametrize(("seconds", "words"), [(-1, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7500, "2 h 5 min")])
def test_durations_are_said_as_people_say_them(seconds: int, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words
