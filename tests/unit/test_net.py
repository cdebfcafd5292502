"""Sockets: packets made by hand, addresses of loopback, and who holds a port."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from pathlib import Path

import pytest

from bootnode import net
from bootnode.addresses import Interface, MacAddress
from bootnode.checksum import internet_checksum
from bootnode.errors import StartError

LOOPBACK = IPv4Address("127.0.0.1")
LO = Interface(
    name="lo",
    index=1,
    mac=MacAddress(bytes(6)),
    address=IPv4Interface("127.0.0.1/8"),
    link_local=IPv6Address("fe80::1"),
    mtu=65536,
)


# Checksums and packets


def test_udp_packet_byte_for_byte() -> None:
    packet = net.udp_packet(IPv4Address("10.77.0.1"), 67, IPv4Address("10.77.0.10"), 68, b"hello")
    assert packet.hex() == (
        "4500002100000000401166280a4d00010a4d000a"  # IPv4: 33 bytes, TTL 64, UDP
        "00430044000da6d6"  # UDP: 67 to 68, 13 bytes
        "68656c6c6f"
    )
    header, udp = packet[:20], packet[20:]
    # Over a header that holds its own checksum the sum is all ones.
    assert internet_checksum(header) == 0
    pseudo = header[12:20] + struct.pack("!BBH", 0, 17, len(udp))
    assert internet_checksum(pseudo + udp) == 0


def test_udp_checksum_of_zero_is_sent_as_ones() -> None:
    """RFC 768: zero would say that there is no checksum."""
    source, destination = IPv4Address("10.77.0.1"), IPv4Address("10.77.0.10")
    without = net.udp_packet(source, 67, destination, 68, b"\0\0")
    (checksum,) = struct.unpack("!H", without[26:28])
    packet = net.udp_packet(source, 67, destination, 68, struct.pack("!H", checksum))
    assert packet[26:28] == b"\xff\xff"


def test_link_local_address_of_a_mac() -> None:
    """RFC 4291 appendix A has this very example."""
    mac = MacAddress.parse("34:56:78:9a:bc:de")
    assert net._eui64(mac) == IPv6Address("fe80::3656:78ff:fe9a:bcde")


# Interfaces


def test_interface_that_is_not_there() -> None:
    with pytest.raises(StartError) as caught:
        net.find_interface("nonesuch0")
    assert re.fullmatch(
        r"there is no interface 'nonesuch0' \(this machine has: .*\blo\b.*\): "
        r"mend `networks` in bootnoded.yaml",
        str(caught.value),
    )


def test_loopback_is_no_ethernet() -> None:
    with pytest.raises(StartError, match="interface 'lo' is no Ethernet: name the one"):
        net.find_interface("lo")


# Ports


@pytest.mark.parametrize("is_udp", [True, False])
def test_who_holds_a_port(is_udp: bool) -> None:
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if not is_udp:
            sock.listen()
        port = sock.getsockname()[1]
        name = Path("/proc/self/comm").read_text().strip()
        assert net.port_holder(port, is_udp=is_udp) == f"{name} (pid {os.getpid()})"
    # Nobody, or somebody whom we may not look at.
    assert net.port_holder(port, is_udp=is_udp) == (
        "another program (`ss -lntup` as root names it)"
    )


def test_tftp_port_in_use() -> None:
    with net.tftp_socket(LO, 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(StartError) as caught:
            net.tftp_socket(LO, port)
    assert re.fullmatch(
        rf"UDP port {port} \(TFTP\) is in use by .+ \(pid {os.getpid()}\): "
        r"stop that, or change `tftp: .* in bootnoded.yaml \(firmware asks no other than 69\)",
        str(caught.value),
    )


def test_http_port_in_use() -> None:
    with net.http_socket(LOOPBACK, 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(StartError, match=rf"TCP port {port} \(HTTP\) is in use by .+ \(pid"):
            net.http_socket(LOOPBACK, port)


def test_address_that_is_not_ours() -> None:
    elsewhere = replace(LO, address=IPv4Interface("192.0.2.1/24"))
    with pytest.raises(StartError) as caught:
        net.tftp_socket(elsewhere, 0)
    assert str(caught.value) == (
        "UDP port 0 (TFTP) cannot be bound to 192.0.2.1: Cannot assign requested address"
    )


class Refusing:
    """A socket that may not bind."""

    type = socket.SOCK_DGRAM

    def bind(self, _address: tuple[str, int]) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_port_that_may_not_be_bound() -> None:
    """Root may bind every port, so the refusal is made up here."""
    with pytest.raises(StartError) as caught:
        net._bind(
            Refusing(),  # type: ignore[arg-type]  # all it needs
            ("0.0.0.0", 67),
            "UDP port 67 on tap0",
            "do without",
        )
    assert str(caught.value) == (
        "UDP port 67 on tap0 may not be bound: start bootnoded as root, by systemd, or with "
        "CAP_NET_BIND_SERVICE"
    )


def test_http_socket_listens() -> None:
    with net.http_socket(LOOPBACK, 0) as server:
        assert not server.getblocking()
        with socket.create_connection(server.getsockname(), timeout=10):
            pass


# The Unix socket


def test_unix_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with net.unix_socket(path):
        assert path.stat().st_mode & 0o777 == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        with pytest.raises(StartError) as caught:
            net.unix_socket(path)
        assert str(caught.value).startswith(
            f"another bootnoded is running: it listens on {path}: stop it, or"
        )
    # Left behind by one that was killed.
    with net.unix_socket(path):
        assert path.is_socket()


def test_unix_socket_that_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "none" / "s"
    with pytest.raises(StartError) as caught:
        net.unix_socket(path)
    assert str(caught.value).startswith(
        f"{path} cannot be made: No such file or directory: name a state_dir"
    )
    with pytest.raises(StartError, match="cannot be made: AF_UNIX path too long"):
        net.unix_socket(tmp_path / ("x" * 200))
