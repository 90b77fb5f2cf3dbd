"""What `make release-check` makes of what its tools say. The rest of it is only to be run, for a quarter of an hour."""

from __future__ import annotations

import pytest

from tests.tools import release_check

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-2021-66"}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI and could not be audited: unknown (3.0)"}


def test_an_advisory_is_named() -> None:
    assert release_check.vulnerable(release_check.answered([SOUND, BAD])) == ["bad 2.0: PYSEC-2021-66"]


@pytest.mark.parametrize("found", [[SOUND, UNKNOWN], []])
def test_what_the_service_does_not_know_is_not_called_sound(found: list[dict[str, object]]) -> None:
    """pip-audit itself ends with 0 and "No known vulnerabilities found" for these."""
    with pytest.raises(release_check.BlockedError):
        release_check.answered(found)


def test_a_service_without_advisories_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_check, "audited", lambda *_: [SOUND])
    with pytest.raises(release_check.BlockedError, match="knows none"):
        release_check.audit()


@pytest.mark.parametrize(
    ("licence", "fits"),
    [
        ("Apache-2.0", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("MIT OR GPL-3.0-only", True),
        ("GNU General Public License v3", False),
        ("AGPL-3.0", False),
    ],
)
def test_licences_that_ask_more_than_ours_are_found(licence: str, fits: bool) -> None:
    assert release_check._fits(licence) is fits


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_what_was_not_checked_is_said_and_fails_where_it_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: str, code: int
) -> None:
    for step in ("build", "content", "versions", "install", "demo", "licences", "bill"):
        monkeypatch.setattr(release_check, step, lambda *_: "fine")
    monkeypatch.setattr(release_check, "audited", lambda *_: release_check.answered([UNKNOWN]))
    monkeypatch.setenv("CI", ci)
    assert release_check.main() == code
    said = capsys.readouterr().out
    assert "BLOCKED  audit: the service with the advisories does not know 1 of 1 distributions" in said
    assert "was not checked" in said
