"""Which version of an image to go back to, and which ones to keep: decisions without a disk.

The history of an image is the versions that were `current`, each once, in the order in which they
last became it. What stands behind the version that is current now was rolled back from, or was
written down by a build that was killed before it moved `current`: the link decides, always.

Limits: HISTORY_KEPT versions are remembered for each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

HISTORY_KEPT = 50


def past(history: Sequence[str], current: str | None) -> list[str]:
    """The versions that were current before the one that is now, the latest first."""
    end = history.index(current) if current in history else len(history)
    return list(reversed(history[:end]))


def push(history: Sequence[str], current: str | None, version: str) -> list[str]:
    """The history once `version` follows `current`."""
    before = [*reversed(past(history, current)), *([current] if current is not None else [])]
    return [*(name for name in before if name != version), version][-HISTORY_KEPT:]


def reasons_to_keep(
    versions: Sequence[str], *, keep: int, needed: Mapping[str, str]
) -> dict[str, str]:
    """Why each version stays; one that is not in the answer may go.

    `versions` are the oldest first, `keep` is how many of the newest stay in any case, and `needed`
    says of some why they do.
    """
    newest = versions[-keep:] if keep else ()
    return {
        version: needed.get(version) or f"one of the newest {keep}"
        for version in versions
        if version in needed or version in newest
    }
