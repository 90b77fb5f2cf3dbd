"""How much of everything there is: in the whole benchmark, in the short form, and in the suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Sizes:
    """Counts are task instances, times are seconds."""

    name: str
    first: int
    """Pending at once when the quota is filled."""
    mark: int
    """How many of them make up the first figure."""
    live: int
    """Left running for what comes then."""
    trickle: int
    """Launched one at a time, a quarter of a second apart."""
    idle: float
    """How long the daemon is watched while nothing happens."""
    ends: int
    """Ended one at a time, half a second apart, while nothing is launched."""
    second: int
    """Pending at once beside those that are live."""
    fill_cut: float
    """After which a run of the official executor is cut off while it fills the quota; and half of it, later."""
    churn: int
    churn_slots: int
    churn_seconds: float
    churn_cut: float
    slots: int
    slots_tasks: int
    slots_seconds: float
    noisy: int
    noisy_greedy: float
    """For so long the neighbour takes all."""
    noisy_cut: float
    killed: int
    lost: int
    lost_for: float
    eventual: int
    outage: int
    outage_for: float
    quota: int
    quota_tasks: int
    """Smaller than 500 and 1,000, because durations are scaled and the launch rate can not be: the quota must be full
    long before the first task ends, with either executor."""
    scale: int
    """Durations, and task_queued_timeout, are divided by this where the account is full or the daemon is down."""
    long_cut: float
    """After which what would run for an hour is cut off."""
    peer_cut: float
    """After which the official executor is cut off where outcomes are counted."""
    queued: int
    beats: float
    """For how long heartbeats are watched."""
    finished: tuple[int, int]
    """Finished rows in the table: few and many."""
    passes: float
    """For how long passes are watched with each of them."""
    mapped: int
    """Task instances of the run that a whole scheduler works on."""
    whole_cut: float
    """After which a whole scheduler with played containers is cut off. 0: not at all."""


FULL: Final = Sizes(
    name="full",
    first=1000,
    mark=500,
    live=500,
    trickle=60,
    idle=15,
    ends=100,
    second=1000,
    fill_cut=115,
    churn=1000,
    churn_slots=500,
    churn_seconds=10,
    churn_cut=65,
    slots=100,
    slots_tasks=500,
    slots_seconds=10,
    noisy=200,
    noisy_greedy=3,
    noisy_cut=50,
    killed=200,
    lost=200,
    lost_for=60,
    eventual=150,
    outage=200,
    outage_for=120,
    quota=100,
    quota_tasks=200,
    scale=10,
    long_cut=200,
    peer_cut=120,
    queued=1000,
    beats=15,
    finished=(1_000, 100_000),
    passes=10,
    mapped=1000,
    whole_cut=55,
)
QUICK: Final = Sizes(
    name="quick",
    first=120,
    mark=60,
    live=60,
    trickle=12,
    idle=4,
    ends=10,
    second=100,
    fill_cut=40,
    churn=160,
    churn_slots=100,
    churn_seconds=4,
    churn_cut=20,
    slots=20,
    slots_tasks=60,
    slots_seconds=4,
    noisy=60,
    noisy_greedy=1,
    noisy_cut=15,
    killed=60,
    lost=40,
    lost_for=8,
    eventual=30,
    outage=40,
    outage_for=10,
    quota=16,
    quota_tasks=32,
    scale=30,
    long_cut=65,
    peer_cut=40,
    queued=200,
    beats=4,
    finished=(1_000, 10_000),
    passes=4,
    mapped=30,
    whole_cut=0,
)
SUITE: Final = Sizes(
    name="suite",
    first=12,
    mark=6,
    live=6,
    trickle=2,
    idle=1,
    ends=2,
    second=6,
    fill_cut=60,
    churn=10,
    churn_slots=10,
    churn_seconds=1,
    churn_cut=8,
    slots=4,
    slots_tasks=8,
    slots_seconds=1,
    noisy=6,
    noisy_greedy=0.5,
    noisy_cut=8,
    killed=6,
    lost=4,
    lost_for=2,
    eventual=6,
    outage=6,
    outage_for=2,
    quota=4,
    quota_tasks=8,
    scale=120,
    long_cut=5,
    peer_cut=60,
    queued=20,
    beats=1,
    finished=(100, 1_000),
    passes=1,
    mapped=3,
    whole_cut=0,
)
SIZES: Final = {sizes.name: sizes for sizes in (FULL, QUICK, SUITE)}
