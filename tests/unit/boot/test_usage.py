"""Who uses which image: boots told to the journal, and what follows for their versions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.client import Speaker
from bootnode.boot.journal import FETCH_SILENCE_S, Journal, Stage
from bootnode.boot.usage import image_usage, next_images
from bootnode.nodes import Boot, Node, NodeTable

MAC = MacAddress.parse("52:54:00:12:34:56")
SECOND = MAC.plus(1)
STRANGER = MacAddress.parse("02:00:00:00:00:99")
NOW = 1_700_000_000.0
IMAGE = "compute/0123456789abcdef"
NEWER = "compute/fedcba9876543210"

NODE = Node(
    name="n1",
    macs=(MAC, SECOND),
    addresses={},
    image="compute",
    kernel_args=(),
    boot=Boot.NETWORK,
    boot_file=None,
    vars={},
)
TABLE = NodeTable((NODE,))


def boot(*stages: Stage, image: str = IMAGE, mac: MacAddress = MAC) -> Journal:
    """A boot that was given its image with the script, and came so far, a second a stage."""
    journal = Journal()
    journal.discover(mac, Speaker.IPXE, now=NOW)
    begin(journal, *stages, image=image, mac=mac)
    return journal


def begin(
    journal: Journal, *stages: Stage, image: str = IMAGE, mac: MacAddress = MAC, at: float = NOW
) -> None:
    for number, stage in enumerate((Stage.SCRIPT, *stages)):
        journal.reach(mac, stage, now=at + number)
        if stage is Stage.SCRIPT:
            journal.use_image(mac, image)


def uses(journal: Journal, now: float = NOW + 10, table: NodeTable = TABLE) -> dict[str, str]:
    """What each node does with which image."""
    usage = image_usage(table, journal, now=now)
    return {
        name: f"{verb} {image}"
        for verb, by_image in (("boots", usage.booting), ("runs", usage.running))
        for image, names in by_image.items()
        for name in names
    }


WAY = (Stage.KERNEL, Stage.INITRD, Stage.INIT, Stage.ROOT, Stage.SWITCH, Stage.UP)


@pytest.mark.parametrize(
    ("stages", "use"),
    [
        *((WAY[:count], "boots") for count in range(5)),
        (WAY[:5], "runs"),
        (WAY, "runs"),
        ((*WAY[:3], Stage.FAILED), "runs"),
        ((*WAY, Stage.FAILED), "runs"),
        ((Stage.KERNEL, Stage.FAILED), None),
    ],
)
def test_a_version_is_held_until_the_node_has_all_of_it(
    stages: tuple[Stage, ...], use: str | None
) -> None:
    assert uses(boot(*stages)) == ({"n1": f"{use} {IMAGE}"} if use is not None else {})


def test_a_node_that_was_switched_off_holds_its_version_for_a_while() -> None:
    journal = boot(Stage.KERNEL)
    assert uses(journal, NOW + 1 + FETCH_SILENCE_S) == {"n1": f"boots {IMAGE}"}
    assert uses(journal, NOW + 2 + FETCH_SILENCE_S) == {}


def test_whatever_it_asks_for_is_a_sign() -> None:
    journal = boot(Stage.KERNEL, Stage.INITRD, Stage.INIT)
    later = NOW + FETCH_SILENCE_S
    journal.fetch(MAC, IMAGE, now=later)
    assert uses(journal, later + FETCH_SILENCE_S) == {"n1": f"boots {IMAGE}"}


def test_an_init_that_tries_again_holds_its_version_again() -> None:
    journal = boot(Stage.KERNEL, Stage.INITRD, Stage.INIT, Stage.FAILED)
    journal.fetch(MAC, IMAGE, now=NOW + 9)
    assert uses(journal) == {"n1": f"boots {IMAGE}"}


def test_a_node_that_runs_and_reads_a_file_boots_nothing() -> None:
    journal = boot(*WAY)
    for image in (IMAGE, NEWER):
        journal.fetch(MAC, image, now=NOW + 9)
    assert uses(journal) == {"n1": f"runs {IMAGE}"}


def test_the_next_boot_ends_the_last() -> None:
    journal = boot(Stage.KERNEL)
    journal.discover(MAC, Speaker.FIRMWARE, now=NOW + 5)
    assert uses(journal) == {}
    begin(journal, image=NEWER, at=NOW + 6)
    assert uses(journal) == {"n1": f"boots {NEWER}"}


def test_a_new_script_in_the_same_boot_is_another_version() -> None:
    journal = boot(Stage.KERNEL)
    begin(journal, image=NEWER, at=NOW + 6)
    assert uses(journal) == {"n1": f"boots {NEWER}"}


def test_a_boot_that_was_under_way_when_the_server_started() -> None:
    journal = Journal()
    journal.fetch(MAC, IMAGE, now=NOW)
    assert uses(journal) == {"n1": f"boots {IMAGE}"}
    journal = Journal()
    journal.reach(MAC, Stage.INIT, now=NOW)
    assert uses(journal) == {}
    journal.fetch(MAC, IMAGE, now=NOW)
    assert uses(journal) == {"n1": f"boots {IMAGE}"}
    journal = Journal()
    journal.reach(MAC, Stage.UP, now=NOW)
    journal.fetch(MAC, IMAGE, now=NOW)
    assert uses(journal) == {}


def test_a_machine_boots_by_one_of_its_cards() -> None:
    journal = boot(Stage.KERNEL)
    begin(journal, *WAY, image=NEWER, mac=SECOND, at=NOW + 5)
    journal.reach(MAC, Stage.OFFER, now=NOW + 9)
    assert uses(journal) == {"n1": f"runs {NEWER}"}


def test_machines_outside_the_table() -> None:
    assert uses(boot(mac=STRANGER)) == {str(STRANGER): f"boots {IMAGE}"}


def test_what_the_table_gives() -> None:
    others = (replace(NODE, name="n2"), replace(NODE, name="n3", image=None))
    unknown = replace(NODE, name="unknown", image="failsafe")
    assert next_images(NodeTable((NODE, *others))) == {"compute": ["n1", "n2"]}
    assert next_images(NodeTable((NODE,), unknown)) == {
        "compute": ["n1"],
        "failsafe": ["unknown-*"],
    }
    assert next_images(NodeTable((), replace(unknown, image=None))) == {}
    assert image_usage(TABLE, Journal(), now=NOW).next_boot == {"compute": ["n1"]}
