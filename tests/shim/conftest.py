"""The tests in `inside` need a process that has been set up for Airflow. `test_shim` starts them, and so does, in the
environment of either version, `python -m pytest -c tests/shim/inside.ini tests/shim/inside -k "some words"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    outside = config.rootpath != Path(__file__).parent
    return True if outside and collection_path.name == "inside" else None
