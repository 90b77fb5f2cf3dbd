"""The size of a task, and who may have vCPUs now."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.quota import CpuQuota, Size
from reconciler.core.size import VCPU, cpu_units, fargate_cpu

ON_FARGATE: dict[str, Any] = {"launchType": "FARGATE"}


@pytest.mark.parametrize(
    ("text", "units"),
    [("256", 256), ("1024", 1024), ("1 vCPU", 1024), (".25 vcpu", 256), ("0.5vCPU", 512), (" 16 VCPU ", 16384)],
)
def test_a_size_is_read_as_ecs_reads_it(text: str, units: int) -> None:
    assert cpu_units(text) == units


@pytest.mark.parametrize("text", ["", "many", "1 cpu", "-256", "1.5"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="give CPU units such as 1024"):
        cpu_units(text)


@pytest.mark.parametrize(
    ("params", "definition", "units"),
    [
        (ON_FARGATE, {"cpu": "512"}, 512),
        (ON_FARGATE | {"overrides": {"cpu": "1 vCPU"}}, {"cpu": "512"}, 1024),
        (ON_FARGATE | {"overrides": {"containerOverrides": [{"cpu": 64}]}}, {"cpu": "512"}, 512),
        ({"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT"}]}, {"cpu": "512"}, 512),
        ({"launchType": "EC2"}, {"cpu": "512"}, 0),
        ({"capacityProviderStrategy": [{"capacityProvider": "mine"}]}, {"cpu": "512"}, 0),
        (ON_FARGATE, None, None),
        (ON_FARGATE | {"overrides": {"cpu": "2048"}}, None, 2048),
    ],
)
def test_the_quota_counts_the_size_of_the_task_where_fargate_runs_it(
    params: dict[str, Any], definition: dict[str, Any] | None, units: int | None
) -> None:
    assert fargate_cpu(params, definition) == units


def launched(quota: CpuQuota, wanted: list[Size], used: int, used_by: Counter[str], turn: int) -> list[Size]:
    fits = quota.fitting(wanted, used, used_by, turn)
    return [size for size, fit in zip(wanted, fits, strict=True) if fit]


def test_the_most_urgent_of_a_size_have_what_there_is() -> None:
    quota = CpuQuota(VCPU, {})
    assert quota.fitting([("a", 256)] * 6, 0, {}, 0) == [True] * 4 + [False] * 2


def test_a_big_task_saves_what_the_small_ones_leave_and_holds_up_none_of_them() -> None:
    quota, used, started, big_at = CpuQuota(4 * VCPU, {}), 4 * VCPU, 0, None
    for turn in range(100):
        used -= 256  # one small task ends, and more wait than fit
        begun = launched(quota, [("etl", 2 * VCPU), *[("etl", 256)] * 9], used, Counter(etl=used), turn)
        used += sum(units for _, units in begun)
        started += begun.count(("etl", 256))
        if ("etl", 2 * VCPU) in begun:
            big_at = turn
            break
        assert used <= 4 * VCPU
    assert big_at is not None
    assert 14 <= big_at <= 17, "every other quarter is saved for it, and it needs eight"
    assert started >= 7, "and the others go to the small ones"


def test_profiles_take_turns_task_by_task() -> None:
    quota = CpuQuota(4 * VCPU, {})
    begun = launched(quota, [("a", 256)] * 40 + [("b", 256)] * 40, 0, Counter(), 0)
    assert Counter(name for name, _ in begun) == {"a": 8, "b": 8}


def test_within_its_own_limit_a_profile_keeps_its_order() -> None:
    quota = CpuQuota(8 * VCPU, {"a": VCPU})
    wanted = [("a", 512), ("a", 1024), ("a", 256), ("b", 256)]
    assert quota.fitting(wanted, 0, {}, 0) == [True, False, False, True]
    assert quota.fitting(wanted[1:], 512 + 256, {"a": 512, "b": 256}, 1) == [False, False, True]
    assert quota.fitting(wanted[1:], 0, {}, 2) == [True, False, True]


def test_room_is_saved_for_one_task_only_and_what_it_does_not_need_is_used() -> None:
    quota = CpuQuota(4096, {})
    assert quota.fitting([("a", 4096), ("b", 2048)], 2048, {}, 0) == [False, True]
    assert quota.fitting([("a", 4096), ("b", 2048)], 4096, {}, 1) == [False, False]
    assert quota.fitting([("a", 4096), ("b", 2048)], 2048, {}, 2) == [False, False], "2048 are saved"
    assert quota.fitting([("b", 2048)], 2048, {}, 3) == [True], "it is not wanted any more"


def test_a_profile_has_no_more_than_its_own_limit() -> None:
    quota = CpuQuota(8 * VCPU, {"a": VCPU})
    begun = launched(quota, [("a", 512)] * 9 + [("b", 512)] * 9, 0, Counter(), 0)
    assert Counter(name for name, _ in begun) == {"a": 2, "b": 9}
    assert quota.left("a", 7 * VCPU, {"a": VCPU}) == 0
    assert (quota.limit("a"), quota.limit("b")) == (VCPU, 8 * VCPU)


def test_without_a_limit_everything_fits() -> None:
    quota = CpuQuota(None, {})
    assert all(quota.fitting([("a", 16 * VCPU)] * 1000, 10**7, {"a": 10**7}, 0))
    assert quota.limit("a") is None


@given(
    limit=st.integers(256, 8192),
    own=st.none() | st.integers(256, 4096),
    passes=st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0, 256, 512, 2048]))), max_size=12),
    ends=st.randoms(use_true_random=False),
)
def test_the_limits_are_never_exceeded_whoever_comes_and_ends(
    limit: int, own: int | None, passes: list[list[Size]], ends: Any
) -> None:
    quota = CpuQuota(limit, {"a": own})
    running: list[Size] = []
    for turn, wanted in enumerate(passes):
        running = [size for size in running if ends.random() < 0.7]
        used_by = Counter[str]()
        for name, units in running:
            used_by[name] += units
        running += launched(quota, wanted, used_by.total(), used_by, turn)
        assert sum(units for _, units in running) <= limit
        assert own is None or sum(units for name, units in running if name == "a") <= own


def test_a_limit_that_was_lowered_is_kept_though_more_was_saved() -> None:
    quota = CpuQuota(2048, {})
    assert quota.fitting([("a", 2048)], 1024, {}, 0) == [False]
    assert quota.fitting([("a", 2048)], 1024, {}, 1) == [False]
    assert quota._saved == 1024
    assert quota.fitting([("a", 2048)], 1536, {}, 2) == [False]
    assert quota._saved <= 512
    assert quota.fitting([("a", 2048)], 0, {}, 3) == [True]
