"""Sockets: what a netboot server needs of Linux that asyncio's own transports do not give.

DHCP is heard on a wildcard socket bound to one device: binding an address would lose the
broadcasts of clients that have none yet, and without the device a broadcast reply leaves by the
default route (RFC 2131 section 4.1). TFTP and HTTP listen on our address of each network, so that
answers come from the address that was asked.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from pathlib import Path
from typing import TypeAlias

from bootnode.addresses import Interface, MacAddress
from bootnode.checksum import internet_checksum
from bootnode.dhcp.packet import CLIENT_PORT, SERVER_PORT
from bootnode.errors import StartError

_SIOCGIFADDR = 0x8915
_SIOCGIFNETMASK = 0x891B
_SIOCGIFMTU = 0x8921
_SIOCGIFHWADDR = 0x8927
_ARPHRD_ETHER = 1
_ETH_P_IP = 0x0800
_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
_SO_ATTACH_FILTER = 26
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0

# linux/pkt_sched.h; RFC 2474 section 4.2.2.2: what routers talk among themselves by.
_TC_PRIO_INTERACTIVE = 6
_DSCP_CS6 = 0xC0

IP_PKTINFO = 8
"""ip(7): tells for each datagram what address it was sent to; socket has no name for it yet."""
BACKLOG = 4096
"""Connections that wait to be accepted while a rack boots."""
RECEIVE_BUFFER_BYTES = 1 << 20
"""Asked for on DHCP sockets: a rack powered on at once is a burst."""


def find_interface(name: str) -> Interface:
    """The interface as it is now.

    Raises:
        StartError: it does not exist, is no Ethernet, or has no IPv4 address.
    """
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        known = ", ".join(sorted(other for _, other in socket.if_nameindex()))
        raise StartError(
            f"there is no interface '{name}' (this machine has: {known}): "
            "mend `networks` in bootnoded.yaml"
        ) from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        family, hardware = struct.unpack("16xH6s", _ifreq(query, _SIOCGIFHWADDR, name)[:24])
        if family != _ARPHRD_ETHER:
            raise StartError(
                f"interface '{name}' is no Ethernet: name the one that leads to the nodes"
            )
        try:
            address = IPv4Address(_ifreq(query, _SIOCGIFADDR, name)[20:24])
            netmask = IPv4Address(_ifreq(query, _SIOCGIFNETMASK, name)[20:24])
        except OSError:
            raise StartError(
                f"interface '{name}' has no IPv4 address: "
                f"give it one, such as `ip address add 10.77.0.1/24 dev {name}`"
            ) from None
        (mtu,) = struct.unpack("i", _ifreq(query, _SIOCGIFMTU, name)[16:20])
    mac = MacAddress(hardware)
    return Interface(
        name=name,
        index=index,
        mac=mac,
        address=IPv4Interface(f"{address}/{netmask}"),
        link_local=_link_local(name) or _eui64(mac),
        mtu=mtu,
    )


def _ifreq(query: socket.socket, request: int, name: str) -> bytes:
    """netdevice(7): a structure with the name in its first 16 bytes, the answer after it."""
    buffer = array.array("b", struct.pack("40s", name.encode()))
    fcntl.ioctl(query.fileno(), request, buffer)
    return buffer.tobytes()


def _link_local(name: str) -> IPv6Address | None:
    """The kernel's own link-local address there, from /proc/net/if_inet6."""
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            digits, *_, device = line.split()
            address = IPv6Address(bytes.fromhex(digits))
            if device == name and address.is_link_local:
                return address
    return None


def _eui64(mac: MacAddress) -> IPv6Address:
    """The link-local address that RFC 4291 appendix A makes of a MAC, for a host without IPv6."""
    raw = bytes([mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5]])
    return IPv6Address(bytes.fromhex("fe80000000000000") + raw)


_DHCP_REMEDY = (
    "write `dhcp: proxy` for this network in bootnoded.yaml if it is to give the addresses"
)


def dhcp_socket(interface: Interface, port: int, *, is_shared: bool) -> socket.socket:
    """A socket that hears and sends DHCP on one interface.

    `is_shared` lets another DHCP server on this machine hear the same broadcasts, as ProxyDHCP
    beside it needs; otherwise a second server on the port is an error.

    Raises:
        StartError: the port is taken, or we may not bind it.
    """
    sock = udp_socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        # Replies overtake downloads in the network's queues; this sets the priority to 0, too.
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _DSCP_CS6)
        _put_first(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode())
        what = f"UDP port {port} on {interface.name}"
        if is_shared:
            _bind_shared(sock, port, what)
        else:
            _bind(sock, ("0.0.0.0", port), what, _DHCP_REMEDY)
    except BaseException:
        sock.close()
        raise
    return sock


