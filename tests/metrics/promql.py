"""Reading PromQL: which metrics and labels an expression uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import promql_parser

__all__ = ["TARGET", "Use", "uses"]

TARGET: Final = frozenset({"namespace", "pod", "job", "instance", "service", "container", "endpoint"})
"""Labels that Prometheus puts on a target."""


@dataclass
class Use:
    """What one expression uses: each selector with its labels, and the labels that grouping and matching name."""

    selectors: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    grouped: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)
    """(labels, names of the metrics below)."""
    rated: set[str] = field(default_factory=set)
    """Metrics under rate, increase and the like."""


RATES: Final = frozenset({"rate", "irate", "increase", "resets"})


def uses(expression: str) -> Use:
    """Parse and type-check an expression. Raises ValueError."""
    use = Use()
    _walk(promql_parser.parse(expression), use, rated=False)
    return use


def _walk(node: Any, use: Use, *, rated: bool) -> set[str]:
    """Collect, and return the names of the metrics below this node."""
    match node:
        case promql_parser.VectorSelector():
            name = node.name or ""
            use.selectors.append((name, frozenset(m.name for m in node.matchers.matchers)))
            if rated:
                use.rated.add(name)
            return {name}
        case promql_parser.MatrixSelector():
            return _walk(node.vector_selector, use, rated=rated)
        case promql_parser.SubqueryExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            return _walk(node.expr, use, rated=rated)
        case promql_parser.Call():
            below = rated or node.func.name in RATES
            return {name for argument in node.args for name in _walk(argument, use, rated=below)}
        case promql_parser.AggregateExpr():
            names = _walk(node.expr, use, rated=rated)
            if node.modifier:
                use.grouped.append((frozenset(node.modifier.labels), frozenset(names)))
            return names
        case promql_parser.BinaryExpr():
            left, right = (_walk(side, use, rated=rated) for side in (node.lhs, node.rhs))
            matching = node.modifier.matching if node.modifier else None
            if matching:
                use.grouped.append((frozenset(matching.labels), frozenset(left | right)))
            # These only filter the left side, whose labels the result keeps.
            return left if str(node.op) in ("and", "unless") else left | right
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return set()
    raise ValueError(f"an expression of a kind that is not known here: {type(node).__name__}")
