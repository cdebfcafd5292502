"""The TFTP server against other people's clients, and against hostile ones, on loopback."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import tftpy

from bootnode.files import FileRoots, OpenFile
from bootnode.tftp.packet import (
    Ack,
    Data,
    Error,
    ErrorCode,
    OptionAck,
    Packet,
    ReadRequest,
    WriteRequest,
    parse,
)
from bootnode.tftp.server import Endpoint, Started, TftpServer, TransferEvent
from bootnode.tftp.transfer import Aborted, Completed, FileSource

SIZES = (0, 1, 511, 512, 513, 1467, 1468, 1469, 3_000_000)
DEADLINE_S = 30.0


class Site:
    """A running server with a folder to serve, and what it said about its transfers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[TransferEvent] = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.server = TftpServer([self.sock], self.open_file, self.events.append)

    def open_file(self, request: ReadRequest, client: Endpoint, _server: IPv4Address) -> FileSource:
        return OpenFile(FileRoots([self.folder]).resolve(request.filename))

    def add(self, name: str, size: int) -> bytes:
        """A file of random bytes, the same for the same name."""
        content = random.Random(name).randbytes(size)
        (self.folder / name).write_bytes(content)
        return content

    def outcomes(self) -> list[str]:
        return [type(event.outcome).__name__ for event in self.events]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    folder = tmp_path / "served"
    folder.mkdir()
    site = Site(folder)
    site.server.start()
    yield site
    await site.server.aclose()
    assert site.server.counters["errors"] == 0


