"""Every values file of ci/, by both Helms, for each Kubernetes version, checked against Kubernetes' own schemas."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule, ServiceMonitor

import reconciler
from tests.chart.conftest import CHART, CI_VALUES, RefusedError
from tests.tools.chart_files import CHART as MADE_IN
from tests.tools.chart_files import files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chart.conftest import Helm

VERSIONS = ("1.30", "1.33", "1.35", "1.37")
CUSTOM: dict[str, Any] = {
    "ServiceMonitor": ServiceMonitor,
    "PodMonitor": PodMonitor,
    "PrometheusRule": PrometheusRule,
}
values_files = pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)


def check(document: dict[str, Any], version: str) -> None:
    """Against Kubernetes' schema, or the operator's: what neither knows is an error, not a warning."""
    model = CUSTOM.get(document["kind"])
    if model is None:
        kubernetes_validate.validate(document, version, strict=True)
        return
    # The models ignore what they do not know, so what they read is compared with what was there.
    read = model.model_validate(document).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert read == document


@values_files
def test_lint(each_helm: Helm, values: Path) -> None:
    each_helm.run("lint", "--strict", CHART, "--values", values)


@values_files
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("operator", [True, False], ids=["with-operator", "without-operator"])
def test_every_object_is_valid(helm: Helm, values: Path, version: str, operator: bool) -> None:
    documents = helm.render(values, "--kube-version", version, operator=operator)
    assert documents
    assert operator or not [document for document in documents if document["kind"] in CUSTOM]
    for document in documents:
        check(document, version)
        assert document["metadata"]["namespace" if "namespace" in document["metadata"] else "name"]
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(names) == len(set(names)), "two objects of one name: one of them would be lost"


def test_the_check_finds_what_is_wrong(helm: Helm) -> None:
    """The check itself: an unknown field of a known kind, one of an operator's kind, a kind that nobody knows."""
    documents = helm.render({"metrics": {"monitor": {"enabled": True}}})
    deployment, monitor = documents.one("Deployment"), documents.one("ServiceMonitor")
    deployment["spec"]["template"]["spec"]["automountServiceAcountToken"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment, "1.33")
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    with pytest.raises(AssertionError):
        check(monitor, "1.33")
    with pytest.raises((kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError)):
        check({"apiVersion": "example.com/v1", "kind": "Unheard", "metadata": {"name": "x"}}, "1.33")


@values_files
@pytest.mark.parametrize("operator", [True, False], ids=["with-operator", "without-operator"])
def test_both_helms_render_the_same(values: Path, helm: Helm, each_helm: Helm, operator: bool) -> None:
    assert each_helm.render(values, operator=operator) == helm.render(values, operator=operator)


def test_kubernetes_that_is_too_old_is_refused(each_helm: Helm) -> None:
    with pytest.raises(RefusedError, match=r"1\.30"):
        each_helm.template(None, "--kube-version", "1.29")


def test_the_package_holds_what_the_chart_needs_and_nothing_else(helm: Helm, tmp_path: Path) -> None:
    helm.run("package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("*.tgz")
    shutil.unpack_archive(package, tmp_path / "unpacked")
    packed = {path.relative_to(tmp_path / "unpacked/ecs-reconciler") for path in tmp_path.glob("unpacked/**/*.*")}
    kept = {path.relative_to(CHART) for path in CHART.glob("**/*") if path.is_file() and path.parent.name != "ci"}
    assert {path for path in packed if (tmp_path / "unpacked/ecs-reconciler" / path).is_file()} == kept - {
        path for path in kept if path.name == ".helmignore"
    } | ({path for path in packed if path.name == ".helmignore"})


def test_what_is_copied_into_the_chart_is_current() -> None:
    made = files()
    for path, content in made.items():
        assert path.read_text() == content, f"{path.name} is not current: run `make docs`"
    copies = {path for folder in ("rules", "dashboards") for path in (MADE_IN / folder).glob("*.*")}
    assert copies <= set(made), "a copy of a file that is no more: delete it"


def test_the_chart_and_the_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == reconciler.__version__
    assert yaml.safe_load(chart["annotations"]["artifacthub.io/changes"])


def test_the_rules_that_ship_are_good_prometheus_rules(helm: Helm, tmp_path: Path) -> None:
    """What is inside the rendered PrometheusRule, because that is what a Prometheus will load."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: install the distribution's prometheus")
    rule = helm.render({"metrics": {"alerts": {"enabled": True}}}).one("PrometheusRule")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    subprocess.run([promtool, "check", "rules", path], check=True, capture_output=True, timeout=30)
