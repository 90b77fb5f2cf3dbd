"""Time, processes and chance. Nothing happens that one `random.Random` has not decided.

A process is a set of fibers (greenlets) that share a memory. Fibers hand over the baton at every seam: before and after
each thing they do to the outside world. A seam is where a process may be killed, stalled, or overtaken by another.
"""

from __future__ import annotations

import random
from contextlib import suppress
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped] # it has no types

if TYPE_CHECKING:
    from collections.abc import Callable


class Crash(BaseException):
    """The process dies here. Not an Exception, so that nobody can survive it."""


class Fiber(greenlet):  # type: ignore[misc] # it has no types
    """A thread of control within a process. `due` is when it goes on; `soonest` is when it may if something happens."""

    def __init__(self, process: Process, run: Callable[[], None]) -> None:
        super().__init__(run, process.sim.hub)
        self.process = process
        self.ticket = 0
        self.soonest = 0.0
        self.due = 0.0
        self.idle = 1.0
        self.saw = -1
        self.dozing = False
        self.joiners: list[Fiber] = []

    @property
    def under_way(self) -> bool:
        """Begun, and not at its end."""
        return bool(self)


class Process:
    """Something that can be killed as a whole.

    `die_in` and `stall_in` count the seams whose label begins with `die_at` and `stall_at`; None: nothing is armed.
    """

    def __init__(self, sim: Sim, name: str, kind: str) -> None:
        self.sim, self.name, self.kind = sim, name, kind
        self.alive = True
        self.fibers: list[Fiber] = []
        self.die_in: int | None = None
        self.stall_in: int | None = None
        self.die_at = self.stall_at = ""
        self.stall_for = 0.0
        self.stall_whole = False
        self.stalled_until = 0.0
        self.on_death: Callable[[], None] = lambda: None

    def spawn(self, run: Callable[[], None]) -> Fiber:
        """A new fiber, which begins a moment later."""

        def live() -> None:
            with suppress(Crash):
                run()
            for joiner in fiber.joiners:
                self.sim.resume_at(joiner, self.sim.now)

        fiber = Fiber(self, live)
        self.fibers.append(fiber)
        self.sim.resume_at(fiber, self.sim.now + self.sim.chance.random() * self.sim.latency)
        return fiber

    def seam(self, label: str) -> None:
        """Hand over the baton. The process may be killed or stalled here."""
        if not self.alive:
            raise Crash
        if self.die_in is not None and label.startswith(self.die_at):
            self.die_in -= 1
            if self.die_in <= 0:
                self.kill(f"at {label}")
                raise Crash
        sim = self.sim
        if sim.armed:
            sim.fire(label)
        wait = sim.chance.random() * sim.latency
        if self.stall_in is not None and label.startswith(self.stall_at):
            self.stall_in -= 1
            if self.stall_in <= 0:
                self.stall_in = None
                sim.note("stall", who=self.name, at=label, seconds=round(self.stall_for), whole=self.stall_whole)
                if self.stall_whole:
                    self.stalled_until = sim.now + self.stall_for
                wait = self.stall_for
        self.pause(wait)

    def pause(self, seconds: float) -> None:
        """Let so much time pass."""
        sim, fiber = self.sim, getcurrent()
        when = sim.now + seconds
        if sim.skip_to(when) and self.stalled_until <= when:
            # Nobody else does anything until then: to hand over would be to get the baton back at once.
            fiber.ticket += 1
            fiber.due = sim.now = when
            return
        sim.resume_at(fiber, when)
        sim.hub.switch()
        if not self.alive:
            raise Crash

    def doze(self, seconds: float) -> None:
        """Wait for the next pass of a loop.

        While nothing happens in the universe, each wait is longer than the one before: there is nothing to be seen.
        """
        sim, fiber = self.sim, getcurrent()
        fiber.idle = 1.0 if fiber.saw != sim.happened else min(fiber.idle * 2.0, sim.longest_idle)
        fiber.saw = sim.happened
        seconds = max(seconds, sim.pace) * (0.6 + 0.8 * sim.chance.random())
        fiber.soonest = sim.now + seconds
        sim.resume_at(fiber, sim.now + min(seconds * fiber.idle, max(seconds, sim.longest_doze)))
        if fiber.due > fiber.soonest:
            fiber.dozing = True
            sim.dozing.append(fiber)
        sim.hub.switch()
        fiber.dozing = False
        if not self.alive:
            raise Crash

    def join(self, other: Fiber) -> None:
        """Wait until another fiber of this process has ended."""
        if not other.dead:
            other.joiners.append(getcurrent())
            self.sim.hub.switch()
            if not self.alive:
                raise Crash

    def wake(self) -> None:
        """End a stall."""
        self.stalled_until = 0.0
        for fiber in self.fibers:
            if fiber.under_way and not fiber.dozing and fiber.due > self.sim.now + 30.0:
                self.sim.resume_at(fiber, self.sim.now)

    def kill(self, why: str) -> None:
        """End all fibers, wherever they are."""
        if not self.alive:
            return
        self.alive = False
        self.sim.note("crash", who=self.name, why=why)
        self.sim.happen()
        current = getcurrent()
        self.sim.at(self.sim.now, lambda: self._bury(current))

    def _bury(self, killer: greenlet) -> None:
        for fiber in self.fibers:
            fiber.ticket += 1
            if fiber is not killer and fiber.under_way:  # one that has not begun yet never will
                fiber.throw(Crash)
        self.fibers.clear()
        self.on_death()


