"""Airflow's configuration, as `reconciler.config` wants to read it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from airflow.configuration import conf

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
    return conf.get(section, option, fallback=None) if value is None else value


def reader(team: str | None) -> Callable[[str, str], str | None]:
    """`read` for the executor of a team, or for that of everybody."""
    return partial(read, team=team)