async def run(*command: str | Path) -> tuple[int, str]:
    """Run a client to its end: exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


def curl(port: int, name: str, out: Path) -> list[str | Path]:
    return ["curl", "-sS", "--max-time", "20", "-o", out, f"tftp://127.0.0.1:{port}/{name}"]


def curl_1468(port: int, name: str, out: Path) -> list[str | Path]:
    return [*curl(port, name, out), "--tftp-blksize", "1468"]


def curl_no_options(port: int, name: str, out: Path) -> list[str | Path]:
    return [*curl(port, name, out), "--tftp-no-options"]


def atftp(port: int, name: str, out: Path) -> list[str | Path]:
    return ["atftp", "-g", "-r", name, "-l", out, "127.0.0.1", str(port)]


def atftp_window(port: int, name: str, out: Path) -> list[str | Path]:
    options = ["--option", "blksize 1428", "--option", "windowsize 8", "--option", "tsize 0"]
    return ["atftp", *options, "-g", "-r", name, "-l", out, "127.0.0.1", str(port)]


def tftp_hpa(port: int, name: str, out: Path) -> list[str | Path]:
    return ["tftp", "-m", "binary", "127.0.0.1", str(port), "-c", "get", name, out]


def busybox(port: int, name: str, out: Path) -> list[str | Path]:
    return ["busybox", "tftp", "-g", "-r", name, "-l", out, "127.0.0.1", str(port)]


def busybox_1468(port: int, name: str, out: Path) -> list[str | Path]:
    return ["busybox", "tftp", "-b", "1468", *busybox(port, name, out)[2:]]


Client = Callable[[int, str, Path], list[str | Path]]
CLIENTS: tuple[Client, ...] = (
    curl,
    curl_1468,
    curl_no_options,
    atftp,
    atftp_window,
    tftp_hpa,
    busybox,
    busybox_1468,
)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
async def test_every_size_arrives_byte_for_byte(site: Site, tmp_path: Path, client: Client) -> None:
    tool = str(client(0, "", tmp_path)[0])
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    # curl that asked for tsize takes the right answer for an empty file, 0, for an error.
    sizes = SIZES[1:] if client in (curl, curl_1468) else SIZES
    for size in sizes:
        content = site.add(f"file{size}", size)
        out = tmp_path / f"got{size}"
        status, output = await run(*client(site.port, f"file{size}", out))
        assert status == 0, output
        # curl leaves no file behind for empty content.
        received = out.read_bytes() if size or out.exists() else b""
        assert received == content, f"{size} bytes"
    finished = [event.outcome for event in site.events if not isinstance(event.outcome, Started)]
    assert [type(outcome) for outcome in finished] == [Completed] * len(sizes)
    assert [event.bytes_sent for event in site.events if event.outcome in finished] == list(sizes)


@pytest.mark.parametrize("options", [{}, {"blksize": 1468}, {"blksize": 1428, "tsize": 0}])
async def test_tftpy_reads_every_size(site: Site, tmp_path: Path, options: dict[str, int]) -> None:
    for size in SIZES:
        content = site.add(f"file{size}", size)
        out = tmp_path / "got"
        client = tftpy.TftpClient("127.0.0.1", site.port, dict(options))
        download = asyncio.to_thread(client.download, f"file{size}", str(out), timeout=5)
        await asyncio.wait_for(download, DEADLINE_S)
        assert out.read_bytes() == content, f"{size} bytes"


async def test_netascii_arrives_as_text(site: Site, tmp_path: Path) -> None:
    text = b"one\ntwo\rthree\r\n" * 500
    (site.folder / "text").write_bytes(text)
    out = tmp_path / "got"
    command: list[str | Path] = [
        "tftp",
        "-m",
        "ascii",
        "127.0.0.1",
        str(site.port),
        "-c",
        "get",
        "text",
        out,
    ]
    status, output = await run(*command)
    assert status == 0, output
    assert out.read_bytes() == text


async def test_a_missing_file_is_said_to_be_missing(site: Site, tmp_path: Path) -> None:
    status, output = await run(*curl(site.port, "no-such-file", tmp_path / "got"))
    assert status == 68, output  # CURLE_TFTP_NOTFOUND
    assert site.outcomes() == ["Refused"]


async def test_an_upload_is_refused_and_creates_nothing(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "upload"
    source.write_bytes(b"mine")
    url = f"tftp://127.0.0.1:{site.port}/new"
    status, output = await run("curl", "-sS", "--max-time", "20", "-T", source, url)
    assert status == 69, output  # CURLE_TFTP_PERM
    assert list(site.folder.iterdir()) == []


async def test_clients_in_parallel_get_each_their_own(site: Site, tmp_path: Path) -> None:
    wanted = {f"file{n}": site.add(f"file{n}", 100_000 + n) for n in range(20)}
    results = await asyncio.gather(
        *(run(*curl_1468(site.port, name, tmp_path / name)) for name in wanted)
    )
    assert [status for status, _ in results] == [0] * len(wanted)
    assert {name: (tmp_path / name).read_bytes() for name in wanted} == wanted


class Peer:
    """A hand-driven client: one UDP socket, every receive with a deadline."""

    def __init__(self, site: Site) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.setblocking(False)
        self._listening = ("127.0.0.1", site.port)
        self.port: int = self._sock.getsockname()[1]

    async def ask(self, packet: Packet | bytes) -> tuple[Packet, int]:
        """Send to the listening port; the answer and the port it came from."""
        self.tell(packet, self._listening[1])
        return await self.receive()

    def tell(self, packet: Packet | bytes, port: int) -> None:
        data = packet if isinstance(packet, bytes) else packet.serialize()
        self._sock.sendto(data, ("127.0.0.1", port))

    async def receive(self) -> tuple[Packet, int]:
        loop = asyncio.get_running_loop()
        data, (_, port) = await asyncio.wait_for(loop.sock_recvfrom(self._sock, 65536), 10)
        return parse(data), port

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def peer(site: Site) -> Iterator[Peer]:
    peer = Peer(site)
    yield peer
    peer.close()


def read(name: str, **options: int) -> ReadRequest:
    pairs = tuple((option, str(value)) for option, value in options.items())
    return ReadRequest(filename=name, mode="octet", options=pairs)


async def test_a_repeated_request_keeps_its_tid_and_a_new_one_ends_the_old(
    site: Site, peer: Peer
) -> None:
    first, second = site.add("first", 2000), site.add("second", 100)
    _, tid = await peer.ask(read("first", blksize=1024))
    assert await peer.ask(read("first", blksize=1024)) == (
        OptionAck(options=(("blksize", "1024"),)),
        tid,
    )
    peer.tell(Ack(block=0), tid)
    assert await peer.receive() == (Data(block=1, payload=first[:1024]), tid)
    packet, new_tid = await peer.ask(read("second"))
    assert packet == Data(block=1, payload=second)
    assert new_tid != tid
    assert site.outcomes() == ["Started", "Aborted", "Started", "Aborted", "Started"]


async def test_edk2_probes_the_size_then_reads(site: Site, peer: Peer) -> None:
    content = site.add("ipxe.efi", 3000)
    probe = read("ipxe.efi", tsize=0, blksize=1468, windowsize=4)
    packet, tid = await peer.ask(probe)
    assert packet == OptionAck(
        options=(("tsize", "3000"), ("blksize", "1468"), ("windowsize", "4"))
    )
    peer.tell(Error(code=8, message="User aborted the transfer"), tid)
    packet, tid = await peer.ask(read("ipxe.efi", blksize=1468, windowsize=4))
    assert packet == OptionAck(options=(("blksize", "1468"), ("windowsize", "4")))
    peer.tell(Ack(block=0), tid)
    payloads = []
    for block in (1, 2, 3):
        packet, _ = await peer.receive()
        assert isinstance(packet, Data)
        assert packet.block == block
        payloads.append(packet.payload)
    peer.tell(Ack(block=3), tid)
    assert b"".join(payloads) == content
    await wait_for(lambda: len(site.events) == 4)
    probed, finished = site.events[1].outcome, site.events[3].outcome
    assert isinstance(probed, Aborted)
    assert probed.size_probe
    assert isinstance(finished, Completed)


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


REFUSED = [
    (read("no-such-file"), ErrorCode.NOT_FOUND),
    (read(""), ErrorCode.NOT_FOUND),
    (read("../secret"), ErrorCode.ACCESS_VIOLATION),
    (read("..\\secret"), ErrorCode.ACCESS_VIOLATION),
    (read("folder"), ErrorCode.ACCESS_VIOLATION),
    (read(".hidden"), ErrorCode.ACCESS_VIOLATION),
    (ReadRequest(filename="file", mode="mail"), ErrorCode.ILLEGAL_OPERATION),
    (WriteRequest(filename="new", mode="octet"), ErrorCode.ACCESS_VIOLATION),
    (Ack(block=3), ErrorCode.UNKNOWN_TID),
    (Data(block=1, payload=b"x"), ErrorCode.UNKNOWN_TID),
    (OptionAck(options=()), ErrorCode.UNKNOWN_TID),
]


@pytest.mark.parametrize(("packet", "code"), REFUSED)
async def test_what_is_not_served_is_answered_by_its_error(
    site: Site, peer: Peer, tmp_path: Path, packet: Packet, code: ErrorCode
) -> None:
    site.add("file", 10)
    site.add(".hidden", 10)
    (site.folder / "folder").mkdir()
    (tmp_path / "secret").write_bytes(b"not yours")
    answer, _ = await peer.ask(packet)
    assert isinstance(answer, Error)
    assert answer.code == code
    assert list(site.folder.rglob("new")) == []


def hostile_datagrams(seed: int) -> list[bytes]:
    """Random bytes, and requests cut short or with bytes changed."""
    rng = random.Random(seed)
    datagrams = [rng.randbytes(rng.randrange(64)) for _ in range(300)]
    request = read("../" * 20 + "etc/passwd", blksize=1468, windowsize=4).serialize()
    for _ in range(300):
        changed = bytearray(request[: rng.randrange(len(request))])
        for _ in range(min(3, len(changed))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        datagrams.append(bytes(changed))
    names = ["\0", "a" * 4000, "\r\ntftp=completed", "/dev/zero", "%2e%2e/x", "\udcff\udcfe"]
    names += ["//" * 200, "C:\\Windows", "./." * 50, "~root", "|id", "$(id)", "file\x1b[2J"]
    return datagrams + [read(name).serialize() for name in names] * 3


async def test_a_flood_of_malformed_datagrams_leaves_a_running_transfer_whole(
    site: Site, tmp_path: Path
) -> None:
    content = site.add("file", 3_000_000)
    attacker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    download = asyncio.create_task(run(*curl(site.port, "file", tmp_path / "got")))
    with attacker:
        attacker.bind(("127.0.0.1", 0))
        await wait_for(lambda: bool(site.events))
        for round_number in range(5):
            for datagram in hostile_datagrams(round_number):
                attacker.sendto(datagram, ("127.0.0.1", site.port))
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
        status, output = await download
    assert status == 0, output
    assert (tmp_path / "got").read_bytes() == content
    assert site.server.counters["malformed"] > 0
    assert all(str(event).isprintable() for event in site.events)


async def test_a_stranger_on_the_transfer_port_changes_nothing(site: Site, peer: Peer) -> None:
    content = site.add("file", 600)
    packet, tid = await peer.ask(read("file"))
    assert packet == Data(block=1, payload=content[:512])
    stranger = Peer(site)
    stranger.tell(Error(code=0, message="stop"), tid)
    stranger.tell(Ack(block=1), tid)
    stranger.close()
    peer.tell(Ack(block=1), tid)
    assert await peer.receive() == (Data(block=2, payload=content[512:]), tid)
    peer.tell(Ack(block=2), tid)
    await wait_for(lambda: site.outcomes() == ["Started", "Completed"])


async def test_junk_on_the_transfer_port_is_counted_once_each(site: Site, peer: Peer) -> None:
    site.add("file", 600)
    _, tid = await peer.ask(read("file"))
    for datagram in (b"", b"\0", b"\0\x09junk", Data(block=1, payload=b"")):
        peer.tell(datagram, tid)
    await wait_for(lambda: site.server.counters["malformed"] == 4)
    peer.tell(Ack(block=1), tid)
    packet, _ = await peer.receive()
    assert isinstance(packet, Data)


async def test_a_client_that_closes_its_port_ends_its_transfer(site: Site, peer: Peer) -> None:
    site.add("file", 600)
    _, tid = await peer.ask(read("file"))
    peer.tell(Ack(block=1), tid)
    peer.close()
    await wait_for(lambda: len(site.events) == 2)
    assert site.outcomes()[-1] in ("Aborted", "Completed")


async def test_stopping_tells_the_clients(site: Site, peer: Peer) -> None:
    site.add("file", 6000)
    await peer.ask(read("file"))
    await site.server.aclose()
    packet, _ = await peer.receive()
    assert packet == Error(code=0, message="the server is stopping")
    assert site.outcomes() == ["Started", "Aborted"]
