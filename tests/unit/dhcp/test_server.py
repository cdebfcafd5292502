"""Storing leases before their ACKs leave, and what the journal hears; sockets: see tests/e2e."""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Literal

import pytest

from bootnode.addresses import Interface, MacAddress
from bootnode.boot.journal import Journal
from bootnode.config import NetworkSettings
from bootnode.dhcp import server
from bootnode.dhcp.leases import HELD_MAX, Lease, LeaseState
from bootnode.dhcp.options import MessageType
from bootnode.dhcp.prober import Prober, WhenTried
from bootnode.dhcp.replies import Reply
from bootnode.dhcp.responder import Responder
from bootnode.dhcp.server import DhcpServer, LeaseWriter
from tests.unit.dhcp.test_responder import (
    FAR_RELAY,
    FROM_FAR,
    NOW,
    Capture,
    asks_for,
    broadcast,
    kind,
    mac_of,
    message,
    node,
    responder,
    settings,
)


def lease(number: int) -> Lease:
    return Lease(
        address=IPv4Address("10.77.0.0") + number,
        mac=MacAddress.parse("52:54:00:00:00:00").plus(number),
        state=LeaseState.BOUND,
        expires_s=1e9,
        client_id=None,
        hostname="",
    )


class Disk:
    """Saves what it is given when it is let, and may fail."""

    def __init__(self) -> None:
        self.commits: list[list[Lease]] = []
        self.ready = threading.Event()
        self.fault: Exception | None = None

    def save(self, leases: Sequence[Lease]) -> None:
        assert self.ready.wait(10)
        if self.fault is not None:
            raise self.fault
        self.commits.append(list(leases))


async def test_what_comes_during_a_commit_shares_the_next_one() -> None:
    disk = Disk()
    stored: list[bool] = []
    with ThreadPoolExecutor(1) as executor:
        writer = LeaseWriter(disk.save, executor)
        writer.store(lease(1), stored.append)
        await asyncio.sleep(0)  # the first commit begins
        for number in range(2, 6):
            writer.store(lease(number), stored.append)
        assert stored == []
        disk.ready.set()
        await writer.aclose()
        await asyncio.sleep(0)
    assert disk.commits == [[lease(1)], [lease(number) for number in range(2, 6)]]
    assert stored == [True] * 5


@pytest.mark.parametrize("fault", [sqlite3.OperationalError("disk is full"), OSError(5, "no disk")])
async def test_a_disk_that_fails_is_told_and_tried_again(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    stored: list[bool] = []
    disk.ready.set()
    disk.fault = fault
    with ThreadPoolExecutor(1) as executor:
        writer = LeaseWriter(disk.save, executor)
        writer.store(lease(1), stored.append)
        await writer.aclose()
        disk.fault = None
        writer.store(lease(2), stored.append)
        await writer.aclose()
        await asyncio.sleep(0)
    assert stored == [False, True]
    assert f"leases=1 not stored: {fault}" in caplog.messages


async def test_a_reply_that_cannot_be_sent_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = Disk()
    stored: list[bool] = []
    disk.ready.set()

    def break_down(_is_stored: bool) -> None:
        raise ValueError("a value of 400 bytes")

    with ThreadPoolExecutor(1) as executor:
        writer = LeaseWriter(disk.save, executor)
        writer.store(lease(1), break_down)
        writer.store(lease(2), stored.append)
        await writer.aclose()
        writer.store(lease(3), stored.append)
        await writer.aclose()
    assert stored == [True, True]
    assert len(caplog.records) == 1
    assert "a value of 400 bytes" in caplog.text


async def test_what_waits_for_the_disk_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "WAITING_MAX", 2)
    disk = Disk()
    stored: list[bool] = []
    with ThreadPoolExecutor(1) as executor, caplog.at_level(logging.ERROR):
        writer = LeaseWriter(disk.save, executor)
        for number in range(1, 4):
            writer.store(lease(number), stored.append)
        assert stored == [False]
        disk.ready.set()
        await writer.aclose()
        await asyncio.sleep(0)
    assert stored == [False, True, True]
    assert "mac=52:54:00:00:00:03 not stored: 2 leases wait for the disk" in caplog.messages


