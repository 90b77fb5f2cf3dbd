"""docs/migrating.md: every defect of the official executor has its line, and every proof that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/migrating.md").read_text()
LINES = re.findall(r"^\| D(\d+) \|(.*)\|(.*)\|(.*)\|$", GUIDE, re.MULTILINE)
DEFECTS = 37


def existing() -> set[str]:
    """The names of all tests there are."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_defect_has_one_line() -> None:
    numbers = re.findall(r"^\| D(\d+) \|", GUIDE, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, DEFECTS + 1)]


def test_every_line_has_both_sides_and_a_proof_or_a_reason_why_there_is_none() -> None:
    assert len(LINES) == DEFECTS
    for number, *cells in LINES:
        theirs, ours, proof = (cell.strip() for cell in cells)
        assert theirs, number
        assert ours, number
        assert proof.startswith("`test_") or "Not tested" in ours, number


def test_every_proof_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", GUIDE))
    assert len(named) > DEFECTS
    assert named - existing() == set()
