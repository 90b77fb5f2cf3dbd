"""Airflow's configuration, as `reconciler.config` wants to read it."""

from __future__ import annotations

import os
import shlex
import subprocess
from functools import partial
from typing import TYPE_CHECKING

from airflow.configuration import conf, get_custom_secret_backend

from reconciler.config import ConfigError, variable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read", "reader"]


def read(section: str, option: str, team: str | None = None) -> str | None:
    """The value of an option, or None if it is not set.

    Looks where Airflow looks: environment variables, airflow.cfg, `_CMD` and `_SECRET`, registered defaults. A team's
    own value comes first, and what a team does not set is looked up for all. Asked for a team's value, Airflow would
    answer with the default before it looked at what is set for all.
    """
    value: str | None = None
    if team is not None:
        # airflow/_shared/configuration/parser.py: the names of a team's variable, and of its section in airflow.cfg.
        value = os.environ.get(f"AIRFLOW__{team.upper()}___{section.upper()}__{option.upper()}")
        value = conf.get(f"{team}={section}", option, fallback=None) if value is None else value
    if value is None and section in _OURS:
        value = _indirect(section, option)
    return conf.get(section, option, fallback=None) if value is None else value


_OURS = ("aws_ecs_executor", "ecs_reconciler")


def _indirect(section: str, option: str) -> str | None:
    """What `_CMD` or `_SECRET` says. Airflow itself looks there only for options that are registered as sensitive.

    An option's own variable wins, as it does in Airflow.
    """
    if variable(section, option) in os.environ or (section, option) in conf.sensitive_config_values:
        return None
    if command := conf.get(section, f"{option}_cmd", fallback=None):
        return _output(section, f"{option}_cmd", command)
    secret = conf.get(section, f"{option}_secret", fallback=None)
    if not secret:
        return None
    backend = get_custom_secret_backend()
    if backend is None:
        problem = f"[{section}] {option}_secret is set, but no secrets backend: see [secrets] backend"
        raise ConfigError([problem])
    found = backend.get_config(secret)
    if found is None:
        raise ConfigError([f"[{section}] {option}_secret: the secrets backend has no configuration named {secret!r}"])
    return str(found)


def _output(section: str, option: str, command: str) -> str:
    """What a command prints. Its errors are not repeated: they may hold what it was to print."""
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - the operator's own
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(
            [f"[{section}] {option}: the command failed ({type(error).__name__}); run it by hand"]
        ) from None
    return done.stdout.strip()


def reader(team: str | None) -> Callable[[str, str], str | None]:
    """`read` for the executor of a team, or for that of everybody."""
    return partial(read, team=team)
