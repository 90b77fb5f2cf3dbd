"""The page on tuning and `ecs-reconciler doctor` say the same."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from reconciler.core.finding import Level
from reconciler.doctor.airflow import check_airflow
from reconciler.doctor.pools import Pools
from reconciler.options import ReconcilerOptions
from reconciler.show import show_findings
from tests.docs.pages import BLOCKS, ROOT
from tests.doctor.test_airflow import settings

PAGE = ROOT / "docs/tuning.md"


def table() -> dict[str, tuple[str, str, str]]:
    """(default, for 500, for 1,000) of each setting of Airflow's, and the slots of the default pool."""
    found = {}
    for name, *values in re.findall(
        r"^\|(?: \d \|)? (?:slots of )?`([^`]+)` \| (\d+) \| (\d+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE
    ):
        found[name] = (values[0], values[1], values[2])
    return found


def findings(column: int, tasks: int) -> list[Any]:
    its = {name: values[column] for name, values in table().items()} | {"[logging] remote_logging": "True"}
    pools = Pools({"default_pool": int(its["default_pool"])})
    return list(check_airflow(settings(tasks=tasks), lambda s, o: its.get(f"[{s}] {o}"), {}, pools))


@pytest.mark.parametrize(("column", "tasks"), [(1, 500), (2, 1000)])
def test_what_the_page_advises_leaves_doctor_nothing_to_say(column: int, tasks: int) -> None:
    assert len(table()) > 10
    assert table()["[ecs_reconciler] max_running_tasks"][column] == str(tasks)
    assert [str(found) for found in findings(column, tasks) if found.level is not Level.OK] == []


def test_what_doctor_says_of_the_defaults_is_what_the_page_shows() -> None:
    said = io.StringIO()
    show_findings(Console(file=said, width=200), findings(0, 500))
    (block,) = [block for block in BLOCKS if block.page == PAGE and block.marker == "of: ecs-reconciler doctor"]
    for line in block.text.splitlines():
        assert line in [told.rstrip() for told in said.getvalue().splitlines()]


def test_the_arithmetic() -> None:
    options = ReconcilerOptions.model_validate({"deployment": "x"})
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) s \| (\d+) s \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 3
    for tasks, best, here in rows:
        number = int(tasks.replace(",", ""))
        assert int(best) == round((number - 20) / 20), tasks
        assert int(here) == round((number - options.launch_burst) / options.launch_rate), tasks
    assert f"{options.launch_burst}\nand {options.launch_rate} a second" in PAGE.read_text()
