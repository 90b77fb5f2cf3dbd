"""The list of planted faults in docs/reliability.md. `make docs` writes it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

from tests.sim import mutants

PAGE: Final = Path(__file__).parents[2] / "docs/reliability.md"
_BEGIN: Final = "<!-- made by `make docs` -->\n"
_END: Final = "<!-- until here -->\n"


def with_planted_faults(page: str) -> str:
    """The page with the faults of today between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    # Names are not broken at the end of a line, nor taken from their mark.
    names = [f"`planted:\0{name}`" for name in sorted(mutants.MUTANTS)]
    lines = textwrap.fill(", ".join(names), width=120, break_long_words=False, break_on_hyphens=False)
    return f"{before}{_BEGIN}{lines}.\n{_END}{after}".replace("\0", " ")


if __name__ == "__main__":
    PAGE.write_text(with_planted_faults(PAGE.read_text()))
