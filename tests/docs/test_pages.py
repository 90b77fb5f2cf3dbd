"""Pages say what is there: links lead somewhere, options exist, examples can be read."""

from __future__ import annotations

import configparser
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from reconciler.cli import COMMANDS
from reconciler.options import EcsExecutorOptions, ReconcilerOptions
from tests.docs.pages import BLOCKS, PAGES, ROOT, anchors, prose

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = {
    "ecs_reconciler": set(ReconcilerOptions.model_fields),
    "aws_ecs_executor": set(EcsExecutorOptions.model_fields) | {"aws_conn_id"},
}
LANGUAGES = {"sh", "ini", "yaml", "sql", "text", "mermaid", "python", "json"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such heading"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [
            linked
            for target in re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", prose(page))
            if (linked := (page.parent / target).resolve()).exists() and linked.is_file()
        ]
    assert set(PAGES) <= reached, f"not linked from anywhere: {sorted(set(PAGES) - reached)}"


@each_page
def test_options_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for section, names in OPTIONS.items():
        named = set(re.findall(rf"`\[{section}\] (\w+)", text))
        named |= {name.lower() for name in re.findall(rf"AIRFLOW__{section.upper()}__(\w+)", text)}
        assert named <= names | {"option"}, f"no such option: {named - names}"


@each_page
def test_commands_that_are_named_exist(page: Path) -> None:
    known = {command.name for command in COMMANDS}
    named = re.findall(r"`(?:airflow )?ecs-reconciler ([a-z][a-z-]*)", prose(page))
    assert set(named) <= known, f"no such command: {set(named) - known}"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_blocks_can_be_read(block: object) -> None:
    assert isinstance(block, type(BLOCKS[0]))
    assert block.language in LANGUAGES, f"{block.where}: say what it is: ```sh, ```ini, ```text ..."
    if block.language == "yaml":
        assert yaml.safe_load(block.text)
    if block.language == "ini":
        parsed = configparser.ConfigParser(interpolation=None)
        parsed.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep names as they are
        parsed.read_string(block.text)
        for section, names in OPTIONS.items():
            if parsed.has_section(section):
                wrong = set(parsed[section]) - names
                assert not wrong, f"{block.where}: no such option: {wrong}"