# What the journal hears

US = Interface(
    name="tap0",
    index=1,
    mac=MacAddress.parse("02:00:00:00:00:01"),
    address=IPv4Interface("10.77.0.1/24"),
    link_local=IPv6Address("fe80::1"),
    mtu=1500,
)


@contextmanager
def serving(
    served: Responder, journal: Journal, *, prober: Prober | None = None
) -> Iterator[DhcpServer]:
    """A server whose sockets lead nowhere, and whose leases are always stored."""
    with ThreadPoolExecutor(1) as executor, socket.socket() as unused:
        yield DhcpServer(
            interface=US,
            server_socket=unused,
            pxe_socket=unused,
            unicast_socket=None,
            prober=prober,
            watch=None,
            responder=served,
            is_listed=lambda _mac: True,
            writer=LeaseWriter(lambda _leases: None, executor),
            journal=journal,
            clock=lambda: NOW,
            steady_clock=lambda: NOW,
            on_boot=lambda _mac: None,
        )


@pytest.mark.parametrize(
    ("near", "far", "told"),
    [
        # Where another server gives the addresses, a client's word is all there is of them ...
        ("full", "proxy", (True, "10.78.0.60", [])),
        # ... and where we do, it counts for nothing.
        ("proxy", "full", (False, None, ["request ignored: we know nothing of its lease"])),
    ],
)
def test_the_journal_hears_of_a_relayed_client_by_the_mode_of_its_own_subnet(
    near: Literal["full", "proxy"],
    far: str,
    told: tuple[bool, str | None, list[str]],
    capture: Capture,
) -> None:
    discover = replace(capture("dell_uefi_x64_pxe_discover"), giaddr=FAR_RELAY)
    mac, journal = mac_of(discover), Journal()
    behind = NetworkSettings.model_validate(
        {"subnet": "10.78.0.0/24", "dhcp": far, "authoritative": False}
    )
    served = responder(node(mac, ip=None), network=settings(near), remote=[behind])
    request = replace(
        discover,
        options={
            **discover.options,
            **dict([kind(MessageType.REQUEST), asks_for("10.78.0.60")]),
        },
    )
    with serving(served, journal) as dhcp:
        dhcp._follow(request, served.handle(request, FROM_FAR, now=NOW), NOW)
    record = journal.get(mac)
    assert record is not None
    notes = [note.text.partition(" on ")[0] for note in record.notes]
    address = str(record.address) if record.address is not None else None
    assert (record.boot is not None, address, notes) == told


# Trying addresses


class Wire(Prober):
    """A wire on which a row of addresses is in use, each by another machine, or all by one."""

    def __init__(self, row: int | None) -> None:
        self.row = row
        self.tried: list[IPv4Address] = []

    def try_address(self, address: IPv4Address, when_tried: WhenTried) -> bool:
        self.tried.append(address)
        holder = bytes(6) if self.row is None else bytes(2) + address.packed
        when_tried(None if len(self.tried) - 1 == self.row else MacAddress(holder))
        return True


@pytest.mark.parametrize(("row", "conflicts"), [(9, 9), (80, 80), (None, HELD_MAX)])
async def test_a_client_is_answered_however_many_addresses_are_in_use(
    row: int | None, conflicts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, journal = MacAddress.parse("02:44:00:00:00:01"), Journal()
    wire = Wire(row)
    served = responder(node(client, ip=None))
    sent: list[Reply] = []
    monkeypatch.setattr(DhcpServer, "_send", lambda _self, reply: sent.append(reply))
    with serving(served, journal, prober=wire) as dhcp:
        dhcp._answer(message(client, kind(MessageType.DISCOVER)), broadcast())
        await dhcp._writer.aclose()
    assert len(sent) == 1
    assert sent[0].packet.yiaddr == wire.tried[-1]
    assert len(wire.tried) == conflicts + 1
    assert journal.counters["dhcp.conflict"] == conflicts
