"""DHCP on the networks together: which sockets are taken, and what is said of fixed addresses.

Serving on real interfaces is tested in tests/e2e.
"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

import pytest

from bootnode import net
from bootnode.addresses import Interface, MacAddress
from bootnode.boot.journal import Journal
from bootnode.boot.plan import Policy
from bootnode.clock import SteadyClock
from bootnode.config import Config
from bootnode.dhcp.server import LeaseWriter
from bootnode.networks import Networks
from bootnode.nodes import NodeTable
from tests.unit.dhcp.test_responder import node

MAC = MacAddress.parse("52:54:00:00:00:01")
INTERFACE = Interface(
    name="tap0",
    index=7,
    mac=MacAddress.parse("02:00:00:00:00:01"),
    address=IPv4Interface("10.77.0.1/24"),
    link_local=IPv6Address("fe80::1"),
    mtu=1500,
)
FAR = {"subnet": "10.78.0.0/24", "dhcp": "full"}


def made(dhcp: str, table: NodeTable | None = None) -> Networks:
    config = Config.model_validate({"networks": [{"interface": "tap0", "dhcp": dhcp}, FAR]})
    policy = Policy(table=table or NodeTable((), "ignore"), loaders=frozenset())
    return Networks(config=config, policy=policy, journal=Journal(), clock=SteadyClock())


@pytest.mark.parametrize(("dhcp", "opened"), [("off", 0), ("proxy", 1), ("full", 1), ("auto", 1)])
async def test_offers_are_heard_only_where_somebody_reads_them(
    dhcp: str, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def udp(*_arguments: object, **_options: object) -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    heard: list[Interface] = []
    monkeypatch.setattr(net, "dhcp_socket", udp)
    for raw in ("unicast_socket", "neighbour_socket", "arp_socket"):
        monkeypatch.setattr(net, raw, lambda _interface: None)
    monkeypatch.setattr(net, "offer_socket", heard.append)
    networks = made(dhcp)
    settings, _ = networks._config.networks
    with ThreadPoolExecutor(1) as executor:
        async with AsyncExitStack() as stack:
            writer = LeaseWriter(lambda _leases: None, executor)
            servers = networks.open([(settings, INTERFACE)], [], writer, stack)
    assert len(servers) == 1
    assert len(heard) == opened
    assert len(networks.status()) == opened


def test_a_fixed_address_in_no_network_is_said(caplog: pytest.LogCaptureFixture) -> None:
    networks = made("auto", NodeTable((node(MAC, ip=IPv4Address("10.99.0.1")),), "ignore"))
    near, _ = networks._config.networks
    networks.add_subnet(near, INTERFACE.address.network, [], INTERFACE)
    networks.reserve()
    assert caplog.messages == [
        (
            f"mac={MAC} node=n1 its ip 10.99.0.1 is this server's own, or in no network with "
            "`dhcp: full` or `auto`: mend nodes.yaml"
        )
    ]
