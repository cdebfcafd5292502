"""The lease table: a table of situations, and random histories against its two promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bootnode.addresses import AddressRange, MacAddress
from bootnode.dhcp import leases
from bootnode.dhcp.leases import Lease, LeaseState, LeaseTable, Refusal

SUBNET = IPv4Network("10.77.0.0/24")
NOW = 1_700_000_000.0
LEASE_S = 3600.0
HOLD_S = 60.0
QUARANTINE_S = 600.0


def mac(number: int) -> MacAddress:
    return MacAddress(b"\xfc\xab\x14\xe8\x00" + bytes((number,)))


def ip(last_octet: int) -> IPv4Address:
    return IPv4Address(f"10.77.0.{last_octet}")


def table(first: int = 100, last: int = 199) -> LeaseTable:
    return LeaseTable(subnet=SUBNET, pool=[AddressRange(ip(first), ip(last))])


def commit(
    leases: LeaseTable, client: MacAddress, address: IPv4Address, *, now: float = NOW
) -> Lease | Refusal:
    return leases.commit(
        client, address, lease_time_s=LEASE_S, client_id=None, hostname="", now=now
    )


def offer(
    leases: LeaseTable,
    client: MacAddress,
    *,
    requested: IPv4Address | None = None,
    now: float = NOW,
) -> IPv4Address:
    address = leases.offer(client, requested=requested, now=now)
    assert isinstance(address, IPv4Address), address
    return address


def bind(leases: LeaseTable, client: MacAddress, *, now: float = NOW) -> IPv4Address:
    address = offer(leases, client, now=now)
    assert isinstance(commit(leases, client, address, now=now), Lease)
    return address


def restore(leases: LeaseTable, stored: Iterable[Lease], *, now: float = NOW) -> None:
    leases.restore(stored, now=now, lease_time_s=LEASE_S)


def refused(outcome: object) -> str:
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


def test_commit_records_the_client() -> None:
    leases = table()
    address = offer(leases, mac(1))
    lease = leases.commit(
        *(mac(1), address),
        lease_time_s=LEASE_S,
        client_id=b"\1x",
        hostname="node-001",
        now=NOW,
    )
    assert lease == Lease(
        address=address,
        mac=mac(1),
        state=LeaseState.BOUND,
        expires_s=NOW + LEASE_S,
        client_id=b"\1x",
        hostname="node-001",
    )
    assert leases.lookup(mac(1)) == leases.lookup_address(address) == lease
    assert list(leases) == [lease]


def test_every_stage_of_a_boot_gets_the_same_address() -> None:
    leases = table()
    addresses = {bind(leases, mac(1), now=NOW + stage) for stage in range(4)}
    assert len(addresses) == 1


def test_first_choice_follows_from_the_mac() -> None:
    assert offer(table(), mac(1)) == offer(table(), mac(1))
    assert len({offer(table(), mac(number)) for number in range(20)}) > 10


def test_different_clients_get_different_addresses() -> None:
    leases = table()
    addresses = [bind(leases, mac(number)) for number in range(100)]
    assert len(set(addresses)) == 100
    assert set(addresses) == {ip(octet) for octet in range(100, 200)}


def test_requested_address_is_given_when_free() -> None:
    leases = table()
    assert offer(leases, mac(1), requested=ip(150)) == ip(150)
    assert offer(leases, mac(2), requested=ip(150)) != ip(150)
    assert offer(leases, mac(3), requested=ip(5)) != ip(5)


@pytest.mark.parametrize("seen_first", ["nothing", "dynamic lease"])
def test_fixed_address_wins(seen_first: str) -> None:
    leases = table()
    if seen_first == "dynamic lease":
        bind(leases, mac(1))
    leases.reserve({mac(1): ip(10)})
    assert offer(leases, mac(1), requested=ip(150)) == ip(10)
    assert refused(commit(leases, mac(1), ip(150))) == (
        f"{mac(1)} has the fixed address 10.77.0.10, not 10.77.0.150"
    )
    assert bind(leases, mac(1)) == ip(10)
    assert [lease.address for lease in leases] == [ip(10)]
    assert leases.is_reserved(mac(1), ip(10))
    assert not leases.is_reserved(mac(2), ip(10))


def test_fixed_address_is_given_to_nobody_else() -> None:
    leases = table(100, 102)
    leases.reserve({mac(1): ip(100)})
    assert {bind(leases, mac(2)), bind(leases, mac(3))} == {ip(101), ip(102)}
    assert refused(commit(leases, mac(4), ip(100))) == "10.77.0.100 is reserved for another node"
    assert "is in use" in refused(leases.offer(mac(4), requested=ip(100), now=NOW))


def test_fixed_address_is_taken_from_its_dynamic_client() -> None:
    leases = table()
    address = bind(leases, mac(2))
    leases.reserve({mac(1): address})
    assert refused(commit(leases, mac(2), address)) == f"{address} is reserved for another node"
    assert bind(leases, mac(1)) == address
    assert bind(leases, mac(2)) != address


def test_fixed_address_is_taken_from_whom_it_is_on_offer_to() -> None:
    leases = table()
    address = offer(leases, mac(2))
    leases.reserve({mac(1): address})
    assert offer(leases, mac(1)) == address
    assert leases.lookup(mac(2)) is None


def test_two_cards_of_a_node_share_its_address() -> None:
    leases = table()
    leases.reserve({mac(1): ip(10), mac(2): ip(10)})
    assert bind(leases, mac(1)) == bind(leases, mac(2)) == ip(10)
    assert [lease.mac for lease in leases] == [mac(2)]


def test_reservations_are_replaced() -> None:
    leases = table()
    leases.reserve({mac(1): ip(100)})
    leases.reserve({mac(2): ip(10), mac(3): IPv4Address("192.168.9.9")})
    assert offer(leases, mac(9), requested=ip(100)) == ip(100)
    assert not leases.is_reserved(mac(3), IPv4Address("192.168.9.9"))


def test_without_a_pool_only_fixed_addresses() -> None:
    leases = LeaseTable(subnet=SUBNET, pool=[])
    leases.reserve({mac(1): ip(10)})
    assert bind(leases, mac(1)) == ip(10)
    assert refused(leases.offer(mac(2), requested=ip(11), now=NOW)) == (
        f"{mac(2)} has no fixed address, and there is no pool"
    )
    assert refused(commit(leases, mac(2), ip(11))) == (
        "10.77.0.11 is not an address that the pool gives out"
    )


def test_pool_must_be_within_the_subnet() -> None:
    with pytest.raises(ValueError, match=r"10\.77\.0\.9-10\.77\.1\.9 is not within"):
        LeaseTable(subnet=SUBNET, pool=[AddressRange(ip(9), IPv4Address("10.77.1.9"))])


def test_addresses_that_are_never_given() -> None:
    leases = LeaseTable(
        subnet=IPv4Network("10.77.0.0/23"),
        pool=[AddressRange(IPv4Address("10.77.0.253"), IPv4Address("10.77.1.2"))],
        excluded=frozenset({IPv4Address("10.77.1.1")}),
    )
    given = {bind(leases, mac(1)), bind(leases, mac(2)), bind(leases, mac(3))}
    assert {str(address) for address in given} == {"10.77.0.253", "10.77.0.254", "10.77.1.2"}
    assert refused(leases.offer(mac(4), requested=None, now=NOW)) == (
        "every address of 10.77.0.253-10.77.1.2 is in use"
    )
    for barred in ("10.77.0.255", "10.77.1.0", "10.77.1.1"):
        assert "not an address" in refused(commit(leases, mac(4), IPv4Address(barred)))


def test_an_offer_is_held_and_lapses() -> None:
    leases = table(100, 100)
    assert offer(leases, mac(1)) == ip(100)
    assert leases.lookup(mac(1)) == leases.lookup_address(ip(100)) == next(iter(leases))
    assert "is in use" in refused(leases.offer(mac(2), requested=None, now=NOW + HOLD_S - 1))
    assert refused(commit(leases, mac(2), ip(100), now=NOW + HOLD_S - 1)) == (
        "10.77.0.100 is on offer to another client"
    )
    assert offer(leases, mac(2), now=NOW + HOLD_S) == ip(100)
    assert leases.lookup(mac(1)) is None


def test_asking_again_renews_the_hold() -> None:
    leases = table(100, 100)
    offer(leases, mac(1))
    assert offer(leases, mac(1), now=NOW + HOLD_S - 1) == ip(100)
    assert "is in use" in refused(leases.offer(mac(2), requested=None, now=NOW + HOLD_S + 1))


def test_a_declared_choice_of_another_server_frees_the_offer() -> None:
    leases = table(100, 100)
    offer(leases, mac(1))
    leases.forget_offer(mac(1))
    leases.forget_offer(mac(1))
    assert offer(leases, mac(2)) == ip(100)


def test_a_forgotten_offer_is_committed_if_free() -> None:
    leases = table()
    lease = commit(leases, mac(1), ip(150))
    assert isinstance(lease, Lease)
    assert lease.address == ip(150)


def test_offers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "OFFERS_MAX", 2)
    busy = table()
    busy.reserve({mac(9): ip(10)})
    known = bind(busy, mac(8))
    offer(busy, mac(1))
    offer(busy, mac(2))
    assert refused(busy.offer(mac(3), requested=None, now=NOW)) == (
        "2 addresses are on offer: new clients must wait"
    )
    # Whom we know is not shut out by a flood of strangers.
    assert offer(busy, mac(9)) == ip(10)
    assert offer(busy, mac(8)) == known
    assert offer(busy, mac(3), now=NOW + HOLD_S) is not None


def test_a_lease_in_force_is_not_given_away() -> None:
    busy = table(100, 100)
    bind(busy, mac(1))
    assert "is in use" in refused(busy.offer(mac(2), requested=ip(100), now=NOW))
    assert refused(commit(busy, mac(2), ip(100))) == f"10.77.0.100 is leased to {mac(1)}"


def test_a_client_has_one_address() -> None:
    busy = table()
    address = bind(busy, mac(1))
    other = ip(100) if address != ip(100) else ip(101)
    assert refused(commit(busy, mac(1), other)) == f"{mac(1)} has {address}, not {other}"


def test_an_ended_lease_is_sticky() -> None:
    busy = table(100, 101)
    address = bind(busy, mac(1))
    later = NOW + 10 * LEASE_S
    assert bind(busy, mac(2), now=later) != address
    assert bind(busy, mac(1), now=later + 1) == address


def test_a_released_address_is_sticky_too() -> None:
    busy = table(100, 101)
    address = bind(busy, mac(1))
    released = busy.release(mac(1), address, now=NOW + 5)
    assert released is not None
    assert (released.state, released.expires_s) == (LeaseState.RELEASED, NOW + 5)
    assert not released.is_active(NOW)
    assert busy.lookup(mac(1)) == released
    assert bind(busy, mac(2), now=NOW + 6) != address
    assert bind(busy, mac(1), now=NOW + 7) == address


def test_only_the_holder_releases() -> None:
    busy = table()
    address = bind(busy, mac(1))
    assert busy.release(mac(2), address, now=NOW) is None
    assert busy.release(mac(1), ip(5), now=NOW) is None
    assert busy.release(mac(1), address, now=NOW) is not None
    assert busy.release(mac(1), address, now=NOW) is None


def test_the_longest_ended_lease_goes_first() -> None:
    full = table(100, 102)
    ends = {}
    for number, start in ((1, 20.0), (2, 0.0), (3, 10.0)):
        ends[number] = bind(full, mac(number), now=NOW + start)
    later = NOW + LEASE_S + 30
    assert bind(full, mac(4), now=later) == ends[2]
    assert bind(full, mac(5), now=later) == ends[3]
    assert bind(full, mac(6), now=later) == ends[1]
    assert "is in use" in refused(full.offer(mac(7), requested=None, now=later))
    assert full.lookup(mac(2)) is None


def test_renewal_moves_a_lease_to_the_back() -> None:
    full = table(100, 101)
    first, second = bind(full, mac(1)), bind(full, mac(2), now=NOW + 1)
    commit(full, mac(1), first, now=NOW + 2)
    assert bind(full, mac(3), now=NOW + LEASE_S + 10) == second


def test_an_ended_lease_on_offer_to_another_comes_back_when_that_lapses() -> None:
    full = table(100, 100)
    bind(full, mac(1))
    later = NOW + LEASE_S
    assert offer(full, mac(2), now=later) == ip(100)
    seen = full.lookup_address(ip(100))
    assert seen is not None
    assert (seen.mac, seen.state) == (mac(2), LeaseState.OFFERED)
    assert "is in use" in refused(full.offer(mac(3), requested=None, now=later))
    assert "is in use" in refused(full.offer(mac(1), requested=None, now=later))
    assert offer(full, mac(3), now=later + HOLD_S) == ip(100)
    full.forget_offer(mac(3))
    assert offer(full, mac(1), now=later + HOLD_S) == ip(100)


def test_a_declined_address_is_left_alone() -> None:
    busy = table(100, 100)
    bind(busy, mac(1))
    declined = busy.decline(mac(1), ip(100), now=NOW)
    assert declined == Lease(
        address=ip(100),
        mac=mac(1),
        state=LeaseState.DECLINED,
        expires_s=NOW + QUARANTINE_S,
    )
    assert busy.lookup(mac(1)) is None
    assert busy.lookup_address(ip(100)) == declined
    assert list(busy) == [declined]
    last_moment = NOW + QUARANTINE_S - 1
    assert "is in use" in refused(busy.offer(mac(2), requested=ip(100), now=last_moment))
    assert "in quarantine" in refused(commit(busy, mac(2), ip(100), now=last_moment))
    assert bind(busy, mac(2), now=NOW + QUARANTINE_S) == ip(100)


def test_declining_an_offer_ends_it() -> None:
    busy = table(100, 101)
    address = offer(busy, mac(1))
    assert isinstance(busy.decline(mac(1), address, now=NOW), Lease)
    assert offer(busy, mac(1)) != address


def test_declining_a_reclaimed_address_takes_it_from_both() -> None:
    full = table(100, 100)
    bind(full, mac(1))
    later = NOW + LEASE_S
    offer(full, mac(2), now=later)
    assert isinstance(full.decline(mac(2), ip(100), now=later), Lease)
    assert full.lookup(mac(1)) is None
    assert "is in use" in refused(full.offer(mac(1), requested=None, now=later))


def test_a_declined_fixed_address_is_not_offered_until_the_quarantine_ends() -> None:
    busy = table()
    busy.reserve({mac(1): ip(10)})
    bind(busy, mac(1))
    assert isinstance(busy.decline(mac(1), ip(10), now=NOW), Lease)
    assert refused(busy.offer(mac(1), requested=None, now=NOW)) == (
        "10.77.0.10 is in quarantine: another machine was found to use it"
    )
    assert offer(busy, mac(1), now=NOW + QUARANTINE_S) == ip(10)


def test_only_the_holder_declines() -> None:
    busy = table()
    address = bind(busy, mac(1))
    assert "was given" in refused(busy.decline(mac(2), address, now=NOW))
    assert "was given" in refused(busy.decline(mac(1), ip(5), now=NOW))


def test_restored_leases_are_in_force() -> None:
    before = table(100, 104)
    addresses = {number: bind(before, mac(number)) for number in (1, 2, 3)}
    before.release(mac(2), addresses[2], now=NOW)
    before.decline(mac(3), addresses[3], now=NOW)
    offer(before, mac(4))
    stranger = Lease(
        address=IPv4Address("192.168.9.9"),
        mac=mac(9),
        state=LeaseState.BOUND,
        expires_s=NOW + LEASE_S,
    )
    after = table(100, 104)
    restore(after, [*before, stranger])
    stored = {lease for lease in before if lease.state is not LeaseState.OFFERED}
    assert set(after) == stored
    assert offer(after, mac(1)) == addresses[1]
    assert offer(after, mac(2)) == addresses[2]
    assert "in quarantine" in refused(commit(after, mac(5), addresses[3]))


def test_of_several_stored_leases_of_a_client_the_last_counts() -> None:
    after = table(100, 109)
    older, newer = (
        Lease(address=ip(octet), mac=mac(1), state=LeaseState.BOUND, expires_s=end)
        for octet, end in ((100, inf), (101, NOW + 10))
    )
    restore(after, [older, newer])
    assert list(after) == [newer]


def test_leases_that_a_new_pool_leaves_out_are_not_renewed() -> None:
    before = table(100, 109)
    bind(before, mac(1))
    after = table(120, 120)
    restore(after, before)
    assert offer(after, mac(1)) == ip(120)
    assert bind(after, mac(1)) == ip(120)
    # What the old pool left behind is not lent out again either.
    later = NOW + 10 * LEASE_S
    left_over = table(120, 120)
    restore(left_over, before)
    assert bind(left_over, mac(2), now=later) == ip(120)
    assert "is in use" in refused(left_over.offer(mac(3), requested=None, now=later))


def test_renewals_do_not_pile_up() -> None:
    busy = table(100, 101)
    address = bind(busy, mac(1))
    for second in range(1000):
        commit(busy, mac(1), address, now=NOW + second)
    assert len(busy._stranger_ends) < 100


# Known nodes and strangers


def test_ended_leases_of_known_nodes_are_not_for_strangers() -> None:
    full = table(100, 101)
    full.reserve({}, {mac(1), mac(3)})
    known, stranger = bind(full, mac(1)), bind(full, mac(2), now=NOW + 1)
    later = NOW + LEASE_S + 10
    # The stranger's ended later, and is taken first.
    assert bind(full, mac(4), now=later) == stranger
    assert refused(full.offer(mac(5), requested=None, now=later)) == (
        "every address of 10.77.0.100-10.77.0.101 is in use"
    )
    assert bind(full, mac(3), now=later) == known


def test_a_known_node_takes_what_is_on_offer_to_a_stranger() -> None:
    full = table(100, 101)
    full.reserve({}, {mac(1), mac(2), mac(3)})
    first = offer(full, mac(8))
    second = offer(full, mac(9), now=NOW + 1)
    assert bind(full, mac(1), now=NOW + 2) == first
    assert bind(full, mac(2), now=NOW + 2) == second
    assert full.lookup(mac(8)) is None
    dry = full.offer(mac(3), requested=None, now=NOW + 3)
    assert isinstance(dry, Refusal)
    assert dry.is_dry


def test_a_flood_of_strangers_keeps_no_known_node_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "OFFERS_MAX", 50)
    busy = table()
    busy.reserve({mac(1): ip(10)}, {mac(1), mac(2), mac(3)})
    sticky = bind(busy, mac(2))
    for number in range(300):
        busy.offer(MacAddress(b"\x02\0\0\0" + number.to_bytes(2, "big")), requested=None, now=NOW)
    assert [offer(busy, mac(1)), offer(busy, mac(2))] == [ip(10), sticky]
    assert offer(busy, mac(3)) not in (ip(10), sticky)


def test_addresses_that_were_lent_need_no_trying() -> None:
    busy = table()
    address = offer(busy, mac(1))
    assert busy.is_untried(mac(1), address)
    busy.found_free(ip(150))  # on offer to nobody: that will not be known later
    assert busy.is_untried(mac(1), ip(150))
    busy.found_free(address)
    assert not busy.is_untried(mac(1), address)
    busy.forget_offer(mac(1))
    assert busy.is_untried(mac(1), address)
    assert isinstance(commit(busy, mac(1), address), Lease)
    busy.release(mac(1), address, now=NOW)
    assert not busy.is_untried(mac(1), address)


# Quarantine


def test_half_of_the_pool_at_most_is_in_quarantine() -> None:
    busy = table(100, 109)
    for number in range(8):
        address = offer(busy, mac(number), now=NOW + number)
        assert isinstance(busy.decline(mac(number), address, now=NOW + number), Lease)
    assert {lease.mac for lease in busy} == {mac(number) for number in range(3, 8)}


def test_a_client_may_decline_so_much_and_no_more() -> None:
    busy = table()
    for _ in range(leases.DECLINES_MAX):
        assert isinstance(busy.decline(mac(1), offer(busy, mac(1)), now=NOW), Lease)
    last = offer(busy, mac(1))
    assert refused(busy.decline(mac(1), last, now=NOW)) == (
        "it has declined 8 addresses: the fault is its own"
    )
    assert offer(busy, mac(1)) == last
    later = NOW + QUARANTINE_S
    assert isinstance(busy.decline(mac(1), offer(busy, mac(1), now=later), now=later), Lease)


def test_a_row_of_machines_set_up_by_hand_keeps_nobody_waiting() -> None:
    """However long it is: half of the pool, DECLINES_MAX, both are for what clients say."""
    busy = table(100, 139)
    for number in range(39):
        address = offer(busy, mac(1))
        found = busy.set_aside(address, mac(100 + number), now=NOW)
        assert isinstance(found, Lease)
        assert (found.mac, found.state) == (mac(100 + number), LeaseState.DECLINED)
        assert refused(commit(busy, mac(1), address)).startswith(f"{address} is in quarantine")
    last = offer(busy, mac(1))
    assert isinstance(busy.decline(mac(1), last, now=NOW), Lease)
    assert refused(busy.offer(mac(2), requested=None, now=NOW)).startswith("every address of")
    for lease in [*busy][:2]:
        assert busy.end(lease.address, now=NOW) is not None
    assert isinstance(busy.offer(mac(2), requested=None, now=NOW), IPv4Address)
    assert offer(busy, mac(1), now=NOW + QUARANTINE_S) not in (None, last)


def test_what_clients_decline_ends_before_what_was_found_in_use() -> None:
    busy = table(100, 109)
    found = offer(busy, mac(1))
    busy.set_aside(found, mac(50), now=NOW)
    busy.set_aside(found, mac(51), now=NOW)
    for number in range(2, 8):
        assert isinstance(busy.decline(mac(number), offer(busy, mac(number)), now=NOW), Lease)
    declined = {lease.mac for lease in busy}
    assert declined == {mac(number) for number in (51, *range(3, 8))}


def test_a_router_that_answers_for_every_address_is_not_believed() -> None:
    busy = table()
    for _ in range(leases.HELD_MAX):
        assert isinstance(busy.set_aside(offer(busy, mac(1)), mac(99), now=NOW), Lease)
    address = offer(busy, mac(1))
    assert refused(busy.set_aside(address, mac(99), now=NOW)) == (
        f"{mac(99)} answers for more than 64 addresses"
    )
    assert offer(busy, mac(1)) == address
    assert isinstance(commit(busy, mac(1), address), Lease)
    assert refused(busy.set_aside(address, mac(98), now=NOW)) == f"{address} was lent meanwhile"


# Clocks


@pytest.mark.parametrize(
    ("now", "is_active"),
    [(NOW + 1, True), (0.0, True), (NOW - 10 * LEASE_S, True), (NOW + 10 * LEASE_S, False)],
    ids=["as it was", "1970", "behind", "ahead"],
)
def test_leases_read_while_the_clock_is_wrong(now: float, is_active: bool) -> None:
    before = table()
    address = bind(before, mac(1))
    after = table()
    restore(after, before, now=now)
    lease = after.lookup(mac(1))
    assert lease is not None
    assert lease.is_active(now) == is_active
    assert not lease.is_active(now + LEASE_S)
    # In force or not, the address is still this client's.
    assert offer(after, mac(1), now=now) == address
    assert offer(after, mac(2), requested=address, now=now) != address


def test_a_lease_for_ever_stays_one() -> None:
    before = table()
    lease = before.commit(
        *(mac(1), ip(150)), lease_time_s=inf, client_id=None, hostname="", now=NOW
    )
    after = table()
    restore(after, before, now=0.0)
    assert [*after] == [lease]


class Histories(RuleBasedStateMachine):
    """Random clients doing random things in any order, with time going on.

    `held` is what the clients themselves believe: who was told that it has which address, and
    until when.
    """

    FIXED = {mac(1): ip(10), mac(2): ip(101)}  # noqa: RUF012  # a table, not state
    CLIENTS = st.sampled_from([mac(number) for number in range(1, 9)])
    ADDRESSES = st.sampled_from([ip(octet) for octet in (10, 99, *range(100, 106))])

    @initialize()
    def start(self) -> None:
        self.leases = table(100, 104)
        self.leases.reserve(self.FIXED)
        self.now = NOW
        self.held: dict[IPv4Address, tuple[MacAddress, float]] = {}

    @rule(client=CLIENTS, requested=st.none() | ADDRESSES)
    def discover(self, client: MacAddress, requested: IPv4Address | None) -> None:
        address = self.leases.offer(client, requested=requested, now=self.now)
        if isinstance(address, IPv4Address):
            self.check_may_have(client, address)

    @rule(client=CLIENTS, requested=st.none() | ADDRESSES)
    def boot(self, client: MacAddress, requested: IPv4Address | None) -> None:
        address = self.leases.offer(client, requested=requested, now=self.now)
        if isinstance(address, IPv4Address):
            lease = commit(self.leases, client, address, now=self.now)
            assert isinstance(lease, Lease), lease
            self.take(lease)

    @rule(client=CLIENTS, address=ADDRESSES)
    def request(self, client: MacAddress, address: IPv4Address) -> None:
        lease = commit(self.leases, client, address, now=self.now)
        if isinstance(lease, Lease):
            assert lease.address == address
            self.take(lease)

    @rule(client=CLIENTS, address=ADDRESSES)
    def release(self, client: MacAddress, address: IPv4Address) -> None:
        if self.leases.release(client, address, now=self.now) is not None:
            assert self.held.pop(address)[0] == client

    @rule(client=CLIENTS, address=ADDRESSES)
    def decline(self, client: MacAddress, address: IPv4Address) -> None:
        if isinstance(self.leases.decline(client, address, now=self.now), Lease):
            self.held.pop(address, None)

    @rule(client=CLIENTS)
    def choose_another_server(self, client: MacAddress) -> None:
        self.leases.forget_offer(client)

    @rule(seconds=st.sampled_from((1.0, HOLD_S, QUARANTINE_S, LEASE_S)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        stored = list(self.leases)
        self.leases = table(100, 104)
        restore(self.leases, stored, now=self.now)
        self.leases.reserve(self.FIXED)

    def take(self, lease: Lease) -> None:
        self.check_may_have(lease.mac, lease.address)
        former = [a for a, (client, _) in self.held.items() if client == lease.mac]
        for address in former:
            del self.held[address]
        self.held[lease.address] = (lease.mac, lease.expires_s)

    def check_may_have(self, client: MacAddress, address: IPv4Address) -> None:
        assert self.FIXED.get(client, address) == address
        if client not in self.FIXED:
            assert address not in self.FIXED.values()
            assert ip(100) <= address <= ip(104)
        holder, until = self.held.get(address, (client, 0.0))
        assert holder == client or until <= self.now

    @invariant()
    def one_address_one_client(self) -> None:
        entries = list(self.leases)
        assert len({entry.address for entry in entries}) == len(entries)
        active = [entry.mac for entry in entries if entry.is_active(self.now)]
        assert len(set(active)) == len(active)

    @invariant()
    def what_was_promised_stands(self) -> None:
        for address, (client, until) in self.held.items():
            if until > self.now:
                lease = self.leases.lookup(client)
                assert lease is not None
                assert lease.address == address

    @invariant()
    def the_count_is_right(self) -> None:
        """The byte per address agrees with what a walk through the pool would find."""
        known = {entry.address for entry in self.leases} | set(self.FIXED.values())
        expected = [ip(octet) in known for octet in range(100, 105)]
        assert [bool(byte) for byte in self.leases._pool._taken] == expected


TestHistories: Callable[[], object] = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)  # type: ignore[attr-defined]  # hypothesis reads it from the class
