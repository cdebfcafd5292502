"""RFC 1071's checksum, by published examples."""

from __future__ import annotations

import pytest

from bootnode.checksum import internet_checksum


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        ("", 0xFFFF),
        ("0000", 0xFFFF),
        ("ffff", 0x0000),
        ("01", 0xFEFF),
        # RFC 1071 section 3: the sum of these words is ddf2.
        ("0001f203f4f5f6f7", 0x220D),
        # A published IPv4 header, with and without its checksum b861.
        ("450000730000400040110000c0a80001c0a800c7", 0xB861),
        ("45000073000040004011b861c0a80001c0a800c7", 0x0000),
    ],
)
def test_internet_checksum(data: str, checksum: int) -> None:
    assert internet_checksum(bytes.fromhex(data)) == checksum
