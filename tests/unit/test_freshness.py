"""When events are relied on, and when not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reconciler.core.freshness import CALM, FIRST_WITHIN, REMEMBERED, SILENT_AFTER, TOLD_WITHIN, Freshness
from reconciler.core.phase import Phase
from reconciler.core.task import Workload

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LAUNCHING = Workload("w", "test", phase=Phase.LAUNCHING, attempt=1, intent_at=T0, updated_at=T0)


class Story:
    """Time goes on by seconds, and the queue answers."""

    def __init__(self) -> None:
        self.freshness, self.now = Freshness(), 0.0
        self.freshness.forget(0.0)

    def passes(self, seconds: float, *, silent: bool = False) -> bool:
        """Whether events are relied on after so many seconds."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 1)
            if not silent:
                self.freshness.answered(self.now)
            self.freshness.judge(self.now)
        return self.freshness.judge(self.now)

    def told(self, arn: str = "a", version: int = 1, *, news: bool = True) -> None:
        self.freshness.told(arn, version, self.now, news=news)

    def launched(self, arn: str, seconds: float = 1.0) -> None:
        """RunTask made a task, so many seconds after the intent."""
        at = T0 + timedelta(seconds=seconds)
        new = replace(LAUNCHING, phase=Phase.STARTED, task_arn=arn, updated_at=at)
        self.freshness.moved(LAUNCHING, new, self.now)


@pytest.fixture
def story() -> Story:
    """Events have been timely for a while."""
    made = Story()
    made.passes(1)
    made.told()
    assert made.passes(CALM)
    return made


def test_an_empty_queue_proves_nothing() -> None:
    assert not Story().passes(600)


def test_news_and_a_while_without_a_miss_prove_enough() -> None:
    story = Story()
    story.passes(1)
    story.told()
    assert not story.passes(CALM - 2)
    assert story.passes(2)


def test_old_news_alone_prove_nothing() -> None:
    story = Story()
    story.passes(1)
    story.told(news=False)
    assert not story.passes(600)


def test_a_queue_that_is_silent_or_fails_is_not_relied_on(story: Story) -> None:
    assert story.passes(SILENT_AFTER, silent=True)
    assert not story.passes(1, silent=True)
    story.told()
    assert not story.passes(CALM - 2)
    assert story.passes(2)
    story.freshness.failed(story.now, "denied")
    assert story.freshness.reason == "denied"
    assert not story.passes(600)


@pytest.mark.parametrize(("after", "relied_on"), [(TOLD_WITHIN - 1, True), (TOLD_WITHIN + 1, False)])
def test_what_a_look_shows_must_be_told_soon(story: Story, after: float, relied_on: bool) -> None:
    story.freshness.shown("a", 5, story.now)
    story.passes(after)
    story.told("a", 5, news=False)
    assert story.passes(TOLD_WITHIN) is relied_on


def test_an_older_version_is_not_what_was_waited_for(story: Story) -> None:
    story.freshness.shown("b", 5, story.now)
    story.told("b", 4)
    assert not story.passes(TOLD_WITHIN + 1)


def test_what_was_told_before_it_is_shown_is_not_waited_for(story: Story) -> None:
    story.told("b", 5)
    story.passes(1)
    story.freshness.shown("b", 5, story.now)
    assert story.passes(TOLD_WITHIN + 1)


def test_one_miss_takes_a_calm_while_and_a_timely_event_to_be_forgotten(story: Story) -> None:
    story.freshness.shown("b", 5, story.now)
    assert not story.passes(TOLD_WITHIN + 1)
    assert "b" in (story.freshness.reason or "")
    assert not story.passes(10 * CALM)
    story.told("c", 1)
    assert story.passes(1)


@pytest.mark.parametrize(("after", "relied_on"), [(FIRST_WITHIN - 1, True), (FIRST_WITHIN + 1, False)])
def test_a_launch_must_be_told_soon(story: Story, after: float, relied_on: bool) -> None:
    story.launched("b")
    story.passes(after)
    story.told("b", 0)
    assert story.passes(FIRST_WITHIN) is relied_on


def test_an_event_may_be_faster_than_the_answer_of_run_task(story: Story) -> None:
    story.told("b", 1)
    story.launched("b")
    assert story.passes(FIRST_WITHIN + 1)


def test_of_a_launch_that_is_known_late_events_may_have_come_and_gone(story: Story) -> None:
    story.launched("b", seconds=FIRST_WITHIN + 1)
    assert story.passes(FIRST_WITHIN + 1)


def test_a_look_at_a_launch_does_not_put_off_its_first_event(story: Story) -> None:
    story.launched("b")
    story.passes(FIRST_WITHIN - 1)
    story.freshness.shown("b", 3, story.now)
    assert not story.passes(2)


def test_a_new_term_begins_anew(story: Story) -> None:
    story.launched("b")
    story.freshness.forget(story.now)
    story.told("c")
    assert not story.passes(CALM - 1)
    assert story.passes(1), "what was waited for in the term before does not count"


def test_doubts_are_named_once(story: Story) -> None:
    story.freshness.doubt("a")
    assert (story.freshness.doubtful(), story.freshness.doubtful()) == ({"a"}, set())


def test_what_was_told_is_not_kept_for_ever(story: Story) -> None:
    for number in range(100):
        story.told(f"n{number}")
    story.passes(REMEMBERED + 1)
    assert not story.freshness._told
