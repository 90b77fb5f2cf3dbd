"""What is checked before a release: `make release-check`. Each step says what it found, or that it could not run.

What could not run was not checked: with CI=true that is a failure, elsewhere it is said at the end. Runs with the
tools of requirements/release.txt alone. The environment in which the wheel is installed is thrown away.
"""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
UV = ROOT / ".tools/bin/uv"
DIST = ROOT / "dist"
NETWORK = re.compile(
    r"ConnectionError|Max retries|NameResolution|ProxyError|ReadTimeout|ServiceError|HTTPError", re.IGNORECASE
)
FORBIDDEN = re.compile(r"\b(A?GPL|GNU (Affero )?General Public|SSPL|BUSL|Commons Clause)\b", re.IGNORECASE)
"""Licences that ask more of whoever installs this than Apache-2.0 does. The LGPL (psycopg) does not."""


class BlockedError(Exception):
    """A step that needs what is not to be had here."""


def run(*command: str | Path, **settings: Any) -> str:
    """The output of a program. Raises CalledProcessError with it."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **settings,
    )
    if done.returncode:
        sys.stdout.write(done.stdout)
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
    output: str = done.stdout
    return output


def expect(good: bool, sentence: str) -> None:
    if not good:
        raise AssertionError(sentence)


def version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "reconciler/__init__.py").read_text(), re.MULTILINE)
    expect(found is not None, "reconciler/__init__.py has no __version__")
    return found[1] if found else ""


def tracked(folder: str = ".") -> set[str]:
    return set(run("git", "ls-files", folder).splitlines())


def build() -> str:
    """sdist and wheel, built from a clean tree."""
    expect(
        not run("git", "status", "--porcelain").strip(),
        "there are changes that are not committed: what is built would hold them",
    )
    for old in DIST.glob("*"):
        old.unlink()
    run(TOOLS / "python", "-m", "build", "--outdir", DIST)
    run(TOOLS / "twine", "check", "--strict", *DIST.glob("*"))
    return ", ".join(sorted(path.name for path in DIST.glob("*")))


def wheel() -> Path:
    (found,) = DIST.glob("*.whl")
    return found


def content() -> str:
    """The wheel holds the package as it is committed, its metadata, and nothing else."""
    with zipfile.ZipFile(wheel()) as archive:
        names = set(archive.namelist())
    info = f"airflow_ecs_reconciler-{version()}.dist-info"
    metadata = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    expected = tracked("reconciler") | metadata
    expect(names == expected, f"missing {sorted(expected - names)}, too many {sorted(names - expected)}")
    (source,) = DIST.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    foreign = packed - tracked() - {"PKG-INFO"}
    expect(not foreign, f"the sdist holds what is not committed: {sorted(foreign)}")
    return f"{len(names)} files in the wheel, {len(packed)} in the sdist"


def versions() -> str:
    """One version: package, wheel, changelog, chart."""
    ours = version()
    with zipfile.ZipFile(wheel()) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        built = email.message_from_bytes(archive.read(name))["Version"]
    chart = re.search(r'^appVersion: "(.+)"$', (ROOT / "charts/ecs-reconciler/Chart.yaml").read_text(), re.MULTILINE)
    changelog = re.findall(r"^## (?:\[)?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    expect(built == ours, f"the wheel is {built}, the package {ours}")
    expect(chart is not None and chart[1] == ours, f"the chart's appVersion is not {ours}")
    expect(bool(changelog), "CHANGELOG.md names no version")
    if changelog[0] == "Unreleased":
        expect(ours not in changelog[1:], f"CHANGELOG.md has released {ours} already: raise the version")
        return f"{ours}, not yet released"
    expect(changelog[0] == ours, f"the newest entry of CHANGELOG.md is {changelog[0]}, not {ours}")
    return ours


def install(environment: Path) -> str:
    """The wheel, with locked dependencies, in an environment of its own."""
    run(UV, "venv", "--quiet", "--python", TOOLS / "python", environment)
    python = environment / "bin/python"
    run(UV, "pip", "sync", "--quiet", "--require-hashes", "--python", python, ROOT / "requirements/daemon.txt")
    run(UV, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel())
    run(UV, "pip", "check", "--quiet", "--python", python)
    return run(environment / "bin/ecs-reconciler", "--version").strip()


def demo(environment: Path) -> str:
    """The demo, from the wheel and away from the checkout."""
    with tempfile.TemporaryDirectory() as elsewhere:
        program = environment / "bin/ecs-reconciler"
        text = subprocess.run(
            [program, "demo"],
            cwd=elsewhere,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=900,
        )
    expect(text.returncode == 0, text.stdout)
    return "the demo's checks hold"


def licences(environment: Path) -> str:
    """Licences of everything that the wheel brings along."""
    command = ("--python", environment / "bin/python", "--from", "mixed", "--format", "json")
    found = json.loads(run(TOOLS / "pip-licenses", *command))
    bad = [f"{one['Name']}: {one['License']}" for one in found if not _fits(one["License"])]
    unknown = [one["Name"] for one in found if one["License"] in ("UNKNOWN", "")]
    expect(not bad, f"licences that do not fit Apache-2.0: {', '.join(bad)}")
    expect(not unknown, f"no licence is named by {', '.join(unknown)}")
    return f"{len(found)} distributions"


def _fits(named: str) -> bool:
    """Whether one of the licences that may be chosen asks no more than Apache-2.0 does."""
    choices = re.split(r";| OR ", named.replace("Lesser General Public", "LGPL"))
    return any(not FORBIDDEN.search(choice) for choice in choices)


KNOWN_BAD = "jinja2==2.11.2"
"""Has advisories since 2021. A service that has none of it, as some mirrors of the index have not, proves nothing."""


def audit() -> str:
    """Known vulnerabilities of what is locked."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary.txt"
        canary.write_text(KNOWN_BAD)
        if not vulnerable(audited(canary, "--no-deps")):
            raise BlockedError(f"the service with the advisories knows none of {KNOWN_BAD}, which has some")
    found = audited(ROOT / "requirements/daemon.txt", "--require-hashes")
    bad = vulnerable(found)
    expect(not bad, f"known vulnerabilities: {', '.join(bad)}")
    return f"no known vulnerability in {len(found)} distributions"


