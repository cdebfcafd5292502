"""A subnet's own decisions; what clients are told of it is tested with the responder."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from bootnode.config import NetworkSettings
from bootnode.dhcp import options as opt
from bootnode.dhcp.leases import LeaseTable
from bootnode.dhcp.subnet import Subnet, with_default_route

NETWORK = IPv4Network("10.77.0.0/23")
RELAY = IPv4Address("10.77.0.9")


def subnet(**settings: object) -> Subnet:
    plain = NetworkSettings.model_validate({"interface": "tap0", "dhcp": "full", **settings})
    leases = LeaseTable(subnet=NETWORK, pool=plain.pool)
    return Subnet(settings=plain, network=NETWORK, leases=leases)


@pytest.mark.parametrize(
    ("address", "is_in"),
    [("10.77.0.0", True), ("10.77.1.255", True), ("10.77.2.0", False), ("10.76.255.255", False)],
)
def test_which_addresses_are_in_it(address: str, is_in: bool) -> None:
    assert (IPv4Address(address) in subnet()) == is_in


def test_authority_goes_with_addresses() -> None:
    pool = "10.77.0.10-10.77.0.20"
    assert subnet(pool=pool).is_authoritative
    assert not subnet(pool=pool, authoritative=False).is_authoritative
    assert not subnet().is_authoritative


def test_trust_in_relays() -> None:
    assert subnet().trusts(RELAY, is_ours=True)
    assert not subnet().trusts(RELAY, is_ours=False)
    assert subnet(relays=str(RELAY)).trusts(RELAY, is_ours=False)
    assert not subnet(relays="10.77.0.8").trusts(RELAY, is_ours=True)


def test_a_default_route_is_added_once() -> None:
    routes = {3: RELAY.packed, 121: bytes((8, 10, 10, 77, 0, 9))}
    added = with_default_route(routes)
    assert [str(each.network) for each in opt.CLASSLESS_ROUTES.parse(added[121])] == [
        "10.0.0.0/8",
        "0.0.0.0/0",
    ]
    assert with_default_route(added) == added
    without_router = {121: routes[121]}
    assert with_default_route(without_router) == without_router
