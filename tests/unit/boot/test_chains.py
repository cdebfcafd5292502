"""Chain-loads in circles, told by scripts of conversations and times."""

from __future__ import annotations

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.chains import MACS_MAX, REST_S, WINDOW_S, ChainLoads

MAC = MacAddress.parse("52:54:00:12:34:56")
LOADER = "tftp://10.77.0.1/undionly.kpxe"


def played(*script: tuple[str, int, float]) -> str:
    """What becomes of each message, given as D(ISCOVER) or R(EQUEST), xid and time: - or X."""
    chains = ChainLoads()
    told = [
        chains.is_circle(MAC, LOADER, xid=xid, is_discover=kind == "D", now=now)
        for kind, xid, now in script
    ]
    return "".join("X" if is_circle else "-" for is_circle in told)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        # Sent the loader twice; who is back a third time gets nothing, nor in its REQUEST.
        (
            [("D", 1, 0), ("R", 1, 1), ("D", 2, 9), ("R", 2, 10), ("D", 3, 20), ("R", 3, 21)],
            "----XX",
        ),
        # Repeating is no coming back: RFC 2131's clients retry with one xid.
        ([("D", 1, 0), ("D", 1, 2), ("D", 1, 6), ("D", 1, 14), ("R", 1, 15)], "-----"),
        # Some ROMs make the xid of their MAC: the REQUEST in between tells the conversations apart.
        (
            [("D", 1, 0), ("R", 1, 1), ("D", 1, 9), ("R", 1, 9), ("D", 1, 20), ("D", 1, 22)],
            "----XX",
        ),
        # A REQUEST with an xid of its own goes on all the same.
        ([("D", 1, 0), ("R", 2, 1), ("D", 3, 9), ("R", 4, 10), ("D", 5, 20)], "----X"),
        # ProxyDHCP may hear no REQUEST, a restarted server no DISCOVER.
        ([("D", 1, 0), ("D", 2, 9), ("D", 3, 20), ("D", 4, 30)], "--XX"),
        ([("R", 1, 0), ("R", 2, 9), ("R", 3, 20)], "--X"),
        # Slow circles are circles; machines that reboot after a while, as from a menu, go in none.
        ([("D", 1, 0), ("D", 2, 19), ("D", 3, 38)], "--X"),
        ([("D", 1, 0), ("D", 2, 21), ("D", 3, 42), ("D", 4, 63)], "----"),
        ([("D", 1, 0), ("D", 2, 50), ("D", 3, 100), ("D", 4, 150)], "----"),
        # Some time after the last loader it is sent it again, however often it asked meanwhile.
        (
            [("D", 1, 0), ("D", 2, 20), ("D", 3, 40), ("D", 4, 79), ("D", 5, 81), ("D", 6, 90)],
            "--XX--",
        ),
    ],
)
def test_script(script: list[tuple[str, int, float]], told: str) -> None:
    assert played(*script) == told


def test_another_file_or_getting_on_begins_anew() -> None:
    chains = ChainLoads()

    def ask(xid: int, name: str = LOADER) -> bool:
        return chains.is_circle(MAC, name, xid=xid, is_discover=True, now=float(xid))

    assert [ask(1), ask(2), ask(3)] == [False, False, True]
    assert [ask(4, "other.efi"), ask(5, "other.efi")] == [False, False]
    chains.forget(MAC)
    assert [ask(6, "other.efi"), ask(7, "other.efi"), ask(8, "other.efi")] == [False, False, True]
    chains.forget(MacAddress(b"\2abcde"))


def test_a_file_is_the_same_by_each_of_our_addresses() -> None:
    chains = ChainLoads()
    urls = ["tftp://10.1.0.1/undionly.kpxe", "http://10.2.0.1:8080/loaders/undionly.kpxe"]
    told = [
        chains.is_circle(MAC, urls[xid % 2], xid=xid, is_discover=True, now=0.0) for xid in range(4)
    ]
    assert told == [False, False, True, True]


def test_a_request_to_another_server_ends_a_conversation() -> None:
    """A ROM that makes its xid of its MAC, beside another DHCP server."""
    chains = ChainLoads()
    told = []
    for now in range(3):
        told.append(chains.is_circle(MAC, LOADER, xid=1, is_discover=True, now=float(now)))
        chains.hear_request(MAC)
    assert told == [False, False, True]
    chains.hear_request(MacAddress(b"\2abcde"))


def test_memory_is_bounded() -> None:
    """The oldest of more than MACS_MAX clients is forgotten, and begins anew."""
    chains = ChainLoads()

    def ask(number: int, xid: int) -> bool:
        mac = MacAddress(b"\2\0" + number.to_bytes(4, "big"))
        return chains.is_circle(mac, LOADER, xid=xid, is_discover=True, now=0.0)

    for number in range(MACS_MAX + 1):
        assert [ask(number, xid) for xid in (1, 2)] == [False, False]
    assert ask(1, 3)
    assert not ask(0, 3)
    assert WINDOW_S < REST_S
