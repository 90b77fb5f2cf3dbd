"""Dealing out what room there is: tasks that are counted, and vCPUs that are summed."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from reconciler.core.parameters import on_fargate
from reconciler.core.size import SMALLEST

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from reconciler.core.runtask import Profile

__all__ = ["CpuQuota", "Size", "deal"]

Size = tuple[str, int]
"""Tasks of one profile and one size, in CPU units."""
NO_LIMIT: Final = 1 << 40


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


class CpuQuota:
    """Deals out CPU units to tasks of different sizes, so that nobody waits for ever and nobody holds up the others.

    Profiles take turns, task by task, and a task that does not fit is passed by those that do. So that it is not passed
    for ever, room is saved for it, one task at a time: of what becomes free, every other part. What is saved and not
    yet used is less than one task's worth. It is lost with the process, which costs time only.

    Within a profile's own limit the order is kept: there a big task waits for room, and those behind it for the task.
    """

    def __init__(self, limit: int | None, of_profiles: Mapping[str, int | None]) -> None:
        """The units that may be in use at once, in all and by profile. None: as many as ECS gives."""
        self._limit = NO_LIMIT if limit is None else limit
        self._of_profiles = {name: own for name, own in of_profiles.items() if own is not None}
        self._passed: list[Size] = []
        """What did not fit, the longest wait first. For the first of them room is saved."""
        self._saved = 0
        self._saves_next = True

    def limit(self, profile: str) -> int | None:
        """The most that all tasks of a profile may have, and so the most that one of them may."""
        limit = min(self._limit, self._own(profile))
        return None if limit == NO_LIMIT else limit

    def left(self, profile: str, used: int, used_by: Mapping[str, int]) -> int:
        """How much one profile could have now, if no other wanted any."""
        return min(self._limit - used, self._own(profile) - used_by.get(profile, 0))

    def full(self, profile: Profile, used: int, used_by: Mapping[str, int]) -> bool:
        """Whether no task of a profile can fit, however small."""
        return bool(on_fargate(profile.run_task)) and self.left(profile.name, used, used_by) < SMALLEST

    def fitting(self, wanted: Sequence[Size], used: int, used_by: Mapping[str, int], turn: int) -> list[bool]:
        """Which of the tasks that wait may have their units now. They come in their order; `used` is in all."""
        order = self._order(wanted, used_by, turn)
        saver = self._first_passed({wanted[index] for index in order})
        free = self._limit - used - self._saved
        if free < 0:
            # More is in use than when it was saved: another replica led, or a limit was lowered.
            free, self._saved = free + self._saved, 0
        fits = [False] * len(wanted)
        if saver and self._saves_next:
            free = self._save(saver, free)
        began = False
        for index in order:
            size = wanted[index]
            if size == saver and self._saved >= saver[1]:
                fits[index] = True
                saver = self._spent()
            elif size[1] <= free:
                fits[index] = True
                free -= size[1]
                began = began or size[1] > 0
            elif size not in self._passed:
                self._passed.append(size)
        if began:
            self._saves_next = True
        elif saver and not self._saves_next:
            # Nobody else can use it.
            self._save(saver, free)
            if self._saved >= saver[1]:
                fits[next(index for index in order if wanted[index] == saver)] = True
                self._spent()
        return fits

    def _own(self, profile: str) -> int:
        return self._of_profiles.get(profile, NO_LIMIT)

    def _order(self, wanted: Sequence[Size], used_by: Mapping[str, int], turn: int) -> list[int]:
        """Those that fit into their profile's own limit: one of each profile, then the second of each, and so on."""
        of: dict[str, list[int]] = {}
        full: set[str] = set()
        room = {name: self._own(name) - used_by.get(name, 0) for name, _ in wanted}
        for index, (name, units) in enumerate(wanted):
            room[name] -= units
            if units and room[name] < 0:
                full.add(name)
            if not (units and name in full):
                of.setdefault(name, []).append(index)
        names = sorted(of)
        names = names[turn % len(names) :] + names[: turn % len(names)] if names else names
        rounds = zip_longest(*(of[name] for name in names))
        return [index for each in rounds for index in each if index is not None]

    def _first_passed(self, waiting: Collection[Size]) -> Size | None:
        """The task for which room is saved, if it still waits."""
        before = self._passed[:1]
        self._passed = [size for size in self._passed if size in waiting]
        if self._passed[:1] != before:
            self._saved = 0
        return self._passed[0] if self._passed else None

    def _spent(self) -> Size | None:
        """What was saved is used: nobody saves for the rest of this pass."""
        self._passed.pop(0)
        self._saved = 0
        return None

    def _save(self, saver: Size, free: int) -> int:
        """Set room aside; returns what is left."""
        part = max(0, min(saver[1] - self._saved, free))
        self._saved += part
        self._saves_next = self._saves_next and not part
        return free - part
