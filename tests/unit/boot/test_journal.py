"""The journal: whole boots played as the servers tell of them, and its bounds."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot import journal as module
from bootnode.boot.client import Speaker
from bootnode.boot.journal import BOOTS_KEPT, NOTES_KEPT, REPORT_MAX, Boot, Journal, Record, Stage
from bootnode.boot.plan import Hold, ImageBoot, ImageFiles, LocalBoot, ScriptPlan, Site

MAC = MacAddress.parse("52:54:00:12:34:56")
OTHER = MacAddress.parse("52:54:00:12:34:57")
ADDRESS = IPv4Address("10.77.0.10")
START = 1_700_000_000.0

ROUND = ("offer", "request", "ack")
"""What follows a DISCOVER that is answered."""
KERNEL = ("script", "kernel", "initrd")
INIT = ("init", "root", "switch", "up")


def play(events: list[str], *, interval: float = 1.0, journal: Journal | None = None) -> Journal:
    """Stages by name, and DISCOVERs as `firmware?`, `ipxe?`, `http boot?` and `os?`; a number
    waits that many seconds, everything else happens `interval` seconds after the one before."""
    journal = journal or Journal()
    record = journal.get(MAC)
    now = START if record is None else record.last_seen + interval
    for event in events:
        if event.isdecimal():
            now += int(event)
            continue
        if event.endswith("?"):
            journal.discover(MAC, Speaker(event[:-1]), now=now)
        else:
            journal.reach(MAC, Stage(event), now=now, detail=f"detail of {event}")
        now += interval
    return journal


def record_of(journal: Journal, mac: MacAddress = MAC) -> Record:
    record = journal.get(mac)
    assert record is not None
    return record


def boots(journal: Journal) -> list[Boot]:
    return list(record_of(journal).boots)


def seconds(boot: Boot) -> dict[str, float]:
    return {stage.value: at - boot.began for stage, at in boot.stages.items()}


def test_bios_node_with_ipxe_in_its_rom() -> None:
    journal = play(["ipxe?", *ROUND, *KERNEL, "os?", *INIT])
    (boot,) = boots(journal)
    assert boot.began == START
    assert [*seconds(boot)] == ["discover", *ROUND, *KERNEL, *INIT]
    assert [*seconds(boot).values()] == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert (boot.stage, boot.detail) == (Stage.UP, "detail of up")
    assert record_of(journal).last_seen == START + 11


def test_uefi_node_from_firmware_to_ipxe_to_linux() -> None:
    """Three voices ask DHCP in one boot; each stage counts from the first that reached it."""
    journal = play(["firmware?", *ROUND, "loader", "ipxe?", *ROUND, *KERNEL, "os?", *INIT])
    (boot,) = boots(journal)
    assert seconds(boot)["offer"] == 1
    assert seconds(boot)["loader"] == 4
    assert seconds(boot)["script"] == 9
    assert list(boot.stages) == [stage for stage in Stage if stage is not Stage.FAILED]


def test_ipxe_that_loads_another_ipxe_is_one_boot() -> None:
    """A ROM's iPXE lacks what our scripts need: it is given ours, which has the same voice."""
    chained = ["ipxe?", *ROUND, "loader", "ipxe?", *ROUND]
    (boot,) = boots(play([*chained, *KERNEL]))
    assert [*seconds(boot)] == ["discover", *ROUND, "loader", *KERNEL]
    assert [*seconds(boot).values()] == [0, 1, 2, 3, 4, 9, 10, 11]
    (boot,) = boots(play(["firmware?", *ROUND, "loader", *chained, "script"]))
    assert boot.stage is Stage.SCRIPT
    # Whoever was answered and fetched nothing has been switched off; so has one that was silent.
    assert len(boots(play(["ipxe?", *ROUND, "ipxe?"]))) == 2
    assert len(boots(play(["ipxe?", *ROUND, "loader", "600", "ipxe?"]))) == 2


def test_uefi_http_boot_goes_on_in_ipxe() -> None:
    (boot,) = boots(play(["http boot?", *ROUND, "loader", "ipxe?", *ROUND, "script"]))
    assert boot.stage is Stage.SCRIPT


