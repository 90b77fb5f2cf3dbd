"""The documentation says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from reconciler.core.phase import EDGES
from tests.sim import mutants, sometimes
from tests.sim.plan import Plan, plan
from tests.tools.options_page import options_page
from tests.tools.planted_list import with_planted_faults

ROOT = Path(__file__).parents[2]


def test_the_chart_of_phases_is_the_transition_table() -> None:
    chart = (ROOT / "docs/protocol.md").read_text().split("```mermaid")[1].split("```")[0]
    drawn = {tuple(edge) for edge in re.findall(r"(\w+) --> (\w+)", chart)}
    assert drawn == {(old.value, new.value) for old, targets in EDGES.items() for new in targets}


def test_every_page_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_the_options_page_is_made_from_the_options() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == options_page(), "run `make docs`"


def _named_in(page: str) -> dict[str, set[str]]:
    """What a page names in backticks, by kind: `fault: ...`, `planted: ...` and so on, or a test."""
    named: dict[str, set[str]] = {}
    for kind, name in re.findall(r"`(fault|setting|path|planted): ([^`]+)`", page):
        named.setdefault(kind, set()).add(name)
    named["test"] = set(re.findall(r"`(test_\w+)`", page))
    return named


def _tests_that_exist() -> set[str]:
    return {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)\(", path.read_text())}


def _simulated_faults() -> set[str]:
    """Every kind of trouble that some universe has."""
    return {trouble.what for seed in range(300) for trouble in plan(seed).troubles}


def test_every_crash_point_names_what_shows_it_and_all_that_is_named_exists() -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    named = _named_in(page)
    assert named["test"] <= _tests_that_exist()
    assert named["path"] <= set(sometimes.PATHS)
    assert named["setting"] <= {field.name for field in fields(Plan)}
    assert named["planted"] <= set(mutants.MUTANTS)
    assert named["fault"] == _simulated_faults(), "the page tells of all that the simulation does to its world"
    assert page == with_planted_faults(page), "run `make docs`"

    points = re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    assert [int(number) for number, _ in points] == list(range(1, 32))
    for number, shown in points:
        assert any(_named_in(shown).values()), f"nothing shows crash point {number}"


def test_every_rule_of_the_checker_is_an_invariant_of_the_protocol() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    described = set(re.findall(r"^\| (I\d+) \|", page, re.MULTILINE)) | set(re.findall(r"\((S\d)\)", page))
    sources = "".join(path.read_text() for path in ROOT.glob("tests/sim/check*.py"))
    judged = set(re.findall(r"\"([IS]\d+) ", sources))
    assert judged == described