def _put_first(sock: socket.socket) -> None:
    """Let replies overtake the downloads that fill the queue of our own card."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _TC_PRIO_INTERACTIVE)


def _bind_shared(sock: socket.socket, port: int, what: str) -> None:
    """Bind so that what is sent to our address alone goes to the other server on this machine.

    The kernel copies a broadcast to every socket, but gives the rest, such as a renewal, only to
    the one that was bound last. So where the other is there already, we hear broadcasts alone.
    """
    with suppress(OSError):
        sock.bind(("0.0.0.0", port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for one that comes later
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bind(sock, ("255.255.255.255", port), what, _DHCP_REMEDY)


def tftp_socket(interface: Interface, port: int) -> socket.socket:
    """A socket that hears TFTP requests to our address on one network.

    Raises:
        StartError: the port is taken, or we may not bind it.
    """
    sock = udp_socket()
    try:
        remedy = "change `tftp: {port: …}` in bootnoded.yaml (firmware asks no other than 69)"
        _bind(sock, (str(interface.address.ip), port), f"UDP port {port} (TFTP)", remedy)
    except BaseException:
        sock.close()
        raise
    return sock


def udp_socket() -> socket.socket:
    """A UDP socket, not blocking, whose datagrams may be fragmented on their way."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    # Boot ROMs do not reassemble fragments and some drop datagrams with DF set.
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    return sock


