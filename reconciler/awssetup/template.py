"""The CloudFormation template, with parameters as its defaults.

Parameters are checked before anything is asked of AWS, by the template's own constraints and by what these can not say.
"""

from __future__ import annotations

import difflib
import json
import re
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import yaml

from reconciler.awssetup.fargate import check_size
from reconciler.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["template"]

REQUIRED: Final = ("VpcId", "SubnetIds")


def template(settings: Sequence[str]) -> str:
    """The template's text. `settings` are NAME=VALUE: each becomes the default of its parameter.

    Raises ConfigError with all problems at once. Without settings nothing is checked: the parameters are then given to
    CloudFormation.
    """
    text = resources.files("reconciler.awssetup").joinpath("template.yaml").read_text()
    if not settings:
        return text
    parameters: dict[str, dict[str, Any]] = yaml.safe_load(text)["Parameters"]
    problems: list[str] = []
    given: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            problems.append(f"{setting!r} is not NAME=VALUE")
        elif name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(parameters)}"
            problems.append(f"{name}: there is no such parameter; {hint}")
        elif problem := _problem(value, parameters[name]):
            problems.append(f"{name}: {value!r} is not {problem}")
        else:
            given[name] = value
    chosen = {name: str(parameter.get("Default", "")) for name, parameter in parameters.items()} | given
    problems += [] if problems else _contradictions(chosen)
    if problems:
        raise ConfigError(problems)
    for name, value in given.items():
        text = _with_default(text, name, value)
    return text


def _problem(value: str, parameter: Mapping[str, Any]) -> str | None:
    """What the value is not, in words, by the constraints that CloudFormation knows."""
    allowed = [str(each) for each in parameter.get("AllowedValues", ())]
    if allowed and value not in allowed:
        return f"one of {', '.join(allowed)}"
    if parameter["Type"] == "Number" and not allowed:
        low, high = parameter["MinValue"], parameter["MaxValue"]
        if not value.isdecimal() or not low <= int(value) <= high:
            return f"a number from {low} to {high}"
    pattern = parameter.get("AllowedPattern")
    several = parameter["Type"].startswith("List<") or parameter["Type"] == "CommaDelimitedList"
    members = value.split(",") if several else [value]
    if pattern and not all(re.fullmatch(pattern, member) for member in members):
        described: str = parameter["ConstraintDescription"]
        return described
    return None


def _contradictions(chosen: Mapping[str, str]) -> list[str]:
    """What is wrong between parameters that are right by themselves."""
    problems = [f"{name} is not set, and has no default" for name in REQUIRED if not chosen[name]]
    if chosen["DaemonIdentity"] == "irsa" and not chosen["OidcProviderArn"]:
        problems.append("OidcProviderArn is not set: DaemonIdentity=irsa trusts the EKS cluster's provider")
    if chosen["DaemonIdentity"] != "irsa" and chosen["OidcProviderArn"]:
        problems.append("OidcProviderArn is set, and used with DaemonIdentity=irsa only")
    if chosen["CreateDatabase"] == "yes" and chosen["SubnetIds"] and "," not in chosen["SubnetIds"]:
        problems.append("SubnetIds names one subnet: a database needs subnets in two zones")
    try:
        check_size(int(chosen["Cpu"]), int(chosen["Memory"]))
    except ValueError as error:
        problems.append(f"Cpu and Memory: {error}")
    return problems


def _with_default(text: str, name: str, value: str) -> str:
    """The template with another default. A parameter's lines are those indented below its name."""
    block = re.search(rf"^  {name}:\n(?:    .*\n)+", text, re.MULTILINE)
    if block is None:
        raise AssertionError(f"the template has no lines for {name}")
    lines = re.sub(r"^    Default:.*\n", "", block[0], flags=re.MULTILINE)
    return text.replace(block[0], f"{lines}    Default: {json.dumps(value)}\n", 1)
