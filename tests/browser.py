"""The distribution's Chromium, for the tests of what people look at."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

__all__ = ["SECONDS", "chromium", "keep"]

SECONDS = 120.0
"""How long a page may take until it shows what it should: it asks every three seconds, on a machine that is busy."""

_SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-quic", "--disable-background-networking", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser. Skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium was found: install the distribution's package chromium")
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


def keep(page: Page, name: str, *, full_page: bool = True) -> None:
    """A screenshot for whoever wants to look: SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=full_page)