def audited(requirements: Path, *options: str) -> list[dict[str, Any]]:
    """pip-audit's finding about each distribution. Raises BlockedError if the service did not answer for all."""
    command = (TOOLS / "pip-audit", "--requirement", requirements, "--disable-pip", "--progress-spinner", "off")
    try:
        done = subprocess.run(
            [*command, "--format", "json", *options],
            cwd=ROOT,
            text=True,
            check=False,
            capture_output=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired as error:
        raise BlockedError("the service with the advisories did not answer in time") from error
    if not done.stdout and NETWORK.search(done.stderr):
        raise BlockedError("the service with the advisories could not be reached")
    expect(bool(done.stdout), done.stderr)
    return answered(json.loads(done.stdout)["dependencies"])


def answered(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the service has answered about, if that is everything: pip-audit passes over the rest and is content."""
    silent = [one["name"] for one in found if "skip_reason" in one]
    if silent or not found:
        raise BlockedError(f"the service with the advisories does not know {len(silent)} of {len(found)} distributions")
    return found


def vulnerable(found: list[dict[str, Any]]) -> list[str]:
    """Each advisory as text."""
    return [f"{one['name']} {one['version']}: {each['id']}" for one in found for each in one["vulns"]]


def bill(environment: Path) -> str:
    """A bill of materials in CycloneDX's format, beside what was built."""
    path = DIST / f"airflow_ecs_reconciler-{version()}.cdx.json"
    run(
        TOOLS / "cyclonedx-py",
        "environment",
        environment / "bin/python",
        "--output-format",
        "JSON",
        "--output-file",
        path,
    )
    components = {_normal(one["name"]) for one in json.loads(path.read_text())["components"]}
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    missing = {_normal(re.split(r"[\[<>=~ ]", one)[0]) for one in dependencies} - components
    expect(not missing, f"not in the bill of materials: {sorted(missing)}")
    return f"{len(components)} components in {path.name}"


def _normal(name: str) -> str:
    """A distribution's name as it is compared: https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    failed = blocked = 0
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("build", build),
            ("content", content),
            ("versions", versions),
            ("install", lambda: install(environment)),
            ("demo", lambda: demo(environment)),
            ("licences", lambda: licences(environment)),
            ("audit", audit),
            ("bill of materials", lambda: bill(environment)),
        )
        for name, step in steps:
            try:
                said = f"ok       {name}: {step()}"
            except BlockedError as error:
                blocked += 1
                said = f"BLOCKED  {name}: {error}"
            except (AssertionError, subprocess.SubprocessError) as error:
                failed += 1
                said = f"FAILED   {name}: {error}"
                if step is build:
                    sys.stdout.write(f"{said}\nThere is nothing to examine.\n")
                    return 1
            sys.stdout.write(f"{said}\n")
            sys.stdout.flush()
    if blocked:
        sys.stdout.write("What is blocked was not checked: run it where the network allows it before you release.\n")
    return 1 if failed or (blocked and os.environ.get("CI") == "true") else 0


if __name__ == "__main__":
    sys.exit(main())
