"""The Dockerfiles, by hadolint and by what they name. No image is built here: that needs a container engine."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("images/*/Dockerfile"))
FROM_ELSEWHERE = {"dags", "dist/airflow_ecs_reconciler-*.whl"}
"""Copied into an image, and not part of the checkout: the user's DAGs, what was built."""

each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)


@each
def test_hadolint_is_content(path: Path) -> None:
    hadolint = ROOT / ".tools/hadolint"
    if not hadolint.exists():
        reason = "no .tools/hadolint: run `make tools`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", path], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


@each
def test_bases_are_pinned_and_what_is_copied_is_there(path: Path) -> None:
    text = path.read_text()
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert re.search(r":[^:]*\d", base) or "${" in base, f"{base} names no version"
    for copied in re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+) ", text, re.MULTILINE):
        assert copied in FROM_ELSEWHERE or (ROOT / copied).exists(), f"{copied} is not there to be copied"


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    texts = "".join(path.read_text() for path in FILES)
    copied = set(re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+) ", texts, re.MULTILINE))
    first, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    assert all(line.startswith("!") for line in kept)
    for source in copied:
        assert any(fnmatch.fnmatchcase(source, line[1:]) for line in kept), f"{source} is ignored"
    assert len(kept) == len(copied)


def test_the_daemon_is_nobody_special() -> None:
    """The user that the chart's security context names, in every stage that is shipped."""
    text = (ROOT / "images/daemon/Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "50000:0"
    assert 'ENTRYPOINT ["python", "-m", "reconciler"]\nCMD ["run"]' in text
