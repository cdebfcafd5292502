from __future__ import annotations

import pytest

from bootnode.image.retention import HISTORY_KEPT, past, push, reasons_to_keep


@pytest.mark.parametrize(
    ("history", "current", "before"),
    [
        ("", None, ""),
        ("a", "a", ""),
        ("abc", "c", "ba"),
        ("abc", "b", "a"),  # c was rolled back from, or never got so far
        ("abc", "x", "cba"),  # moved by hand
        ("abc", None, "cba"),
        ("", "x", ""),
    ],
)
def test_past(history: str, current: str | None, before: str) -> None:
    assert past([*history], current) == [*before]


@pytest.mark.parametrize(
    ("history", "current", "version", "after"),
    [
        ("", None, "a", "a"),
        ("a", "a", "b", "ab"),
        ("abc", "c", "a", "bca"),  # each once
        ("abc", "b", "d", "abd"),
        ("abc", "b", "c", "abc"),
        ("", "x", "a", "xa"),  # from before there was a history
        ("abc", None, "d", "abcd"),
    ],
)
def test_push(history: str, current: str | None, version: str, after: str) -> None:
    assert push([*history], current, version) == [*after]


def test_the_oldest_are_forgotten() -> None:
    history: list[str] = []
    for number in range(HISTORY_KEPT + 5):
        history = push(history, history[-1] if history else None, str(number))
    assert len(history) == HISTORY_KEPT
    assert history[-1] == str(HISTORY_KEPT + 4)


@pytest.mark.parametrize(
    ("keep", "needed", "kept"),
    [
        (3, "", "cde"),
        (1, "", "e"),
        (1, "a", "ae"),
        (2, "ac", "acde"),
        (9, "", "abcde"),
        (0, "b", "b"),
    ],
)
def test_what_is_kept(keep: int, needed: str, kept: str) -> None:
    because = {version: f"{version} is needed" for version in needed}
    reasons = reasons_to_keep("abcde", keep=keep, needed=because)
    assert list(reasons) == [*kept]
    for version, reason in reasons.items():
        assert reason == because.get(version, f"one of the newest {keep}")
