"""A few lines of a topic in each interval, then how many more there were."""

from __future__ import annotations

from bootnode.dhcp.throttle import INTERVAL_S, Throttle


def test_a_flood_is_said_a_few_times_and_then_counted() -> None:
    unsaid: list[tuple[str, int]] = []
    throttle = Throttle(lambda topic, count: unsaid.append((topic, count)), lines_max=3)
    said = [throttle.admit("flood", at / 100) for at in range(900)]
    assert said == [True] * 3 + [False] * 897
    assert throttle.admit("other", 9.0)
    assert unsaid == []
    assert throttle.admit("flood", INTERVAL_S)
    assert unsaid == [("flood", 897)]
    assert throttle.admit("flood", 3 * INTERVAL_S)
    assert unsaid == [("flood", 897)]


def test_what_happens_seldom_is_always_said() -> None:
    throttle = Throttle(lines_max=1)
    assert all(throttle.admit("rare", at * INTERVAL_S) for at in range(50))
