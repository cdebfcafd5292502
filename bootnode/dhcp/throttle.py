"""How often the same thing is worth saying: a few times, and then how often it was not said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 10.0
LINES_MAX: Final = 20
"""Lines of one topic in each interval."""


class Throttle:
    """Counts what happens by topic; topics come from the program, so they are few."""

    def __init__(
        self, on_end: Callable[[str, int], None] | None = None, *, lines_max: int = LINES_MAX
    ) -> None:
        """`on_end` is told of a topic, and how often it was not said in the interval before."""
        self._on_end = on_end
        self._lines_max = lines_max
        self._intervals: dict[str, tuple[float, int]] = {}
        # The beginning of the interval, and how often it happened in it.

    def admit(self, topic: str, now: float) -> bool:
        """Whether to say it."""
        began, count = self._intervals.get(topic, (now, 0))
        if not 0 <= now - began < INTERVAL_S:
            if self._on_end is not None and count > self._lines_max:
                self._on_end(topic, count - self._lines_max)
            began, count = now, 0
        self._intervals[topic] = (began, count + 1)
        return count < self._lines_max