def test_stages_that_come_late_move_nothing_back() -> None:
    (boot,) = boots(play(["firmware?", *ROUND, "loader", "ipxe?", "offer"]))
    assert (boot.stage, boot.detail) == (Stage.LOADER, "detail of loader")


@pytest.mark.parametrize(
    ("events", "count"),
    [
        # An OFFER that nobody took up, or none at all: the ROM asks again after 4, 8, 16, 32 s.
        (["firmware?", "4", "firmware?", "8", "firmware?", "offer", "16", "firmware?"], 1),
        (["ipxe?", "offer", "ipxe?", "offer", *ROUND], 1),
        # Firmware that found nothing tries its other way of booting.
        (["firmware?", "offer", "20", "http boot?"], 1),
        # Nobody waits longer than two minutes: this is another try by hand, or a reset.
        (["firmware?", "130", "firmware?"], 2),
        # iPXE that waits for a ProxyDHCP server asks twice.
        (["firmware?", *ROUND, "loader", "ipxe?", "offer", "ipxe?", *ROUND, "script"], 1),
        (["firmware?", *ROUND, "loader", "ipxe?", "ipxe?", *ROUND, "script"], 1),
        (["firmware?", *ROUND, "loader", "ipxe?", "130", "ipxe?"], 2),
        # Switched off and on again, half-way.
        (["firmware?", *ROUND, "firmware?"], 2),
        (["firmware?", *ROUND, "loader", "firmware?"], 2),
        (["firmware?", *ROUND, "loader", "ipxe?", "offer", "firmware?"], 2),
        (["firmware?", *ROUND, "loader", "ipxe?", *ROUND, "firmware?"], 2),
        (["firmware?", *ROUND, "loader", "ipxe?", *ROUND, "script", "firmware?"], 2),
        (["ipxe?", *ROUND, "ipxe?"], 2),
        (["ipxe?", *ROUND, *KERNEL, "ipxe?"], 2),
        (["ipxe?", *ROUND, *KERNEL, *INIT, "ipxe?"], 2),
        (["ipxe?", *ROUND, *KERNEL, "failed", "firmware?"], 2),
        # An operating system asks for its address: at the end of a boot, or any time later.
        (["ipxe?", *ROUND, *KERNEL, *INIT, "os?", "3600", "os?"], 1),
        (["os?", "os?"], 0),
    ],
)
def test_where_one_boot_ends_and_the_next_begins(events: list[str], count: int) -> None:
    assert len(boots(play(events))) == count


def test_the_boot_after_a_reboot_starts_from_nothing() -> None:
    journal = play(["ipxe?", *ROUND, *KERNEL, "ipxe?", "offer"])
    journal.use_image(MAC, "failsafe/1")
    first, second = boots(journal)
    assert first.stage is Stage.INITRD
    assert (second.stage, list(second.stages)) == (Stage.OFFER, [Stage.DISCOVER, Stage.OFFER])
    assert (first.image, second.image) == ("", "failsafe/1")
    assert record_of(journal).boot is second


def test_failed_is_an_end_that_a_new_try_undoes() -> None:
    journal = play(["ipxe?", *ROUND, "failed"])
    assert boots(journal)[-1].stage is Stage.FAILED
    play(["script"], journal=journal)
    (boot,) = boots(journal)
    assert (boot.stage, boot.detail) == (Stage.SCRIPT, "detail of script")
    assert Stage.FAILED in boot.stages


def test_a_boot_that_was_under_way_when_the_server_started() -> None:
    (boot,) = boots(play(["kernel", "initrd", "init"]))
    assert (boot.began, boot.stage) == (START, Stage.INIT)


def test_an_os_is_seen_but_boots_nothing() -> None:
    journal = play(["os?"])
    assert record_of(journal) == Record(last_seen=START)
    assert record_of(journal).boot is None
    journal.use_image(MAC, "failsafe/1")
    journal.use_image(OTHER, "failsafe/1")
    assert [mac for mac, _ in journal] == [MAC]


