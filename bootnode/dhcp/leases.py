"""Who has which address: the lease table of one subnet.

RFC 2131 sections 2.2 and 4.3. A client is its MAC address: the client identifier changes from
firmware to iPXE to the operating system, and the address must not. Rules:

- A fixed address goes to the nodes that it is reserved for and never to anyone else.
- A dynamic address is sticky: its MAC gets it again, however long ago the lease ended. Only when
  the pool has nothing else is the address that has been out of use longest given away.
- The first choice follows from the MAC alone, so a lost table gives the same addresses again.
- What is offered is held for `hold_s`, and OFFERS_MAX addresses are on offer at most, then new
  clients wait. What was declined is left alone for `quarantine_s`.
- One byte per pool address says whether it is free, so finding one is a search at memory speed,
  and a heap knows the lease that ended first; nothing here walks through the pool.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from heapq import heapify, heappop, heappush
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from bootnode.addresses import AddressRange, MacAddress

HOLD_S: Final = 60.0
QUARANTINE_S: Final = 600.0
OFFERS_MAX: Final = 65_536
"""Addresses on offer at the same time; a flood of invented MACs ends here."""
_FREE: Final = 0
_ENDS_SLACK: Final = 64


class LeaseState(Enum):
    """Where a lease stands."""

    OFFERED = "offered"
    """Held for a client that has not asked for it yet; never stored."""
    BOUND = "bound"
    """Lent out, until `expires_s`."""
    RELEASED = "released"
    """Given back; the client gets it again if it returns."""
    DECLINED = "declined"
    """Found in use by another machine; left alone until `expires_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One address and the client that it belongs to."""

    address: IPv4Address
    mac: MacAddress
    state: LeaseState
    expires_s: float
    """Unix time at which the state ends."""
    client_id: bytes | None = None
    """Option 61 as last sent; None when the client sends none."""
    hostname: str = ""

    def is_active(self, now: float) -> bool:
        """Whether the client may use the address now."""
        return self.state is LeaseState.BOUND and self.expires_s > now


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client does not get an address, as a sentence for the log and for a NAK."""

    reason: str


class LeaseTable:
    """The leases of one subnet. Every `now` is Unix time in seconds."""

    def __init__(
        self,
        *,
        subnet: IPv4Network,
        pool: AddressRange | None,
        excluded: frozenset[IPv4Address] = frozenset(),
        hold_s: float = HOLD_S,
        quarantine_s: float = QUARANTINE_S,
    ) -> None:
        if pool is not None and not (pool.first in subnet and pool.last in subnet):
            raise ValueError(f"the pool {pool} is not within the subnet {subnet}")
        self._subnet = subnet
        self._pool = pool
        self._excluded = excluded | {subnet.network_address, subnet.broadcast_address}
        self._hold_s = hold_s
        self._quarantine_s = quarantine_s
        self._fixed: dict[MacAddress, IPv4Address] = {}
        self._fixed_owners: dict[IPv4Address, set[MacAddress]] = {}
        # BOUND and RELEASED leases, the same in both.
        self._by_mac: dict[MacAddress, Lease] = {}
        self._by_address: dict[IPv4Address, Lease] = {}
        # Both in the order in which they end, for each kind is held equally long.
        self._offers: OrderedDict[MacAddress, Lease] = OrderedDict()
        self._declined: OrderedDict[IPv4Address, Lease] = OrderedDict()
        self._offered_to: dict[IPv4Address, MacAddress] = {}
        # Heap of (end, address); an entry counts only while the lease there still ends then.
        self._ends: list[tuple[float, int]] = []
        # A byte per pool address: one we may never lend as we like, one we cannot lend now.
        self._barred = bytearray()
        self._taken = bytearray()
        self._rebuild()

    def restore(self, leases: Iterable[Lease]) -> None:
        """Take up stored leases; offers and other subnets' leases are passed over."""
        for lease in sorted(leases, key=lambda lease: lease.expires_s):
            if lease.address not in self._subnet:
                continue
            if lease.state is LeaseState.DECLINED:
                self._declined[lease.address] = lease
            elif lease.state is not LeaseState.OFFERED:
                self._store(lease)
        self._rebuild()

    def reserve(self, reservations: Mapping[MacAddress, IPv4Address]) -> None:
        """Replace all fixed addresses; those of other subnets are passed over.

        Two cards of one node may share its address; then the one that asked last has it.
        """
        self._fixed = {mac: ip for mac, ip in reservations.items() if ip in self._subnet}
        self._fixed_owners = {}
        for mac, address in self._fixed.items():
            self._fixed_owners.setdefault(address, set()).add(mac)
        self._rebuild()

    def is_reserved(self, mac: MacAddress, address: IPv4Address) -> bool:
        """Whether that is the client's fixed address."""
        return self._fixed.get(mac) == address

    def offer(
        self, mac: MacAddress, *, requested: IPv4Address | None, now: float
    ) -> IPv4Address | Refusal:
        """Choose and hold an address for a DISCOVER."""
        self._expire(now)
        fixed = self._fixed.get(mac)
        if fixed is not None:
            chosen = self._objection(mac, fixed, now) or fixed
        else:
            chosen = self._usual_address(mac, now) or self._choose(mac, requested, now)
        if isinstance(chosen, IPv4Address):
            self._hold(mac, chosen, now)
        return chosen

    def commit(
        self,
        mac: MacAddress,
        address: IPv4Address,
        *,
        lease_time_s: float,
        client_id: bytes | None,
        hostname: str,
        now: float,
    ) -> Lease | Refusal:
        """Lend an address for a REQUEST, also one whose offer is forgotten if it is free."""
        self._expire(now)
        refusal = self._objection(mac, address, now)
        if refusal is not None:
            return refusal
        lease = Lease(
            address=address,
            mac=mac,
            state=LeaseState.BOUND,
            expires_s=now + lease_time_s,
            client_id=client_id,
            hostname=hostname,
        )
        self._withdraw_offers(mac, address)
        self._store(lease)
        return lease

    def release(self, mac: MacAddress, address: IPv4Address, *, now: float) -> Lease | None:
        """Take an address back from the client that has it; None if it has not."""
        lease = self._by_mac.get(mac)
        if lease is None or lease.address != address or lease.state is not LeaseState.BOUND:
            return None
        released = replace(lease, state=LeaseState.RELEASED, expires_s=min(now, lease.expires_s))
        self._store(released)
        return released

    def decline(self, mac: MacAddress, address: IPv4Address, *, now: float) -> Lease | None:
        """Put an address in quarantine for the client that was given it; None if it was not."""
        self._expire(now)
        lease, offer = self._by_mac.get(mac), self._offers.get(mac)
        if address not in {given.address for given in (lease, offer) if given is not None}:
            return None
        self.forget_offer(mac)
        self._remove(self._by_address.get(address))
        declined = Lease(
            address=address,
            mac=mac,
            state=LeaseState.DECLINED,
            expires_s=now + self._quarantine_s,
        )
        self._declined[address] = declined
        self._mark(address)
        return declined

    def forget_offer(self, mac: MacAddress) -> None:
        """Stop holding what is on offer to a client, as when it chose another server."""
        offer = self._offers.pop(mac, None)
        if offer is None:
            return
        del self._offered_to[offer.address]
        self._mark(offer.address)
        lease = self._by_address.get(offer.address)
        if lease is not None:
            self._push_end(lease)

    def lookup(self, mac: MacAddress) -> Lease | None:
        """The client's lease, in force or not; else what is on offer to it."""
        return self._by_mac.get(mac) or self._offers.get(mac)

    def lookup_address(self, address: IPv4Address) -> Lease | None:
        """The lease, offer or quarantine of an address; an offer hides another's ended lease."""
        lease = self._by_address.get(address)
        mac = self._offered_to.get(address)
        if mac is not None and (lease is None or lease.mac != mac):
            return self._offers[mac]
        return lease or self._declined.get(address)

    def __iter__(self) -> Iterator[Lease]:
        """What `lookup_address` tells of every address, in no particular order."""
        addresses = self._by_address.keys() | self._offered_to.keys() | self._declined.keys()
        return filter(None, map(self.lookup_address, addresses))

    # Choosing

    def _objection(self, mac: MacAddress, address: IPv4Address, now: float) -> Refusal | None:
        """Why this client may not have this address, if anything speaks against it."""
        fixed = self._fixed.get(mac)
        if fixed is not None and fixed != address:
            return Refusal(f"{mac} has the fixed address {fixed}, not {address}")
        if address in self._declined:
            return Refusal(f"{address} is in quarantine: another machine was found to use it")
        if fixed is not None:
            return None
        if address in self._fixed_owners:
            return Refusal(f"{address} is reserved for another node")
        index = self._index(address)
        if index is None or self._barred[index]:
            return Refusal(f"{address} is not an address that the pool gives out")
        if self._offered_to.get(address, mac) != mac:
            return Refusal(f"{address} is on offer to another client")
        return self._conflict(mac, address, now)

    def _conflict(self, mac: MacAddress, address: IPv4Address, now: float) -> Refusal | None:
        """A lease in force that stands against lending this address to this client."""
        there = self._by_address.get(address)
        if there is not None and there.mac != mac and there.is_active(now):
            return Refusal(f"{address} is leased to {there.mac}")
        own = self._by_mac.get(mac)
        if own is None or own.address == address or not own.is_active(now):
            return None
        if address in self._offered_to:
            # We offered it to this very client, since its own address is no longer to be had.
            return None
        return Refusal(f"{mac} has {own.address}, not {address}")

    def _usual_address(self, mac: MacAddress, now: float) -> IPv4Address | None:
        """The dynamic address that a client has, had or is being offered, if still possible."""
        for entry in (self._by_mac.get(mac), self._offers.get(mac)):
            if entry is not None and self._objection(mac, entry.address, now) is None:
                return entry.address
        return None

    def _choose(
        self, mac: MacAddress, requested: IPv4Address | None, now: float
    ) -> IPv4Address | Refusal:
        """An address for a client that is new to us."""
        if self._pool is None:
            return Refusal(f"{mac} has no fixed address, and there is no pool")
        if len(self._offers) >= OFFERS_MAX:
            return Refusal(f"{len(self._offers)} addresses are on offer: new clients must wait")
        wanted = None if requested is None else self._index(requested)
        if wanted is not None and not self._taken[wanted]:
            return self._pool[wanted]
        start = zlib.crc32(mac) % len(self._taken)
        index = self._taken.find(_FREE, start)
        if index < 0:
            index = self._taken.find(_FREE, 0, start)
        if index >= 0:
            return self._pool[index]
        return self._longest_ended(now) or Refusal(f"every address of {self._pool} is in use")

    def _longest_ended(self, now: float) -> IPv4Address | None:
        """The address to take from its former client, now that nothing else is free."""
        while self._ends:
            end, number = self._ends[0]
            address = IPv4Address(number)
            lease, index = self._by_address.get(address), self._index(address)
            is_current = lease is not None and lease.expires_s == end
            is_ours_to_give = index is not None and not self._barred[index]
            # What is on offer comes back to the heap when the offer lapses.
            if is_current and is_ours_to_give and address not in self._offered_to:
                return address if end <= now else None
            heappop(self._ends)
        return None

    def _hold(self, mac: MacAddress, address: IPv4Address, now: float) -> None:
        """Keep the address for the client for a while, if a lease does not do so already."""
        self._withdraw_offers(mac, address)
        expires_s = now + self._hold_s
        lease = self._by_address.get(address)
        if lease is not None and lease.mac == mac and lease.is_active(expires_s):
            return
        self._offers[mac] = Lease(
            address=address, mac=mac, state=LeaseState.OFFERED, expires_s=expires_s
        )
        self._offered_to[address] = mac
        self._mark(address)

    def _withdraw_offers(self, mac: MacAddress, address: IPv4Address) -> None:
        """Forget what else the client is offered, and to whom else the address is.

        Where two cards share a fixed address, the one that asked last is the one that gets it.
        """
        self.forget_offer(mac)
        other = self._offered_to.get(address)
        if other is not None:
            self.forget_offer(other)

    # Keeping count

    def _store(self, lease: Lease) -> None:
        """Enter a BOUND or RELEASED lease in place of all that it supersedes."""
        self._remove(self._by_address.get(lease.address))
        self._remove(self._by_mac.get(lease.mac))
        self._by_mac[lease.mac] = self._by_address[lease.address] = lease
        self._mark(lease.address)
        self._push_end(lease)

    def _remove(self, lease: Lease | None) -> None:
        if lease is not None:
            del self._by_mac[lease.mac], self._by_address[lease.address]
            self._mark(lease.address)

    def _expire(self, now: float) -> None:
        """Let go of lapsed offers and of addresses whose quarantine is over."""
        while self._offers:
            mac, offer = next(iter(self._offers.items()))
            if offer.expires_s > now:
                break
            self.forget_offer(mac)
        while self._declined:
            address, declined = next(iter(self._declined.items()))
            if declined.expires_s > now:
                break
            del self._declined[address]
            self._mark(address)

    def _push_end(self, lease: Lease) -> None:
        heappush(self._ends, (lease.expires_s, int(lease.address)))
        if len(self._ends) > 2 * len(self._by_address) + _ENDS_SLACK:
            self._collect_ends()

    def _collect_ends(self) -> None:
        """Make the heap anew, without the entries that renewals have outdated."""
        self._ends = [(lease.expires_s, int(lease.address)) for lease in self._by_mac.values()]
        heapify(self._ends)

    def _index(self, address: IPv4Address) -> int | None:
        """Where in the pool an address is; None outside of it."""
        if self._pool is None:
            return None
        index = int(address) - int(self._pool.first)
        return index if 0 <= index < len(self._taken) else None

    def _mark(self, address: IPv4Address) -> None:
        """Write down whether an address is free now."""
        index = self._index(address)
        if index is not None:
            self._taken[index] = (
                self._barred[index]
                or address in self._by_address
                or address in self._offered_to
                or address in self._declined
            )

    def _rebuild(self) -> None:
        """Work out anew what is barred, taken and ending."""
        size = 0 if self._pool is None else len(self._pool)
        self._barred = bytearray(size)
        self._taken = bytearray(size)
        for address in (*self._excluded, *self._fixed_owners):
            index = self._index(address)
            if index is not None:
                self._barred[index] = 1
        if self._pool is not None:
            # Old Windows and some firmware take these for broadcast addresses in any subnet.
            for octet in (0, 255):
                start = (octet - int(self._pool.first)) % 256
                self._barred[start::256] = b"\1" * len(range(start, size, 256))
        self._taken[:] = self._barred
        for address in (*self._by_address, *self._offered_to, *self._declined):
            self._mark(address)
        self._collect_ends()
