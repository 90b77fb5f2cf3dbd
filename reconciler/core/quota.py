"""Dealing out what room there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["deal"]


def deal(room: int, wants: Mapping[str, int], turn: int = 0) -> dict[str, int]:
    """How much of `room` each name gets: what it wants if that is enough for all, else an equal part.

    What cannot be divided goes to another name each `turn`, so that none is always the last.
    """
    given = dict.fromkeys(wants, 0)
    names = sorted(name for name, wanted in wants.items() if wanted > 0)
    names = names[turn % len(names) :] + names[: turn % len(names)] if names else names
    while room > 0 and names:
        part = max(1, room // len(names))
        for name in names:
            got = min(part, wants[name] - given[name], room)
            given[name] += got
            room -= got
        names = [name for name in names if given[name] < wants[name]]
    return given
