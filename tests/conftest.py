"""What tests of several modules share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bootnode.dhcp.packet import Packet

CAPTURES = Path(__file__).parent / "captures"


@pytest.fixture
def capture() -> Callable[[str], Packet]:
    """Reads a recorded DHCP message by the name of its file in tests/captures."""

    def read(name: str) -> Packet:
        lines = (CAPTURES / f"{name}.hex").read_text().splitlines()
        return Packet.parse(bytes.fromhex("".join(line for line in lines if line[0] != "#")))

    return read