def test_addresses() -> None:
    journal = Journal()
    journal.locate(MAC, ADDRESS, now=START)
    journal.locate(MAC, ADDRESS, now=START)
    assert (journal.at(ADDRESS), record_of(journal).address) == (MAC, ADDRESS)
    moved = IPv4Address("10.77.0.11")
    journal.locate(MAC, moved, now=START)
    assert (journal.at(ADDRESS), journal.at(moved)) == (None, MAC)


def test_an_address_that_goes_to_another_node_is_the_first_ones_no_more() -> None:
    journal = Journal()
    journal.locate(MAC, ADDRESS, now=START)
    journal.locate(OTHER, ADDRESS, now=START + 1)
    assert journal.at(ADDRESS) == OTHER
    assert record_of(journal).address is None
    journal.locate(MAC, IPv4Address("10.77.0.11"), now=START + 2)
    assert journal.at(ADDRESS) == OTHER


# Bounds


def test_boots_notes_and_details_are_bounded() -> None:
    journal = play(["ipxe?", "ack"] * (BOOTS_KEPT + 5))
    assert len(boots(journal)) == BOOTS_KEPT
    for number in range(NOTES_KEPT + 5):
        journal.note(MAC, f"{number} " + "x" * 1000, now=START + number)
    notes = record_of(journal).notes
    assert len(notes) == NOTES_KEPT
    assert notes[0].text.startswith("5 x")
    assert notes[-1].time == START + NOTES_KEPT + 4
    assert {len(note.text) for note in notes} == {REPORT_MAX}
    journal.reach(MAC, Stage.UP, now=START, detail="y" * 1000)
    assert len(boots(journal)[-1].detail) == REPORT_MAX


def test_the_node_not_heard_of_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NODES_KEPT", 3)
    journal = Journal()
    macs = [MAC.plus(number) for number in range(5)]
    for number, mac in enumerate(macs[:3]):
        journal.locate(mac, ADDRESS + number, now=START + number)
    journal.discover(macs[0], Speaker.OS, now=START + 3)
    journal.discover(macs[3], Speaker.OS, now=START + 4)  # macs[1] goes, with its address
    assert journal.get(macs[1]) is None
    assert journal.at(ADDRESS + 1) is None
    journal.note(macs[4], "x", now=START + 5)
    journal.note(macs[1], "x", now=START + 6)
    journal.note(macs[2], "x", now=START + 7)  # macs[3] goes, which never had an address
    assert [mac for mac, _ in journal] == [macs[4], macs[1], macs[2]]
    assert journal.at(ADDRESS) is None


def test_counters() -> None:
    journal = Journal()
    for name in ("dhcp.offer", "dhcp.offer", "http.200"):
        journal.count(name)
    assert journal.counters == {"dhcp.offer": 2, "http.200": 1}


def test_who_is_past_its_loader_is_told_of() -> None:
    further: list[MacAddress] = []
    journal = Journal(on_further=further.append)
    play(["firmware?", *ROUND, "loader", "ipxe?", *ROUND], journal=journal)
    assert further == []
    play(["script", "kernel", "failed"], journal=journal)
    assert further == [MAC] * 3


SITE = Site(address=IPv4Address("10.77.0.1"), http_port=8080)
IMAGE = ImageFiles(name="i", version="0123", kernel="k", initrds=(), kernel_args=())


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (
            ImageBoot(node="n1", mac=MAC, site=SITE, image=IMAGE, kernel_args=()),
            (Stage.SCRIPT, "i/0123", "i/0123"),
        ),
        (LocalBoot(node="n1"), (Stage.SCRIPT, "local disk", "")),
        (Hold(node="n1", mac=MAC, site=SITE, reason="why"), (Stage.FAILED, "why", "")),
    ],
)
def test_what_a_script_does(plan: ScriptPlan, told: tuple[Stage, str, str]) -> None:
    journal = Journal()
    journal.give_script(MAC, plan, now=START)
    (boot,) = boots(journal)
    assert (boot.stage, boot.detail, boot.image) == told
