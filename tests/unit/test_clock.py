"""The steady clock, against wall clocks that are set."""

from __future__ import annotations

import time

import pytest

from bootnode.clock import SteadyClock


@pytest.mark.parametrize("step_s", [-1e9, -3600.0, 3600.0, 1e9])
def test_a_step_of_the_wall_clock_is_an_offset(
    step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, passed = time.time(), 0.0
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: 5000.0 + passed)
    wall = began
    monkeypatch.setattr(time, "time", lambda: wall)
    clock = SteadyClock()
    passed, wall = 10.0, began + 10.0
    assert clock() == pytest.approx(began + 10)
    assert clock.offset_s == pytest.approx(0)
    wall += step_s
    assert clock() == pytest.approx(began + 10)
    assert clock.offset_s == pytest.approx(step_s)
