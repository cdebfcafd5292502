"""MAC addresses in every spelling, and address ranges."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

import pytest

from bootnode.addresses import AddressRange, MacAddress

MAC = MacAddress(bytes.fromhex("fcab14e86601"))


@pytest.mark.parametrize(
    "text",
    [
        "fc:ab:14:e8:66:01",
        "FC-AB-14-E8-66-01",
        "fcab.14e8.6601",
        "fcab14e86601",
        "01-fc-ab-14-e8-66-01",
        "01:fc:ab:14:e8:66:01",
        "  fc:ab:14:e8:66:01\n",
    ],
)
def test_every_usual_spelling(text: str) -> None:
    assert MacAddress.parse(text) == MAC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "aa:bb",
        "fc:ab:14:e8:66",
        "fc:ab:14:e8:66:0g",
        "fc:ab-14:e8:66:01",
        "fc:ab:14:e8:66:01:02",
        "02:fc:ab:14:e8:66:01",
        "fcab14e866011",
        "01fcab14e86601",
        "f:c:a:b:1:4",
        "fc ab 14 e8 66 01",
        "fcab:14e8:6601",
    ],
)
def test_what_is_no_mac_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a MAC address \(want aa:bb:cc:dd:ee:ff\)"):
        MacAddress.parse(text)


def test_texts() -> None:
    assert str(MAC) == "fc:ab:14:e8:66:01"
    assert repr(MAC) == "MacAddress('fc:ab:14:e8:66:01')"
    assert MAC.hyphenated == "fc-ab-14-e8-66-01"
    assert MAC.hex() == "fcab14e86601"


@pytest.mark.parametrize("size", [0, 5, 7])
def test_has_six_bytes(size: int) -> None:
    with pytest.raises(ValueError, match=f"a MAC address has 6 bytes, not {size}"):
        MacAddress(bytes(size))


def test_counts_up_with_a_carry_and_not_beyond_the_end() -> None:
    assert MacAddress.parse("52:54:00:00:00:ff").plus(1) == MacAddress.parse("52:54:00:00:01:00")
    assert MacAddress(b"\xff" * 6).plus(0) == b"\xff" * 6
    with pytest.raises(ValueError, match="counting 1 up from ff:ff:ff:ff:ff:ff leaves the MAC"):
        MacAddress(b"\xff" * 6).plus(1)


@pytest.mark.parametrize(
    ("text", "is_group"),
    [("ff:ff:ff:ff:ff:ff", True), ("01:00:5e:00:00:01", True), ("02:00:00:00:00:01", False)],
)
def test_group_addresses(text: str, is_group: bool) -> None:
    assert MacAddress.parse(text).is_group is is_group


def test_range() -> None:
    pool = AddressRange.parse(" 10.77.0.254 - 10.77.1.1")
    assert str(pool) == "10.77.0.254-10.77.1.1"
    assert len(pool) == 4
    assert [str(address) for address in pool] == [
        *("10.77.0.254", "10.77.0.255", "10.77.1.0", "10.77.1.1"),
    ]
    assert pool[3] == pool.last
    assert pool.first in pool
    assert IPv4Address("10.77.1.2") not in pool
    assert "10.77.0.255" not in pool
    for index in (-1, 4):
        with pytest.raises(IndexError):
            pool[index]


def test_range_of_one() -> None:
    assert len(AddressRange.parse("10.77.0.1-10.77.0.1")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.77.0.1", "'10.77.0.1' is not an address range (want 10.77.0.100-10.77.0.199)"),
        ("a-b", "'a-b' is not an address range (want 10.77.0.100-10.77.0.199)"),
        ("10.77.0.9-10.77.0.1", "'10.77.0.9-10.77.0.1' runs backwards (want the lower address"),
    ],
)
def test_what_is_no_range(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AddressRange.parse(text)
