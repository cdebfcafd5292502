"""Unix time that is never set back, so that no step of the wall clock ends a lease."""

from __future__ import annotations

import time


class SteadyClock:
    """The wall clock as it was at the start, and the time that has passed since.

    A step of the wall clock, by NTP or by hand, ends no lease early and keeps none too long. On
    disk and in the log stands the wall clock's own time; `offset_s` leads from one to the other.
    """

    def __init__(self) -> None:
        # Goes on while the machine sleeps, which CLOCK_MONOTONIC does not.
        self._start = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def __call__(self) -> float:
        return self._start + time.clock_gettime(time.CLOCK_BOOTTIME)

    @property
    def offset_s(self) -> float:
        """Seconds by which the wall clock is ahead of this one now."""
        return time.time() - self()
