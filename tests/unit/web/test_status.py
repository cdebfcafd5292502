"""The status: which nodes, in which order, and hostile words on the page."""

from __future__ import annotations

import json
from ipaddress import IPv4Address

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.client import Speaker
from bootnode.boot.journal import Journal, Stage
from bootnode.nodes import Boot, Node, NodeTable
from bootnode.web.status import NOTES_SHOWN, as_json, node_statuses, page

MAC = MacAddress.parse("52:54:00:12:34:56")
SECOND = MAC.plus(1)
STRANGER = MacAddress.parse("02:00:00:00:00:99")
NOW = 1_700_000_000.0


def table(*macs: MacAddress, name: str = "n1") -> NodeTable:
    node = Node(
        name=name,
        macs=macs,
        addresses={},
        image="failsafe",
        kernel_args=(),
        boot=Boot.NETWORK,
        boot_file=None,
        vars={},
    )
    return NodeTable((node,))


def test_a_node_never_heard_of() -> None:
    assert as_json(table(MAC), Journal(), now=NOW) == {
        "now": NOW,
        "nodes": [
            {
                "name": "n1",
                "mac": "52:54:00:12:34:56",
                "known": True,
                "address": "",
                "stage": "-",
                "detail": "",
                "image": "",
                "began": 0.0,
                "last_seen": 0.0,
                "stages": {},
                "notes": (),
            }
        ],
        "images": {"next_boot": {"failsafe": ["n1"]}, "booting": {}, "running": {}},
        "counters": {},
    }


def test_a_node_on_its_way() -> None:
    journal = Journal()
    journal.discover(MAC, Speaker.IPXE, now=NOW)
    journal.locate(MAC, IPv4Address("10.77.0.10"), now=NOW + 1)
    journal.reach(MAC, Stage.KERNEL, now=NOW + 2.3456, detail="failsafe/1")
    journal.use_image(MAC, "failsafe/1")
    for number in range(NOTES_SHOWN + 2):
        journal.note(MAC, f"note {number}", now=NOW + 3)
    (line,) = node_statuses(table(MAC), journal)
    assert (line.address, line.stage, line.detail) == ("10.77.0.10", "kernel", "failsafe/1")
    assert (line.image, line.began, line.last_seen) == ("failsafe/1", NOW, NOW + 3)
    assert line.stages == {"discover": 0.0, "kernel": 2.346}
    assert line.notes == ("note 2", "note 3", "note 4", "note 5", "note 6")
    json.dumps(as_json(table(MAC), journal, now=NOW))


def test_of_several_cards_the_one_heard_last() -> None:
    journal = Journal()
    journal.reach(SECOND, Stage.ACK, now=NOW)
    (line,) = node_statuses(table(MAC, SECOND), journal)
    assert (line.mac, line.stage) == (str(SECOND), "ack")
    journal.reach(MAC, Stage.UP, now=NOW + 1)
    (line,) = node_statuses(table(MAC, SECOND), journal)
    assert (line.mac, line.stage) == (str(MAC), "up")


def test_strangers_come_after_the_table() -> None:
    journal = Journal()
    journal.discover(STRANGER, Speaker.OS, now=NOW)
    journal.discover(MAC, Speaker.OS, now=NOW)
    lines = node_statuses(table(MAC), journal)
    assert [(line.name, line.known) for line in lines] == [("n1", True), (str(STRANGER), False)]


def test_counters_are_in_order() -> None:
    journal = Journal()
    for name in ("http.200", "dhcp.ack", "http.200"):
        journal.count(name)
    assert list(as_json(NodeTable(), journal, now=NOW)["counters"].items()) == [
        *(("dhcp.ack", 1), ("http.200", 2)),
    ]


@pytest.mark.parametrize(
    ("stage", "kind"), [(Stage.UP, "up"), (Stage.FAILED, "failed"), (Stage.KERNEL, "")]
)
def test_page(stage: Stage, kind: str) -> None:
    journal = Journal()
    journal.reach(MAC, stage, now=NOW - 61.4)
    text = page(table(MAC), journal, now=NOW)
    assert (
        f'<tr class="{kind}"><td>n1</td><td>52:54:00:12:34:56</td><td></td>'
        f"<td>{stage.value}</td><td></td><td>61 s ago</td><td></td></tr>"
    ) in text
    assert "As of 2023-11-14 22:13:20 UTC." in text
    assert text.startswith("<!doctype html>")


def test_page_of_a_node_never_heard_of() -> None:
    assert "<td>-</td><td></td><td>never</td>" in page(table(MAC), Journal(), now=NOW)


def test_page_shows_hostile_words_as_words() -> None:
    journal = Journal()
    detail = "</td><script>alert(1)</script>{rows} & \"'"
    journal.reach(MAC, Stage.FAILED, now=NOW, detail=detail)
    text = page(table(MAC), journal, now=NOW)
    assert "<script" not in text
    assert (
        "<td>&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;{rows} &amp; &quot;&#x27;</td>" in text
    )