def http_socket(address: IPv4Address, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        StartError: the port is taken, or we may not bind it.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        remedy = "change `http: {port: …}` in bootnoded.yaml"
        _bind(sock, (str(address), port), f"TCP port {port} (HTTP)", remedy)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def unix_socket(path: Path) -> socket.socket:
    """A listening socket for commands of this machine; who may use it, file permissions say.

    Raises:
        StartError: another daemon listens there, or the file cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise StartError(
                    f"another bootnoded is running: it listens on {path}: stop it, or give this "
                    "one a state_dir of its own"
                )
        path.unlink(missing_ok=True)  # left behind by one that was killed
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(BACKLOG)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise StartError(
                f"{path} cannot be made: {error.strerror or error}: name a state_dir in "
                "bootnoded.yaml that we may write and whose path is short (107 bytes in all)"
            ) from None
        raise
    return sock


def _bind(sock: socket.socket, address: tuple[str, int], what: str, remedy: str) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = port_holder(address[1], is_udp=sock.type == socket.SOCK_DGRAM)
            raise StartError(f"{what} is in use by {holder}: stop that, or {remedy}") from None
        if error.errno == errno.EACCES:
            raise StartError(
                f"{what} may not be bound: start bootnoded as root, by systemd, or with "
                "CAP_NET_BIND_SERVICE"
            ) from None
        raise StartError(f"{what} cannot be bound to {address[0]}: {error.strerror}") from None


def port_holder(port: int, *, is_udp: bool) -> str:
    """Who holds a local port, as `dnsmasq (pid 123)`; another program where we may not look."""
    tables = ("udp", "udp6") if is_udp else ("tcp", "tcp6")
    sockets = {f"socket:[{inode}]" for table in tables for inode in _inodes(table, port)}
    for process in Path("/proc").glob("[0-9]*"):
        if not sockets.isdisjoint(_open_files(process)):
            with suppress(OSError):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f"{name} (pid {process.name})"
    return "another program (`ss -lntup` as root names it)"


def _open_files(process: Path) -> Iterator[str]:
    """proc(5), /proc/PID/fd: what each descriptor is, such as `socket:[4711]`."""
    with suppress(OSError):
        for entry in (process / "fd").iterdir():
            with suppress(OSError):  # closed since it was listed, as the listing's own is
                yield os.readlink(entry)


def _inodes(table: str, port: int) -> Iterable[str]:
    """proc(5), /proc/net/udp: local address and port in hexadecimal, the inode in column 10."""
    with suppress(OSError):
        for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
            columns = line.split()
            if int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]


def keep_open(stack: AsyncExitStack, sock: socket.socket) -> socket.socket:
    """A socket that is closed with the stack, even if nobody comes to use it."""
    stack.callback(sock.close)
    return sock


def unicast_socket(interface: Interface) -> socket.socket | None:
    """A raw socket that can send to a client which has no address yet; None if we may not.

    The kernel would ask by ARP for the address we are just giving away (RFC 2131 section 4.1).
    """
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    except PermissionError:
        return None
    sock.bind((interface.name, 0))
    _put_first(sock)
    return sock


def send_unicast(
    sock: socket.socket,
    interface: Interface,
    payload: bytes,
    destination: IPv4Address,
    mac: MacAddress,
) -> None:
    """Send a DHCP reply to a MAC and an address that the client does not have yet."""
    packet = udp_packet(interface.address.ip, SERVER_PORT, destination, CLIENT_PORT, payload)
    sock.sendto(packet, (interface.name, _ETH_P_IP, 0, _ARPHRD_ETHER, bytes(mac)))


def udp_packet(
    source: IPv4Address, source_port: int, destination: IPv4Address, port: int, payload: bytes
) -> bytes:
    """An IPv4 packet (RFC 791) with a UDP datagram (RFC 768) in it, both checksums right."""
    length = 8 + len(payload)
    pseudo = struct.pack("!4s4sxBH", source.packed, destination.packed, socket.IPPROTO_UDP, length)
    udp = struct.pack("!HHHH", source_port, port, length, 0)
    # A sum of zero is sent as ones: zero would mean "no checksum".
    checksum = internet_checksum(pseudo + udp + payload) or 0xFFFF
    udp = struct.pack("!HHHH", source_port, port, length, checksum)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP, 0),
        *(source.packed, destination.packed),
    )
    header = header[:10] + struct.pack("!H", internet_checksum(header)) + header[12:]
    return header + udp + payload


def neighbour_socket(interface: Interface) -> socket.socket | None:
    """A raw socket that sees router solicitations and advertisements; None if we may not.

    A filter in the kernel lets through ICMPv6 types 133 and 134 only, so that the traffic of a
    busy server never wakes us.
    """
    sock = _frame_socket(interface, _ROUTER_MESSAGES, _ETH_P_IPV6)
    if sock is None:
        return None
    with suppress(OSError):  # some drivers cannot; then we still see what they accept
        membership = struct.pack("iHH8s", interface.index, _PACKET_MR_ALLMULTI, 0, b"")
        sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    return sock


def arp_socket(interface: Interface) -> socket.socket | None:
    """A raw socket that sends ARP and hears replies to it; None if we may not.

    A filter in the kernel keeps out the requests that every host of a big network hears.
    """
    return _frame_socket(interface, _ARP_REPLIES, _ETH_P_ARP)


def offer_socket(interface: Interface) -> socket.socket | None:
    """A raw socket that hears what other DHCP servers tell clients; None if we may not.

    Not what leaves this machine: neither our own replies nor those of another server here.
    """
    return _frame_socket(interface, _DHCP_REPLIES, _ETH_P_IP)


def send_question(sock: socket.socket, interface: Interface, payload: bytes) -> None:
    """Broadcast a DHCP message as a client without an address does."""
    nobody, everybody = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")
    packet = udp_packet(nobody, CLIENT_PORT, everybody, SERVER_PORT, payload)
    sock.send(b"\xff" * 6 + interface.mac + struct.pack("!H", _ETH_P_IP) + packet)


def _frame_socket(interface: Interface, program: _Program, protocol: int) -> socket.socket | None:
    """A raw socket that gets what the filter `program` lets through; None if we may not."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except PermissionError:
        return None
    _attach_filter(sock, program)
    sock.bind((interface.name, protocol))
    return sock


_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_ALLMULTI = 2  # solicitations go to ff02::2, which a host that routes nothing leaves out

# Classic BPF as (code, jump if true, jump if false, operand); offsets from the Ethernet header.
_Program: TypeAlias = tuple[tuple[int, int, int, int], ...]
_ROUTER_MESSAGES = (
    (0x28, 0, 0, 12),  # ldh ethertype
    (0x15, 0, 5, _ETH_P_IPV6),
    (0x30, 0, 0, 20),  # ldb next header
    (0x15, 0, 3, socket.IPPROTO_ICMPV6),
    (0x30, 0, 0, 54),  # ldb ICMPv6 type
    (0x15, 2, 0, 133),
    (0x15, 1, 0, 134),
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF),  # accept
)

_ARP_REPLIES = (
    (0x28, 0, 0, 12),  # ldh ethertype
    (0x15, 0, 3, _ETH_P_ARP),
    (0x28, 0, 0, 20),  # ldh operation
    (0x15, 0, 1, 2),
    (0x06, 0, 0, 0xFFFF),  # accept
    (0x06, 0, 0, 0),  # drop
)


_DHCP_REPLIES = (
    (0x28, 0, 0, 12),  # ldh ethertype
    (0x15, 0, 9, _ETH_P_IP),
    (0x30, 0, 0, 23),  # ldb protocol
    (0x15, 0, 7, socket.IPPROTO_UDP),
    (0x28, 0, 0, 20),  # ldh fragment offset
    (0x45, 5, 0, 0x1FFF),  # drop all but the first fragment, which has the ports
    (0xB1, 0, 0, 14),  # ldx length of the IP header
    (0x48, 0, 0, 14),  # ldh source port
    (0x15, 0, 2, SERVER_PORT),
    (0x48, 0, 0, 16),  # ldh destination port
    (0x15, 1, 0, CLIENT_PORT),
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF),  # accept
)


def _attach_filter(sock: socket.socket, program: _Program) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = array.array("b", code)
    address, _ = buffer.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), address))
