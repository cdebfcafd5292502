"""All leases of this server as a person looks at them: one plain line each, and an early end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from math import isinf
from typing import Any

from bootnode.addresses import MacAddress
from bootnode.dhcp.leases import Lease, LeaseState
from bootnode.dhcp.subnet import Subnet

ENDED = "ended"
"""What a lent address is called when its time is over and its client may still come back to it."""


class LeaseBook:
    """The lease tables of all subnets."""

    def __init__(self, subnets: Sequence[Subnet], name: Callable[[MacAddress], str]) -> None:
        """`subnets` may still grow; `name` gives the name of a node, or the MAC of a stranger."""
        self._subnets = subnets
        self._name = name

    def lines(self, *, now: float, clock_offset_s: float = 0.0) -> list[dict[str, Any]]:
        """Every lease, offer and quarantine, in the order of the addresses.

        `now` is of the leases' clock, and `clock_offset_s` leads from it to the wall clock.
        """
        entries = [
            (lease, subnet.settings.name) for subnet in self._subnets for lease in subnet.leases
        ]
        entries.sort(key=lambda entry: entry[0].address)
        return [self._line(lease, network, now, clock_offset_s) for lease, network in entries]

    def release(self, address: IPv4Address, *, now: float) -> Lease | None:
        """End a lease or a quarantine; what is to be stored, or None if there was neither."""
        for subnet in self._subnets:
            if address in subnet:
                return subnet.leases.end(address, now=now)
        return None

    def _line(self, lease: Lease, network: str, now: float, offset_s: float) -> dict[str, Any]:
        is_over = lease.state is LeaseState.BOUND and not lease.is_active(now)
        return {
            "address": str(lease.address),
            "mac": str(lease.mac),
            "node": self._name(lease.mac),
            "network": network,
            "state": ENDED if is_over else lease.state.value,
            # JSON has no infinity; a BOOTP client keeps its address for ever.
            "expires_s": None if isinf(lease.expires_s) else lease.expires_s + offset_s,
            "client_id": lease.client_id.hex() if lease.client_id is not None else None,
            "hostname": lease.hostname,
        }
