"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from reconciler.core.phase import EDGES
from tests.tools.options_page import options_page

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
