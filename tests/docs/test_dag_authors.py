"""What the pages for DAG authors and operators say of `executor_config` is what the daemon's policy does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from reconciler.core import policy
from tests.docs.pages import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = (ROOT / "docs/dag-authors.md").read_text()
ROWS = {
    who.strip(): set(re.findall(r"`\.?([A-Za-z.]+)`", what))
    for what, who in re.findall(r"^\| (`.*) \| ([^|]*)\|$", PAGE.partition("| who decides |")[2], re.MULTILINE)
}


def members(paths: Iterable[str]) -> set[str]:
    """As the page names them: what belongs to one container by its own name, the rest by its beginning."""
    found = set()
    for path in paths:
        first, _, rest = path.replace("[]", "").partition(".")
        second = rest.partition(".")
        if second[0] == "containerOverrides":
            found.add(second[2].partition(".")[0])
        else:
            found.add(second[0] if first == "overrides" else first)
    return found - {"name"}


@pytest.mark.parametrize(
    ("who", "paths"),
    [
        ("the author", policy.AUTHORS),
        ("the author, if the operator permits it, because they grant rights", policy.RIGHTS),
        ("never the author", policy.NEVER),
    ],
)
def test_who_may_set_what(who: str, paths: Iterable[str]) -> None:
    named = {name.removeprefix("overrides.") for name in ROWS[who]} - {"overrides"}
    assert named == members(paths)


def test_the_reserved_variables() -> None:
    said = PAGE.partition("Environment variables that begin with")[2].partition("are not.")[0]
    free = {"AWS_REGION", "AWS_DEFAULT_REGION"}
    assert set(re.findall(r"`([A-Z_]+)`", said)) == {*policy._RESERVED, *policy._RESERVED_TOO, *free}
    assert free == policy._NOT_RESERVED


@pytest.mark.parametrize("page", ["dag-authors.md", "security.md"])
def test_the_permissions_that_are_shown_are_permissions(page: str) -> None:
    shown = [
        line.partition(" = ")[2]
        for block in blocks(ROOT / "docs" / page)
        for line in block.text.splitlines()
        if line.startswith("allowed_run_task_parameters")
    ]
    assert shown
    for words in shown:
        assert policy.parse(frozenset(word.strip() for word in words.split(",")))
