"""The leases of all subnets as a person sees them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from math import inf

from bootnode.addresses import MacAddress
from bootnode.config import NetworkSettings
from bootnode.dhcp.book import LeaseBook
from bootnode.dhcp.leases import Lease, LeaseState, LeaseTable
from bootnode.dhcp.subnet import Subnet

NOW = 1_700_000_000.0
MAC = MacAddress.parse("fc:ab:14:e8:66:01")


def subnet(octet: int) -> Subnet:
    pool = f"10.{octet}.0.10-10.{octet}.0.20"
    network = IPv4Network(f"10.{octet}.0.0/24")
    settings = NetworkSettings.model_validate(
        {"subnet": str(network), "dhcp": "full", "pool": pool}
    )
    return Subnet(
        settings=settings,
        network=network,
        leases=LeaseTable(subnet=network, pool=settings.pool),
    )


def lend(where: Subnet, mac: MacAddress, address: str, *, lease_time_s: float = 60.0) -> None:
    lease = where.leases.commit(
        *(mac, IPv4Address(address)),
        lease_time_s=lease_time_s,
        client_id=b"\1\2",
        hostname="h",
        now=NOW,
    )
    assert isinstance(lease, Lease)


def test_lines() -> None:
    near, far = subnet(77), subnet(78)
    lend(far, MAC, "10.78.0.11", lease_time_s=inf)
    lend(near, MAC.plus(1), "10.77.0.12")
    lend(near, MAC, "10.77.0.11", lease_time_s=600.0)
    near.leases.offer(MAC.plus(2), requested=IPv4Address("10.77.0.13"), now=NOW)
    book = LeaseBook([near, far], lambda mac: "n1" if mac == MAC else str(mac))
    lines = book.lines(now=NOW + 100, clock_offset_s=5.0)
    assert [(each["address"], each["state"], each["expires_s"]) for each in lines] == [
        ("10.77.0.11", "bound", NOW + 605),
        ("10.77.0.12", "ended", NOW + 65),
        ("10.77.0.13", "offered", NOW + 65),
        ("10.78.0.11", "bound", None),
    ]
    assert lines[0] | {"expires_s": 0} == {
        "address": "10.77.0.11",
        "mac": str(MAC),
        "node": "n1",
        "network": "10.77.0.0/24",
        "state": "bound",
        "expires_s": 0,
        "client_id": "0102",
        "hostname": "h",
    }


def test_release_ends_a_lease_and_a_quarantine() -> None:
    near, far = subnet(77), subnet(78)
    lend(far, MAC, "10.78.0.11")
    lend(near, MAC, "10.77.0.12")
    near.leases.decline(MAC, IPv4Address("10.77.0.12"), now=NOW)
    book = LeaseBook([near, far], str)
    released = book.release(IPv4Address("10.78.0.11"), now=NOW + 1)
    assert released is not None
    assert (released.state, released.expires_s) == (LeaseState.RELEASED, NOW + 1)
    ended = book.release(IPv4Address("10.77.0.12"), now=NOW + 1)
    assert ended is not None
    assert (ended.state, ended.expires_s) == (LeaseState.DECLINED, NOW + 1)
    assert [each["state"] for each in book.lines(now=NOW + 1)] == ["released"]
    for nothing in ("10.77.0.12", "10.77.0.13", "10.78.0.11", "192.0.2.1"):
        assert book.release(IPv4Address(nothing), now=NOW + 2) is None
    # Read after a restart, the quarantine is over as well.
    near.leases.restore([ended], now=NOW + 2, lease_time_s=60.0)
    assert near.leases.offer(MAC.plus(9), requested=IPv4Address("10.77.0.12"), now=NOW + 2) == (
        IPv4Address("10.77.0.12")
    )