class Sim:
    """The hub: a heap of what is due, and the trace of what was done."""

    def __init__(self, seed: int | str) -> None:
        self.chance = random.Random(f"{seed}/chance")
        self.now = 0.0
        self.hub = getcurrent()
        self.trace: list[dict[str, Any]] = []
        self.latency = 0.2
        self.pace = 10.0
        self.healed = False
        self.longest_idle = 16.0
        self.longest_doze = 200.0
        """Less than `missing_grace`: a real daemon looks every few seconds, and looks far apart prove nothing."""
        self.happened = 0
        self.dozing: list[Fiber] = []
        self.armed: list[tuple[str, Callable[[], None]]] = []
        """What happens at the next seam whose label begins so."""
        self._heap: list[tuple[float, int, Callable[[], None] | Fiber, int]] = []
        """What is due when, in the order of its pushing: what to do, or which fiber goes on with which ticket."""
        self._pushed = 0
        self._look = self._end = 0.0

    def note(self, kind: str, **what: Any) -> None:
        """Write a line of the trace."""
        self.trace.append({"t": round(self.now, 3), "kind": kind, **what})

    def at(self, when: float, do: Callable[[], None]) -> None:
        self._pushed += 1
        heappush(self._heap, (when, self._pushed, do, 0))

    def resume_at(self, fiber: Fiber, when: float) -> None:
        self._pushed += 1
        fiber.ticket += 1
        fiber.due = when
        heappush(self._heap, (when, self._pushed, fiber, fiber.ticket))

    def skip_to(self, when: float) -> bool:
        """Whether nothing at all is due until then, nor a look at whether all is over."""
        heap = self._heap
        return when < self._look and when <= self._end and (not heap or heap[0][0] > when)

    def fire(self, label: str) -> None:
        due = [armed for armed in self.armed if label.startswith(armed[0])]
        self.armed = [armed for armed in self.armed if armed not in due]
        for _, do in due:
            do()

    def happen(self) -> None:
        """Something changed: whoever dozes looks again as soon as its pace allows."""
        self.happened += 1
        if not self.dozing:
            return
        dozing, self.dozing = self.dozing, []
        for fiber in dozing:
            if fiber.dozing and fiber.process.alive:
                fiber.dozing = False
                self.resume_at(fiber, max(self.now, fiber.soonest))

    def run(self, until: Callable[[], bool], end: float) -> bool:
        """Let time pass until the condition holds, which is asked from time to time. False: not before `end`."""
        heap = self._heap
        self._look, self._end = self.now, end
        while heap and heap[0][0] <= end:
            when, _, what, ticket = heappop(heap)
            self.now = max(self.now, when)
            if type(what) is not Fiber:
                what()
            elif what.ticket == ticket and not what.dead:
                if what.process.stalled_until > self.now:
                    self.resume_at(what, what.process.stalled_until)
                else:
                    what.switch()
            if self.now >= self._look:
                if until():
                    return True
                self._look = self.now + 5.0
        self.now = max(self.now, end)
        return until()
