"""Who has which address: the lease table of one subnet.

RFC 2131 sections 2.2 and 4.3. A client is its MAC address: the client identifier changes from
firmware to iPXE to the operating system, and the address must not. Rules:

- A fixed address goes to the nodes that it is reserved for and never to anyone else.
- A dynamic address is sticky: its MAC gets it again, however long ago the lease ended. Only when
  the pool has nothing else is the address that has been out of use longest given away, and one of
  a known node's never to a stranger.
- The first choice follows from the MAC alone, so a lost table gives the same addresses again.
- What is offered is held for `hold_s`, and OFFERS_MAX addresses are on offer at most, then
  strangers wait. A known node may take what is only on offer to a stranger.
- What was declined is left alone for `quarantine_s`; half of the pool at most, and DECLINES_MAX
  addresses by one client, for a machine that declines everything is itself at fault. What we found
  in use ourselves is left alone as long, and counts for neither; but one machine that has more than
  HELD_MAX of our addresses answers for others, and is not believed.
- Every `now` is of a clock that only goes forward (Unix time, but not set back): see restore().
"""

from __future__ import annotations

import zlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from heapq import heapify, heappop, heappush
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from math import inf
from typing import Final

from bootnode.addresses import AddressRange, MacAddress
from bootnode.dhcp.pool import Pool

HOLD_S: Final = 60.0
QUARANTINE_S: Final = 600.0
OFFERS_MAX: Final = 65_536
"""Addresses on offer at the same time; a flood of invented MACs ends here."""
OFFERS_SEARCHED_MAX: Final = 256
"""Offers looked at for one that a known node may take over."""
DECLINES_MAX: Final = 8
"""Addresses that one client may have in quarantine."""
HELD_MAX: Final = 64
"""Addresses that one machine may be found to use: a router with proxy ARP has them all."""
DECLINED_MIN: Final = 4
"""Addresses that may be in quarantine together in however small a pool."""
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
    """Unix time at which the state ends; infinite for BOOTP."""
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
    is_dry: bool = False
    """Whether there is nothing left to give, which is no fault of the client."""


