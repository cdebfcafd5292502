"""A pool of several ranges: its addresses, counted, and which of them are free."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from bootnode.addresses import AddressRange
from bootnode.dhcp.pool import Pool

RANGES = [AddressRange.parse("10.77.1.250-10.77.2.3"), AddressRange.parse("10.77.0.10-10.77.0.12")]
IN_ORDER = [
    *("10.77.0.10", "10.77.0.11", "10.77.0.12"),
    *("10.77.1.250", "10.77.1.251", "10.77.1.252", "10.77.1.253", "10.77.1.254", "10.77.1.255"),
    *("10.77.2.0", "10.77.2.1", "10.77.2.2", "10.77.2.3"),
]
NEVER_LENT = {"10.77.1.255", "10.77.2.0"}


def pool() -> Pool:
    made = Pool(RANGES)
    made.reset([])
    return made


def test_addresses_are_counted_across_the_ranges() -> None:
    made = pool()
    assert len(made) == len(IN_ORDER)
    assert [str(made.address(index)) for index in range(len(made))] == IN_ORDER
    assert [made.index(int(IPv4Address(text))) for text in IN_ORDER] == list(range(len(IN_ORDER)))
    for outside in ("10.77.0.9", "10.77.0.13", "10.77.1.249", "10.77.2.4"):
        assert made.index(int(IPv4Address(outside))) is None
        assert not made.lends(int(IPv4Address(outside)))
        assert not made.is_free(int(IPv4Address(outside)))
    with pytest.raises(IndexError):
        made.address(len(made))


def test_what_old_clients_take_for_broadcasts_is_not_lent() -> None:
    made = pool()
    assert {text for text in IN_ORDER if not made.lends(int(IPv4Address(text)))} == NEVER_LENT


def test_every_free_address_is_found_once() -> None:
    made = pool()
    made.reset([int(IPv4Address("10.77.0.11"))])
    found = []
    while (address := made.find_free(4)) is not None:
        made.mark(int(address), is_taken=True)
        found.append(str(address))
    assert found[0] == "10.77.1.251"
    assert sorted(found) == sorted(set(IN_ORDER) - NEVER_LENT - {"10.77.0.11"})
    made.mark(int(IPv4Address("10.77.0.11")), is_taken=False)  # barred it stays
    made.mark(int(IPv4Address("10.77.2.1")), is_taken=False)
    made.mark(int(IPv4Address("192.0.2.1")), is_taken=False)
    assert made.find_free(0) == IPv4Address("10.77.2.1")


def test_an_empty_pool() -> None:
    made = Pool([])
    made.reset([int(IPv4Address("10.77.0.1"))])
    assert len(made) == 0
    assert made.find_free(0) is None
    assert str(made) == ""
    assert str(pool()) == "10.77.0.10-10.77.0.12, 10.77.1.250-10.77.2.3"
