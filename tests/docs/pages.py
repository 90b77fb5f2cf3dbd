"""The pages that users read, and what is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(page for pattern in ("*.md", "docs/**/*.md", "charts/*/README.md") for page in ROOT.glob(pattern))


@dataclass(frozen=True)
class Block:
    """A fenced block. `marker`: the HTML comment before it, such as "needs: aws"."""

    page: Path
    line: int
    language: str
    marker: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """One for each line, continued lines joined, comments left out."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"\s+#\s.*$", "", line).strip() for line in joined.splitlines())
        return [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, without the indentation of its list."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        opened = re.match(r"( *)```(\w*)$", lines[number])
        if opened is None:
            number += 1
            continue
        indent, first = len(opened[1]), number
        number += 1
        body: list[str] = []
        while lines[number].strip() != "```":
            body.append(lines[number][indent:])
            number += 1
        number += 1
        comment = re.match(r" *<!-- (.*) -->$", lines[first - 1]) if first else None
        found.append(Block(page, first + 1, opened[2], comment[1] if comment else "", "\n".join(body) + "\n"))
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(found) for found in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)}