class LeaseTable:
    """The leases of one subnet. Every `now` is Unix time in seconds."""

    def __init__(
        self,
        *,
        subnet: IPv4Network,
        pool: Sequence[AddressRange],
        excluded: frozenset[IPv4Address] = frozenset(),
        hold_s: float = HOLD_S,
        quarantine_s: float = QUARANTINE_S,
    ) -> None:
        for each in pool:
            if not (each.first in subnet and each.last in subnet):
                raise ValueError(f"the pool {each} is not within the subnet {subnet}")
        self._subnet = subnet
        self._pool = Pool(pool)
        self._excluded = excluded | {subnet.network_address, subnet.broadcast_address}
        self._hold_s = hold_s
        self._quarantine_s = quarantine_s
        self._fixed: dict[MacAddress, IPv4Address] = {}
        # From here on addresses are numbers: the hash of an IPv4Address is slow.
        self._fixed_owners: dict[int, set[MacAddress]] = {}
        self._known: Collection[MacAddress] = frozenset()
        # BOUND and RELEASED leases, the same in both.
        self._by_mac: dict[MacAddress, Lease] = {}
        self._by_address: dict[int, Lease] = {}
        # The one held longest first.
        self._offers: dict[MacAddress, Lease] = {}
        self._offered_to: dict[int, MacAddress] = {}
        # Of those on offer, the ones that nobody answered for when they were tried.
        self._tried: set[int] = set()
        # In the order in which they end, for each is left alone equally long.
        self._declined: OrderedDict[int, Lease] = OrderedDict()
        self._declines_by: Counter[MacAddress] = Counter()
        # Of those, the ones that we found in use ourselves, and by whom.
        self._found: set[int] = set()
        self._held_by: Counter[MacAddress] = Counter()
        # Heaps of (end, address or MAC); an entry counts only while what is there still ends then.
        self._offer_ends: list[tuple[float, MacAddress]] = []
        self._stranger_ends: list[tuple[float, int]] = []
        self._known_ends: list[tuple[float, int]] = []
        self._rebuild()

    def restore(self, leases: Iterable[Lease], *, now: float, lease_time_s: float) -> None:
        """Take up stored leases, the one written last at the end; offers and other subnets' leases
        are passed over.

        Of several leases of one client the last one counts. None is held longer than one granted
        now would be, so that leases which were written while the clock ran ahead, or are read while
        it lags behind, come to an end.
        """
        longest = {LeaseState.DECLINED: self._quarantine_s, LeaseState.BOUND: lease_time_s}
        declined: list[Lease] = []
        for lease in leases:
            if lease.address not in self._subnet or lease.state is LeaseState.OFFERED:
                continue
            until = now + longest.get(lease.state, 0.0)
            if until < lease.expires_s < inf:
                lease = replace(lease, expires_s=until)  # cut short
            if lease.state is LeaseState.DECLINED:
                declined.append(lease)
            else:
                self._store(lease)
        for lease in sorted(declined, key=lambda lease: lease.expires_s):
            self._quarantine(lease)
        self._rebuild()

    def reserve(
        self,
        reservations: Mapping[MacAddress, IPv4Address],
        known: Collection[MacAddress] = frozenset(),
    ) -> None:
        """Replace all fixed addresses, and who is no stranger; other subnets' are passed over.

        Two cards of one node may share its address; then the one that asked last has it.
        """
        self._fixed = {mac: ip for mac, ip in reservations.items() if ip in self._subnet}
        self._known = known
        self._fixed_owners = {}
        for mac, address in self._fixed.items():
            self._fixed_owners.setdefault(int(address), set()).add(mac)
        self._rebuild()

    @property
    def lends(self) -> bool:
        """Whether there is any address to give here."""
        return bool(self._fixed) or len(self._pool) > 0

    def is_reserved(self, mac: MacAddress, address: IPv4Address) -> bool:
        """Whether that is the client's fixed address."""
        fixed = self._fixed.get(mac)
        return fixed is not None and fixed == address

    def offer(
        self,
        mac: MacAddress,
        *,
        requested: IPv4Address | None,
        now: float,
        hold_s: float | None = None,
    ) -> IPv4Address | Refusal:
        """Choose and hold an address for a DISCOVER."""
        self._expire(now)
        fixed = self._fixed.get(mac)
        if fixed is not None:
            # Nobody else can get it, so there is nothing to hold.
            self._withdraw_offers(mac, fixed)
            return self._objection(mac, fixed, now) or fixed
        chosen = self._usual_address(mac, now) or self._choose(mac, requested, now)
        if isinstance(chosen, IPv4Address):
            self._hold(mac, chosen, now, hold_s or self._hold_s)
        return chosen

    def is_untried(self, mac: MacAddress, address: IPv4Address) -> bool:
        """Whether an address on offer was never lent, so that another machine may have it."""
        number = int(address)
        return (
            number not in self._by_address
            and number not in self._tried
            and not self.is_reserved(mac, address)
        )

    def found_free(self, address: IPv4Address) -> None:
        """An address was tried and nobody has it; counts while it is on offer."""
        if int(address) in self._offered_to:
            self._tried.add(int(address))

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

    def decline(self, mac: MacAddress, address: IPv4Address, *, now: float) -> Lease | Refusal:
        """Put an address in quarantine for the client that was given it."""
        self._expire(now)
        lease, offer = self._by_mac.get(mac), self._offers.get(mac)
        if address not in {given.address for given in (lease, offer) if given is not None}:
            return Refusal(f"{address} is not an address that it was given")
        if self._declines_by[mac] >= DECLINES_MAX:
            return Refusal(f"it has declined {DECLINES_MAX} addresses: the fault is its own")
        self.forget_offer(mac)
        self._remove(self._by_address.get(int(address)))
        declined = Lease(
            address=address,
            mac=mac,
            state=LeaseState.DECLINED,
            expires_s=now + self._quarantine_s,
        )
        self._quarantine(declined)
        return declined

    def set_aside(self, address: IPv4Address, holder: MacAddress, *, now: float) -> Lease | Refusal:
        """Put an address in quarantine that was tried and found in use by `holder`."""
        self._expire(now)
        number = int(address)
        if number in self._by_address:
            return Refusal(f"{address} was lent meanwhile")
        if self._held_by[holder] >= HELD_MAX:
            return Refusal(f"{holder} answers for more than {HELD_MAX} addresses")
        if number in self._offered_to:
            self.forget_offer(self._offered_to[number])
        expires_s = now + self._quarantine_s
        found = Lease(address=address, mac=holder, state=LeaseState.DECLINED, expires_s=expires_s)
        if number in self._declined:
            self._end_quarantine(number)
        self._declined[number] = found
        self._found.add(number)
        self._held_by[holder] += 1
        self._mark(number)
        return found

    def end(self, address: IPv4Address, *, now: float) -> Lease | None:
        """End a lease or a quarantine by an administrator's word; None if there is neither."""
        declined = self._declined.get(int(address))
        if declined is not None:
            self._end_quarantine(int(address))
            return replace(declined, expires_s=now)
        lease = self._by_address.get(int(address))
        return None if lease is None else self.release(lease.mac, address, now=now)

    def forget_offer(self, mac: MacAddress) -> None:
        """Stop holding what is on offer to a client, as when it chose another server."""
        offer = self._offers.pop(mac, None)
        if offer is None:
            return
        number = int(offer.address)
        del self._offered_to[number]
        self._tried.discard(number)
        self._mark(number)
        lease = self._by_address.get(number)
        if lease is not None:
            self._push_end(lease)

    def lookup(self, mac: MacAddress) -> Lease | None:
        """The client's lease, in force or not; else what is on offer to it."""
        return self._by_mac.get(mac) or self._offers.get(mac)

    def lookup_address(self, address: IPv4Address) -> Lease | None:
        """The lease, offer or quarantine of an address; an offer hides another's ended lease."""
        return self._lookup_number(int(address))

    def _lookup_number(self, number: int) -> Lease | None:
        lease = self._by_address.get(number)
        mac = self._offered_to.get(number)
        if mac is not None and (lease is None or lease.mac != mac):
            return self._offers[mac]
        return lease or self._declined.get(number)

    def __iter__(self) -> Iterator[Lease]:
        """What `lookup_address` tells of every address, in no particular order."""
        addresses = self._by_address.keys() | self._offered_to.keys() | self._declined.keys()
        return filter(None, map(self._lookup_number, addresses))

    # Choosing

    def _objection(self, mac: MacAddress, address: IPv4Address, now: float) -> Refusal | None:
        """Why this client may not have this address, if anything speaks against it."""
        fixed = self._fixed.get(mac)
        if fixed is not None and fixed != address:
            return Refusal(f"{mac} has the fixed address {fixed}, not {address}")
        number = int(address)
        if number in self._declined:
            return Refusal(f"{address} is in quarantine: another machine was found to use it")
        if fixed is not None:
            return None
        if number in self._fixed_owners:
            return Refusal(f"{address} is reserved for another node")
        if not self._pool.lends(number):
            return Refusal(f"{address} is not an address that the pool gives out")
        if self._offered_to.get(number, mac) != mac:
            return Refusal(f"{address} is on offer to another client")
        return self._conflict(mac, address, now)

    def _conflict(self, mac: MacAddress, address: IPv4Address, now: float) -> Refusal | None:
        """A lease in force that stands against lending this address to this client."""
        there = self._by_address.get(int(address))
        if there is not None and there.mac != mac and there.is_active(now):
            return Refusal(f"{address} is leased to {there.mac}")
        own = self._by_mac.get(mac)
        if own is None or own.address == address or not own.is_active(now):
            return None
        if int(address) in self._offered_to:
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
        if not len(self._pool):
            return Refusal(f"{mac} has no fixed address, and there is no pool")
        is_known = mac in self._known
        if len(self._offers) >= OFFERS_MAX and not is_known:
            return Refusal(
                f"{len(self._offers)} addresses are on offer: new clients must wait", is_dry=True
            )
        if requested is not None and self._pool.is_free(int(requested)):
            return requested
        return (
            self._pool.find_free(zlib.crc32(mac) % len(self._pool))
            or self._longest_ended(self._stranger_ends, now)
            or (self._longest_ended(self._known_ends, now) if is_known else None)
            or (self._offered_to_stranger() if is_known else None)
            or Refusal(f"every address of {self._pool} is in use", is_dry=True)
        )

    def _longest_ended(self, ends: list[tuple[float, int]], now: float) -> IPv4Address | None:
        """The address to take from its former client, now that nothing else is free."""
        while ends:
            end, number = ends[0]
            lease = self._by_address.get(number)
            is_current = lease is not None and lease.expires_s == end
            # What is on offer comes back to the heap when the offer lapses.
            if is_current and self._pool.lends(number) and number not in self._offered_to:
                return IPv4Address(number) if end <= now else None
            heappop(ends)
        return None

    def _offered_to_stranger(self) -> IPv4Address | None:
        """The address that has been on offer longest to a client which we do not know."""
        for mac, offer in islice(self._offers.items(), OFFERS_SEARCHED_MAX):
            if mac not in self._known and int(offer.address) not in self._by_address:
                return offer.address
        return None

    def _hold(self, mac: MacAddress, address: IPv4Address, now: float, hold_s: float) -> None:
        """Keep the address for the client for a while, if nothing else does so already."""
        number = int(address)
        lease = self._by_address.get(number)
        expires_s = now + hold_s
        is_tried = number in self._tried and self._offered_to.get(number) == mac
        self._withdraw_offers(mac, address)
        if lease is not None and lease.mac == mac and lease.is_active(expires_s):
            return
        self._offers[mac] = Lease(
            address=address, mac=mac, state=LeaseState.OFFERED, expires_s=expires_s
        )
        self._offered_to[number] = mac
        if is_tried:
            self._tried.add(number)
        heappush(self._offer_ends, (expires_s, mac))
        if len(self._offer_ends) > 2 * len(self._offers) + _ENDS_SLACK:
            self._offer_ends = [(offer.expires_s, mac) for mac, offer in self._offers.items()]
            heapify(self._offer_ends)
        self._mark(number)

    def _withdraw_offers(self, mac: MacAddress, address: IPv4Address) -> None:
        """Forget what else the client is offered, and to whom else the address is.

        Where two cards share a fixed address, the one that asked last is the one that gets it.
        """
        self.forget_offer(mac)
        other = self._offered_to.get(int(address))
        if other is not None:
            self.forget_offer(other)

    # Keeping count

    def _store(self, lease: Lease) -> None:
        """Enter a BOUND or RELEASED lease in place of all that it supersedes."""
        number = int(lease.address)
        there, former = self._by_address.get(number), self._by_mac.get(lease.mac)
        if there is not former:
            self._remove(there)
        if former is not None and former.address != lease.address:
            self._remove(former)
        self._by_mac[lease.mac] = self._by_address[number] = lease
        self._mark(number)
        self._push_end(lease)

    def _remove(self, lease: Lease | None) -> None:
        if lease is not None:
            del self._by_mac[lease.mac], self._by_address[int(lease.address)]
            self._mark(int(lease.address))

    def _quarantine(self, declined: Lease) -> None:
        """Leave an address alone; beyond the limit, the one that was left alone longest is not."""
        number = int(declined.address)
        if number in self._declined:
            self._end_quarantine(number)
        self._declined[number] = declined
        self._declines_by[declined.mac] += 1
        self._mark(number)
        if len(self._declined) - len(self._found) > max(DECLINED_MIN, len(self._pool) // 2):
            self._end_quarantine(next(n for n in self._declined if n not in self._found))

    def _end_quarantine(self, number: int) -> None:
        mac = self._declined.pop(number).mac
        counts = self._held_by if number in self._found else self._declines_by
        self._found.discard(number)
        counts[mac] -= 1
        if not counts[mac]:
            del counts[mac]
        self._mark(number)

    def _expire(self, now: float) -> None:
        """Let go of lapsed offers and of addresses whose quarantine is over."""
        while self._offer_ends and self._offer_ends[0][0] <= now:
            end, mac = heappop(self._offer_ends)
            offer = self._offers.get(mac)
            if offer is not None and offer.expires_s == end:
                self.forget_offer(mac)
        while self._declined:
            number, declined = next(iter(self._declined.items()))
            if declined.expires_s > now:
                break
            self._end_quarantine(number)

    def _push_end(self, lease: Lease) -> None:
        ends = self._known_ends if lease.mac in self._known else self._stranger_ends
        heappush(ends, (lease.expires_s, int(lease.address)))
        if len(ends) > 2 * len(self._by_address) + _ENDS_SLACK:
            self._collect_ends()

    def _collect_ends(self) -> None:
        """Make the heaps anew, without the entries that renewals have outdated."""
        self._stranger_ends, self._known_ends = [], []
        for lease in self._by_mac.values():
            ends = self._known_ends if lease.mac in self._known else self._stranger_ends
            ends.append((lease.expires_s, int(lease.address)))
        heapify(self._stranger_ends)
        heapify(self._known_ends)

    def _mark(self, number: int) -> None:
        """Write down whether an address is free now."""
        is_taken = (
            number in self._by_address or number in self._offered_to or number in self._declined
        )
        self._pool.mark(number, is_taken=is_taken)

    def _rebuild(self) -> None:
        """Work out anew what is barred, taken and ending."""
        self._pool.reset([*map(int, self._excluded), *self._fixed_owners])
        for number in (*self._by_address, *self._offered_to, *self._declined):
            self._pool.mark(number, is_taken=True)
        self._collect_ends()
