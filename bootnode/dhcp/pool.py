"""The addresses of a pool, counted from 0, and which of them are free.

Rules: addresses are numbers here, as `int(IPv4Address)` gives them, but for the one that is found.
One byte per address says whether it may be lent now, so that finding a free one is a search
at memory speed. Addresses that end in .0 or .255 are barred, for old Windows and some firmware take
them for broadcast addresses in any subnet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from bootnode.addresses import AddressRange

_FREE = 0
_TAKEN = 1


class Pool:
    """Ranges of addresses as one; empty ranges do not exist."""

    def __init__(self, ranges: Sequence[AddressRange]) -> None:
        self._ranges = tuple(sorted(ranges, key=lambda each: each.first))
        # (first, last, index of the first) of each range.
        self._spans: list[tuple[int, int, int]] = []
        size = 0
        for each in self._ranges:
            self._spans.append((int(each.first), int(each.last), size))
            size += len(each)
        self._barred = bytearray(size)
        self._taken = bytearray(size)

    def __len__(self) -> int:
        return len(self._taken)

    def __str__(self) -> str:
        return ", ".join(map(str, self._ranges))

    def index(self, number: int) -> int | None:
        """Where an address is; None outside of the pool."""
        for first, last, index in self._spans:
            if first <= number <= last:
                return index + number - first
        return None

    def address(self, index: int) -> IPv4Address:
        """The address at an index from 0 to len - 1."""
        for first, last, start in self._spans:
            if index <= start + last - first:
                return IPv4Address(first + index - start)
        raise IndexError(index)

    def lends(self, number: int) -> bool:
        """Whether this is an address that may be lent to anyone."""
        index = self.index(number)
        return index is not None and not self._barred[index]

    def is_free(self, number: int) -> bool:
        """Whether it may be lent now."""
        index = self.index(number)
        return index is not None and self._taken[index] == _FREE

    def find_free(self, start: int) -> IPv4Address | None:
        """The first free address from an index on, then from the beginning."""
        found = self._taken.find(_FREE, start)
        if found < 0:
            found = self._taken.find(_FREE, 0, start)
        return self.address(found) if found >= 0 else None

    def mark(self, number: int, *, is_taken: bool) -> None:
        """Write down whether an address is in use; of others than the pool's nothing is kept."""
        index = self.index(number)
        if index is not None:
            self._taken[index] = self._barred[index] or is_taken

    def reset(self, barred: Iterable[int]) -> None:
        """Make every address free but those that may never be lent."""
        self._barred = bytearray(len(self._taken))
        for first, last, start in self._spans:
            for octet in (0, 255):
                at = start + (octet - first) % 256
                end = start + last - first + 1
                self._barred[at:end:256] = b"\1" * len(range(at, end, 256))
        for number in barred:
            index = self.index(number)
            if index is not None:
                self._barred[index] = _TAKEN
        self._taken[:] = self._barred
