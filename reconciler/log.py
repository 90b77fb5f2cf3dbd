"""How the daemon writes its log: constant messages with key-values, as lines for people or as JSON."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["configure"]

_SECRETS: Final = (
    (re.compile(r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]+"), "<token>"),
    (re.compile(r"(\w+://[^:/@\s]+:)[^@\s]+@"), r"\1***@"),
)
"""What must never be in a log line: a JSON Web Token, the password of a URL."""


def redact(text: str) -> str:
    """`text` without tokens and passwords."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


def configure(form: str, level: str) -> None:
    """Set up structlog and, through it, what the libraries log."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    json = form == "json"
    renderer: Any = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    # Made into text before it is redacted, and without the frames' variables: they hold tokens and passwords.
    rest: list[Any] = [structlog.processors.format_exc_info, _redact_event]
    structlog.configure(
        processors=[*shared, *rest, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rest, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # The libraries' own debugging would print signed requests.
    root.setLevel(logging.WARNING)
    # It adds a traceback to each call that can not be signed, whose error is told where the call was made.
    logging.getLogger("botocore.credentials").setLevel(logging.ERROR)
