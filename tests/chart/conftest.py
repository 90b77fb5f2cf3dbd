"""Real Helm, versions 3 and 4, on the chart. Nothing here needs a cluster."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/ecs-reconciler"
CI_VALUES = sorted(CHART.glob("ci/*-values.yaml"))
OPERATOR = "monitoring.coreos.com/v1"
IMAGE = {"image": {"repository": "example/airflow"}}


class RefusedError(Exception):
    """Helm refused the values; its words."""


@dataclass(frozen=True)
class Helm:
    """One helm program."""

    program: Path

    def run(self, *arguments: str | Path, stdin: str = "") -> str:
        done = subprocess.run(
            [self.program, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise RefusedError(done.stderr)
        return done.stdout

    def template(
        self,
        values: dict[str, Any] | Path | None = None,
        *flags: str,
        release: str = "r",
        operator: bool = True,
        chart: Path = CHART,
    ) -> str:
        """What `helm template` prints. Values are merged over the one that has no default, an image."""
        flags += ("--api-versions", OPERATOR) if operator else ()
        given, stdin = ("-", yaml.safe_dump(IMAGE | (values or {}))) if not isinstance(values, Path) else (values, "")
        return self.run("template", release, chart, "--namespace", "ns", "--values", given, *flags, stdin=stdin)

    def render(self, values: dict[str, Any] | Path | None = None, *flags: str, **settings: Any) -> Objects:
        """The same as objects."""
        return Objects(self.template(values, *flags, **settings))


class Objects(list[dict[str, Any]]):
    """Rendered objects."""

    def __init__(self, text: str) -> None:
        super().__init__(document for document in yaml.safe_load_all(text) if document)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [document for document in self if document["kind"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        (found,) = self.of(kind)
        return found

    @property
    def pod(self) -> dict[str, Any]:
        """The daemon's pod."""
        template: dict[str, Any] = self.one("Deployment")["spec"]["template"]
        return template

    @property
    def pods(self) -> list[dict[str, Any]]:
        """The specification of every pod there will be, whatever makes it."""
        return [spec for document in self for spec in _pods(document)]

    @property
    def daemon(self) -> dict[str, Any]:
        """The daemon's container."""
        (container,) = self.pod["spec"]["containers"]
        found: dict[str, Any] = container
        return found

    @property
    def env(self) -> dict[str, Any]:
        """The daemon's environment by name: a text, or a dictionary of where the text comes from."""
        return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in self.daemon["env"]}

    @property
    def options(self) -> dict[str, str]:
        """The daemon's options: the chart's own config map."""
        name = self.daemon["envFrom"][0]["configMapRef"]["name"]
        (found,) = [config for config in self.of("ConfigMap") if config["metadata"]["name"] == name]
        data: dict[str, str] = found["data"]
        return data


def _pods(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "containers" in part:
        yield part
        return
    for inner in part.values():
        if isinstance(inner, dict):
            yield from _pods(inner)


def _helm(version: str) -> Helm:
    program = ROOT / ".tools" / version
    if not program.exists():
        reason = f"no .tools/{version}: run `make tools`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return Helm(program)


@pytest.fixture(scope="session", params=["helm3", "helm4"])
def each_helm(request: pytest.FixtureRequest) -> Helm:
    """Helm 3, then Helm 4."""
    return _helm(request.param)


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm 4."""
    return _helm("helm4")
